"""Listening: TLS, the sweep, and a broker in a thread of its own for tests and the demo.

Guarantees: with TLS nobody gets past the handshake without a certificate of the site's CA (TLS 1.2 or later) that is not
revoked; when the list of those changes everybody has to come in again, within SWEEP_S; without TLS it listens on the
loopback only; `stop` leaves no socket open. Does not guarantee: durability.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import threading
from collections.abc import Callable

from mqtt5 import DisconnectReasonCode

from edged.broker.acl import Access
from edged.broker.connection import Connection
from edged.broker.hub import Hub, Limits
from edged.broker.tls import Door, SharedInbox
from edged.clock import Clock, SystemClock
from edged.errors import Misconfigured, Unavailable
from edged.wire.link import Tls

MAX_CONNECTIONS = 1024
SWEEP_S = 1.0
HANDSHAKE_S = 10
STOP_S = 2
INBOX_BYTES = 256 * 1024  # read at once from a socket


class Broker:
    """The hub with its connections; lives in one event loop."""

    def __init__(self, access: Access, clock: Clock | None = None, limits: Limits | None = None) -> None:
        self.hub = Hub(access, clock or SystemClock(), limits)
        self.connections: set[Connection] = set()
        self._doors: list[Door] = []
        self.inbox = memoryview(bytearray(INBOX_BYTES))

    async def listen(self, host: str, port: int, tls: Tls | None) -> asyncio.Server:
        """Accept connections; port 0 takes a free one. Raises Misconfigured (TLS files, address) or Unavailable."""
        if tls is None and not is_loopback(host):
            raise Misconfigured(
                f"refusing to listen on {host} without TLS", hint="give --ca, --cert and --key, or listen on 127.0.0.1"
            )
        door = None if tls is None else Door(tls)
        self._doors += [door] if door is not None else []
        try:
            return await asyncio.get_running_loop().create_server(lambda: self._welcome(door), host, port)
        except OSError as e:
            raise Unavailable(f"cannot listen on {host}:{port}: {e.strerror or e}") from e

    def _welcome(self, door: Door | None) -> asyncio.BufferedProtocol:
        connection = Connection(self)
        if door is None:
            return connection
        return SharedInbox(self.inbox, connection, door.context, handshake_s=HANDSHAKE_S, shutdown_s=STOP_S)

    def admit(self, connection: Connection) -> bool:
        if len(self.connections) >= MAX_CONNECTIONS:
            self.hub.counts["refused_connect"] += 1
            return False
        self.connections.add(connection)
        return True

    async def sweep(self) -> None:
        """For ever: end what is late."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = self.hub.clock.monotonic()
            anew = any([door.changed() for door in self._doors])
            for connection in list(self.connections):
                if anew:
                    connection.end(DisconnectReasonCode.ADMINISTRATIVE_ACTION)
                connection.check(now)
            self.hub.sweep()

    async def stop(self, server: asyncio.Server, *, abruptly: bool = False) -> None:
        """Close everything; `abruptly` as if the process had been killed."""
        server.close()
        for connection in list(self.connections):
            connection.abort() if abruptly else connection.end(DisconnectReasonCode.SERVER_SHUTTING_DOWN)
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout(STOP_S):
                while self.connections:
                    await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0)


async def serve(
    broker: Broker,
    host: str,
    port: int,
    tls: Tls | None,
    *,
    stop: asyncio.Event,
    ready: Callable[[int], None],
    abruptly: Callable[[], bool] = lambda: False,
) -> None:
    """Listen until `stop` is set; `ready` gets the port once connections are accepted."""
    server = await broker.listen(host, port, tls)
    sweeping = asyncio.create_task(broker.sweep())
    ready(server.sockets[0].getsockname()[1])
    await stop.wait()
    sweeping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sweeping
    await broker.stop(server, abruptly=abruptly())


class BrokerThread:
    """A broker in a thread with its own event loop; a context manager. `port` is real once it is entered."""

    def __init__(
        self,
        access: Access,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: Tls | None = None,
        clock: Clock | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.host, self.port = host, port
        self._tls = tls
        self.broker = Broker(access, clock, limits)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._killed = False
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="broker", daemon=True)

    def __enter__(self) -> BrokerThread:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> int:
        """Start listening; returns the port. Raises what `Broker.listen` raises."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure
        return self.port

    def stop(self, *, abruptly: bool = False) -> None:
        """End; `abruptly` closes the sockets without a word, as a kill would."""
        self._killed = abruptly
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def counts(self) -> dict[str, int]:
        """What was refused, dropped, taken over; missing = 0."""
        return dict(self.broker.hub.counts)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except (Misconfigured, Unavailable) as e:
            self._failure = e
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await serve(
            self.broker,
            self.host,
            self.port,
            self._tls,
            stop=self._stop,
            ready=self._listening,
            abruptly=lambda: self._killed,
        )

    def _listening(self, port: int) -> None:
        self.port = port
        self._ready.set()


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
