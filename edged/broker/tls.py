"""TLS of the embedded broker: who gets in, and asyncio's TLS with one receive buffer for all connections.

Guarantees: a client shows a certificate of our CA; TLS 1.2 or later; no renegotiation. Does not guarantee: revocation of
single certificates.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol

from edged.errors import Misconfigured
from edged.wire.link import Tls


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
    return context
