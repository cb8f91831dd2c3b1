"""The frames of SQLite's write-ahead log, those behind a broken one too. After https://www.sqlite.org/fileformat2.html
section 4.

Guarantees: a frame that is named is byte for byte what SQLite wrote, by its checksum. Does not guarantee that a frame
behind a broken one was ever promised to anybody: a cut of power leaves such frames, too.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path

PAGE_BYTES = 4096  # SQLite's default, and ours
_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}
_HEAD, _FRAME_HEAD = 32, 24


@dataclass(frozen=True)
class Wal:
    """What a WAL holds. `frames`: (page, offset of its image) of whole frames that were committed, in order, those
    behind a broken one too; `broken`: frames between or before them that are not whole; `cut`: how many of `frames`
    SQLite would apply.
    """

    frames: tuple[tuple[int, int], ...]
    broken: int
    cut: int


def read(raw: bytes | mmap.mmap) -> Wal:
    """Walk a WAL. SQLite ends at the first frame that is not whole; this goes on, since each frame names the checksum
    that the next one continues.
    """
    if len(raw) < _HEAD + _FRAME_HEAD:
        return Wal((), 0, 0)
    magic, _, size, _, salt_1, salt_2, sum_1, sum_2 = struct.unpack_from(">8I", raw)
    order = _MAGIC.get(magic)
    whole_head = order is not None and size == PAGE_BYTES and _checksum(raw[:24], order, (0, 0)) == (sum_1, sum_2)
    order = order or "<"
    salts: tuple[int, int] | None = (salt_1, salt_2) if whole_head else None
    before: tuple[int, int] | None = (sum_1, sum_2) if whole_head else None
    sound: list[tuple[int, int]] = []
    pending: list[tuple[int, int]] = []
    cut: int | None = None
    broken = broken_pending = 0
    offset = _HEAD
    while offset + _FRAME_HEAD + PAGE_BYTES <= len(raw):
        page, commit, s_1, s_2, c_1, c_2 = struct.unpack_from(">6I", raw, offset)
        image = offset + _FRAME_HEAD
        ok = (
            before is not None
            and page > 0
            and salts in (None, (s_1, s_2))
            and _checksum(raw[image : image + PAGE_BYTES], order, _checksum(raw[offset : offset + 8], order, before))
            == (c_1, c_2)
        )
        if ok:
            salts = (s_1, s_2)
            pending.append((page, image))
            if commit:
                sound += pending
                broken += broken_pending
                pending, broken_pending = [], 0
        else:
            if salts is not None and (s_1, s_2) != salts and broken_pending > 8:
                break  # frames of an earlier round of the file
            if cut is None:
                cut = len(sound)
            broken_pending += 1
        before = (c_1, c_2)
        offset = image + PAGE_BYTES
    return Wal(tuple(sound), broken, len(sound) if cut is None else cut)


def last_commit(path: Path) -> int:
    """The number (from 1) of the last frame that ends a transaction and is of the log's present round, by the frames'
    heads alone: cheap. All frames if the log's own head is damaged; 0 if there is no log.
    """
    if not path.exists():
        return 0
    with path.open("rb") as f:
        head, size = f.read(_HEAD), os.fstat(f.fileno()).st_size
        count = max(0, (size - _HEAD) // (_FRAME_HEAD + PAGE_BYTES))
        if len(head) < _HEAD:
            return count
        magic, *_, sum_1, sum_2 = struct.unpack(">8I", head)
        if magic not in _MAGIC or _checksum(head[:24], _MAGIC[magic], (0, 0)) != (sum_1, sum_2):
            return count
        last = 0
        for i in range(count):
            frame = os.pread(f.fileno(), _FRAME_HEAD, _HEAD + i * (_FRAME_HEAD + PAGE_BYTES))
            if frame[8:16] == head[16:24] and frame[4:8] != bytes(4):
                last = i + 1
        return last


def _checksum(data: bytes, order: str, seed: tuple[int, int]) -> tuple[int, int]:
    one, two = seed
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for x, y in zip(words[::2], words[1::2], strict=True):
        one = (one + x + two) & 0xFFFFFFFF
        two = (two + y + one) & 0xFFFFFFFF
    return one, two
