"""An MQTT broker that is a few dictionaries, and links to it: no sockets, no threads, no time of its own.

Guarantees: the behaviour that tests/wire/test_link.py asks of every link (order, retained messages, wills, persistent
sessions, size limit), and that a message published is already in the receivers' boxes when `publish` returns, so that
a test with many links is deterministic. `MemoryBroker.stop()` / `start()` and `MemoryLink.drop()` play the faults.
What a link received but nobody took is handed to the next link of the same persistent session, as an unacknowledged
message would be. Does not guarantee: access rules (the brokers' own tests have them), duplicates after a cut.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from edged.errors import Refused, Unavailable
from edged.wire import topics
from edged.wire.link import Endpoint, Message, Will

MAX_PACKET_BYTES = 2 * 1024 * 1024 + 64 * 1024


@dataclass(eq=False)
class _Session:
    """What the broker knows of one client id, connected or not."""

    filters: dict[str, None] = field(default_factory=dict)
    queue: deque[Message] = field(default_factory=deque)  # while nobody is connected
    link: MemoryLink | None = None
    last: MemoryLink | None = None


class MemoryBroker:
    """Everybody's broker."""

    def __init__(self, *, max_packet_bytes: int = MAX_PACKET_BYTES) -> None:
        self.max_packet_bytes = max_packet_bytes
        self.changed = threading.Condition(threading.RLock())
        self.retained: dict[str, Message] = {}
        self.log: list[tuple[str, Message]] = []  # (client id, message) of everything ever published, wills too
        self._sessions: dict[str, _Session] = {}
        self._links: list[MemoryLink] = []
        self._running = True

    def link(self, client_id: str, will: Will | None = None, *, session_expiry_s: int = 0) -> MemoryLink:
        """A connected link; `session_expiry_s` > 0 keeps its queue while it is away."""
        return MemoryLink(self, Endpoint("memory", 1, client_id, session_expiry_s=session_expiry_s), will)

    def stop(self, *, persistent: bool = False) -> None:
        """The broker vanishes: links lose their connection, wills are not sent (there is nobody to send them).

        Unless `persistent`, it forgets sessions and retained messages, as the embedded broker does.
        """
        with self.changed:
            self._running = False
            for session in self._sessions.values():
                session.link = None
            if not persistent:
                self._sessions.clear()
                self.retained.clear()
            self.changed.notify_all()

    def start(self) -> None:
        """It is back; every link that was not dropped or closed connects and subscribes again."""
        with self.changed:
            self._running = True
            for link in list(self._links):
                link.reconnect()

    def _attach(self, link: MemoryLink) -> _Session | None:
        if not self._running:
            return None
        old = self._sessions.get(link.endpoint.client_id)
        if old is not None and old.link is not None and old.link is not link:
            self._detach(old.link, graceful=False)
        if old is None or link.endpoint.session_expiry_s == 0:
            old = self._sessions[link.endpoint.client_id] = _Session()
        if old.last not in (None, link):
            old.queue.extendleft(reversed(old.last.received))
            old.last.received.clear()
        link.received.extend(old.queue)
        old.queue.clear()
        old.link = old.last = link
        return old

    def _detach(self, link: MemoryLink, *, graceful: bool) -> None:
        session = self._sessions.get(link.endpoint.client_id)
        if session is None or session.link is not link:
            return
        session.link = None
        if link.endpoint.session_expiry_s == 0:
            del self._sessions[link.endpoint.client_id]
        if link.will is not None and not graceful:
            self._route(link, Message(link.will.topic, link.will.payload, (), link.will.retain))
        self.changed.notify_all()

    def _route(self, link: MemoryLink, message: Message, qos: int = 1) -> None:
        self.log.append((link.endpoint.client_id, message))
        if message.retain:
            if message.payload:
                self.retained[message.topic] = message
            else:
                self.retained.pop(message.topic, None)
        for session in self._sessions.values():
            if any(topics.matches(wanted, message.topic) for wanted in session.filters):
                if session.link is not None:
                    session.link.received.append(message)
                elif qos:
                    session.queue.append(message)
        self.changed.notify_all()


class MemoryLink:
    """A `Link` to a MemoryBroker."""

    def __init__(self, broker: MemoryBroker, endpoint: Endpoint, will: Will | None = None) -> None:
        self.endpoint = endpoint
        self.will = will
        self._broker = broker
        self._filters: dict[str, None] = {}
        self._session: _Session | None = None
        self.received: deque[Message] = deque()  # arrived at this end, not yet taken
        self._connects = 0
        self._closed = False
        with broker.changed:
            broker._links.append(self)
            self.reconnect()

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
        pairs = tuple((properties or {}).items())
        if not topic or any(c in topic for c in "+#\0"):
            raise Refused(f"topic {topic!r} cannot be published to", code="bad_topic")
        size = len(topic) + len(payload) + sum(5 + len(k) + len(v) for k, v in pairs)
        with self._broker.changed:
            if not self.connected():
                raise Unavailable("no connection to the broker")
            if size > self._broker.max_packet_bytes:
                raise Refused(f"a message of {size} bytes is larger than the broker takes", code="too_large")
            self._broker._route(self, Message(topic, bytes(payload), pairs, retain), qos)

    def backlog(self) -> int:
        return 0

    def subscribe(self, topic_filter: str) -> None:
        with self._broker.changed:
            self._filters[topic_filter] = None
            if self.connected():
                self._subscribe_now(topic_filter)

    def receive(self, timeout_s: float) -> Message | None:
        with self._broker.changed:
            self._broker.changed.wait_for(lambda: self.received or self._closed, timeout_s)
            return self.received.popleft() if self.received else None

    def connected(self) -> bool:
        return self._session is not None and self._session.link is self

    def connects(self) -> int:
        return self._connects

    def alive(self) -> bool:
        return True

    def moved(self) -> tuple[int, int]:
        return 0, 0

    def renew(self) -> None:
        self.drop()
        self.reconnect()

    def close(self) -> None:
        with self._broker.changed:
            self._closed = True
            self._broker._detach(self, graceful=True)
            if self in self._broker._links:
                self._broker._links.remove(self)
            self._broker.changed.notify_all()

    # Faults

    def drop(self) -> None:
        """The cable is cut: the broker sends the will; this end learns of it when it next looks."""
        with self._broker.changed:
            self._broker._detach(self, graceful=False)

    def reconnect(self) -> None:
        """The cable is whole again (a real link does this by itself)."""
        with self._broker.changed:
            if self._closed or self.connected():
                return
            self._session = self._broker._attach(self)
            if self._session is not None:
                self._connects += 1
                for topic_filter in self._filters:
                    self._subscribe_now(topic_filter)

    def _subscribe_now(self, topic_filter: str) -> None:
        assert self._session is not None
        self._session.filters[topic_filter] = None
        retained = [m for t, m in sorted(self._broker.retained.items()) if topics.matches(topic_filter, t)]
        self.received.extend(retained)
        self._broker.changed.notify_all()
