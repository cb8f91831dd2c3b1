"""How the next model is made: which labels, begun from which model, by which rungs; and which past model may do instead.

Reads rows, writes none; `edged cycle run --dry-run` shows it. Guarantees: the hold-out decides nothing here, and what is
read comes out the same after a kill as before it (nothing younger than the cycle is looked at). Does not guarantee that
what is planned fits: `retrain/fits.py` predicts, the child's limits decide.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from edged import chain, due
from edged.errors import Refused
from edged.publish import aim
from edged.publish import release as publishing
from edged.retrain import fits
from edged.retrain.choice import FEWEST
from edged.retrain.jobs import RUNGS, Rung
from edged.storage import (
    blocked,
    brought,
    candidates,
    drifts,
    insights,
    kin,
    labels,
    models,
    occasions,
    overturned,
    pins,
    releases,
    reports,
    samples,
    snapshots,
    teaching,
    verdicts,
)
from edged.storage.releases import ReleaseRow
from edged.storage.snapshots import Body
from edged.storage.store import Store

UNLABELLED = 500  # pictures that the first rung looks at
_LOOKED_BACK = 4000  # newest pictures of a camera from which they are taken
PAST = 12  # models that are tried again at most


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
class Past:
    """A model that was delivered, or brought: a file that could be released again as it is, or compressed."""

    sha256: str
    name: str
    size: int
    arch: Mapping[str, Any]
    weights: str
    learned: str
    steps: tuple[str, ...]  # compression that it has behind it


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


def champion(store: Store) -> ReleaseRow | None:
    """The newest release for all that was not halted: what the cameras run, or are about to, but for those apart."""
    return aim.champion(releases.all(store))


def previous(store: Store, arch: Mapping[str, Any], steps: chain.Chain) -> str:
    """sha256 of the champion's file where it was made of the same network by the same steps to int8, "" elsewhere: what is made
    now by these steps stays near it, so that the way from one to the other is short.
    """
    release = champion(store)
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
    drifting: Sequence[due.Drifting] = (), start: Past | None = None,
) -> Course:  # fmt: skip
    """What to train. `start` is begun with instead of the champion: a past model that does better on what is new."""
    known = base(store, champion(store))
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
    return way.stage == "train" and not (way.new >= FEWEST and base(store, champion(store)) and past(store, classes))


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


def past(store: Store, classes: tuple[str, ...]) -> list[Past]:
    """Models that answer with these classes and are not the champion, newest first: released ones and brought ones. None
    whose newest re-test was refused."""
    now, found = champion(store), dict[str, Past]()
    for release in reversed(releases.all(store)):
        if release.candidate is None or release.classes != classes or release.state == "halted" or release.cameras:
            continue
        made = candidates.get(store, release.candidate)
        found.setdefault(release.sha256, _delivered(made, f"release {release.number} ({made.name})"))
    for model in brought.all(store, "candidate"):
        if model.classes == classes:
            found.setdefault(model.sha256, of_brought(store, model))
    barred = {b.sha256 for b in blocked.all(store)} | ({now.sha256} if now is not None else set())
    return [p for p in found.values() if p.sha256 not in barred and not _refused(store, p.sha256)][:PAST]


def of_brought(store: Store, model: brought.Brought) -> Past:
    """A model from outside as one that could be released: what was exported here and brought back is what it was."""
    name = f"{model.name}, brought by {model.author}"
    if (made := candidates.find(store, model.sha256)) is not None and (made.recipe.get("weights") or not model.weights):
        return _delivered(made, name)
    arch = {"name": str(model.card.get("architecture") or model.name), "input_px": model.px}
    size = models.model_path(store, model.sha256).stat().st_size
    steps = tuple(str(step) for step in model.card.get("steps") or ())
    return Past(model.sha256, name, size, arch, model.weights, "", steps)


def find(store: Store, word: str) -> str:
    """sha256 of the model that a word names, "" = none: "release 3" or "r3", a name or the beginning of a hash (6 digits at
    least) of one that was brought, or made here. Of several of a name the newest that is not the champion.
    """
    if numbered := re.fullmatch(r"(?:release ?|r)(\d{1,9})", word.strip()):
        return next((r.sha256 for r in releases.all(store) if r.number == int(numbered[1])), "")
    if not word:
        return ""
    if model := brought.find(store, word, "candidate"):
        return model.sha256
    now, found = champion(store), ""
    for made in reversed(candidates.all(store)):
        if made.name == word or (len(word) >= 6 and made.sha256.startswith(word)):
            found = found or made.sha256
            if now is None or made.sha256 != now.sha256:
                return made.sha256
    return found


def contradicted(store: Store) -> overturned.Overturned:
    """The labels that the champion's snapshot had, in any part, and that people now overturn."""
    release = champion(store)
    made = candidates.get(store, release.candidate) if release is not None and release.candidate is not None else None
    return overturned.since(store, made.snapshot if made else "")


def _made(store: Store, sha256: str, classes: tuple[str, ...]) -> Past | None:
    """A model that was made here, as it was delivered or would have been. Raises Refused: other classes, no file."""
    made = candidates.find(store, sha256)
    if made is None:
        return None
    told = tuple(snapshots.get(store, made.snapshot)["classes"])
    if told != classes:
        raise _other(made.name, told, classes)
    models.model_path(store, sha256)
    number = next((r.number for r in releases.all(store) if r.sha256 == sha256), 0)
    name = f"release {number} ({made.name})" if number else f"{made.name} of cycle {made.cycle}"
    return _delivered(made, name)


def _delivered(made: candidates.Candidate, name: str) -> Past:
    recipe = made.recipe
    return Past(
        made.sha256, name, made.size, recipe.get("arch") or {}, str(recipe.get("weights", "")),
        str(recipe.get("learned", made.snapshot)), tuple(recipe.get("steps") or ()),
    )  # fmt: skip


def _other(name: str, told: tuple[str, ...], classes: tuple[str, ...]) -> Refused:
    return Refused(
        f"model {name} tells {', '.join(told)}; this site's classes are {', '.join(classes)}, in this order",
        code="other_classes",
    )


def asked(store: Store, sha256: str, classes: tuple[str, ...]) -> Past:
    """The model that a request names, by its whole hash: brought, or made here. Raises Refused: unknown, retired, other
    classes, its file is gone, blocked since a release of it was halted.
    """
    publishing.require_free(store, sha256)
    try:
        model = brought.get(store, sha256)
    except Refused:
        if (made := _made(store, sha256, classes)) is not None:
            return made
        raise
    if model.retired is not None or model.kind != "candidate":
        word = "was retired" if model.retired is not None else "is a teacher, it is not released"
        raise Refused(f"model {model.name} ({sha256[:12]}) {word}", code="retired")
    if model.classes != classes:
        raise _other(model.name, model.classes, classes)
    return of_brought(store, model)


def _refused(store: Store, sha256: str) -> bool:
    newest = candidates.find(store, sha256)
    verdict = verdicts.of(store, newest.id) if newest else None
    return verdict is not None and not verdict.passed


@dataclass(frozen=True)
class Preview:
    """What a cycle that began now would do. `past` names of models tried first; `anew` as the function."""

    body: Body
    course: Course
    past: tuple[str, ...]
    against: str = ""  # which labels contradict: the cycle would be refused for them

    @property
    def counts(self) -> dict[str, int]:
        return {str(part): len(self.body[part]) for part in snapshots.PARTS}

    @property
    def anew(self) -> bool:
        return self.course.stage == "train" and not self.past

    @property
    def pictures(self) -> int:
        """That are learned from: what is new and, when a model is brought up to date, about as many old ones."""
        new = self.course.new
        return min(self.counts["train"], 2 * new) if self.course.stage == "learn" else self.counts["train"]


def preview(store: Store, split: Split, arch: Mapping[str, Any], model: str = "") -> Preview:
    """Nothing is written. `model` sha256 of a brought one that is asked for. Raises Refused as `asked`."""
    frozen = body(store, split)
    if model:
        found = asked(store, model, split.classes)
        return Preview(frozen, Course("taken", taken=model, note=f"{found.name}: asked for, nothing is trained"), ())
    way = course(store, frozen, arch, split.classes, standing(store))
    if beside := len(taught_beside(store, frozen, way, split, math.inf)):
        way = replace(way, note=f"{way.note}; {beside} unlabelled pictures that show the same teach beside them")
    tried = past(store, split.classes) if way.new >= FEWEST and base(store, champion(store)) else []
    return Preview(frozen, way, tuple(p.name for p in tried), contradicted(store).told)


@dataclass(frozen=True)
class Forecast:
    """What a rung needs, estimated. `fits` "yes", "perhaps" or "no" within the limit."""

    name: str
    seconds: float
    bytes: int
    fits: str


def forecast(found: Preview, arch: Mapping[str, Any], classes: int, memory_bytes: int) -> list[Forecast]:
    """CPU seconds and memory of each rung that the course may climb, on this machine; none of a model that is taken."""
    rungs: tuple[fits.Rung, ...] = found.course.rungs
    if found.course.stage == "train":
        rungs = ("all",) if found.course.start else ("scratch",)
    speed = fits.measure_speed() if rungs else None
    made = [
        fits.estimate(str(arch["name"]), int(arch["input_px"]), classes, rung, pictures=found.pictures, speed=speed)
        for rung in rungs
    ]
    return [Forecast(f.rung, f.cpu_seconds, f.peak_bytes, f.within(memory_bytes)) for f in made]
