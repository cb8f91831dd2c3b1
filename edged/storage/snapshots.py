"""Snapshots: a frozen list of sample ids with their split.

Guarantees of `build`: a block of `block_s` seconds of one camera's time lies wholly in one of train, tune and holdout,
so that neighbouring frames never stand on both sides; the holdout depends only on camera, block, `holdout_ratio` and
`block_s`, so a block once held out stays held out in later snapshots, whatever labels or cameras come in between (pass
`held` to keep that even when the ratio or the block length was changed); only human labels enter tune and holdout. Of
every N consecutive blocks (holdout_ratio = k/N) exactly k are held out, drawn by hash: evenly spread, bound to no time
of day. Does not guarantee that any set is non-empty: one block of time cannot be split, and the gate then says so.

Guarantee of the store: the id is the hash of the body; `get` of a changed body is Corrupt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from fractions import Fraction
from typing import Literal, TypedDict

from edged.errors import EXIT_NOT_FOUND, Corrupt, Refused
from edged.storage.samples import Sample
from edged.storage.store import Store

Part = Literal["train", "tune", "holdout"]


class Body(TypedDict):
    """The document of a snapshot; pairs are [sample id, class], sorted by sample id."""

    classes: list[str]
    train: list[list[str]]
    tune: list[list[str]]
    holdout: list[list[str]]
    holdout_ratio: float
    block_s: float
    seed: int


def build(
    labelled: Iterable[tuple[Sample, str]],
    classes: Sequence[str],
    *,
    holdout_ratio: float,
    block_s: float,
    seed: int,
    weak: Iterable[tuple[Sample, str]] = (),
    held: Collection[str] = (),
    tune_ratio: float = 0.15,
) -> Body:
    """Split samples with labels; pure. See the module for what it guarantees.

    `labelled` are human labels, `weak` a teacher's: those train only, and only in training blocks. Classes outside
    `classes` are left out. `held` are sample ids that were held out before. `seed` decides the tuning blocks alone.
    """
    human = {s.id: (s, c) for s, c in labelled if c in classes}
    weaker = {s.id: (s, c) for s, c in weak if c in classes and s.id not in human}

    def block_of(s: Sample) -> tuple[str, int]:
        return s.camera, int(s.ts // block_s)

    blocks = {block_of(s) for s, _ in (*human.values(), *weaker.values())}
    kept = {block_of(s) for s, _ in (*human.values(), *weaker.values()) if s.id in held}
    holdout = {b for b in blocks if b in kept or held_out(*b, holdout_ratio)}
    tune = _tuning({block_of(s) for s, _ in human.values()} - holdout, tune_ratio, seed)

    def part_of(s: Sample) -> Part:
        block = block_of(s)
        return "holdout" if block in holdout else "tune" if block in tune else "train"

    parts: dict[Part, list[list[str]]] = {"train": [], "tune": [], "holdout": []}
    for s, c in human.values():
        parts[part_of(s)].append([s.id, c])
    parts["train"] += [[s.id, c] for s, c in weaker.values() if part_of(s) == "train"]
    return {
        "classes": list(classes),
        "train": sorted(parts["train"]),
        "tune": sorted(parts["tune"]),
        "holdout": sorted(parts["holdout"]),
        "holdout_ratio": holdout_ratio,
        "block_s": block_s,
        "seed": seed,
    }


def held_out(camera: str, block: int, ratio: float) -> bool:
    """Whether this block of this camera is held out; pure, and the same for ever."""
    share = Fraction(ratio).limit_denominator(20)
    stratum, place = divmod(block, share.denominator)
    drawn = sorted(range(share.denominator), key=lambda i: _hash("holdout", camera, stratum, i))
    return place in drawn[: share.numerator]


def add(store: Store, body: Body) -> str:
    """Keep it; returns its id. Adding the same body again changes nothing."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    snapshot_id = hashlib.sha256(text.encode()).hexdigest()
    store.execute(
        "insert into snapshot (id, created, body) values (?, ?, ?) on conflict (id) do nothing",
        (snapshot_id, store.clock.now(), text),
    )
    return snapshot_id


def get(store: Store, snapshot_id: str) -> Body:
    """Raises Refused("not_found"), Corrupt when the body does not hash to its id."""
    text = store.value("select body from snapshot where id = ?", (snapshot_id,))
    if text is None:
        raise Refused(f"no snapshot {snapshot_id[:64]}", code="not_found", exit_code=EXIT_NOT_FOUND)
    if hashlib.sha256(text.encode()).hexdigest() != snapshot_id:
        raise Corrupt(f"snapshot {snapshot_id} was changed", code="snapshot_changed")
    body: Body = json.loads(text)
    return body


def ever_held(store: Store) -> set[str]:
    """Sample ids that were in the holdout of any snapshot: pass as `held` to `build`."""
    rows = store.rows("select j.value ->> 0 from snapshot, json_each(snapshot.body, '$.holdout') j")
    return {r[0] for r in rows}


def _tuning(blocks: set[tuple[str, int]], ratio: float, seed: int) -> set[tuple[str, int]]:
    """About `ratio` of the blocks, at least one of two, of each camera where it has enough."""
    chosen: set[tuple[str, int]] = set()
    for camera in {c for c, _ in blocks}:
        own = sorted((b for b in blocks if b[0] == camera), key=lambda b: _hash("tune", seed, *b))
        if len(own) > 1:
            chosen |= set(own[: max(1, round(len(own) * ratio))])
    return chosen


def _hash(*words: object) -> str:
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()
