"""Kin: pictures that nobody labelled and that show what a labelled one shows. A parked car keeps its class while light and
shadow change, and a neighbour in time is so alike that its class needs no guess.

Samples of one camera are linked when their difference hashes differ in at most LIKE bits and they were taken within LINKED
blocks' lengths of each other; along a chain of such links a label spreads (label propagation, Zhu & Ghahramani 2002, by
single linkage: no network is asked, so its errors do not come back to it as labels). Measured on CNRPark's camera B, every
other picture of a day, 392 and 386 labels that train: 500 and 740 more pictures, 3 and 3 of them wrong.

Guarantees: nothing of a block in which a sample judges (tune, anything ever held out, pinned) and nothing that shows the
same as such a sample; a chain with labels of two classes gives none; a label gives at most FEW pictures, spread over its
chain, so that a wrong one stays small; no row is written, and no label of a person comes of it. Does not guarantee that
things that look alike are the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

from edged.storage import insights, near, pins, samples, snapshots
from edged.storage.samples import Sample
from edged.storage.snapshots import Body
from edged.storage.store import Store

T = TypeVar("T")
FEW = 4  # pictures that one label gives at most
LIKE = 10  # bits of 64: at most so many are a variation of one view, more another picture (Krawetz, Kind of Like That, 2013)
LINKED = 2  # blocks' lengths that lie between two linked pictures at most
_LOOKED_BACK = 4000  # newest pictures of a camera among which they are looked for


def of(store: Store, frozen: Body, known: Collection[tuple[str, str]], until: float, most: int) -> list[list[str]]:
    """[sample id, class] of the kin of what people say in the train part and that is not `known`; sorted, at most `most`.

    Pictures received before `until` only. Read-only.
    """
    weak = frozenset(frozen.get("teacher", ()))
    taught = {s: c for s, c in frozen["train"] if s not in weak and (s, c) not in known}
    judging = {*(s for s, _ in (*frozen["tune"], *frozen["holdout"])), *snapshots.ever_held(store)}
    judging |= {p.sample for p in pins.all(store)}
    found: list[list[str]] = []
    block_s, cameras = frozen["block_s"], sorted({s.partition(":")[0] for s in taught})
    for camera in cameras:
        own = [samples.get(store, i) for i in sorted(taught) if i.partition(":")[0] == camera]
        judges = [samples.get(store, i) for i in sorted(judging) if i.partition(":")[0] == camera]
        blocks = {int(s.ts // block_s) for s in judges}
        free = [
            s for s in samples.unlabelled(store, camera, _LOOKED_BACK)
            if s.received < until and s.id not in weak and int(s.ts // block_s) not in blocks
            and not snapshots.held_out(camera, int(s.ts // block_s), frozen["holdout_ratio"])
        ]  # fmt: skip
        hashes = insights.hashes(store, [s.id for s in (*own, *free, *judges)])
        alike = snapshots.like_held(free, judges, hashes, block_s)
        there = [s for s in (*own, *free) if s.id in hashes and s.id not in alike]
        found += spread(there, taught, hashes, LINKED * block_s)
    return sorted(_evenly(sorted(found), most))


def spread(
    there: Sequence[Sample], taught: Mapping[str, str], hashes: Mapping[str, int], apart_s: float
) -> list[list[str]]:
    """[sample id, class] of those of one camera that a chain ties to samples of one class; links span `apart_s` seconds. Pure."""
    index, root = near.Index[Sample](LIKE), {s.id: s.id for s in there}

    def first(i: str) -> str:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for s in there:
        for _, other in index.find(hashes[s.id]):
            if abs(other.ts - s.ts) <= apart_s:
                root[first(other.id)] = first(s.id)
        index.add(hashes[s.id], s)
    chains: dict[str, list[str]] = defaultdict(list)
    for s in sorted(there, key=lambda s: (s.ts, s.id)):
        chains[first(s.id)].append(s.id)
    found = []
    for chain in chains.values():
        given, others = [taught[i] for i in chain if i in taught], [i for i in chain if i not in taught]
        if len(set(given)) == 1:
            found += [[i, given[0]] for i in _evenly(others, FEW * len(given))]
    return found


def _evenly(items: Sequence[T], most: int) -> list[T]:
    return [items[i * len(items) // most] for i in range(most)] if len(items) > most else list(items)
