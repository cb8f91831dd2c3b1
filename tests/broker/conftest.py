"""A clock that stands still until told, and raw clients that may misbehave."""

from __future__ import annotations

import socket

import mqtt5
import pytest


class StillClock:
    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


class RawClient:
    """A socket that speaks MQTT packet by packet, so that a test decides what is said and what is left unsaid."""

    def __init__(self, port: int, client_id: str = "raw", **connect) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        if client_id:
            self.send(mqtt5.ConnectPacket(client_id, **connect))
            self.connack = self.read()

    def send(self, packet) -> None:
        self.socket.sendall(packet if isinstance(packet, bytes) else packet.write())

    def read(self):
        """The next packet; None at the end of the connection."""
        while True:
            try:
                packet, size = mqtt5.read(memoryview(self.buffer))
            except IndexError:
                try:
                    more = self.socket.recv(1 << 16)
                except ConnectionResetError:
                    more = b""
                if not more:
                    return None
                self.buffer += more
                continue
            self.buffer = self.buffer[size:]
            return packet

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def clock():
    return StillClock()


@pytest.fixture
def dial():
    """Makes RawClients and closes them."""
    clients = []

    def make(port, client_id="raw", **connect):
        clients.append(RawClient(port, client_id, **connect))
        return clients[-1]

    yield make
    for client in clients:
        client.close()
