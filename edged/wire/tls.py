"""The client's side of TLS, and a TLS or socket failure in words that an operator understands.

Guarantees: TLS 1.2 or later, our own certificate is shown, only our own CA is trusted and the host name is checked. Does
not guarantee: that the broker's own certificate was not revoked.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edged.errors import Misconfigured
from edged.wire.link import Tls


class ClientContext(ssl.SSLContext):
    """Remembers the socket it wrapped last: paho forgets to close one whose handshake failed."""

    last: ssl.SSLSocket | None = None

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        self.last = super().wrap_socket(*args, **options)
        return self.last

    def close_last(self) -> None:
        if self.last is not None:
            self.last.close()
            self.last = None


def revocations(ca: str | Path) -> Path:
    """Where the list of revoked certificates of an authority lies, if there is one: ca.pem -> ca.crl."""
    return Path(ca).with_suffix(".crl")


def client_context(tls: Tls) -> ClientContext:
    """A client's context: TLS 1.2 or later, only our own CA, our certificate shown. Raises Misconfigured."""
    context = ClientContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the host name and requires a certificate
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for what, load in _loads(context, tls):
        try:
            load()
        except (OSError, ssl.SSLError) as e:
            raise Misconfigured(f"{what} does not load: {e}", hint="`edged init` makes keys and certificates") from e
    return context


def _loads(context: ssl.SSLContext, tls: Tls) -> list[tuple[str, Callable[[], None]]]:
    return [
        (f"CA {tls.ca}", lambda: context.load_verify_locations(tls.ca)),
        (f"certificate {tls.cert} with key {tls.key}", lambda: context.load_cert_chain(tls.cert, tls.key)),
    ]


def explain(error: Exception) -> str:
    """Why a connection failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the broker's certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    return str(error) or type(error).__name__
