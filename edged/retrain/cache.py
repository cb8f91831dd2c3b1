"""Features on disk, memory-mapped: computed once per picture and cut, kept over a kill, given back at the end.

    <folder>/features-<key>.f16      rows of float16                     .rows     how many of them are computed

The key is a hash of the weights, the cut and the pictures, so that a row can never be another's. Room is taken before
the first row (fallocate): a full disk is told here, in words, and never later by a signal. Does not guarantee anything
after the folder was changed by somebody else.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edged import durable
from edged.errors import Unavailable

FLUSH = 512  # rows between marks of how far it got


def key(*parts: bytes | str | int) -> str:
    """32 hex digits of what the features depend on."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()[:32]


def distinct(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(first, row): indices of pictures that are unlike all before them, and for each picture its place among those."""
    seen: dict[bytes, int] = {}
    first: list[int] = []
    row = np.empty(len(pixels), np.int64)
    for i, picture in enumerate(pixels):
        digest = hashlib.blake2b(picture.tobytes(), digest_size=16).digest()
        if digest not in seen:
            seen[digest] = len(first)
            first.append(i)
        row[i] = seen[digest]
    return np.array(first, np.int64), row


def filled(
    folder: Path, name: str, rows: int, shape: tuple[int, ...], compute: Callable[[int], Iterator[NDArray[np.float16]]]
) -> NDArray[np.float16]:
    """float16 [rows, *shape] as a read-only memory map; rows that an earlier run computed are taken as they are.

    `compute` is called with the number of rows that are there and yields the rest in order. Raises Unavailable
    (code no_room) when the disk has no room for all of it; nothing is left behind then.
    """
    path, mark = folder / f"features-{name}.f16", folder / f"features-{name}.rows"
    size = rows * int(np.prod(shape)) * 2
    try:
        done = _done(path, mark, size, rows)
        if done < rows:
            _reserve(path, size)
            mapped = np.memmap(path, np.float16, "r+", shape=(rows, *shape))
            marked = done
            for batch in compute(done):
                mapped[done : done + len(batch)] = batch
                done += len(batch)
                if done - marked >= FLUSH or done == rows:
                    mapped.flush()
                    durable.write(mark, str(done).encode())
                    marked = done
            del mapped
        return np.memmap(path, np.float16, "r", shape=(rows, *shape))
    except OSError as e:
        drop(folder, name)
        raise Unavailable(f"no room for {size / 1e6:.0f} MB of features: {e.strerror}", code="no_room") from e


def drop(folder: Path, name: str = "*") -> None:
    """Give the room back."""
    for path in folder.glob(f"features-{name}.*"):
        path.unlink(missing_ok=True)


def _done(path: Path, mark: Path, size: int, rows: int) -> int:
    try:
        done = int(mark.read_text())
        return done if path.stat().st_size == size and 0 <= done <= rows else 0
    except (FileNotFoundError, ValueError):
        return 0


def _reserve(path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_size != size:
            os.ftruncate(descriptor, 0)
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)
