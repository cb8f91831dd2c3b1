"""One socket: bytes to packets, packets to the hub, keepalive.

Guarantees: no packet larger than the limit is ever gathered; before CONNECT nothing but a small CONNECT is read; bytes
that are no MQTT 5 end this connection and no other; a client that is silent for 1.5 times its keepalive, or that does
not read what it is sent, is disconnected, and its will is sent. Does not guarantee: that a slow client gets everything
(its session's queue is bounded).
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from typing import TYPE_CHECKING

import mqtt5
from mqtt5 import (
    ConnAckPacket,
    ConnectPacket,
    DisconnectPacket,
    DisconnectReasonCode,
    PingReqPacket,
    PingRespPacket,
    PubAckPacket,
    PubAckReasonCode,
    PublishPacket,
    QoS,
    SubAckPacket,
    SubscribePacket,
    UnsubAckPacket,
    UnsubscribePacket,
)

from edged.broker.codec import NotMqtt, decode, packet_size
from edged.broker.hub import Denied
from edged.broker.parcel import Pieces
from edged.broker.session import Session
from edged.wire.topics import is_level

if TYPE_CHECKING:
    from edged.broker.server import Broker

log = logging.getLogger(__name__)

CONNECT_BYTES = 64 * 1024  # largest CONNECT
RECEIVE_MAXIMUM = 64  # announced; each message is acknowledged as soon as it is read
OWED_BYTES = 8 * 1024 * 1024  # answers a client may leave unread before it is thrown out
LIVELY_BYTES = 1024  # a piece of a large packet counts as a sign of life only if it is at least this long
SLACK_BYTES = 4 * 1024  # beyond the end of the packet that a buffer is made for
UNPROVEN_BYTES = 128 * 1024  # buffer for a packet of which little has come
JOINED_BYTES = 16 * 1024  # a payload up to this size is sent in one piece with its head
GOODBYE_S = 5.0
_PUBACK = 0x40  # of four bytes: success (MQTT 5, 3.4.2.1)
_REASONS = {"too_large": DisconnectReasonCode.PACKET_TOO_LARGE}
OLD_PROTOCOL = (
    b"\x20\x02\x00\x01"  # MQTT 3.1.1's CONNACK "unacceptable protocol version", which an old client understands
)


class Connection(asyncio.BufferedProtocol):
    """An `Outlet` of its session while it is connected."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._hub = broker.hub
        self._transport: asyncio.Transport
        self._inbox = broker.inbox  # what arrives is read into this first; all connections share it
        self._partial: bytearray | None = None  # a packet that is not all there yet
        self._filled = 0  # bytes of `_partial` that hold something
        self._needed = 2  # bytes that must be there before it is worth looking
        self._session: Session | None = None
        self._identity: str | None = None  # of the certificate; None without TLS
        self._fd: int | None = None  # of the socket, if what we send goes out as it is
        self._writable = True
        self._held = False  # the client's part of what waits for another is full: its bytes stay in its socket
        self._ending = False
        self._graceful = False
        self._keepalive_s = 0.0
        self._heard = broker.hub.clock.monotonic()
        self._deadline: float | None = self._heard + broker.hub.limits.connect_s

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if not self._broker.admit(self):
            self._transport.abort()
            return
        certificate = transport.get_extra_info("peercert")
        if certificate is None:
            self._fd = transport.get_extra_info("socket").fileno()
        else:
            self._identity = common_name(certificate)
            if self._identity is None:
                self._fail(DisconnectReasonCode.NOT_AUTHORIZED, "no single usable common name in the certificate")

    def connection_lost(self, exc: Exception | None) -> None:
        self._broker.connections.discard(self)
        if self._session is not None:
            session, self._session = self._session, None
            self._hub.lost(session, self, graceful=self._graceful)
        self._ending = True

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._inbox if self._partial is None else memoryview(self._partial)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._ending:
            return
        now = self._hub.clock.monotonic()
        if nbytes >= LIVELY_BYTES:
            self._heard = now
        data = self._inbox if self._partial is None else memoryview(self._partial)
        end = self._filled + nbytes
        taken = 0
        try:
            while end - taken >= self._needed and not self._ending:
                size = self._next_packet(data, taken, end)
                if not size:
                    break
                taken += size
                self._heard = now
        except NotMqtt as e:
            if self._session is None and "protocol version" in str(e):
                self._transport.write(OLD_PROTOCOL)
            self._fail(_REASONS.get(e.code, DisconnectReasonCode.MALFORMED_PACKET), str(e))
        self._keep(data, taken, end)

    def eof_received(self) -> bool:
        return False

    def hold(self, on: bool) -> None:
        self._held = on
        if on:
            self._transport.pause_reading()
        else:
            self._heard = self._hub.clock.monotonic()
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self._session is not None:
            self._hub.flush(self._session)

    # The session's side

    def send(self, packet: Pieces) -> None:
        if len(packet[1]) <= JOINED_BYTES:
            self._transport.write(b"".join(packet))
        elif self._fd is None or self._transport.get_write_buffer_size() or self._transport.is_closing():
            self._transport.writelines(packet)
        else:
            self._send_at_once(self._fd, packet)

    def ready(self) -> bool:
        return self._writable and not self._ending

    def end(self, reason: DisconnectReasonCode) -> None:
        """Say why, if there is someone to tell, and hang up."""
        if self._ending:
            return
        if self._session is not None:
            self._transport.write(DisconnectPacket(reason_code=reason).write())
        self._ending = True
        self._deadline = self._hub.clock.monotonic() + GOODBYE_S
        self._transport.close()

    def check(self, now: float) -> None:
        """Once a second: is the client late?"""
        if self._deadline is not None and now >= self._deadline:
            self._transport.abort()
        elif self._held:
            pass  # what it says stays unread: silence proves nothing
        elif self._keepalive_s and now - self._heard > 1.5 * self._keepalive_s and not self._ending:
            self._fail(DisconnectReasonCode.KEEP_ALIVE_TIMEOUT, f"silent for {now - self._heard:.0f} s")

    def abort(self) -> None:
        self._transport.abort()

    def _send_at_once(self, fd: int, packet: Pieces) -> None:
        """Without TLS: both pieces in one call, and nothing joined unless the socket is full. (From Python 3.12 on
        `writelines` does the same.)"""
        try:
            sent = os.writev(fd, packet)
        except OSError:  # full, or gone: the transport finds out which, and acts
            sent = 0
        if sent < len(packet[0]) + len(packet[1]):
            self._transport.write(memoryview(b"".join(packet))[sent:])

    # Packets

    def _next_packet(self, data: memoryview, at: int, end: int) -> int:
        """Handle the packet that begins at `at`; its size, or 0, and `_needed` set, if it is not all there yet."""
        size = packet_size(data, at, end)
        if size is None:
            self._needed = end - at + 1
            return 0
        if size > (CONNECT_BYTES if self._session is None else self._hub.limits.packet_bytes):
            self._fail(DisconnectReasonCode.PACKET_TOO_LARGE, f"a packet of {size} bytes")
            return 0
        if end - at < size:
            self._needed = size
            return 0
        self._needed = 2
        if data[at] == _PUBACK and size == 4 and self._session is not None:  # every message has one: worth its own path
            self._hub.acknowledge(self._session, data[at + 2] << 8 | data[at + 3])
            return size
        packet, payload = decode(data[at : at + size])
        # A buffer that was made for this packet goes with it, and nothing is copied. Of any other the payload is
        # copied out: the inbox is written over soon, and a small payload must not keep a large buffer.
        owned = self._partial is not None and 2 * size > len(data)
        if type(packet) is PublishPacket and self._session is not None:
            self._publish(self._session, packet, payload if owned else bytes(payload))
        else:
            self._handle(packet)
        return size

    def _keep(self, data: memoryview, taken: int, end: int) -> None:
        """Hold on to what is left, in a buffer of our own that fits the packet it begins.

        The buffer grows with what has come, so that announcing a large packet costs us nothing. It is never resized,
        only replaced: asyncio and parcels still look at the old one.
        """
        left = end - taken
        if not left or self._ending:
            self._partial, self._filled = None, 0
        elif self._partial is not None and not taken and end < len(self._partial):
            self._filled = end
        else:
            self._partial = bytearray(min(self._needed + SLACK_BYTES, max(4 * left, UNPROVEN_BYTES)))
            self._partial[:left] = data[taken:end]
            self._filled = left

    def _handle(self, packet: mqtt5.Packet) -> None:
        if self._session is None:
            if isinstance(packet, ConnectPacket):
                self._connect(packet)
            else:
                self._fail(DisconnectReasonCode.PROTOCOL_ERROR, "the first packet is no CONNECT")
            return
        match packet:
            case PubAckPacket():
                self._hub.acknowledge(self._session, packet.packet_id)
            case PingReqPacket():
                self._answer(PingRespPacket().write())
            case SubscribePacket():
                self._subscribe(self._session, packet)
            case UnsubscribePacket():
                codes = self._hub.unsubscribe(self._session, packet.patterns)
                self._answer(UnsubAckPacket(packet.packet_id, codes).write())
            case DisconnectPacket():
                self._goodbye(self._session, packet)
            case _:
                self._fail(DisconnectReasonCode.PROTOCOL_ERROR, f"unexpected {type(packet).__name__}")

    def _connect(self, packet: ConnectPacket) -> None:
        # With a certificate the client id is always its name, as with mosquitto's use_username_as_clientid: whoever
        # asks for another camera's client id cannot throw that camera out.
        client_id = self._identity or packet.client_id or f"anonymous-{secrets.token_hex(8)}"
        limits = self._hub.limits
        try:
            session, resumed = self._hub.open(packet, client_id, client_id, self)
        except Denied as e:
            self._hub.counts["refused_connect"] += 1
            log.warning("client %s is refused: %s", client_id[:80], e)
            self._transport.write(ConnAckPacket(reason_code=e.reason, reason_str=str(e)[:200]).write())
            self._fail(DisconnectReasonCode.NOT_AUTHORIZED, str(e))
            return
        self._session = session
        self._deadline = None
        wanted = packet.keep_alive
        self._keepalive_s = wanted if 0 < wanted <= limits.keepalive_s else limits.keepalive_s
        answer = ConnAckPacket(
            session_present=resumed,
            session_expiry_interval=session.expiry_s if session.expiry_s != packet.session_expiry_interval else None,
            assigned_client_id=None if packet.client_id else client_id,
            server_keep_alive=None if wanted == self._keepalive_s else limits.keepalive_s,
            receive_max=RECEIVE_MAXIMUM,
            max_qos=QoS.AT_LEAST_ONCE,
            max_packet_size=limits.packet_bytes,
            subscription_id_available=False,
            shared_subscription_available=False,
        )
        self._transport.write(answer.write())
        self._hub.flush(session)

    def _publish(self, session: Session, packet: PublishPacket, payload: bytes | memoryview) -> None:
        if packet.qos == QoS.EXACTLY_ONCE:
            self._fail(DisconnectReasonCode.QOS_NOT_SUPPORTED, "QoS 2")
        elif packet.topic_alias is not None:
            self._fail(DisconnectReasonCode.TOPIC_ALIAS_INVALID, "a topic alias, and none was offered")
        elif packet.subscription_ids or packet.packet_id == 0:
            self._fail(DisconnectReasonCode.PROTOCOL_ERROR, "a subscription id or no packet id")
        else:
            reason = self._hub.publish(session, packet, payload)
            if packet.packet_id is not None:
                self._answer(_puback(packet.packet_id, reason))

    def _subscribe(self, session: Session, packet: SubscribePacket) -> None:
        if packet.subscription_id is not None:
            self._fail(DisconnectReasonCode.SUBSCRIPTION_IDS_NOT_SUPPORTED, "a subscription id")
            return
        answers, wanted = self._hub.subscribe(session, packet)
        self._answer(SubAckPacket(packet.packet_id, answers).write())
        self._hub.send_retained(session, wanted)

    def _goodbye(self, session: Session, packet: DisconnectPacket) -> None:
        changed = packet.session_expiry_interval
        if changed is not None:
            if changed and not session.expiry_s:
                self._fail(DisconnectReasonCode.PROTOCOL_ERROR, "a session cannot begin to last at its end")
                return
            session.expiry_s = min(changed, self._hub.limits.session_expiry_s)
        self._graceful = packet.reason_code != DisconnectReasonCode.DISCONNECT_WITH_WILL_MESSAGE
        self._ending = True
        self._deadline = self._hub.clock.monotonic() + GOODBYE_S
        self._transport.close()

    def _answer(self, data: bytes) -> None:
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > OWED_BYTES:
            self._hub.counts["not_reading"] += 1
            self._transport.abort()
            self._ending = True

    def _fail(self, reason: DisconnectReasonCode, why: str) -> None:
        self._hub.counts["failed_connections"] += 1
        who = self._session.client_id if self._session else self._transport.get_extra_info("peername")
        log.info("%s is disconnected: %s", who, why)
        self.end(reason)


def common_name(certificate: dict[str, tuple[tuple[tuple[str, str], ...], ...]]) -> str | None:
    """The one common name of a peer certificate if it can be a level of a topic, else None."""
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return names[0] if len(names) == 1 and is_level(names[0]) else None


def _puback(packet_id: int, reason: PubAckReasonCode) -> bytes:
    return PubAckPacket(packet_id, reason_code=reason).write()
