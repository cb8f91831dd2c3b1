"""A small MQTT 5 client over mutual TLS for asyncio: enough for a camera of a crowd, a thousand of which share a process.

Guarantees: every QoS-1 message is acknowledged once it was handed over; nothing is sent twice. Does not guarantee that a
message arrives: there is no retry, as there is none in paho for a clean session.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence

import mqtt5

from edged.broker.codec import decode, packet_size
from edged.wire.link import Tls, Will

KEEPALIVE_S = 240
READ_BYTES = 256 * 1024
_PUBACK = b"\x40\x02"


class Client(asyncio.BufferedProtocol):
    """One connection. `heard` gets (topic, payload) of each message, `closed` is called when it is over."""

    inbox = memoryview(bytearray(READ_BYTES))  # one for all: what is in it is handled before the next read

    def __init__(self, heard: Callable[[str, bytes], None], closed: Callable[[], None]) -> None:
        self._heard, self._closed = heard, closed
        self._rest = bytearray()
        self._answers: asyncio.Queue[mqtt5.Packet] = asyncio.Queue()
        self._id = 0
        self.transport: asyncio.Transport | None = None
        self.bytes_in = 0

    @classmethod
    async def connect(
        cls, host: str, port: int, name: str, tls: Tls, will: Will, filters: Sequence[str],
        heard: Callable[[str, bytes], None], closed: Callable[[], None],
    ) -> Client:  # fmt: skip
        """Raises OSError or TimeoutError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(tls.ca)
        context.load_cert_chain(tls.cert, tls.key)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(30):
            _, client = await loop.create_connection(
                lambda: cls(heard, closed), host, port, ssl=context, server_hostname=host, ssl_handshake_timeout=25
            )
            last = mqtt5.Will(will.topic, payload=will.payload, qos=mqtt5.QoS.AT_LEAST_ONCE, retain=will.retain)
            client._write(mqtt5.ConnectPacket(name, clean_start=True, keep_alive=KEEPALIVE_S, will=last).write())
            answer = await client._answers.get()
            if not isinstance(answer, mqtt5.ConnAckPacket) or answer.reason_code != mqtt5.ConnAckReasonCode.SUCCESS:
                raise OSError(f"{name} was not let in: {answer}")
            wanted = [mqtt5.TopicFilter(f, max_qos=mqtt5.QoS.AT_LEAST_ONCE) for f in filters]
            client._write(mqtt5.SubscribePacket(1, wanted).write())
            await client._answers.get()
        return client

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, properties: Mapping[str, str] | None = None
    ) -> None:  # fmt: skip
        """QoS 1. Does nothing once the connection is gone."""
        self._id = self._id % 60000 + 1
        packet = mqtt5.PublishPacket(
            topic, payload, qos=mqtt5.QoS.AT_LEAST_ONCE, retain=retain, packet_id=self._id,
            user_properties=list((properties or {}).items()),
        )  # fmt: skip
        self._write(packet.write())

    def cut(self) -> None:
        """Without a word, as a cable that is pulled."""
        if self.transport is not None:
            self.transport.abort()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._closed()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.inbox

    def buffer_updated(self, nbytes: int) -> None:
        self.bytes_in += nbytes
        if self._rest:
            self._rest += self.inbox[:nbytes]
            taken = self._take(memoryview(bytes(self._rest)))
            del self._rest[:taken]
        else:
            taken = self._take(self.inbox[:nbytes])
            self._rest += self.inbox[taken:nbytes]

    def _take(self, data: memoryview) -> int:
        at = 0
        while (size := packet_size(data, at, len(data))) is not None and at + size <= len(data):
            packet, payload = decode(data[at : at + size])
            at += size
            if isinstance(packet, mqtt5.PublishPacket):
                if packet.packet_id:
                    self._write(_PUBACK + packet.packet_id.to_bytes(2, "big"))
                self._heard(packet.topic, bytes(payload))
            elif not isinstance(packet, mqtt5.PubAckPacket):
                self._answers.put_nowait(packet)
        return at

    def _write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)
