"""What a power cut leaves of one file and of one folder.

What is not durable is there or not:

    data    none, all, or each 4096 bytes (or 512: torn writes) in any of the versions they had since the last sync; or all
            of a file up to some place and nothing behind it, as a disk that writes in order leaves it
    size    any that the file had or passed since; what is grown without its data is zeros; shrinking comes in order
    names   none, all, the first k of each folder, or each by itself

Not modelled: damage to what was durable, and old bytes of other files where a file grew without its data.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Share = Literal["none", "all", "some"]


@dataclass(frozen=True)
class Cut:
    """How much of what is not durable is there. `unit`: bytes that the disk writes at once."""

    name: str
    data: Share
    names: Share | Literal["first"]
    unit: int = 4096


CUTS = (
    Cut("nothing", "none", "none"),
    Cut("everything", "all", "all"),
    Cut("data", "all", "none"),
    Cut("names", "none", "all"),
    Cut("pages", "some", "first"),
    Cut("torn", "some", "some", unit=512),
)
NOTHING, EVERYTHING, *_ = CUTS


@dataclass
class File:
    """`pending`: (offset, bytes) written or (size, None) set since the last sync, oldest first."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    size: int = 0
    synced: int = 0  # how many changes ever left `pending`

    def write(self, offset: int, data: bytes) -> None:
        if data:
            self.pending.append((offset, bytes(data)))
            self.size = max(self.size, offset + len(data))

    def resize(self, size: int) -> None:
        if size != self.size:
            self.pending.append((size, None))
            self.size = size

    def sync(self, upto: int) -> None:
        """Make the first `upto` changes that there ever were durable."""
        n = max(0, upto - self.synced)
        for offset, data in self.pending[:n]:
            if data is None:
                _resize(self.durable, offset)
            else:
                _write(self.durable, offset, data)
        del self.pending[:n]
        self.synced += n

    def after(self, cut: Cut, rng: random.Random) -> bytes:
        """What is in it after a power cut."""
        if not self.pending:
            return bytes(self.durable)
        share = cut.data
        if share == "some" and rng.random() < 0.4:  # files differ: one may be all there, its neighbour not at all
            share = rng.choice(("none", "all"))
        content = bytearray(self.durable)
        rounds = self._rounds()
        kept = {"none": 1, "all": len(rounds), "some": rng.randint(1, len(rounds))}[share]
        for i, (shrunk, changes) in enumerate(rounds[:kept]):
            if shrunk is not None:
                _resize(content, shrunk)
            _apply(content, changes, share, cut.unit, rng, last=i == kept - 1)
        return bytes(content)

    def _rounds(self) -> list[tuple[int | None, list[tuple[int, bytes | None]]]]:
        """The pending changes, split where the file shrank: [(size it shrank to, what grew or changed after), ...]."""
        rounds: list[tuple[int | None, list[tuple[int, bytes | None]]]] = [(None, [])]
        size = len(self.durable)
        for offset, data in self.pending:
            if data is None and offset < size:
                rounds.append((offset, []))
                size = offset
            else:
                rounds[-1][1].append((offset, data))
                size = max(size, offset + len(data or b""))
        return rounds


@dataclass
class Folder:
    """`pending`: changes of names, each [(name, what it names then or None)], since the last sync."""

    durable: dict[str, File | Folder] = field(default_factory=dict)
    live: dict[str, File | Folder] = field(default_factory=dict)
    pending: list[tuple[tuple[str, File | Folder | None], ...]] = field(default_factory=list)
    synced: int = 0

    def change(self, *names: tuple[str, File | Folder | None]) -> None:
        self.pending.append(names)
        _name(self.live, names)

    def sync(self, upto: int) -> None:
        n = max(0, upto - self.synced)
        for names in self.pending[:n]:
            _name(self.durable, names)
        del self.pending[:n]
        self.synced += n

    def after(self, cut: Cut, rng: random.Random) -> dict[str, File | Folder]:
        if not self.pending:
            return self.durable
        kept = {
            "none": list,
            "all": lambda: self.pending,
            "first": lambda: self.pending[: rng.randint(0, len(self.pending))],
            "some": lambda: [p for p in self.pending if rng.random() < 0.5],
        }[cut.names]()
        found = dict(self.durable)
        for names in kept:
            _name(found, names)
        return found


def _write(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _resize(content: bytearray, size: int) -> None:
    if size < len(content):
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))


def _name(names: dict[str, File | Folder], changes: Iterable[tuple[str, File | Folder | None]]) -> None:
    for name, node in changes:
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _apply(
    content: bytearray,
    changes: list[tuple[int, bytes | None]],
    share: Share,
    unit: int,
    rng: random.Random,
    *,
    last: bool,
) -> None:
    """Put what is kept of `changes`, none of which shrinks, into `content`; its size too is any it may have."""
    start = len(content)
    ends = [offset + len(data or b"") for offset, data in changes]
    full = max([start, *ends])
    if share == "all":
        for offset, data in changes:
            if data is not None:
                _write(content, offset, data)
    elif share == "some":
        versions: dict[int, list[int]] = {}
        for i, (offset, data) in enumerate(changes):
            if data is not None:
                for block in range(offset // unit, (offset + len(data) - 1) // unit + 1):
                    versions.setdefault(block, []).append(i)
        front = rng.choice((*versions, max(versions) + 1)) if versions and rng.random() < 1 / 3 else None
        for block, of in versions.items():
            kept = rng.randint(0, len(of)) if front is None else len(of) * (block < front)
            for i in of[:kept]:
                offset, data = changes[i]
                assert data is not None
                a, b = max(offset, block * unit), min(offset + len(data), (block + 1) * unit)
                _write(content, a, data[a - offset : b - offset])
    size = full
    if last and share != "all":
        middle = start + rng.randrange(full - start + 1) // unit * unit
        size = rng.choice((start, full) if share == "none" else (start, full, full, middle, *ends[-3:]))
    _resize(content, max(size, start))
