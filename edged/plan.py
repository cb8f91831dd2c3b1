"""How the next model is made: which labels, begun from which model, by which rungs.

Reads rows, writes none; `preview.py` shows it. Guarantees: the hold-out decides nothing here, and what is read comes out the same
after a kill as before it (nothing younger than the cycle is looked at). Does not guarantee that what is planned fits:
`retrain/fits.py` predicts, the child's limits decide.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edged import chain, due, registry
from edged.errors import Refused
from edged.retrain.choice import FEWEST
from edged.retrain.jobs import RUNGS, Rung
from edged.storage import (
    candidates,
    drifts,
    insights,
    kin,
    labels,
    occasions,
    overturned,
    pins,
    reports,
    samples,
    snapshots,
    teaching,
)
from edged.storage.releases import ReleaseRow
from edged.storage.snapshots import Body
from edged.storage.store import Store

UNLABELLED = 500  # pictures that the first rung looks at
_LOOKED_BACK = 4000  # newest pictures of a camera from which they are taken


@dataclass(frozen=True)
class Split:
    """What a snapshot is made by, as flat values."""

    classes: tuple[str, ...]
    holdout: float
    block_s: float
    seed: int
    audit: float = 0.1  # share of samples that are asked blindly, and that teachers are judged on
    agreement: float = 0.9  # of a teacher's labels with people's, before they count
    accept_above: float = 0.0  # a teacher's score from which they count, 0 = as measured
    unlabelled: int = 3000  # pictures that teach without a label, since they show what a labelled one shows (kin.py)


@dataclass(frozen=True)
class Base:
    """A model that can be learned on from. `weights` sha256; `learned` the snapshot whose labels it knows, "" = none."""

    sha256: str
    weights: str
    learned: str
    arch: Mapping[str, Any]
    classes: tuple[str, ...]
    usual: float | None = None  # its accuracy on the hold-out when it was released


@dataclass(frozen=True)
class Course:
    """`stage` "learn" goes on from `start` (sha256 of weights), "train" begins anew ("" = from scratch), "taken" takes
    `taken` as it is. `new`: labelled samples for training that the start has not seen. `cameras` drift, since `since`."""

    stage: Literal["learn", "train", "taken"]
    start: str = ""
    before: str = ""
    rungs: tuple[Rung, ...] = ()
    new: int = 0
    cameras: tuple[str, ...] = ()
    since: float = 0.0
    taken: str = ""
    note: str = ""


def when(
    store: Store, rules: due.Rules, now: float, drifting: Sequence[due.Drifting] | None = None, *, daemon: bool = False
) -> due.Due:  # fmt: skip
    """Whether a cycle should run now and why, or for what it waits. `drifting` None = the rows are asked. `daemon`: one
    runs that is not the caller, so a cycle that has not ended is at work, not interrupted.
    """
    o = occasions.look(store)
    if drifting is None:
        drifting = standing(store)
    facts = due.Facts(
        o.running, o.asked, o.new, o.since_last, o.started, o.ended, o.failures, drifting, o.at if daemon else "",
        o.against,
    )  # fmt: skip
    return due.decide(facts, rules, now)


def standing(store: Store) -> tuple[due.Drifting, ...]:
    """The cameras that drift."""
    return tuple(due.Drifting(s.camera, s.since, s.sentence) for s in drifts.standing(store))


def body(store: Store, split: Split) -> Body:
    """The snapshot as it would be frozen now."""
    human = labels.effective(store)
    weak = teaching.accepted(store, split.audit, split.agreement, split.accept_above)
    return snapshots.build(
        human, split.classes, holdout_ratio=split.holdout, block_s=split.block_s, seed=split.seed, weak=weak,
        held=snapshots.ever_held(store), hashes=insights.hashes(store, [s.id for s, _ in (*human, *weak)]),
        apart=frozenset(p.sample for p in pins.all(store)),
    )  # fmt: skip


def previous(store: Store, arch: Mapping[str, Any], steps: chain.Chain) -> str:
    """sha256 of the champion's file where it was made of the same network by the same steps to int8, "" elsewhere: what is made
    now by these steps stays near it, so that the way from one to the other is short.
    """
    release = registry.champion(store)
    if release is None or release.candidate is None or not chain.to_int8(steps):
        return ""
    made = candidates.get(store, release.candidate).recipe
    same = dict(made.get("arch") or {}) == dict(arch) and tuple(made.get("steps") or ()) == tuple(map(str, steps))
    return release.sha256 if same else ""


def base(store: Store, release: ReleaseRow | None) -> Base | None:
    """What can be learned on from: the champion with its weights; None if there is none."""
    if release is None or release.candidate is None:
        return None
    made = candidates.get(store, release.candidate)
    weights = str(made.recipe.get("weights", ""))
    if not weights or not (store.models_dir / f"{weights}.safetensors").exists():
        return None
    found = reports.of(store, made.id)
    measured = json.loads(found[0].body).get("accuracy") if found else None
    usual = measured.get("accuracy") if measured and measured.get("n") else None
    learned = str(made.recipe.get("learned", made.snapshot))
    return Base(release.sha256, weights, learned, made.recipe.get("arch") or {}, release.classes, usual)


def course(
    store: Store, frozen: Body, arch: Mapping[str, Any], classes: tuple[str, ...],
    drifting: Sequence[due.Drifting] = (), start: registry.Past | None = None,
) -> Course:  # fmt: skip
    """What to train. `start` is begun with instead of the champion: a past model that does better on what is new."""
    known = base(store, registry.champion(store))
    if known is None or dict(known.arch) != dict(arch):
        return Course("train", new=len(frozen["train"]), note=f"a new {arch['name']} from scratch")
    if known.classes != classes:
        return Course("train", known.weights, new=len(frozen["train"]), note="the classes have changed: trained anew")
    weights, learned = (start.weights, start.learned) if start is not None else (known.weights, known.learned)
    cameras, since = tuple(sorted({d.camera for d in drifting})), min((d.since for d in drifting), default=0.0)
    new = unseen(frozen, seen(store, learned))
    rungs = RUNGS if new >= FEWEST else RUNGS[:1]
    note = f"{new} new labelled samples to learn from"
    if rungs != RUNGS:
        where = f" of {', '.join(cameras)}" if cameras else ""
        note = f"{note}: adapted to new pictures{where} without labels"
    if start is not None:
        note += f"; begun from {start.name}, which does better on what is new"
    return Course("learn", weights, learned, rungs, new, cameras, since, note=note)


def anew(store: Store, frozen: Body, arch: Mapping[str, Any]) -> bool:
    """Whether a network is trained on all classes since no model that there is could be learned on from, or taken."""
    classes = tuple(frozen["classes"])
    way = course(store, frozen, arch, classes)
    if way.stage != "train":
        return False
    return not (way.new >= FEWEST and base(store, registry.champion(store)) and registry.past(store, classes))


def seen(store: Store, snapshot: str) -> frozenset[tuple[str, str]]:
    """(sample id, class) of a snapshot's train part; none of "" or of a snapshot that is not there."""
    if not snapshot:
        return frozenset()
    try:
        return frozenset((s, c) for s, c in snapshots.get(store, snapshot)["train"])
    except Refused:
        return frozenset()


def unseen(frozen: Body, known: Collection[tuple[str, str]]) -> int:
    """Samples of the train part that are not known, or under another class: a label that was mended is new."""
    return sum((s, c) not in known for s, c in frozen["train"])


def unlabelled(
    store: Store,
    cameras: Sequence[str],
    since: float,
    until: float,
    *,
    holdout: float,
    block_s: float,
    most: int = UNLABELLED,
) -> list[str]:
    """Ids of pictures received in [since, until), spread evenly over cameras and time; the newest ones if there are too
    few. None of a block that is held out, not even unlabelled.
    """
    each = max(1, most // max(1, len(cameras)))
    chosen: list[str] = []
    for camera in sorted(cameras):
        there = [
            s for s in samples.recent(store, camera, _LOOKED_BACK)
            if s.object is not None and s.received < until
            and not snapshots.held_out(camera, int(s.ts // block_s), holdout)
        ]  # fmt: skip
        began = [s for s in there if s.received >= since]
        there = began if len(began) >= each else there[:each]
        step = max(1.0, len(there) / each)
        chosen += [there[int(i * step)].id for i in range(min(each, len(there)))]
    return sorted(chosen)


def taught_beside(store: Store, frozen: Body, way: Course, split: Split, until: float) -> list[list[str]]:
    """[sample id, class] of pictures that nobody labelled and that show what a new labelled one shows; none without labels."""
    if way.stage != "learn" or way.rungs != RUNGS:
        return []
    return kin.of(store, frozen, seen(store, way.before), until, split.unlabelled)


def contradicted(store: Store) -> overturned.Overturned:
    """The labels that the champion's snapshot had, in any part, and that people now overturn."""
    release = registry.champion(store)
    made = candidates.get(store, release.candidate) if release is not None and release.candidate is not None else None
    return overturned.since(store, made.snapshot if made else "")
