"""A TCP proxy that does to connections what bad networks do; an asyncio loop on a thread of its own."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import Counter

MOODS = ("well", "well", "reset", "stall", "half-open", "crawl", "corrupt")
CRAWL_BYTES = 1  # a second


class Unruly:
    """`listen` gives the port to connect to; `misbehave` changes the mood for all connections for a while."""

    def __init__(self, rng: random.Random) -> None:
        self._rng, self.mood, self.moods = rng, "well", Counter[str]()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    def __enter__(self) -> Unruly:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        self._reset()
        others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # transports close on the loop's next round

    def __str__(self) -> str:
        return ", ".join(f"{n} x {mood}" for mood, n in sorted(self.moods.items()))

    def listen(self, port: int) -> int:
        """Forward to 127.0.0.1:`port` from a port of our own."""

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                there, out = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                writer.close()
                return
            self._writers |= {writer, out}
            await asyncio.gather(self._pass(reader, out), self._pass(there, writer), return_exceptions=True)
            self._writers -= {writer, out}
            for each in (writer, out):
                each.close()

        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(accept, "127.0.0.1", 0), self._loop).result(10)
        self._server = server
        return int(server.sockets[0].getsockname()[1])

    def misbehave(self, seconds: float) -> None:
        """A mood of its own choice for so long."""
        self.mood = self._rng.choice(MOODS)
        self.moods[self.mood] += 1
        if self.mood == "reset":
            self._loop.call_soon_threadsafe(self._reset)
        threading.Event().wait(seconds)

    def behave(self) -> None:
        """From now on all is well; connections that went half-open are cut, as a restarted router would."""
        self.mood = "well"
        self._loop.call_soon_threadsafe(self._reset)

    def _reset(self) -> None:
        for writer in list(self._writers):
            sock = writer.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        swallowed = False  # a connection that went half-open stays so
        while data := await reader.read(65536):
            while self.mood == "stall":
                await asyncio.sleep(0.1)
            swallowed = swallowed or self.mood == "half-open"
            if swallowed:
                continue
            if self.mood == "crawl":
                while data and self.mood == "crawl":
                    writer.write(data[:CRAWL_BYTES])
                    data = data[CRAWL_BYTES:]
                    await writer.drain()
                    await asyncio.sleep(1)
            elif self.mood == "corrupt" and self._rng.random() < 0.2 and data:
                at = self._rng.randrange(len(data))
                data = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
            writer.write(data)
            await writer.drain()
        writer.close()
