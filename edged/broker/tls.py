"""TLS of the embedded broker: who gets in, and asyncio's TLS with one receive buffer for all connections.

Guarantees: a client shows a certificate of our CA that is not on the list of revoked ones beside it (`Door` reads the list
again when it changes); TLS 1.2 or later; no renegotiation. Does not guarantee: that a list which does not load is obeyed:
then the last one that did is.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from asyncio.sslproto import SSLProtocol

from edged.errors import Misconfigured
from edged.wire.link import Tls
from edged.wire.tls import revocations

log = logging.getLogger(__name__)


class SharedInbox(SSLProtocol):
    """asyncio's TLS, reading through a buffer that all connections of one event loop share.

    asyncio gives each connection 256 KiB of its own to read encrypted bytes into: 320 MiB at 1,000 connections. Small
    buffers instead cost a turn of the loop for every 16 KiB. The bytes stay in the buffer only from `get_buffer` to
    `buffer_updated`, and between the two the loop does nothing else, so one large buffer is enough.
    """

    max_size = 0  # of the buffer that asyncio would make

    def __init__(
        self,
        inbox: memoryview,
        app: asyncio.BufferedProtocol,
        context: ssl.SSLContext,
        *,
        handshake_s: int,
        shutdown_s: int,
    ) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(
            loop,
            app,
            context,
            None,  # type: ignore[arg-type]  # nobody waits for the handshake
            server_side=True,
            ssl_handshake_timeout=handshake_s,
            ssl_shutdown_timeout=shutdown_s,
        )
        self._ssl_buffer_view = inbox

    def get_buffer(self, n: int) -> memoryview:
        return self._ssl_buffer_view


def server_context(tls: Tls) -> ssl.SSLContext:
    """What the broker listens with. Raises Misconfigured."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.load_verify_locations(tls.ca)
        context.load_cert_chain(tls.cert, tls.key)
    except (OSError, ssl.SSLError) as e:
        raise Misconfigured(f"the broker's CA {tls.ca}, certificate {tls.cert} or key does not load: {e}") from e
    revoked = revocations(tls.ca)
    if revoked.exists():
        try:
            context.load_verify_locations(revoked)
        except (OSError, ssl.SSLError) as e:
            raise Misconfigured(f"the list of revoked certificates {revoked} does not load: {e}") from e
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


class Door:
    """What new connections are met with."""

    def __init__(self, tls: Tls) -> None:
        """Raises Misconfigured."""
        self._tls = tls
        self._seen = self._stamp()
        self.context = server_context(tls)

    def changed(self) -> bool:
        """Whether the list of revoked certificates has changed since the last question; then it holds for who comes from
        now on. Who is in stays in, if nobody sends it away.
        """
        stamp = self._stamp()
        if stamp == self._seen:
            return False
        self._seen = stamp
        try:
            self.context = server_context(self._tls)
        except Misconfigured as e:
            log.error("%s; the last one holds", e)
            return False
        return True

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = revocations(self._tls.ca).stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns
