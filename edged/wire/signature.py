"""A camera's signature under what it says: by the private key of its TLS certificate, carried in MQTT v5 user properties.

    sig    base64 of the signature over DOMAIN, the topic and the payload
    cert   base64 of the camera's certificate, DER

Guarantees: what `Verifier.check` lets pass was said by whoever holds the key of a certificate that the site's CA issued to
this very camera, that is valid now, and that is not on the CA's list of revoked ones; the same bytes on another topic do
not pass. Does not guarantee: that it was said just now (a retained message is to be believed for as long as it stands, so an
old word of the same camera can be said again), or that the certificate was not stolen and nobody has said so yet.

Elliptic curves by ECDSA with SHA-256 (FIPS 186-5), Ed25519 (RFC 8032), RSA by PKCS #1 v1.5 with SHA-256 (RFC 8017).
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from edged.errors import Misconfigured, Refused

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

log = logging.getLogger(__name__)

SIGNED = {"info": "info", "model/reported": "report"}  # what a camera signs, by its topic's end; a short word for each
DOMAIN = b"edged report 1\0"  # what the key signs here, it signs nowhere else
MOST_CERTIFICATE = 8192  # bytes of base64
KEPT = 4096  # certificates that were looked at and need not be looked at again

UNSIGNED, FORGED, FOREIGN, REVOKED = "unsigned", "forged", "foreign", "revoked"


class Signer:
    """Signs with one camera's key."""

    def __init__(self, cert: bytes, key: bytes) -> None:
        """PEM texts. Raises Misconfigured when they do not read, do not belong together, or are of another kind."""
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
        from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
        from cryptography.x509 import load_pem_x509_certificate

        try:
            private = load_pem_private_key(key, None)
            certificate = load_pem_x509_certificate(cert)
        except (ValueError, TypeError) as e:
            raise Misconfigured(f"the certificate or its key cannot be read: {e}") from e
        if not isinstance(private, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey):
            raise Misconfigured("the key is neither of an elliptic curve, Ed25519 nor RSA")
        if private.public_key() != certificate.public_key():
            raise Misconfigured("the certificate is not that of the key")
        self._key = private
        self._cert = base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()

    def properties(self, topic: str, payload: bytes) -> dict[str, str]:
        """The user properties that go with the message."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding

        text = _text(topic, payload)
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            signature = self._key.sign(text, ec.ECDSA(hashes.SHA256()))
        elif isinstance(self._key, ed25519.Ed25519PrivateKey):
            signature = self._key.sign(text)
        else:
            signature = self._key.sign(text, padding.PKCS1v15(), hashes.SHA256())
        return {"sig": base64.b64encode(signature).decode(), "cert": self._cert}


class Verifier:
    """Knows the site's certificate authorities. Not thread-safe."""

    def __init__(self, ca: bytes, revoked: Path | None = None) -> None:
        """`ca`: PEM, one certificate or several; `revoked`: where its list of revoked certificates lies once there is one
        (PEM, RFC 5280, 5). Raises Misconfigured when there is no certificate, or the list does not read or is not the CA's.
        """
        from cryptography.x509 import load_pem_x509_certificates

        try:
            self._authorities = load_pem_x509_certificates(ca)
        except ValueError as e:
            raise Misconfigured(f"the certificate authority cannot be read: {e}") from e
        self._list, self._listed, self._revoked = revoked, self._stamp(revoked), self._read_list(revoked)
        self._known: OrderedDict[str, tuple[Certificate, str]] = OrderedDict()  # by base64: it, and whose it is

    def check(self, camera: str, topic: str, payload: bytes, properties: Sequence[tuple[str, str]], now: float) -> int:
        """The serial number of the certificate. Raises Refused("unsigned"), ("forged": no signature of that certificate over
        this) or ("foreign": a certificate that is another camera's, another authority's, or out of date), ("revoked").
        `now` seconds since 1970.
        """
        signed = [value for name, value in properties if name == "sig"]
        certs = [value for name, value in properties if name == "cert"]
        if not signed and not certs:
            raise Refused(f"{_what(topic)} of {camera} is not signed", code=UNSIGNED)
        if len(signed) != 1 or len(certs) != 1 or len(certs[0]) > MOST_CERTIFICATE:
            raise Refused(f"{_what(topic)} of {camera} has not one signature and one certificate", code=FORGED)
        certificate = self._trusted(certs[0], camera, f"{_what(topic)} of {camera}", now)
        if not _matches(certificate, signed[0], _text(topic, payload)):
            raise Refused(f"the signature under {_what(topic)} of {camera} is not over what it says", code=FORGED)
        return certificate.serial_number

    def _trusted(self, text: str, camera: str, what: str, now: float) -> Certificate:
        known = self._known.get(text)
        if known is None:
            known = self._known[text] = self._read(text)
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
        certificate, name = known
        if name != camera:
            raise Refused(f"{what} is signed with the certificate of {name!r}", code=FOREIGN)
        at = datetime.fromtimestamp(now, UTC)
        if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
            raise Refused(f"the certificate of {camera} is not valid now", code=FOREIGN)
        self._look()
        if certificate.serial_number in self._revoked:
            raise Refused(f"{what} is signed with a certificate that was revoked", code=REVOKED)
        return certificate

    def stands(self, serial: int) -> bool:
        """Whether a certificate that passed is still on no list."""
        self._look()
        return serial not in self._revoked

    def _look(self) -> None:
        """The list again, if it has changed; one that is gone or does not read changes nothing."""
        if (stamp := self._stamp(self._list)) != self._listed and stamp is not None:
            try:
                self._revoked = self._read_list(self._list)
            except Misconfigured as e:
                log.error("%s; the last one holds", e)
            self._listed = stamp

    @staticmethod
    def _stamp(path: Path | None) -> tuple[int, int, int] | None:
        try:
            found = path.stat() if path is not None else None
        except OSError:
            return None
        return found and (found.st_ino, found.st_size, found.st_mtime_ns)

    def _read_list(self, path: Path | None) -> frozenset[int]:
        from cryptography.x509 import load_pem_x509_crl

        if path is None or not path.exists():
            return frozenset()
        try:
            found = load_pem_x509_crl(path.read_bytes())
        except (OSError, ValueError) as e:
            raise Misconfigured(f"the list of revoked certificates {path} cannot be read: {e}") from e
        if not any(found.is_signature_valid(a.public_key()) for a in self._authorities):  # type: ignore[arg-type]
            raise Misconfigured(f"the list of revoked certificates {path} is not of this site's authority")
        return frozenset(entry.serial_number for entry in found)

    def _read(self, text: str) -> tuple[Certificate, str]:
        from cryptography.exceptions import InvalidSignature
        from cryptography.x509 import BasicConstraints, ExtensionNotFound, load_der_x509_certificate
        from cryptography.x509.oid import NameOID

        try:
            certificate = load_der_x509_certificate(base64.b64decode(text, validate=True))
            names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        except (ValueError, binascii.Error) as e:
            raise Refused(f"a message carries a certificate that cannot be read: {e}", code=FORGED) from e
        for authority in self._authorities:
            try:
                certificate.verify_directly_issued_by(authority)
                break
            except (ValueError, TypeError, InvalidSignature):
                continue
        else:
            raise Refused("a message carries a certificate of another authority", code=FOREIGN)
        try:
            if certificate.extensions.get_extension_for_class(BasicConstraints).value.ca:
                raise Refused("a message is signed by an authority, not by a camera", code=FOREIGN)
        except (ExtensionNotFound, ValueError):
            pass
        if len(names) != 1:
            raise Refused("a message carries a certificate without one name", code=FOREIGN)
        return certificate, str(names[0].value)


def _what(topic: str) -> str:
    """For a sentence: which of a camera's words."""
    return next((f"the {word}" for end, word in SIGNED.items() if topic.endswith(f"/{end}")), "a message")


def _text(topic: str, payload: bytes) -> bytes:
    return DOMAIN + topic.encode() + b"\0" + payload  # a topic has no zero byte


def _matches(certificate: Certificate, signature: str, text: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

    try:
        raw, key = base64.b64decode(signature, validate=True), certificate.public_key()
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(raw, text, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(raw, text)
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(raw, text, padding.PKCS1v15(), hashes.SHA256())
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True
