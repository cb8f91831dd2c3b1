"""Model files over the cable: content-addressed chunks, and the pace at which they go (who gets which when: fanout.py).

Guarantees: only bytes of the file whose SHA-256 was asked for are ever cut; a chunk is never larger than MOST_CHUNK_BYTES;
the average rate stays at or below the pacer's. Does not guarantee: that a chunk arrives; a camera asks again.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from edged.clock import Clock
from edged.errors import Corrupt, Refused
from edged.wire.messages import CHUNK_BYTES, MOST_CHUNK_BYTES, Want

MOST_CHUNKS = 1024  # of a file, while chunks can grow: 67 kB of hashes in the metadata


def chunk_bytes(length: int) -> int:
    """The size of the chunks of a release of `length` bytes and of the ways to it: as small as MOST_CHUNKS allow."""
    size = CHUNK_BYTES
    while size < MOST_CHUNK_BYTES and length > size * MOST_CHUNKS:
        size *= 2
    return size


def chunks(data: bytes, size: int = CHUNK_BYTES) -> list[bytes]:
    """Cut a file into pieces of `size` bytes; the last may be shorter, an empty file has none."""
    return [data[i : i + size] for i in range(0, len(data), size)]


def digests(data: bytes, size: int = CHUNK_BYTES) -> list[str]:
    """SHA-256 of each chunk in order: the list that is signed with the release."""
    return [hashlib.sha256(chunk).hexdigest() for chunk in chunks(data, size)]


def require(want: Want, path: Path, *, checked: bool = False) -> None:
    """That a question can be answered from `path`.

    Raises Refused for an index beyond the file or a file that is gone, Corrupt when the file is not what its name says.
    The whole file is hashed first (6 MB: about 10 ms) unless it was `checked` before, so that damage on the disk is named
    here and not on the camera.
    """
    try:
        with path.open("rb") as file:
            digest = want.sha256 if checked else hashlib.file_digest(file, "sha256").hexdigest()
            count = -(-file.seek(0, os.SEEK_END) // want.chunk)
    except FileNotFoundError as e:
        raise Refused(f"model {want.sha256[:12]} is not on the box any more", code="gone") from e
    if digest != want.sha256:
        raise Corrupt(f"{path} does not have the SHA-256 {want.sha256[:12]}...", hint="restore it from a backup")
    beyond = [i for i in want.chunks if i >= count]
    if beyond:
        raise Refused(f"model {want.sha256[:12]} has {count} chunks, none numbered {beyond[0]}", code="bad_want")


def piece(path: Path, size: int, index: int) -> tuple[str, bytes] | None:
    """One chunk and its SHA-256; None when the file is gone."""
    try:
        with path.open("rb") as file:
            file.seek(index * size)
            data = file.read(size)
    except FileNotFoundError:
        return None
    return hashlib.sha256(data).hexdigest(), data


class Recent:
    """Remembers what was published in the last `window_s` seconds, so that cameras that ask together share one message.

    The window is counted from the publication, not from the last question: a camera that subscribed too late asks again
    and is served after at most `window_s`. Who asks for the first time `settle_s` after the publication cannot have had
    it, unless it was that long on its way: it is served at once.
    """

    def __init__(self, window_s: float = 3.0, settle_s: float = 0.5) -> None:
        self._window_s, self.settle_s = window_s, settle_s
        self._sent: dict[str, float] = {}  # chunk -> monotonic time, oldest first

    def first(self, sha256: str, now: float, newcomer: float | None = None) -> bool:
        """Whether to publish this chunk now (then it is noted as published); `now` is monotonic seconds, `newcomer` when
        somebody who wants it asked for the first time, if somebody did.
        """
        while self._sent:
            oldest = next(iter(self._sent))
            if now - self._sent[oldest] < self._window_s:
                break
            del self._sent[oldest]
        sent = self._sent.get(sha256)
        if sent is not None and (newcomer is None or newcomer - sent < self.settle_s):
            return False
        self._sent.pop(sha256, None)  # the oldest stay first
        self._sent[sha256] = now
        return True
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
