"""The cable: one Protocol, two implementations (paho.py here, an in-memory one in tests/memory_link.py) and one
behavioural suite for both (tests/wire/test_link.py).

Guarantees: `receive` hands over messages in arrival order from the thread that calls it; nothing of ours runs in the
network thread (an exception there would kill it while the link still says it is connected). Reconnects by itself and
subscribes again. Does not guarantee: that a published message arrived: only an application receipt says that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Message:
    """One message as it came or goes. `properties` are the v5 user properties, in order."""

    topic: str
    payload: bytes
    properties: tuple[tuple[str, str], ...] = ()
    retain: bool = False


@dataclass(frozen=True)
class Will:
    """What the broker says for us when we vanish."""

    topic: str
    payload: bytes
    retain: bool = True


@dataclass(frozen=True)
class Tls:
    """Paths of PEM files: the CA that we trust, our certificate and its key."""

    ca: str
    cert: str
    key: str


@dataclass(frozen=True)
class Endpoint:
    """Where and as whom to connect. `tls` None = plain TCP (tests and the loopback only)."""

    host: str
    port: int
    client_id: str
    tls: Tls | None = None
    username: str = ""
    password: str = field(default="", repr=False)
    keepalive_s: int = 30
    session_expiry_s: int = 0  # how long the broker keeps our queue after we vanish; 0 = clean session


class Link(Protocol):
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
        """Queue one message. Raises Unavailable when not connected, Refused when larger than the broker takes."""
        ...

    def backlog(self) -> int:
        """Bytes of messages that were queued and that the other end has not acknowledged."""
        ...

    def subscribe(self, topic_filter: str) -> None:
        """QoS 1; remembered across reconnects. May be called before the link is up."""
        ...

    def receive(self, timeout_s: float) -> Message | None:
        """The next message, or None after `timeout_s`."""
        ...

    def connected(self) -> bool: ...

    def connects(self) -> int:
        """How many times the link came up; whoever sees it grow says hello again (its will may have been sent)."""
        ...

    def alive(self) -> bool:
        """Whether whatever moves the bytes still comes round; true while the broker is merely away."""
        ...

    def moved(self) -> tuple[int, int]:
        """Messages that came in and that were taken to be sent, since the start."""
        ...

    def renew(self) -> None:
        """Hang up and connect again, soon; the will is sent, subscriptions are made again."""
        ...

    def close(self) -> None:
        """Say goodbye (the will is not sent) and stop the network thread."""
        ...
