"""Who may send how much, and whose turn it is: a token bucket for each camera, one fair waiting room for all.

Guarantees: however much one camera sends, the others have their share of the room and of the scrubbers; what is held
from arrival to receipt is bounded in bytes, what waits for a scrubber in frames, both in all and for each camera; the
tables are bounded, too, whatever names appear. Does not guarantee an order between cameras. No clock: `now` is monotonic
seconds. Only `Backoff` may be called from several threads at once.

Token bucket: as in RFC 2697, one for frames and one for bytes. Turns: round robin, a frame each, since what is scarce is
a scrubber's time and that goes by frames (Nagle 1987, RFC 970; McKenney 1990, stochastic fairness queueing, whose rule
for a full buffer is used as well: the longest queue gives up its newest).
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from edged.wire.messages import MAX_FRAME_BYTES, Frame

REST = ""  # the share of all cameras that have none of their own; no camera has this name
LONGEST_S = 30.0  # that a camera over its rate is told to wait


@dataclass(frozen=True)
class Limits:
    """Of one box. The defaults: eight cameras, 30 frames/s of 720p each, or their four regions as single pictures."""

    frames_per_s: float = 120.0  # of one camera
    burst: float = 240.0  # frames that one camera may send at once after a rest
    bytes_per_s: float = 8e6  # of one camera
    frames: int = 64  # that wait for a scrubber, in all
    camera_frames: int = 16
    bytes: int = 64 * 10**6  # held from arrival to receipt, in all
    camera_bytes: int = 32 * 10**6
    others: int = 32  # cameras that the configuration does not name but that have a share of their own

    @property
    def burst_bytes(self) -> float:
        return max(self.bytes_per_s * self.burst / self.frames_per_s, MAX_FRAME_BYTES)


class Bucket:
    """What one camera may send. Full at first."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._frames, self._bytes = limits.burst, limits.burst_bytes
        self._at = self._turn = now

    def take(self, size: int, now: float) -> float:
        """Take a frame of `size` bytes: 0 if there is room, else after how many seconds to send it again.

        Those that are turned away get turns one after another, so that they do not all come back for the same token.
        """
        limits, gone = self._limits, max(0.0, now - self._at)
        self._at = max(self._at, now)
        self._frames = min(limits.burst, self._frames + gone * limits.frames_per_s)
        self._bytes = min(limits.burst_bytes, self._bytes + gone * limits.bytes_per_s)
        if self._frames >= 1 and self._bytes >= size:
            self._frames -= 1
            self._bytes -= size
            return 0.0
        wait = max((1 - self._frames) / limits.frames_per_s, (size - self._bytes) / limits.bytes_per_s)
        turn = max(self._turn, now + wait)
        self._turn = min(turn + max(1 / limits.frames_per_s, size / limits.bytes_per_s), now + LONGEST_S)
        return min(turn - now, LONGEST_S)


class Shares:
    """Which share a camera's frames count on, and that share's bucket."""

    def __init__(self, limits: Limits, known: Collection[str] = ()) -> None:
        self._limits, self._known = limits, frozenset(known)
        self._others: set[str] = set()
        self._buckets: dict[str, Bucket] = {}

    def of(self, camera: str) -> str:
        """Its name, or REST once too many have appeared that the configuration does not know."""
        if camera in self._known or camera in self._others:
            return camera
        if len(self._others) >= self._limits.others:
            return REST
        self._others.add(camera)
        return camera

    def take(self, share: str, size: int, now: float) -> float:
        """As `Bucket.take`."""
        bucket = self._buckets.get(share)
        if bucket is None:
            bucket = self._buckets[share] = Bucket(self._limits, now)
        return bucket.take(size, now)


@dataclass(frozen=True)
class _Held:
    frame: Frame
    lane: int
    share: str
    since: float


class Room:
    """Frames from arrival to receipt. They wait for one of `lanes` scrubbers; a share keeps its lane."""

    def __init__(self, limits: Limits, lanes: int) -> None:
        self._limits = limits
        self._home: dict[str, int] = {}
        self._queues: list[OrderedDict[str, deque[_Held]]] = [OrderedDict() for _ in range(lanes)]
        self._held: dict[tuple[str, str], _Held] = {}  # by camera and frame id
        self._share_bytes: dict[str, int] = {}
        self.bytes = 0  # held
        self.frames = 0  # that wait

    def lane_of(self, share: str) -> int:
        return self._home.setdefault(share, len(self._home) % len(self._queues))

    def held(self, frame: Frame) -> Frame | None:
        """The frame of this camera and id that is waiting, or is being scrubbed or stored."""
        found = self._held.get((frame.camera, frame.header.id))
        return found.frame if found else None

    def offer(self, share: str, frame: Frame, now: float) -> tuple[Frame, ...]:
        """Let a frame in that is not held. Those that must be sent again for it: the frame itself, or others', or none."""
        limits, size, lane = self._limits, len(frame.jpeg), self.lane_of(share)
        mine = self._queues[lane].get(share, ())
        if len(mine) >= limits.camera_frames or self._share_bytes.get(share, 0) + size > limits.camera_bytes:
            return (frame,)
        given_up: list[Frame] = []
        while self.frames >= limits.frames or self.bytes + size > limits.bytes:
            by_frames = self.frames >= limits.frames
            longest = max(self._waiting(), key=lambda q: _weight(q, by_frames), default=None)
            ours = _weight(mine, by_frames) + (1 if by_frames else size)
            if longest is None or _weight(longest, by_frames) <= ours:
                return (*given_up, frame)
            given_up.append(self._give_up(longest))
        held = _Held(frame, lane, share, now)
        self._held[frame.camera, frame.header.id] = held
        self._share_bytes[share] = self._share_bytes.get(share, 0) + size
        self.bytes += size
        self.frames += 1
        self._queues[lane].setdefault(share, deque()).append(held)
        return tuple(given_up)

    def next(self, lane: int) -> Frame | None:
        """Whose turn it is; the frame is still held."""
        queues = self._queues[lane]
        if not queues:
            return None
        share, queue = queues.popitem(last=False)
        held = queue.popleft()
        self.frames -= 1
        if queue:
            queues[share] = queue
        return held.frame

    def done(self, frame: Frame) -> None:
        """It was answered."""
        held = self._held.get((frame.camera, frame.header.id))
        if held is not None and held.frame is frame:
            self._forget(held)

    def keep(self, lane: int, keys: Collection[tuple[str, str]]) -> None:
        """After a bug: of what a lane held, only what still waits and `keys` (camera, frame id) will ever be answered."""
        waiting = {id(held) for queue in self._queues[lane].values() for held in queue}
        for key, held in list(self._held.items()):
            if held.lane == lane and id(held) not in waiting and key not in keys:
                self._forget(held)

    def ahead(self, lane: int) -> int:
        """Frames that wait in a lane."""
        return sum(len(queue) for queue in self._queues[lane].values())

    def age(self, now: float) -> float:
        """Seconds that the frame has waited that waits longest, 0 = none."""
        return max((now - queue[0].since for queue in self._waiting()), default=0.0)

    def _waiting(self) -> Iterator[deque[_Held]]:
        for queues in self._queues:
            yield from queues.values()

    def _give_up(self, queue: deque[_Held]) -> Frame:
        held = queue.pop()
        if not queue:
            del self._queues[held.lane][held.share]
        self.frames -= 1
        self._forget(held)
        return held.frame

    def _forget(self, held: _Held) -> None:
        del self._held[held.frame.camera, held.frame.header.id]
        size = len(held.frame.jpeg)
        self.bytes -= size
        self._share_bytes[held.share] -= size


def _weight(queue: Collection[_Held], by_frames: bool) -> int:
    return len(queue) if by_frames else sum(len(held.frame.jpeg) for held in queue)


class Backoff:
    """The box cannot store: how long nobody need try, doubling from `least_s` to `most_s` as long as it fails."""

    def __init__(self, least_s: float = 1.0, most_s: float = 20.0) -> None:  # with the spread: 30 s at most
        self._least_s, self._most_s = least_s, most_s
        self._wait_s = self._until = 0.0
        self._lock = threading.Lock()
        self.why = ""

    def failed(self, why: str, now: float) -> float:
        """A frame could not be stored; seconds until the next try. Frames that were under way together count once."""
        with self._lock:
            self.why = why
            if now >= self._until:
                self._wait_s = min(self._most_s, max(self._least_s, 2 * self._wait_s))
                self._until = now + self._wait_s
            return self._until - now

    def worked(self) -> None:
        """A frame was stored."""
        with self._lock:
            self._wait_s = self._until = 0.0
            self.why = ""

    def remaining(self, now: float) -> float:
        """Seconds until the next try, 0 = now."""
        return max(0.0, self._until - now)
