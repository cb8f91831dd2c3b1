"""The part of a model file that is already here: chunks in their places in one file, checked by hash.

Guarantees: `missing` names exactly the chunks whose bytes on disk do not have their signed hash, after a kill too (the
hashes are recomputed, nothing is believed); no write is outside the signed length. Does not guarantee: durability of a
chunk; one that a power cut loses is asked for again.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from edged.errors import Refused


class Part:
    """`<sha256>.part` in `folder`; `chunks` are the SHA-256 of each `chunk` bytes of the file, in order."""

    def __init__(self, folder: Path, sha256: str, length: int, chunk: int, chunks: tuple[str, ...]) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for old in folder.iterdir():  # one download at a time: what an abandoned one left makes room
            if old.name != f"{sha256}.part":
                old.unlink()
        self.path = folder / f"{sha256}.part"
        self.length, self.chunk = length, chunk
        self.total = len(chunks)
        self._places: dict[str, list[int]] = {}
        self._missing: set[int] = set()
        with open(self.path, "ab"):
            pass
        os.truncate(self.path, length)
        with open(self.path, "rb") as f:
            for i, want in enumerate(chunks):
                self._places.setdefault(want, []).append(i)
                if hashlib.sha256(f.read(chunk)).hexdigest() != want:
                    self._missing.add(i)

    def missing(self, limit: int | None = None) -> tuple[int, ...]:
        """Indexes of the lacking chunks, lowest first."""
        return tuple(sorted(self._missing)[:limit])

    @property
    def have(self) -> int:
        return self.total - len(self._missing)

    def wants(self, chunk_sha256: str) -> bool:
        """Whether a chunk with this hash is lacking somewhere."""
        return any(i in self._missing for i in self._places.get(chunk_sha256, ()))

    def put(self, chunk_sha256: str, data: bytes) -> bool:
        """Write one chunk wherever it belongs; True if it filled a gap. Raises Refused for bytes without that hash."""
        if not self.wants(chunk_sha256):
            return False
        if hashlib.sha256(data).hexdigest() != chunk_sha256:
            raise Refused("a chunk arrived damaged", code="bad_chunk")
        with open(self.path, "r+b") as f:
            for i in self._places[chunk_sha256]:
                f.seek(i * self.chunk)
                f.write(data[: max(0, self.length - i * self.chunk)])
                self._missing.discard(i)
        return True

    def read(self) -> bytes:
        """The whole file as it is on disk; whoever uses it checks it."""
        return self.path.read_bytes()


def clear(folder: Path) -> None:
    """What downloads have left. What cannot be removed now is, by the next one."""
    for old in folder.glob("*.part"):
        with suppress(OSError):
            old.unlink()
