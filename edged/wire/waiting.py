"""What waits on its way through a link, in either direction, and how many bytes that is. The link holds its lock meanwhile.

Guarantees: the bytes are those of what is there; what came by the connection that is up is never forgotten. Does not guarantee a
bound: the link asks for the bytes before it adds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from edged.wire.link import Message


@dataclass(frozen=True)
class Arrived:
    """A message that nobody has taken yet; its packet id means nothing on another connection than the one it came by."""

    message: Message
    packet_id: int
    qos: int
    connection: int  # the first is 1


class Inbox:
    """Messages that came in and that nobody has taken yet, the oldest first."""

    def __init__(self) -> None:
        self._there: deque[Arrived] = deque()
        self.bytes = 0  # of their payloads

    def __len__(self) -> int:
        return len(self._there)

    def __iter__(self) -> Iterator[Arrived]:
        return iter(self._there)

    def put(self, arrived: Arrived) -> None:
        self._there.append(arrived)
        self.bytes += len(arrived.message.payload)

    def take(self) -> Arrived | None:
        """The oldest, None when there is none."""
        if not self._there:
            return None
        arrived = self._there.popleft()
        self.bytes -= len(arrived.message.payload)
        return arrived

    def forget_before(self, connection: int) -> int:
        """Drop what came by other connections than this one; how many that were."""
        fresh = [a for a in self._there if a.connection == connection]
        gone = len(self._there) - len(fresh)
        self._there = deque(fresh)
        self.bytes = sum(len(a.message.payload) for a in fresh)
        return gone


class Outbox:
    """Messages that the broker has not acknowledged. One thread sends them and another hears the answer, so an answer may be
    there before the packet id that it is for is known.
    """

    def __init__(self) -> None:
        self._unacked: dict[int, tuple[int, int]] = {}  # packet id -> bytes, qos
        self._early: set[int] = set()
        self.bytes = 0  # of the whole packets

    def sent(self, packet_id: int, size: int, qos: int) -> None:
        if packet_id in self._early:
            self._early.discard(packet_id)
            return
        self._unacked[packet_id] = (size, qos)
        self.bytes += size

    def acknowledged(self, packet_id: int) -> None:
        if packet_id in self._unacked:
            self.bytes -= self._unacked.pop(packet_id)[0]
        else:
            self._early.add(packet_id)

    def cut(self) -> None:
        """The connection is gone: what had QoS 0 went with it, and early answers mean nothing on the next one."""
        self._unacked = {packet_id: (size, qos) for packet_id, (size, qos) in self._unacked.items() if qos}
        self.bytes = sum(size for size, _ in self._unacked.values())
        self._early.clear()

    def longest(self) -> int:
        """Bytes of the largest packet, 0 when nothing waits."""
        return max((size for size, _ in self._unacked.values()), default=0)

    def clear(self) -> None:
        self._unacked.clear()
        self.bytes = 0
