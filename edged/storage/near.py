"""Near-duplicates by 64-bit hashes: pure, exact, quick.

Two crops are near-duplicates when the difference hashes of the survey differ in at most NEAR bits. Measured on CNRPark, two
cameras, one day, 150 px crops of parking spaces: of 12,303 pairs of the same space and class five minutes apart 61 % differ
in at most 6 bits (19 % in at most 2); of 40,000 pairs one hour or more apart 3 % (0.2 %); of 80,000 pairs of different spaces
none. Crops of dark, empty scenes look more alike than that.

Guarantees: `Index.find` yields everything within the distance, by the pigeonhole principle: cut into more bands than bits
may differ, two hashes agree in one band (Manku, Jain, Das Sarma, WWW 2007). Does not guarantee that what looks alike is the
same thing, nor that two looks at the same thing are alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Generic, TypeVar

NEAR = 6  # bits of 64: neighbours in time that show the same
SAME = 2  # the same view, whatever the time between

_WORD = (1 << 64) - 1
T = TypeVar("T")


def distance(a: int, b: int) -> int:
    """How many of 64 bits differ; signed numbers count as their two's complement."""
    return ((a ^ b) & _WORD).bit_count()


class Index(Generic[T]):
    """Hashes with something kept under each; `find` answers with what lies near."""

    def __init__(self, most: int = NEAR) -> None:
        """`most`: bits that may differ, 0..31."""
        edges = [64 * i // (most + 1) for i in range(most + 2)]
        self._most = most
        self._cuts = [(low, (1 << (high - low)) - 1) for low, high in pairwise(edges)]
        self._bands: list[dict[int, list[int]]] = [{} for _ in self._cuts]
        self._kept: list[tuple[int, T]] = []

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, hash: int, kept: T) -> None:
        word = hash & _WORD
        for (low, mask), band in zip(self._cuts, self._bands, strict=True):
            band.setdefault((word >> low) & mask, []).append(len(self._kept))
        self._kept.append((word, kept))

    def find(self, hash: int) -> Iterator[tuple[int, T]]:
        """(bits that differ, what was kept) of each that is near enough, once, in no order."""
        word = hash & _WORD
        looked: set[int] = set()
        for (low, mask), band in zip(self._cuts, self._bands, strict=True):
            for place in band.get((word >> low) & mask, ()):
                if place not in looked:
                    looked.add(place)
                    other, kept = self._kept[place]
                    bits = (word ^ other).bit_count()
                    if bits <= self._most:
                        yield bits, kept
