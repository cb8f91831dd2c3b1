"""Taking a camera's certificate back: a list of revoked certificates (RFC 5280, 5) beside the authority's certificate.

Guarantees: the list only grows; a kill leaves the old list or the new one; doing it twice is doing it once. Whoever knows
the list (the embedded broker, mosquitto's `crlfile`, the box under reports) refuses what stands in it; no other certificate
of the camera is touched. Does not guarantee: that somebody who does not read the list knows of it.

The list is valid from 1970, as certificates are: a box whose clock is wrong still lets its other cameras in. Each is a
second newer than the one before: a process that has loaded both (mosquitto, told to by SIGHUP) goes by the newer one.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edged import durable
from edged.broker import identity
from edged.errors import EXIT_NOT_FOUND, Corrupt, Refused
from edged.wire.tls import revocations

_FROM = datetime(1970, 1, 1, tzinfo=UTC)


def revoke(keys: Path, name: str, now: float, certificate: Path | None = None) -> str:
    """Put the certificate of a camera on the list; returns its serial number, hexadecimal.

    `certificate`: its file, where it is not in `keys`. What lies in `keys` of it is moved aside then (cam-<name>.<serial>.
    revoked.pem, kept of one that was not there, too: by it the box knows whose it was), its key deleted, so that a new one
    can be issued. Where there is none but one that was revoked before, that one. Raises Refused for a certificate that is
    not there, is another's, or of another authority; Corrupt for files that do not read.
    """
    own = Path(identity.paths(keys, name).cert)
    path = certificate or own
    if certificate is None and not own.exists() and (before := _before(keys).get(name)):
        return f"{max(before, key=lambda e: e.revocation_date_utc).serial_number:x}"
    if not path.exists():
        raise Refused(
            f"there is no certificate of {name} at {path}", code="not_found", exit_code=EXIT_NOT_FOUND,
            hint="give its file with --certificate; a report of the camera carries it too",
        )  # fmt: skip
    ca, ca_key = identity.read_ca(keys)
    gone = identity.read_certificate(path)
    names = [str(n.value) for n in gone.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    if names != [name]:
        raise Refused(f"{path} is the certificate of {names[0] if names else 'nobody'}, not of {name}", code="foreign")
    try:
        gone.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature) as e:
        raise Refused(f"{path} was not issued by this site's authority", code="foreign") from e
    entries = {e.serial_number: e for e in listed(keys)}
    if gone.serial_number not in entries:
        at = datetime.fromtimestamp(int(now), UTC)
        entry = x509.RevokedCertificateBuilder().serial_number(gone.serial_number).revocation_date(at).build()
        _write(keys, ca, ca_key, [*entries.values(), entry])
    serial = f"{gone.serial_number:x}"
    aside = keys / f"cam-{name}.{serial[:12]}.revoked.pem"
    if own.exists() and identity.read_certificate(own).serial_number == gone.serial_number:
        Path(identity.paths(keys, name).key).unlink(missing_ok=True)
        own.rename(aside)
        durable.sync_folder(keys)
    elif not aside.exists():
        durable.write(aside, gone.public_bytes(serialization.Encoding.PEM))
    return serial


def shut_out(keys: Path) -> Mapping[str, float]:
    """The cameras of which `keys` has a revoked certificate and none that stands, and since when (seconds since 1970, the
    newest). Two looks at the file system while nothing changes. Raises Corrupt.
    """
    return _shut_out(keys, (_stamp(keys), _stamp(revocations(keys / "ca.pem"))))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


@lru_cache(maxsize=4)
def _shut_out(keys: Path, stamps: object) -> Mapping[str, float]:
    serials = {e.serial_number for e in listed(keys)}
    found: dict[str, float] = {}
    for name, entries in _before(keys).items():
        own = Path(identity.paths(keys, name).cert)
        if not own.exists() or identity.read_certificate(own).serial_number in serials:
            found[name] = max(e.revocation_date_utc for e in entries).timestamp()
    return MappingProxyType(found)


def _before(keys: Path) -> dict[str, list[x509.RevokedCertificate]]:
    """By camera what stands in the list of those that were moved aside."""
    entries = {e.serial_number: e for e in listed(keys)}
    found: dict[str, list[x509.RevokedCertificate]] = {}
    for path in sorted(keys.glob("cam-*.revoked.pem")) if entries else ():
        with suppress(Corrupt):  # one that does not read is nobody's
            certificate = identity.read_certificate(path)
            names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
            if len(names) == 1 and (entry := entries.get(certificate.serial_number)) is not None:
                found.setdefault(str(names[0].value), []).append(entry)
    return found


def begin(keys: Path) -> None:
    """Make a list of nobody where there is none: mosquitto does not start when its `crlfile` is not there, and obeys one that
    comes later only after a restart. Raises Refused where the authority's key is not, Corrupt for files that do not read.
    """
    if not revocations(keys / "ca.pem").exists():
        _write(keys, *identity.read_ca(keys), [])


def _write(
    keys: Path, ca: x509.Certificate, key: ec.EllipticCurvePrivateKey, entries: list[x509.RevokedCertificate]
) -> None:
    number = len(entries)  # RFC 5280, 5.2.3: it only grows, as the list does
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.subject)
    builder = builder.last_update(_FROM + timedelta(seconds=number)).next_update(ca.not_valid_after_utc)
    for entry in entries:
        builder = builder.add_revoked_certificate(entry)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    builder = builder.add_extension(x509.CRLNumber(number), False).add_extension(issuer, False)
    signed = builder.sign(key, hashes.SHA256())
    durable.write(revocations(keys / "ca.pem"), signed.public_bytes(serialization.Encoding.PEM))


def listed(keys: Path) -> list[x509.RevokedCertificate]:
    """What stands in the list, [] = there is none. Raises Corrupt."""
    path = revocations(keys / "ca.pem")
    try:
        return list(x509.load_pem_x509_crl(path.read_bytes()))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as e:
        raise Corrupt(f"{path} is no list of revoked certificates: {e}", hint="restore it from a backup") from e
