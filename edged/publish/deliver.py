"""Model files over the cable: content-addressed chunks, sent once for all who ask, paced so that frames go first.

Guarantees: only bytes of the file whose SHA-256 was asked for are ever cut; a chunk is never larger than CHUNK_BYTES;
the average rate stays at or below the pacer's. Does not guarantee: that a chunk arrives; a camera asks again.
"""

from __future__ import annotations

import hashlib
import os
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


def answer(want: Want, path: Path, *, checked: bool = False) -> Iterator[tuple[str, bytes]]:
    """The chunks that a camera asked for as (sha256, bytes), each once, in the order asked.

    Raises Refused for an index beyond the file or a file that is gone, Corrupt when the file is not what its name says.
    The whole file is hashed first (6 MB: about 10 ms) unless it was `checked` before, so that damage on the disk is named
    here and not on the camera.
    The iterator holds no bytes of it, so that many questions cost no memory; it ends early if the file goes away.
    """
    try:
        with path.open("rb") as file:
            digest = want.sha256 if checked else hashlib.file_digest(file, "sha256").hexdigest()
            count = -(-file.seek(0, os.SEEK_END) // CHUNK_BYTES)
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
    """Spreads bytes over time: after `n` bytes the next may go `n / bytes_per_s` seconds later. No credit is saved."""

    def __init__(self, bytes_per_s: float, clock: Clock) -> None:
        if bytes_per_s <= 0:
            raise ValueError(f"bytes_per_s must be positive, not {bytes_per_s}")
        self._rate, self._clock = bytes_per_s, clock
        self._free_at = clock.monotonic()

    def due_in(self) -> float:
        """Seconds until the next piece may go, 0 = now."""
        return max(0.0, self._free_at - self._clock.monotonic())

    def ready(self) -> bool:
        """Whether the next piece may go now. For loops that have other work to do meanwhile."""
        return self.due_in() == 0

    def spent(self, size: int) -> None:
        """Note that `size` bytes went."""
        self._free_at = max(self._free_at, self._clock.monotonic()) + size / self._rate

    def rest(self, seconds: float) -> None:
        """Nothing more for so long, at least."""
        self._free_at = max(self._free_at, self._clock.monotonic() + seconds)

    def wait(self, size: int) -> None:
        """Sleep until a piece of `size` bytes may go, and note it."""
        if delay := self.due_in():
            self._clock.sleep(delay)
        self.spent(size)


class Fanout:
    """What cameras asked for, a chunk at a time, cameras in turn, each chunk to all of them together.

    Yields to frames and receipts: the next chunk goes only when the broker has taken the last one, and after a rest of
    `rest` times as long as that took. So it has 1 / (1 + rest) of whatever there is to be had of the cable, the broker
    and the processor, and one chunk is the most that anything waits behind. (Stop-and-wait with a duty cycle; LEDBAT, RFC
    6817, has the same aim but wants a long flow to learn from.) The pacer's rate holds as well.
    """

    POLL_S = 0.002  # how often to look whether a chunk was taken
    REST_S = 1.0  # the longest rest: a cable that was cut for a minute is no slow cable
    CHECK_S = 60.0

    def __init__(self, pacer: Pacer, clock: Clock, backlog: Callable[[], int] = lambda: 0, rest: float = 4.0) -> None:
        """`backlog`: bytes that were published and that the broker has not yet taken."""
        self._pacer, self._clock, self._backlog, self._rest = pacer, clock, backlog, rest
        self._recent = Recent()
        self._wants: OrderedDict[str, Iterator[tuple[str, bytes]]] = OrderedDict()  # a camera's newest question only
        self._out: tuple[float, int] | None = None  # when the last chunk went, and its size, until it is taken
        self._whole: tuple[Path, int, int, int] | None = None  # the file that was last found whole
        self._checked = float("-inf")  # and when

    def ask(self, camera: str, want: Want, path: Path) -> None:
        """Raises as `answer`. A file is not read whole again within CHECK_S; each chunk goes under its own hash anyway."""
        now, stat = self._clock.monotonic(), path.stat() if path.exists() else None
        this = stat and (path, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        checked = this is not None and this == self._whole and now - self._checked < self.CHECK_S
        self._wants[camera] = answer(want, path, checked=checked)
        if not checked:
            self._whole, self._checked = this, now

    def due_in(self) -> float | None:
        """Seconds until there may be something to do, None = nothing was asked for."""
        if self._taken() is False:
            return self.POLL_S
        return self._pacer.due_in() if self._wants else None

    def send(self, publish: Callable[[str, bytes], None]) -> int:
        """The next chunk, if it is time; bytes sent. What `publish` (sha256, bytes) raises goes on: then nothing is
        left to be sent, cameras ask again for what they lack.
        """
        if self._taken() is False:
            return 0
        sent = 0
        while self._wants and self._pacer.ready() and self._taken() is not False:
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
                self._out = None
                raise
            self._pacer.spent(len(data))
            self._out = self._clock.monotonic(), len(data)
            sent += len(data)
        return sent

    def _taken(self) -> bool | None:
        """Whether the broker has the last chunk; None = there is none to wait for. Once it has, the rest begins."""
        if self._out is None:
            return None
        since, size = self._out
        if self._backlog() >= size:
            return False
        self._out = None
        self._pacer.rest(min(self.REST_S, self._rest * (self._clock.monotonic() - since)))
        return True
