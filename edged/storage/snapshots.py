"""Snapshots: a frozen list of sample ids with their split.

Guarantees of `build`: a block of `block_s` seconds of one camera's time lies wholly in one of train, tune and holdout,
so that neighbouring frames never stand on both sides; the holdout depends only on camera, block, `holdout_ratio` and
`block_s`, so a block once held out stays held out in later snapshots, whatever labels or cameras come in between (pass
`held` to keep that even when the ratio or the block length was changed); only human labels enter tune and holdout. Of
every N consecutive blocks (holdout_ratio = k/N) exactly k are held out, drawn by hash: evenly spread, bound to no time
of day; a sample without picture is in none. Does not guarantee that any set is non-empty: one block of time cannot be
split, and the gate then says so.

A block has two ends, and a car may stay parked through many. With `hashes` of the survey what shows the same as a held-out
sample of its camera leaves train and tune: near.NEAR bits within a block's length of camera time, near.SAME bits at any
time (near.py has the measurement). Of each camera and class at least half stays, farthest in time first: a view that never
changes is no leak, the camera will meet it again. On CNRPark, all labelled, 28 % of train leave, of a tenth of the labels
7 %; split by chance instead of by blocks, 47 % and 8 % would show something held out. Not all that is alike is found: of
neighbours five minutes apart 61 % are near.

Guarantee of the store: the id is the hash of the body; `get` of a changed body is Corrupt.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NotRequired, TypedDict

from edged.errors import EXIT_NOT_FOUND, Corrupt, Refused
from edged.storage import near
from edged.storage.samples import Sample
from edged.storage.store import Store

Part = Literal["train", "tune", "holdout"]
PARTS: tuple[Part, ...] = ("train", "tune", "holdout")
MOST_DROPPED = 0.5  # of a camera's samples of a class


class Near(TypedDict):
    """Near-duplicates of held-out samples: how many left `train` and `tune`, how many `stayed` since too many were, and
    how many samples no survey had seen (`unknown`). `distance`, `same`: bits of 64.
    """

    distance: int
    same: int
    train: int
    tune: int
    stayed: int
    unknown: int


class Body(TypedDict):
    """The document of a snapshot; pairs are [sample id, class], sorted by sample id. `near` is there when hashes were given,
    `teacher`, the ids in train that no person labelled, when there are any.
    """

    classes: list[str]
    train: list[list[str]]
    tune: list[list[str]]
    holdout: list[list[str]]
    holdout_ratio: float
    block_s: float
    seed: int
    near: NotRequired[Near]
    teacher: NotRequired[list[str]]


@dataclass(frozen=True)
class Counted:
    """What one part holds: samples, by camera, by class, by who labelled them."""

    n: int
    cameras: dict[str, int]
    classes: dict[str, int]
    sources: dict[str, int]


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
    hashes: Mapping[str, int] | None = None,
    apart: Collection[str] = (),
) -> Body:
    """Split samples with labels; pure. See the module for what it guarantees.

    `labelled` are human labels, `weak` a teacher's (teaching.accepted): those train only, and only in training blocks.
    Classes outside `classes` are left out. `held` are sample ids that were held out before. `seed` decides the tuning
    blocks alone. `hashes`: insights.hashes of these samples; None = look for no near-duplicates. `apart` are sample ids
    that stand in no part (pins.py); what shows the same as one of them leaves train and tune as if it were held out.
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

    placed: dict[Part, list[tuple[Sample, str]]] = {p: [] for p in PARTS}
    for s, c in human.values():
        if s.object is not None and s.id not in apart:
            placed[part_of(s)].append((s, c))
    usable = ((s, c) for s, c in weaker.values() if s.object is not None and s.id not in apart)
    placed["train"] += [(s, c) for s, c in usable if part_of(s) == "train"]
    body: Body = {
        "classes": list(classes),
        "train": [],
        "tune": [],
        "holdout": [],
        "holdout_ratio": holdout_ratio,
        "block_s": block_s,
        "seed": seed,
    }
    if hashes is not None:
        beside = [s for s, _ in (*human.values(), *weaker.values()) if s.id in apart]
        body["near"] = _without_near(placed, beside, hashes, block_s)
    for part in PARTS:
        body[part] = sorted([s.id, c] for s, c in placed[part])
    if taught := sorted(s.id for s, _ in placed["train"] if s.id in weaker):
        body["teacher"] = taught
    return body


def like_held(
    samples: Iterable[Sample], holdout: Iterable[Sample], hashes: Mapping[str, int], block_s: float
) -> dict[str, float]:
    """Which of `samples` show the same as a held-out one of their camera: seconds of camera time to the nearest that does
    within a block's length, infinity for those alike at another time.
    """
    lately: dict[tuple[str, int], near.Index[float]] = defaultdict(near.Index)
    ever: dict[str, near.Index[float]] = defaultdict(lambda: near.Index(near.SAME))
    for s in holdout:
        if s.id in hashes:
            lately[s.camera, int(s.ts // block_s)].add(hashes[s.id], s.ts)
            ever[s.camera].add(hashes[s.id], s.ts)
    found = {}
    for s in samples:
        if s.id not in hashes:
            continue
        block = int(s.ts // block_s)
        around = [lately[s.camera, b] for b in (block - 1, block, block + 1) if (s.camera, b) in lately]
        gap = min((abs(ts - s.ts) for index in around for _, ts in index.find(hashes[s.id])), default=math.inf)
        if gap <= block_s:
            found[s.id] = gap
        elif s.camera in ever and any(ever[s.camera].find(hashes[s.id])):
            found[s.id] = math.inf
    return found


def describe(body: Body) -> dict[Part, Counted]:
    """What a snapshot holds, for cards and pages."""
    taught = frozenset(body.get("teacher", ()))

    def counted(part: Part) -> Counted:
        pairs = body[part]
        return Counted(
            len(pairs),
            dict(sorted(Counter(s.partition(":")[0] for s, _ in pairs).items())),
            {c: n for c in body["classes"] if (n := sum(k == c for _, k in pairs))},
            dict(sorted(Counter("teacher" if s in taught else "human" for s, _ in pairs).items())),
        )

    return {part: counted(part) for part in PARTS}


def per_class(body: Body, part: Part) -> dict[str, int]:
    """Samples of each class of the task, also of one that has none."""
    return {c: sum(k == c for _, k in body[part]) for c in body["classes"]}


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


def _without_near(
    placed: dict[Part, list[tuple[Sample, str]]], beside: list[Sample], hashes: Mapping[str, int], block_s: float
) -> Near:
    """Take out of train and tune what shows the same as something held out, or as a sample of `beside`."""
    holdout = [*beside, *(s for s, _ in placed["holdout"])]
    unknown = sum(s.id not in hashes for part in PARTS for s, _ in placed[part])
    told: Near = {"distance": near.NEAR, "same": near.SAME, "train": 0, "tune": 0, "stayed": 0, "unknown": unknown}
    parts: tuple[Literal["train", "tune"], ...] = ("train", "tune")
    for part in parts:
        alike = like_held((s for s, _ in placed[part]), holdout, hashes, block_s)
        groups: dict[tuple[str, str], list[str]] = defaultdict(list)
        for s, c in placed[part]:
            groups[s.camera, c].append(s.id)
        gone: set[str] = set()
        for ids in groups.values():
            leaving = sorted((i for i in ids if i in alike), key=lambda i: (alike[i], i))
            gone.update(leaving[: int(len(ids) * MOST_DROPPED)])
        told[part] = len(gone)
        told["stayed"] += len(alike) - len(gone)
        placed[part] = [(s, c) for s, c in placed[part] if s.id not in gone]
    return told


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
