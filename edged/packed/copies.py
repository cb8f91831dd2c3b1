"""Bytes of a new file as pieces of an old one, and what stands between them. docs/format.md, 16.

Copy and insert, as rsync, VCDIFF (RFC 3284) and bsdiff do it; the old file is looked through in blocks. For graphs, names
and metadata: tensors that changed have better ways (residual.py), those that did not are one long copy with all around.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

BLOCK = 16  # bytes that two files must share for a copy from anywhere
_AHEAD = 8  # bytes that must be alike where a copy is expected
_MOST_BLOCKS = 1 << 18  # of an old file that are known
_STEP = 1 << 20


class Old:
    """An old file and where its blocks are; `spans` (start, end) are those that are worth knowing."""

    def __init__(self, data: bytes, spans: Iterable[tuple[int, int]]) -> None:
        self.data = data
        spans = list(spans)
        stride = max(4, sum(end - start for start, end in spans) // _MOST_BLOCKS)
        self._at: dict[bytes, int] = {}
        for start, end in spans:
            for at in range(start, end - BLOCK + 1, stride):
                self._at.setdefault(data[at : at + BLOCK], at)

    def pieces(self, new: bytes, start: int, end: int, here: int) -> Iterator[tuple[int, int, int]]:
        """What makes new[start:end]: (bytes to insert, bytes to copy after them, from where).

        Copies begin where the last one ended, as long as that is right; the first is expected at `here`.
        """
        at, inserted, source = start, 0, here
        while at < end:
            ahead = min(_AHEAD, end - at)
            if not 0 <= source <= len(self.data) - ahead or new[at : at + ahead] != self.data[source : source + ahead]:
                found = self._at.get(new[at : at + BLOCK]) if end - at >= BLOCK else None
                if found is None:
                    at, source, inserted = at + 1, source + 1, inserted + 1
                    continue
                source = found
            back = 0
            while back < min(inserted, source) and new[at - back - 1] == self.data[source - back - 1]:
                back += 1
            at, source, inserted = at - back, source - back, inserted - back
            size = _alike(new, at, self.data, source, end - at)
            yield inserted, size, source
            at, source, inserted = at + size, source + size, 0
        if inserted:
            yield inserted, 0, source


def _alike(a: bytes, i: int, b: bytes, j: int, most: int) -> int:
    """How many bytes of a from i are those of b from j."""
    size, step = 0, 64
    while size < most:
        step = min(step, most - size)
        if a[i + size : i + size + step] == b[j + size : j + size + step]:
            size, step = size + step, min(2 * step, _STEP)
        elif step == 1:
            break
        else:
            step //= 2
    return size
