"""The site's own certificate authority and the certificates of the box and its cameras.

Guarantees: a certificate's common name is its identity everywhere (topics, client id, access rules) and can be one
level of a topic; keys are EC P-256, mode 0600, in a directory of mode 0700; nothing that exists is ever overwritten. Does not
guarantee: that the CA's key is out of reach of whoever runs as this user. Taking one back: revocation.py.

Certificates are valid from 1970: a camera without a clock battery that wakes in 1970 must still come in. They were not
worth less before they were made, since their key did not exist.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edged.broker.acl import RESERVED, SERVER
from edged.errors import Corrupt, Refused
from edged.wire.link import Tls
from edged.wire.topics import check_level

CA_DAYS = 7300
LEAF_DAYS = 3650  # a camera on a mast is not visited every year; who must be shut out earlier: revocation.py
_FROM = datetime(1970, 1, 1, tzinfo=UTC)


def make_ca(keys: Path, site: str, now: float) -> Path:
    """Make ca.pem and ca.key in `keys`; returns the path of ca.pem. Raises Refused if either exists."""
    check_level(site, "site")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"edged site {site}")])
    certificate = (
        _begin(name, name, key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write_pair(keys, "ca", key, certificate)
    return keys / "ca.pem"


def issue(keys: Path, name: str, *, server: bool, hosts: Sequence[str] = (), now: float) -> Tls:
    """Make key and certificate for `name`, signed by the CA in `keys`; returns the paths.

    The box's (`server`, name "server", for `hosts`: names and addresses it is reached by) go to server.pem and
    server.key, a camera's to cam-<name>.pem and .key. Raises Refused for a name that cannot be an identity or that
    exists already, Corrupt when the CA does not read.
    """
    check_level(name, "name of the server" if server else "camera id")
    if server != (name == SERVER) or (server and not hosts):
        raise Refused(f"{name!r}: the box's certificate is named {SERVER!r}, no other is, and it needs its host names")
    stem = name if name in RESERVED else f"cam-{name}"
    ca, ca_key = read_ca(keys)
    key = ec.generate_private_key(ec.SECP256R1())
    # The box is also a client of its own broker, as identity "server".
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH] + ([ExtendedKeyUsageOID.SERVER_AUTH] if server else [])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        _begin(subject, ca.subject, key.public_key(), now, LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_host(h) for h in hosts]), critical=False)
    _write_pair(keys, stem, key, builder.sign(ca_key, hashes.SHA256()))
    return paths(keys, name)


def paths(keys: Path, name: str) -> Tls:
    """Where the files of an identity are, whether they exist or not."""
    stem = name if name in RESERVED else f"cam-{name}"
    return Tls(str(keys / "ca.pem"), str(keys / f"{stem}.pem"), str(keys / f"{stem}.key"))


def expires(certificate: Path) -> float:
    """When a certificate ends, in seconds since 1970. Raises Corrupt when it is none."""
    return read_certificate(certificate).not_valid_after_utc.timestamp()


def _begin(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: float, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(datetime.fromtimestamp(now, UTC) + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def read_ca(keys: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Certificate and key of the site's authority. Raises Refused when they are not here, Corrupt when they do not read."""
    try:
        key = serialization.load_pem_private_key((keys / "ca.key").read_bytes(), None)
    except FileNotFoundError as e:
        raise Refused(f"there is no certificate authority in {keys}", hint="`edged init` makes one") from e
    except (OSError, ValueError, TypeError) as e:
        raise Corrupt(f"{keys / 'ca.key'} is no private key: {e}") from e
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Corrupt(f"{keys / 'ca.key'} is not the key that edged made")
    return read_certificate(keys / "ca.pem"), key


def read_certificate(path: Path) -> x509.Certificate:
    """Raises Corrupt when it is none."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as e:
        raise Corrupt(f"{path} is no certificate: {e}") from e


def _write_pair(keys: Path, stem: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = {
        keys / f"{stem}.key": key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        keys / f"{stem}.pem": certificate.public_bytes(serialization.Encoding.PEM),
    }
    for path in files:
        if path.exists():
            raise Refused(f"{path} exists already", hint="move it away first if it is to be replaced", code="exists")
    for path, data in files.items():
        _write_new(path, data)


def _write_new(path: Path, data: bytes) -> None:
    """Temp, fsync, link: the file appears whole or not at all, and never over another one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError as e:
        raise Refused(f"{path} exists already", code="exists") from e
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
