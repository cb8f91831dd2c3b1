"""One client's memory at the broker: what it subscribed to, what is on its way to it, what waits.

Guarantees: the messages of one publisher leave in the order they came, publishers take turns, a message each (Nagle 1987,
RFC 970); a QoS-1 message is kept until it is acknowledged, and sent again, marked as a duplicate and before anything
newer, when the client comes back; no more than the client's receive maximum, and no more than INFLIGHT_BYTES and one
message, is unacknowledged at once; what waits is bounded in bytes. Does not guarantee: an order between publishers
(MQTT 5, 4.6, asks for none), anything after the broker's end.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Protocol

from mqtt5 import DisconnectReasonCode, Will

from edged.broker.parcel import Parcel, Pieces

MAX_INFLIGHT = 32  # unacknowledged at once, whatever the client would allow
INFLIGHT_BYTES = 8 * 1024 * 1024  # unacknowledged at once


class Outlet(Protocol):
    """The way to a connected client."""

    def send(self, packet: Pieces) -> None: ...

    def ready(self) -> bool:
        """False while the client reads more slowly than we write."""
        ...

    def end(self, reason: DisconnectReasonCode) -> None:
        """Say why and hang up; the session has already let go of this outlet."""
        ...

    def hold(self, on: bool) -> None:
        """Read no more of what the client sends, or go on."""
        ...


@dataclass(frozen=True, slots=True)
class Granted:
    """One subscription. `qos` is the highest that its messages come with, 0 or 1."""

    pattern: str
    qos: int
    no_local: bool = False
    retain_as_published: bool = True


@dataclass(eq=False, slots=True)
class Part:
    """What one publisher has waiting for one client: parcel, QoS granted, retain flag."""

    parcels: deque[tuple[Parcel, int, bool]] = field(default_factory=deque)
    bytes: int = 0


@dataclass(eq=False)
class Session:
    """`client_id` is its key. `ends_at` and `will_at` (monotonic seconds) are set while nobody is connected."""

    client_id: str
    identity: str
    outlet: Outlet | None = None
    expiry_s: int = 0
    receive_max: int = MAX_INFLIGHT
    max_packet: int | None = None
    will: Will | None = None
    will_at: float | None = None
    ends_at: float | None = None
    subscriptions: dict[str, Granted] = field(default_factory=dict)
    parts: OrderedDict[str, Part] = field(default_factory=OrderedDict)  # by publisher, whose turn it is first
    holds: set[str] = field(default_factory=set)  # publishers that are not read because of their part of this
    held_by: set[str] = field(default_factory=set)  # sessions that this one, as a publisher, is held for
    inflight: dict[int, tuple[Parcel, bool]] = field(default_factory=dict)  # packet id -> parcel, retain; in order sent
    again: deque[int] = field(default_factory=deque)  # inflight, but not yet sent on this connection
    bytes: int = 0  # of what waits and what is inflight together
    inflight_bytes: int = 0
    dropped: int = 0
    _last_id: int = 0

    def offer(self, parcel: Parcel, qos: int, retain: bool, room: int) -> bool:
        """Queue a parcel; False if it was dropped: no room (bytes), or QoS 0 and nobody there to take it now."""
        if qos == 0 and (self.outlet is None or not self.outlet.ready()):
            return False
        if self.bytes + parcel.size > room:
            self.dropped += 1
            return False
        part = self.parts.get(parcel.origin)
        if part is None:
            part = self.parts[parcel.origin] = Part()
        part.parcels.append((parcel, qos, retain))
        part.bytes += parcel.size
        self.bytes += parcel.size
        return True

    def flush(self, now: float) -> int:
        """Send what may be sent; returns the bytes of parcels that this session holds no longer."""
        before = self.bytes
        while self.again and self.outlet is not None and self.outlet.ready():  # MQTT 5, 4.4: these go first
            if len(self.inflight) - len(self.again) >= self.receive_max:
                return 0
            packet_id = self.again.popleft()
            if packet_id in self.inflight:
                parcel, retain = self.inflight[packet_id]
                self.outlet.send(parcel.packet(now, 1, retain, packet_id, True))
        while self.parts and self.outlet is not None and self.outlet.ready():
            origin, part = next(iter(self.parts.items()))
            parcel, qos, retain = part.parcels[0]
            if (
                qos
                and self.inflight
                and (len(self.inflight) >= self.receive_max or self.inflight_bytes + parcel.size > INFLIGHT_BYTES)
            ):
                break
            part.parcels.popleft()
            if part.parcels:
                part.bytes -= parcel.size
                self.parts.move_to_end(origin)
            else:
                del self.parts[origin]
            self.bytes -= parcel.size
            if parcel.expired(now):
                continue
            new_id = self._next_id() if qos else None
            packet = parcel.packet(now, qos, retain, new_id, False)
            if self.max_packet is not None and len(packet[0]) + len(packet[1]) > self.max_packet:
                self.dropped += 1  # MQTT 5, 3.1.2.11.4: discard it and act as if it had been sent
                continue
            if new_id is not None:
                self.inflight[new_id] = (parcel, retain)
                self.bytes += parcel.size
                self.inflight_bytes += parcel.size
            self.outlet.send(packet)
        return before - self.bytes

    def acknowledge(self, packet_id: int) -> int:
        """The client has it; returns the bytes freed, 0 for an id that is not on its way."""
        found = self.inflight.pop(packet_id, None)
        if found is None:
            return 0
        self.bytes -= found[0].size
        self.inflight_bytes -= found[0].size
        return found[0].size

    def _next_id(self) -> int:
        while True:  # ends: inflight is far smaller than the 65535 ids
            self._last_id = self._last_id % 65535 + 1
            if self._last_id not in self.inflight:
                return self._last_id
