"""Routing: sessions, subscriptions, retained messages, wills and what expires. No sockets; time comes from the clock.

Guarantees: nothing is done that `Access` does not allow; an identity has one session and one connection (a second
connection throws the first one out, and its will is sent); what waits is bounded in bytes, per session and in all, and a
camera that fills its part of what waits for a client is read no further until that part is shorter, so that the others'
messages pass; a refusal has a reason code >= 0x80 and is counted. Does not guarantee: anything across a restart.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass

from mqtt5 import (
    ConnAckReasonCode,
    ConnectPacket,
    DisconnectReasonCode,
    PubAckReasonCode,
    PublishPacket,
    QoS,
    RetainHandling,
    SubAckReasonCode,
    SubscribePacket,
    TopicFilter,
    UnsubAckReasonCode,
    Will,
)

from edged.broker.acl import Access
from edged.broker.parcel import MAX_PROPERTIES, Parcel, wrap
from edged.broker.session import MAX_INFLIGHT, Granted, Outlet, Session
from edged.broker.trie import MAX_LEVELS, TopicTrie, valid_filter
from edged.clock import Clock
from edged.errors import Refused
from edged.wire.topics import matches

log = logging.getLogger(__name__)

# A publisher is held once it has this much waiting for a client, as a part of what is still free there, and refused at twice
# that: eight that flood at once leave a sixth of the room (Choudhury and Hahne 1998, dynamic thresholds).
PART = 0.25
MATCHES = 4096  # topics whose subscribers are remembered


@dataclass(frozen=True)
class Limits:
    """Bytes, seconds and counts; the defaults suit one small site on a box with 4 GB."""

    packet_bytes: int = 2 * 1024 * 1024 + 64 * 1024
    session_bytes: int = 24 * 1024 * 1024  # waiting for one client
    total_bytes: int = 96 * 1024 * 1024  # waiting for all clients
    sessions: int = 1024
    subscriptions: int = 256  # of one client
    retained: int = 10_000
    session_expiry_s: int = 7 * 86400
    keepalive_s: int = 300
    connect_s: float = 10.0  # from the accepted socket to a whole CONNECT


class Denied(Refused):
    """A CONNECT that is answered with this reason code."""

    def __init__(self, reason: ConnAckReasonCode, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Hub:
    """The broker without its sockets. Call everything from one thread."""

    def __init__(self, access: Access, clock: Clock, limits: Limits | None = None) -> None:
        self.access = access
        self.clock = clock
        self.limits = limits or Limits()
        self.counts: Counter[str] = Counter()
        self.sessions: dict[str, Session] = {}
        self.retained: dict[str, Parcel] = {}
        self._subscriptions: TopicTrie[str, Granted] = TopicTrie()  # key: client id
        self._matches: dict[str, list[tuple[str, Granted]]] = {}  # what the tree said, until a subscription changes
        self._waiting_bytes = 0

    # A client comes and goes

    def open(self, connect: ConnectPacket, client_id: str, identity: str, outlet: Outlet) -> tuple[Session, bool]:
        """Begin or resume the session of `client_id`; (session, whether it was resumed). Raises Denied."""
        if connect.authentication_method is not None:
            raise Denied(ConnAckReasonCode.BAD_AUTHENTICATION_METHOD, "no enhanced authentication here")
        if connect.will is not None:
            self._check_will(identity, connect.will)
        session = self.sessions.get(client_id)
        if session is not None and session.outlet is not None:
            log.warning("client %s is taken over by a new connection", client_id)
            self._count("takeovers", client_id, "")
            old = session.outlet
            self.lost(session, old, graceful=False)
            old.end(DisconnectReasonCode.SESSION_TAKEN_OVER)
            session = self.sessions.get(client_id)
        if session is not None and connect.clean_start:
            self._forget(session)
            session = None
        resumed = session is not None
        if session is None:
            if len(self.sessions) >= self.limits.sessions:
                raise Denied(ConnAckReasonCode.QUOTA_EXCEEDED, "too many sessions")
            session = self.sessions[client_id] = Session(client_id, identity)
        session.outlet = outlet
        session.expiry_s = min(connect.session_expiry_interval, self.limits.session_expiry_s)
        session.receive_max = min(connect.receive_max, MAX_INFLIGHT)
        session.max_packet = connect.max_packet_size
        session.will, session.will_at, session.ends_at = connect.will, None, None
        session.again.clear()
        session.again.extend(session.inflight)
        return session, resumed

    def lost(self, session: Session, outlet: Outlet, *, graceful: bool) -> None:
        """The connection of `outlet` is over. Not graceful: its will is sent, now or after the delay it asked for."""
        if session.outlet is not outlet:
            return  # taken over already
        session.outlet = None
        self._release(session)
        self._let_go(session)
        now = self.clock.monotonic()
        if graceful:
            session.will = None
        elif session.will is not None:
            delay = min(session.will.will_delay_interval, session.expiry_s)
            session.will_at = now + delay
        if session.expiry_s:
            session.ends_at = now + session.expiry_s
        if session.will_at is not None and session.will_at <= now:
            self._send_will(session)
        if not session.expiry_s:
            self._forget(session)

    def sweep(self) -> None:
        """Send the wills and end the sessions whose time has come; call it about once a second."""
        now = self.clock.monotonic()
        for session in list(self.sessions.values()):
            if session.will_at is not None and session.will_at <= now:
                self._send_will(session)
            if session.ends_at is not None and session.ends_at <= now:
                self._forget(session)
        for topic in [topic for topic, parcel in self.retained.items() if parcel.expired(now)]:
            del self.retained[topic]

    # What a client does

    def publish(self, session: Session, packet: PublishPacket, payload: bytes | memoryview) -> PubAckReasonCode:
        """Route one message; the answer is the reason code of its PUBACK (a QoS-0 publisher gets none). `payload` is
        kept as long as anyone waits for it."""
        if len(packet.user_properties) > MAX_PROPERTIES or packet.topic.count("/") >= MAX_LEVELS:
            self._count("refused_publish", session.identity, packet.topic)
            return PubAckReasonCode.QUOTA_EXCEEDED
        if not self.access.may_publish(session.identity, packet.topic, size=len(payload), retain=packet.retain):
            self._count("refused_publish", session.identity, packet.topic)
            return PubAckReasonCode.NOT_AUTHORIZED
        now = self.clock.monotonic()
        return self._route(wrap(packet, payload, session.client_id, now), now)

    def subscribe(self, session: Session, packet: SubscribePacket) -> tuple[list[SubAckReasonCode], list[Granted]]:
        """One answer per filter, and the filters whose retained messages go out after the SUBACK (`send_retained`)."""
        answers: list[SubAckReasonCode] = []
        wanted: list[Granted] = []
        for asked in packet.topic_filters:
            answer = self._subscribe_one(session, asked, wanted)
            if int(answer) >= 0x80:
                self._count("refused_subscribe", session.identity, asked.pattern)
            answers.append(answer)
        return answers, wanted

    def send_retained(self, session: Session, wanted: list[Granted]) -> None:
        now = self.clock.monotonic()
        for granted in wanted:
            for topic, parcel in self.retained.items():
                if matches(granted.pattern, topic) and not parcel.expired(now):
                    self._offer(session, parcel, min(parcel.qos, granted.qos), True)
        self.flush(session)

    def unsubscribe(self, session: Session, patterns: list[str]) -> list[UnsubAckReasonCode]:
        answers = []
        for pattern in patterns:
            known = session.subscriptions.pop(pattern, None)
            self._subscriptions.remove(pattern, session.client_id)
            self._matches.clear()
            answers.append(UnsubAckReasonCode.SUCCESS if known else UnsubAckReasonCode.NO_SUBSCRIPTION_EXISTED)
        return answers

    def acknowledge(self, session: Session, packet_id: int) -> None:
        self._waiting_bytes -= session.acknowledge(packet_id)
        self.flush(session)

    def flush(self, session: Session) -> None:
        """Send what the session's client can take now."""
        if session.parts or session.again:
            self._waiting_bytes -= session.flush(self.clock.monotonic())
        if session.holds:
            self._release(session)

    # Inside

    def _subscribe_one(self, session: Session, asked: TopicFilter, wanted: list[Granted]) -> SubAckReasonCode:
        pattern = asked.pattern
        if not valid_filter(pattern):
            return SubAckReasonCode.TOPIC_FILTER_INVALID
        if pattern.startswith("$share/"):
            return SubAckReasonCode.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED
        if not self.access.may_subscribe(session.identity, pattern):
            return SubAckReasonCode.NOT_AUTHORIZED
        known = pattern in session.subscriptions
        if not known and len(session.subscriptions) >= self.limits.subscriptions:
            return SubAckReasonCode.QUOTA_EXCEEDED
        granted = Granted(pattern, min(int(asked.max_qos), 1), asked.no_local, asked.retain_as_published)
        session.subscriptions[pattern] = granted
        self._subscriptions.add(pattern, session.client_id, granted)
        self._matches.clear()
        handling = asked.retain_handling
        if handling == RetainHandling.SEND_ALWAYS or (
            handling == RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS and not known
        ):
            wanted.append(granted)
        return SubAckReasonCode(granted.qos)

    def _route(self, parcel: Parcel, now: float) -> PubAckReasonCode:
        if parcel.retain:
            if not parcel.payload:
                self.retained.pop(parcel.topic, None)
            elif parcel.topic in self.retained or len(self.retained) < self.limits.retained:
                self.retained[parcel.topic] = parcel
            else:
                self._count("refused_publish", parcel.origin, parcel.topic)
                return PubAckReasonCode.QUOTA_EXCEEDED
        # One copy per client at the highest QoS that its filters grant; of two equal ones the first found.
        chosen: dict[str, Granted] = {}
        for client_id, granted in self._subscribed(parcel.topic):
            if granted.no_local and client_id == parcel.origin:
                continue
            if client_id not in chosen or granted.qos > chosen[client_id].qos:
                chosen[client_id] = granted
        taken = 0
        for client_id, granted in chosen.items():
            session = self.sessions[client_id]
            retain = parcel.retain and granted.retain_as_published
            taken += self._offer(session, parcel, min(parcel.qos, granted.qos), retain)
            self._waiting_bytes -= session.flush(now)
            if session.parts:
                self._hold(session, parcel.origin)
            if session.holds:
                self._release(session)
        if taken:
            return PubAckReasonCode.SUCCESS
        return PubAckReasonCode.QUOTA_EXCEEDED if chosen else PubAckReasonCode.NO_MATCHING_SUBSCRIBERS

    def _subscribed(self, topic: str) -> list[tuple[str, Granted]]:
        found = self._matches.get(topic)
        if found is None:
            if len(self._matches) >= MATCHES:
                self._matches.clear()
            found = self._matches[topic] = list(self._subscriptions.match(topic))
        return found

    def _offer(self, session: Session, parcel: Parcel, qos: int, retain: bool) -> bool:
        before, free = session.bytes, self._free(session)
        part = session.parts.get(parcel.origin)
        much = parcel.size + (part.bytes if part is not None else 0) > 2 * PART * free
        taken = not (much and self.access.may_be_held(parcel.origin)) and session.offer(
            parcel, qos, retain, before + free
        )
        self._waiting_bytes += session.bytes - before
        if not taken:
            self._count("dropped", session.identity, parcel.topic)
        return taken

    def _free(self, session: Session) -> int:
        """Bytes that may still be queued for a client."""
        return min(self.limits.session_bytes - session.bytes, self.limits.total_bytes - self._waiting_bytes)

    def _hold(self, session: Session, origin: str) -> None:
        """Read no further from a publisher whose part of what waits for `session` is full."""
        part, publisher = session.parts.get(origin), self.sessions.get(origin)
        if part is None or part.bytes <= PART * self._free(session) or publisher is None or origin in session.holds:
            return
        if session.outlet is not None and publisher.outlet is not None and self.access.may_be_held(origin):
            session.holds.add(origin)
            publisher.held_by.add(session.client_id)
            publisher.outlet.hold(True)
            self._count("held", origin, session.client_id)

    def _release(self, session: Session) -> None:
        """Read on from those whose part is shorter by half, or from all when nobody takes what waits for `session`."""
        enough = PART / 2 * self._free(session)
        for origin in list(session.holds):
            part, publisher = session.parts.get(origin), self.sessions.get(origin)
            if part is not None and part.bytes > enough and session.outlet is not None and publisher is not None:
                continue
            session.holds.discard(origin)
            if publisher is not None and session.client_id in publisher.held_by:
                publisher.held_by.discard(session.client_id)
                if not publisher.held_by and publisher.outlet is not None:
                    publisher.outlet.hold(False)

    def _let_go(self, publisher: Session) -> None:
        """Its connection is over; the first message over the next one tells whether it must be held again."""
        for client_id in publisher.held_by:
            if client_id in self.sessions:
                self.sessions[client_id].holds.discard(publisher.client_id)
        publisher.held_by.clear()

    def _check_will(self, identity: str, will: Will) -> None:
        if will.qos == QoS.EXACTLY_ONCE:
            raise Denied(ConnAckReasonCode.QUALITY_NOT_SUPPORTED, "a will of QoS 2")
        size = len(will.payload or b"")
        if len(will.user_properties) > MAX_PROPERTIES or not self.access.may_publish(
            identity, will.topic, size=size, retain=will.retain
        ):
            self._count("refused_publish", identity, will.topic)
            raise Denied(ConnAckReasonCode.NOT_AUTHORIZED, f"a will on {will.topic}")

    def _send_will(self, session: Session) -> None:
        will, session.will, session.will_at = session.will, None, None
        if will is not None:
            now = self.clock.monotonic()
            self._route(wrap(will, will.payload or b"", session.client_id, now), now)

    def _forget(self, session: Session) -> None:
        if session.will_at is not None:
            self._send_will(session)  # MQTT 5, 3.1.2.5: at the session's end at the latest
        for pattern in session.subscriptions:
            self._subscriptions.remove(pattern, session.client_id)
        self._matches.clear()
        self._waiting_bytes -= session.bytes
        session.bytes = 0
        self.sessions.pop(session.client_id, None)

    def _count(self, what: str, identity: str, about: str) -> None:
        self.counts[what] += 1
        n = self.counts[what]
        if n & (n - 1) == 0:  # the 1st, 2nd, 4th, 8th ...: a hostile client must not fill the log
            log.warning("%s (%d so far): %s %s", what.replace("_", " "), n, identity, about[:200])
