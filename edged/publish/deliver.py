"""Model files over the cable: content-addressed chunks, sent once for all who ask, paced so that frames go first.

Guarantees: only bytes of the file whose SHA-256 was asked for are ever cut; a chunk is never larger than CHUNK_BYTES;
the average rate stays at or below the pacer's. Does not guarantee: that a chunk arrives; a camera asks again.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

from edged.clock import Clock
from edged.errors import Corrupt, Refused, Unavailable
from edged.wire.messages import CHUNK_BYTES, Want


def chunks(data: bytes) -> list[bytes]:
    """Cut a file into pieces of CHUNK_BYTES; the last may be shorter, an empty file has none."""
    return [data[i : i + CHUNK_BYTES] for i in range(0, len(data), CHUNK_BYTES)]


def digests(data: bytes) -> list[str]:
    """SHA-256 of each chunk in order: the list that is signed with the release."""
    return [hashlib.sha256(chunk).hexdigest() for chunk in chunks(data)]


def answer(want: Want, path: Path) -> Iterator[tuple[str, bytes]]:
    """The chunks that a camera asked for as (sha256, bytes), each once, in the order asked.

    Raises Refused for an index beyond the file or a file that is gone, Corrupt when the file is not what its name says.
    The whole file is hashed first (6 MB: about 10 ms), so that damage on the disk is named here and not on the camera.
    The iterator holds no bytes of it, so that many questions cost no memory; it ends early if the file goes away.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            count = -(-file.tell() // CHUNK_BYTES)
    except FileNotFoundError as e:
        raise Refused(f"model {want.sha256[:12]} is not on the box any more", code="gone") from e
    if digest != want.sha256:
        raise Corrupt(f"{path} does not have the SHA-256 {want.sha256[:12]}...", hint="restore it from a backup")
    beyond = [i for i in want.chunks if i >= count]
    if beyond:
        raise Refused(f"model {want.sha256[:12]} has {count} chunks, none numbered {beyond[0]}", code="bad_want")
    return _read(path, list(dict.fromkeys(want.chunks)))


def _read(path: Path, indexes: list[int]) -> Iterator[tuple[str, bytes]]:
    for i in indexes:
        try:
            with path.open("rb") as file:
                file.seek(i * CHUNK_BYTES)
                piece = file.read(CHUNK_BYTES)
        except FileNotFoundError:
            return
        yield hashlib.sha256(piece).hexdigest(), piece


class Recent:
    """Remembers what was published in the last `window_s` seconds, so that cameras that ask together share one message.

    The window is counted from the publication, not from the last question: a camera that subscribed too late asks again
    and is served after at most `window_s`.
    """

    def __init__(self, window_s: float = 3.0) -> None:
        self._window_s = window_s
        self._sent: dict[str, float] = {}  # chunk -> monotonic time, oldest first

    def first(self, sha256: str, now: float) -> bool:
        """Whether to publish this chunk now (then it is noted as published); `now` is monotonic seconds."""
        while self._sent:
            oldest = next(iter(self._sent))
            if now - self._sent[oldest] < self._window_s:
                break
            del self._sent[oldest]
        if sha256 in self._sent:
            return False
        self._sent[sha256] = now
        return True


class Pacer:
    """Spreads bytes over time: after `n` bytes the next may go `n / rate` seconds later. No credit is saved.

    The rate is `bytes_per_s` at most, and yields to other traffic as LEDBAT does (RFC 6817): as long as `heed` is told of
    a delay above TARGET_S it is halved every STEP_S, down to the share LEAST; otherwise it grows again by GAIN of the whole.
    """

    TARGET_S = 0.05
    STEP_S = 0.1
    GAIN = 1 / 16
    LEAST = 1 / 64

    def __init__(self, bytes_per_s: float, clock: Clock) -> None:
        if bytes_per_s <= 0:
            raise ValueError(f"bytes_per_s must be positive, not {bytes_per_s}")
        self._most, self._clock = bytes_per_s, clock
        self._share = 1.0
        self._free_at = self._heeded = clock.monotonic()

    @property
    def rate(self) -> float:
        """Bytes per second at present."""
        return self._most * self._share

    def heed(self, delay_s: float) -> None:
        """How long the traffic that comes first has to wait at this moment."""
        now = self._clock.monotonic()
        if now - self._heeded < self.STEP_S:
            return
        self._heeded = now
        late = delay_s > self.TARGET_S
        self._share = max(self.LEAST, self._share / 2) if late else min(1.0, self._share + self.GAIN)

    def due_in(self) -> float:
        """Seconds until the next piece may go, 0 = now."""
        return max(0.0, self._free_at - self._clock.monotonic())

    def ready(self) -> bool:
        """Whether the next piece may go now. For loops that have other work to do meanwhile."""
        return self.due_in() == 0

    def spent(self, size: int) -> None:
        """Note that `size` bytes went."""
        self._free_at = max(self._free_at, self._clock.monotonic()) + size / self.rate

    def wait(self, size: int) -> None:
        """Sleep until a piece of `size` bytes may go, and note it."""
        if delay := self.due_in():
            self._clock.sleep(delay)
        self.spent(size)


class Fanout:
    """What cameras asked for, sent at the pacer's rate, cameras in turn, each chunk to all of them together."""

    def __init__(self, pacer: Pacer, clock: Clock) -> None:
        self._pacer, self._clock = pacer, clock
        self._recent = Recent()
        self._wants: OrderedDict[str, Iterator[tuple[str, bytes]]] = OrderedDict()  # a camera's newest question only

    def ask(self, camera: str, want: Want, path: Path) -> None:
        """Raises as `answer`."""
        self._wants[camera] = answer(want, path)

    def due_in(self) -> float | None:
        """Seconds until something may go, None = nothing was asked for."""
        return self._pacer.due_in() if self._wants else None

    def send(self, publish: Callable[[str, bytes], None], delay_s: float) -> int:
        """What may go now; bytes sent. `delay_s`: how long frames wait. What `publish` (sha256, bytes) raises goes on:
        then nothing is left to be sent, cameras ask again for what they lack.
        """
        self._pacer.heed(delay_s)
        sent = 0
        while self._wants and self._pacer.ready():
            camera, pieces = self._wants.popitem(last=False)
            item = next(pieces, None)
            if item is None:
                continue
            self._wants[camera] = pieces
            sha256, data = item
            if not self._recent.first(sha256, self._clock.monotonic()):
                continue
            try:
                publish(sha256, data)
            except Unavailable:
                self._wants.clear()
                raise
            self._pacer.spent(len(data))
            sent += len(data)
        return sent
