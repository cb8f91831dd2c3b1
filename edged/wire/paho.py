"""The link over paho-mqtt 2, MQTT v5 only; the one file that imports paho.

Guarantees: it connects and reconnects by itself from its own thread (1 to 60 s, doubling, jittered) and subscribes
again; that thread survives whatever paho or the broker throws at it; what waits in either direction is bounded in
bytes; what the broker refuses (reason code >= 0x80) is counted and logged, never taken for success.
Does not guarantee: that a published message arrived. Messages the broker has not acknowledged are sent again after a
reconnect, so the far end may see one twice.

Traps that this file stands between: an exception in a callback ends paho's own network thread while `is_connected()`
stays true, so the loop is ours and the callbacks only enqueue; paho ignores the broker's Maximum Packet Size and an
oversize message would reconnect for ever, so `publish` looks first; paho writes to the socket from the publishing
thread unless `on_socket_register_write` is set, so it is set; paho spends most of a received message's cost on its
properties, so those are read by `publication`.
"""

from __future__ import annotations

import logging
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edged.clock import stopwatch
from edged.errors import Misconfigured, Refused, Unavailable
from edged.wire.link import Endpoint, Message, Will
from edged.wire.messages import MAX_FRAME_BYTES
from edged.wire.publication import Publication, take_apart
from edged.wire.tls import client_context, explain
from edged.wire.waiting import Arrived, Inbox, Outbox

log = logging.getLogger(__name__)

MAX_PACKET_BYTES = MAX_FRAME_BYTES + 64 * 1024  # largest packet that we accept; the broker's limit is the same
RECEIVE_MAXIMUM = 20  # QoS-1 messages taken in but not yet handed to `receive`; the broker holds back the rest
WAITING_BYTES = 64 * 1024 * 1024  # most that waits to go out, and most that waits (QoS 0) to be received
CONNECT_TIMEOUT_S = 5.0
GOODBYE_S = 2.0  # how long `close` lets the last messages leave
PUMP_S = 1.0  # the network thread comes round at least so often
STUCK_S = 10.0  # without coming round: it hangs; while it connects it may take CONNECTING_S
CONNECTING_S = 60.0  # name, TCP (CONNECT_TIMEOUT_S) and TLS (paho allows it the keepalive time)
STEADY_S = 10.0  # a connection that lived this long resets the reconnect delay
NO_MATCHING_SUBSCRIBERS = 0x10
MQTT_NO_LIMIT = 268_435_460  # largest packet that MQTT can express


class PahoLink:
    """A `Link` to a real broker; connects in the background from the moment it is made.

    `reconnect_s` is the shortest and the longest wait between two attempts. Raises Misconfigured when a TLS file does
    not load or the host is no name; everything later is visible through `connected` and `disconnect_reason`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        will: Will | None = None,
        *,
        max_packet_bytes: int = MAX_PACKET_BYTES,
        reconnect_s: tuple[float, float] = (1.0, 60.0),
    ) -> None:
        if not endpoint.host or not 0 < endpoint.port < 65536:
            raise Misconfigured(f"broker address {endpoint.host!r}:{endpoint.port} is not usable")
        self._endpoint = endpoint
        self._reconnect_s = reconnect_s
        self._changed = threading.Condition()  # guards everything below; paho is never called while it is held
        self._inbox = Inbox()
        self._outbox = Outbox()
        self._filters: dict[str, None] = {}
        self._subscribing: dict[int, str] = {}
        self._answered_early: dict[int, list[str]] = {}  # refusals that came before the packet id was known
        self._counts: Counter[str] = Counter()
        self._subscribable = False  # connected, and the remembered filters are on their way
        self._up = False
        self._refused = False  # by this attempt's CONNACK
        self._complaint = ""  # paho's last error in this attempt, its log is the only place where it shows
        self._connects = 0
        self._reason = "not connected yet"
        self._packet_limit = MQTT_NO_LIMIT
        self._retain_allowed = True
        self._closing = threading.Event()
        self._renewing = threading.Event()
        self._received = self._sent = 0
        self._due = stopwatch() + CONNECTING_S  # the network thread has come round again by then, or hangs
        self._tls = None if endpoint.tls is None else client_context(endpoint.tls)
        self._client = _client(endpoint, will, max_packet_bytes)
        if self._tls is not None:
            self._client.tls_set_context(self._tls)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publication = self._on_publication
        self._client.on_publish = self._on_publish
        self._client.on_subscribe = self._on_subscribe
        self._client.on_log = self._on_log
        self._client.on_socket_open = _no_delay
        self._client.on_socket_register_write = _leave_writing_to_the_loop
        self._thread = threading.Thread(target=self._run, name=f"link-{endpoint.client_id}", daemon=True)
        self._thread.start()

    # What the rest of edged calls

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        properties: Mapping[str, str] | None = None,
        retain: bool = False,
        qos: int = 1,
        expiry_s: int | None = None,
    ) -> None:
        """Queue one message. Raises Unavailable when not connected or when too much waits already, Refused when the
        topic is no topic or the message is larger than the broker takes."""
        packed = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if properties:
            packed.UserProperty = [_pair(k, v) for k, v in properties.items()]
        if expiry_s is not None:
            packed.MessageExpiryInterval = max(0, min(expiry_s, 2**32 - 1))
        name = topic.encode()
        if not 0 < len(name) <= 65535 or any(c in topic for c in "+#\0"):
            raise Refused(f"topic {topic[:120]!r} cannot be published to", code="bad_topic")
        size = 5 + 2 + len(name) + 2 + len(packed.pack()) + len(payload)  # type: ignore[no-untyped-call]
        with self._changed:
            if not self._up or self._closing.is_set():
                raise Unavailable(f"no connection to the broker: {self._reason}")
            if size > self._packet_limit:
                raise Refused(
                    f"a message of {size} bytes is larger than the broker takes ({self._packet_limit})",
                    code="too_large",
                )
            if retain and not self._retain_allowed:
                raise Refused("the broker keeps no retained messages", code="no_retain")
            if self._outbox.bytes + size > WAITING_BYTES:
                raise Unavailable("the broker takes messages too slowly; too many wait already", code="busy")
        info = self._client.publish(topic, payload, qos, retain, packed)
        # QoS 1 into a connection that broke this moment: paho keeps the message and sends it after the reconnect.
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS and not (qos and info.rc == MQTTErrorCode.MQTT_ERR_NO_CONN):
            raise Unavailable(f"the message could not be queued: {info.rc.name}")
        with self._changed:
            self._sent += 1
            self._outbox.sent(info.mid, size, qos)

    def backlog(self) -> int:
        """Bytes of messages that were queued and that the broker has not acknowledged."""
        return self._outbox.bytes

    def subscribe(self, topic_filter: str) -> None:
        """QoS 1; remembered across reconnects. May be called before the link is up."""
        with self._changed:
            self._filters[topic_filter] = None
            now = self._subscribable
        if now:
            self._send_subscribe(topic_filter)

    def receive(self, timeout_s: float) -> Message | None:
        """The next message, or None after `timeout_s` seconds. Taking a message acknowledges it to the broker."""
        with self._changed:
            self._changed.wait_for(lambda: self._inbox or self._closing.is_set(), timeout_s)
            found = self._inbox.take()
            if found is None:
                return None
            fresh = self._up and found.connection == self._connects
        if found.qos and fresh:  # a packet id means nothing on another connection
            self._client.ack(found.packet_id, found.qos)
        return found.message

    def connected(self) -> bool:
        return self._up

    def connects(self) -> int:
        """How many times the link came up; whoever sees it grow says hello again (its will may have been sent)."""
        return self._connects

    def alive(self) -> bool:
        """Whether the network thread lives and comes round; it does while the broker is away, too."""
        return self._thread.is_alive() and stopwatch() < self._due

    def moved(self) -> tuple[int, int]:
        """Messages that came in and that were taken to be sent, since the start."""
        return self._received, self._sent

    def renew(self) -> None:
        """Have the network thread hang up and connect again, or try at once when it waits to. Returns at once."""
        self._renewing.set()

    def wait_connected(self, timeout_s: float) -> bool:
        """Wait until the link is up; False after `timeout_s` seconds, and `disconnect_reason` says why."""
        with self._changed:
            return self._changed.wait_for(lambda: self._up, timeout_s)

    @property
    def disconnect_reason(self) -> str:
        """Why the link is down, in the words of whoever refused: socket, TLS or broker; "" while it is up."""
        return self._reason

    def counts(self) -> dict[str, int]:
        """`refused_publishes`, `refused_subscriptions`, `unmatched` (nobody was subscribed), `dropped` (came faster than
        it was received, or over a connection that is gone), `failures` (the network thread caught a bug); missing = 0."""
        with self._changed:
            return dict(self._counts)

    def close(self) -> None:
        """Say goodbye (the will is not sent) and stop the network thread; what is queued gets two seconds to leave."""
        if not self._closing.is_set():
            self._closing.set()
            self._client.disconnect()
            with self._changed:
                self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(CONNECT_TIMEOUT_S + 2 * GOODBYE_S)
            if not self._thread.is_alive():
                self._client._reset_sockets()  # paho keeps its wake-up pair open until it is garbage

    # The network thread

    def _run(self) -> None:
        shortest, longest = self._reconnect_s
        delay = shortest
        while not self._closing.is_set():
            began = stopwatch()
            self._refused, self._complaint = False, ""
            self._renewing.clear()
            try:
                self._due = began + CONNECTING_S
                self._client.reconnect()
                self._pump()
            except (OSError, UnicodeError) as e:  # no host, no route, refused, TLS; a host that is no name
                reason = explain(e)
                if reason != self._reason:  # once per reason, not once per attempt
                    log.warning("broker %s:%d: %s; trying again", self._endpoint.host, self._endpoint.port, reason)
                self._note_down(reason)
            except Exception as e:  # the outermost edge of this thread: it must outlive any bug below
                log.exception("the link to %s:%d failed", self._endpoint.host, self._endpoint.port)
                self._note_down(f"internal error: {e!r}", count="failures")
            finally:
                self._hang_up()
            if stopwatch() - began > STEADY_S:
                delay = shortest
            self._rest(delay * random.uniform(0.75, 1.25))
            delay = min(delay * 2, longest)

    def _rest(self, seconds: float) -> None:
        """Wait before the next attempt, unless it is wanted at once."""
        end = stopwatch() + seconds
        while (left := end - stopwatch()) > 0 and not self._renewing.is_set():
            self._due = stopwatch() + STUCK_S
            if self._closing.wait(min(left, PUMP_S)):
                return

    def _pump(self) -> None:
        """Move bytes until the connection ends; after `close`, until the goodbye has left or its time is over."""
        closing_since: float | None = None
        while self._client.loop(PUMP_S) == MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._due = stopwatch() + STUCK_S
            if self._renewing.is_set():
                self._note_down("hung up to connect anew")
                return
            if self._closing.is_set():
                closing_since = closing_since or stopwatch()
                if stopwatch() - closing_since > GOODBYE_S:
                    break

    def _hang_up(self) -> None:
        left = self._client.socket()
        if left is not None:
            left.close()
        if self._tls is not None:
            self._tls.close_last()
        self._note_down(self._reason or "the connection was lost")

    def _note_down(self, reason: str, count: str = "") -> None:
        with self._changed:
            self._up = self._subscribable = False
            self._reason = reason
            if count:
                self._counts[count] += 1
            self._outbox.cut()
            self._subscribing.clear()
            self._answered_early.clear()
            self._changed.notify_all()

    def _on_connect(
        self, client: Client, _data: Any, _flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._refused = True
            self._note_down(f"the broker refused: {_said(reason, properties)}")
            log.warning("%s: %s", self._endpoint.client_id, self._reason)
            return
        with self._changed:
            self._packet_limit = getattr(properties, "MaximumPacketSize", MQTT_NO_LIMIT)
            self._retain_allowed = bool(getattr(properties, "RetainAvailable", 1))
            if self._outbox.longest() > self._packet_limit:
                # paho would send them again, the broker would hang up again, for ever
                self._counts["dropped"] += len(client.drop_out_messages())
                self._outbox.clear()
            self._connects += 1
            self._subscribable = True
            filters = list(self._filters)
        for topic_filter in filters:
            self._send_subscribe(topic_filter)
        with self._changed:
            self._reason = ""
            self._up = True  # last: what is published from now on finds the subscriptions made
            self._changed.notify_all()

    def _on_disconnect(
        self, client: Client, _data: Any, flags: DisconnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._note_down(f"the broker ended the connection: {_said(reason, properties)}")
        elif self._subscribable:
            self._note_down(f"lost the connection: {self._complaint or _said(reason, properties)}")
        elif not self._refused:  # with TLS 1.3 a certificate that the broker rejects shows only here
            ours = " (does the broker trust our certificate? it may have been revoked)" if self._tls else ""
            text = f"the broker hung up without an answer: {self._complaint or 'end of file'}{ours}"
            if text != self._reason:
                log.warning("%s: %s; trying again", self._endpoint.client_id, text)
            self._note_down(text)

    def _on_log(self, _client: Client, _data: Any, level: int, text: str) -> None:
        if level == LogLevel.MQTT_LOG_ERR:
            self._complaint = text

    def _on_publication(self, client: Client, incoming: Publication, qos: int, retain: bool) -> None:
        try:
            topic = incoming.topic.decode()
        except UnicodeDecodeError:
            topic = ""
        message = Message(topic, incoming.payload, incoming.pairs, retain)
        with self._changed:
            self._received += 1
            if self._inbox.bytes + len(message.payload) > WAITING_BYTES:
                # Of this connection at most RECEIVE_MAXIMUM messages wait, the broker holds back the rest; but a link that
                # breaks again and again while nobody receives would gather as many each time.
                self._counts["dropped"] += self._inbox.forget_before(self._connects)
            full = self._inbox.bytes + len(message.payload) > WAITING_BYTES
            if not topic or full:
                self._counts["dropped"] += 1
            else:
                self._inbox.put(Arrived(message, incoming.packet_id, qos, self._connects))
                self._changed.notify_all()
                return
        if qos and not full:  # what found no room stays unacknowledged: the broker still has it
            client.ack(incoming.packet_id, qos)

    def _on_publish(
        self, client: Client, _data: Any, mid: int, reason: ReasonCode, properties: Properties | None
    ) -> None:
        with self._changed:
            self._outbox.acknowledged(mid)
            if reason.value == NO_MATCHING_SUBSCRIBERS:
                self._counts["unmatched"] += 1
            if reason.is_failure:
                self._counts["refused_publishes"] += 1
        if reason.is_failure:
            log.warning("%s: the broker refused a message: %s", self._endpoint.client_id, _said(reason, properties))

    def _on_subscribe(
        self, client: Client, _data: Any, mid: int, reasons: list[ReasonCode], properties: Properties | None
    ) -> None:
        with self._changed:
            refused = [_said(reason, properties) for reason in reasons if reason.is_failure]
            if mid not in self._subscribing:
                self._answered_early[mid] = refused
                return
            topic_filter = self._subscribing.pop(mid)
        self._note_refused(topic_filter, refused)

    def _send_subscribe(self, topic_filter: str) -> None:
        _, mid = self._client.subscribe(topic_filter, options=SubscribeOptions(qos=1, retainAsPublished=True))
        if mid is None:  # the connection went away this moment; _on_connect will subscribe
            return
        with self._changed:
            if mid not in self._answered_early:
                self._subscribing[mid] = topic_filter
                return
            refused = self._answered_early.pop(mid)
        self._note_refused(topic_filter, refused)

    def _note_refused(self, topic_filter: str, reasons: list[str]) -> None:
        for reason in reasons:
            with self._changed:
                self._counts["refused_subscriptions"] += 1
            log.warning("%s: the broker refused to subscribe %s: %s", self._endpoint.client_id, topic_filter, reason)


class _Client(Client):
    """paho's, but that a message comes to `on_publication`, and without paho's reading of its properties."""

    on_publication: Callable[[Client, Publication, int, bool], None]

    def _handle_publish(self) -> MQTTErrorCode:
        head = self._in_packet["command"]
        qos = head >> 1 & 3
        try:
            incoming = take_apart(qos, self._in_packet["packet"])
        except (ValueError, IndexError):
            return super()._handle_publish()  # it has the words for what is malformed; nothing hears on_message
        if qos > 1:  # nobody subscribes so
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        self.on_publication(self, incoming, qos, bool(head & 1))
        return MQTTErrorCode.MQTT_ERR_SUCCESS


def _client(endpoint: Endpoint, will: Will | None, max_packet_bytes: int) -> _Client:
    client = _Client(
        CallbackAPIVersion.VERSION2, endpoint.client_id, protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True
    )
    client.connect_timeout = CONNECT_TIMEOUT_S
    if endpoint.username:
        client.username_pw_set(endpoint.username, endpoint.password)
    if will is not None:
        client.will_set(will.topic, will.payload, 1, will.retain)
    asked = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    asked.ReceiveMaximum = RECEIVE_MAXIMUM
    asked.MaximumPacketSize = max_packet_bytes
    asked.SessionExpiryInterval = endpoint.session_expiry_s
    client.connect_async(
        endpoint.host,
        endpoint.port,
        endpoint.keepalive_s,
        clean_start=endpoint.session_expiry_s == 0,
        properties=asked,
    )
    return client


def _pair(name: str, value: str) -> tuple[str, str]:
    if len(name.encode()) > 65535 or len(value.encode()) > 65535:
        raise Refused(f"property {name[:40]!r} is longer than 65535 bytes", code="too_large")
    return name, value


def _said(reason: ReasonCode, properties: Properties | None) -> str:
    text = getattr(properties, "ReasonString", "")
    return f"{reason} (0x{reason.value:02x}){': ' + text if text else ''}"


def _no_delay(_client: Client, _data: Any, opened: Any) -> None:
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _leave_writing_to_the_loop(_client: Client, _data: Any, _socket: Any) -> None:
    pass
