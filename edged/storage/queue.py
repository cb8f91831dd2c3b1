"""What a person is asked next, and why.

One sample in ten (`labels.is_audit`) belongs to the audit set. It is asked by lot, whatever anybody thinks of it, and by no
other lane, so that people's labels on it are an unbiased sample; the rest take turns:

    margin          the model is least sure: the smallest margin of the survey's answer, else of the camera's; of the
                    least sure those first that cover them best (`cover`); what no model has answered comes last
    disagreement    the teacher says something else, the surest first
    drift           a camera whose world has changed, the newest first
    spread          cameras in turn, the middle of the longest stretch of time first that nobody labelled: after a change
                    of the world that is what came since

Guarantees of `choose`: pure and seeded; no sample twice; a near-duplicate (near.py, or less than `gap_s` of camera time
apart) of one that was chosen comes only when nothing else is left, except in the audit, which is never filtered; of the
questions about the share of the audit comes by lot while there are any. Does not guarantee that a lane gets its turns:
what an empty one leaves goes to the others.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from edged.storage import insights, labels, near, samples
from edged.storage.samples import Sample
from edged.storage.store import Store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Lane = Literal["audit", "margin", "disagreement", "drift", "spread", "rest"]

GAP_S = 2.0
NEWEST, DAY_OLD, OLDER = 4_000, 6_000, 2_000  # samples looked at: the newest, and by lot of the last day and before it
LABELLED = 20_000  # labels looked at: what lies between them is asked first
DAY_S = 86_400.0
POOL = 4  # times as many of the least sure are looked at as are asked
_TURNS: tuple[tuple[Lane, ...], ...] = (
    ("margin", "spread"),
    ("spread", "margin"),
    (
        "disagreement",
        "spread",
        "margin",
    ),  # what these leave goes to the spread: margins alone teach less (docs/labels.md)
    ("drift", "spread", "margin"),
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sample that may be asked about. `margin` 0..1 of the best model that looked, `answer` its class ("" = none);
    `hash` None: no survey has seen it; `model` sha256 whose features it left ("" = none). `teacher` is the teacher's class
    ("" = it said nothing), `sure` its score 0..1. `surveyed`: margin and answer are the survey's, not the camera's.
    """

    sample: Sample
    margin: float
    answer: str
    hash: int | None = None
    teacher: str = ""
    sure: float = 0.0
    model: str = ""
    surveyed: bool = False

    @property
    def who(self) -> str:
        """Whose margin and answer they are, in words."""
        return "the model on the box" if self.surveyed else "the camera"


@dataclass(frozen=True)
class Asked:
    """One question. `why` is a sentence for the person; `teacher` and `sure` as in Candidate."""

    sample: Sample
    lane: Lane
    why: str
    hash: int | None = None
    teacher: str = ""
    sure: float = 0.0


def ask(
    store: Store,
    limit: int,
    seed: int = 0,
    *,
    share: float = labels.AUDIT_SHARE,
    drifting: Collection[str] = (),
    gap_s: float = GAP_S,
    cameras: Collection[str] = (),
    since: float = 0.0,
) -> list[Asked]:
    """What to ask next, from samples that have a picture and no human label. `share` of the audit (0..1) is the site's for
    good: another one is another audit set. `drifting`: cameras whose drift alarm stands. `cameras`: only of these, () = of
    all; `since`: only what the box received then or later (seconds since 1970).
    """
    within = [c for c in candidates(store, seed, limit) if c.sample.received >= since]
    found = [c for c in within if not cameras or c.sample.camera in cameras]
    first = cover(store, found, limit, share)
    known = labelled(store)
    return choose(found, limit, seed, share=share, drifting=drifting, gap_s=gap_s, first=first, known=known)


def candidates(store: Store, seed: int = 0, least: int = 1) -> list[Candidate]:
    """Of a store of any size the newest samples, and by lot some of the last day and of the time before: what is asked is
    to be spread over the day. All that wait when these are fewer than `least`.
    """
    places = _places(store, seed)
    if places is None:
        return _read(store, "select id from sample", ())
    found = _read(store, "select id from sample where rowid in (select value from json_each(?))", (json.dumps(places),))
    return found if len(found) >= least else _read(store, "select id from sample order by received desc", ())


def labelled(store: Store) -> dict[str, list[float]]:
    """Camera times of the newest LABELLED labels of people, by camera, ascending."""
    times: dict[str, list[float]] = {}
    for camera, ts in store.rows(
        "select s.camera, s.ts from (select sample from label where source = 'human' and undone is null"
        " order by id desc limit ?) l join sample s on s.id = l.sample order by s.ts",
        (LABELLED,),
    ):
        times.setdefault(camera, []).append(ts)
    return times


def choose(
    candidates: Sequence[Candidate],
    limit: int,
    seed: int = 0,
    *,
    share: float = labels.AUDIT_SHARE,
    drifting: Collection[str] = (),
    gap_s: float = GAP_S,
    first: Sequence[str] = (),
    known: Mapping[str, Sequence[float]] | None = None,
) -> list[Asked]:
    """Pick `limit` questions; see the module. `first`: sample ids that the margin lane begins with, in this order. `known`:
    camera times of what people labelled already, by camera, ascending.
    """
    rng = random.Random(seed)
    ordered = sorted(candidates, key=lambda c: c.sample.id)
    blind = [c for c in ordered if labels.is_audit(c.sample.id, share)]
    open_ = [c for c in ordered if not labels.is_audit(c.sample.id, share)]
    ranks = {sample: place for place, sample in enumerate(first)}
    unsure = sorted(open_, key=lambda c: (ranks.get(c.sample.id, len(ranks)), not c.answer, c.margin, c.sample.id))
    lanes: dict[Lane, list[Candidate]] = {
        "audit": rng.sample(blind, len(blind)),
        "margin": unsure,
        "disagreement": sorted((c for c in open_ if differs(c)), key=lambda c: (-c.sure, c.sample.id)),
        "drift": sorted((c for c in open_ if c.sample.camera in drifting), key=lambda c: (-c.sample.ts, c.sample.id)),
        "spread": _spread(open_, known or {}, rng),
        "rest": unsure,
    }
    at = dict.fromkeys(lanes, 0)
    seen = _Seen(gap_s)
    chosen: list[Asked] = []
    taken: set[str] = set()

    def take(lane: Lane, wanted: Callable[[Candidate], bool]) -> bool:
        line = lanes[lane]
        while at[lane] < len(line):
            c = line[at[lane]]
            at[lane] += 1  # what is passed over now will be passed over again
            if wanted(c):
                chosen.append(_asked(c, lane))
                taken.add(c.sample.id)
                seen.add(c)
                return True
        return False

    def fresh(c: Candidate) -> bool:
        return c.sample.id not in taken and seen.fresh(c)

    phase, turn = rng.random(), -1
    while len(chosen) < min(limit, len(ordered)):
        place = len(chosen)
        if math.floor((place + 1) * share + phase) > math.floor(place * share + phase) and take(
            "audit", lambda _: True
        ):
            continue
        turn += 1
        if any(take(lane, fresh) for lane in (*_TURNS[turn % len(_TURNS)], "disagreement", "drift")):
            continue
        if not take("rest", lambda c: c.sample.id not in taken):
            take("audit", lambda _: True)
    return chosen


def cover(store: Store, candidates: Sequence[Candidate], limit: int, share: float = labels.AUDIT_SHARE) -> list[str]:
    """Sample ids of the POOL * `limit` least sure. Those that the survey's model has looked at come in the order in which
    each lies farthest from all before it in that model's features: the greedy k-centre of Gonzalez (1985), as Sener and
    Savarese use it to choose labels (ICLR 2018). Those that it has not reached yet, the newest mostly, come between them
    in the order of their margins. Empty when no survey has left features.
    """
    answered = (c for c in candidates if c.answer and not labels.is_audit(c.sample.id, share))
    unsure = sorted(answered, key=lambda c: (c.margin, c.sample.id))[: POOL * limit]
    if not (models := Counter(c.model for c in unsure if c.model)):
        return []
    model = models.most_common(1)[0][0]
    ids, features = insights.features(store, [c.sample.id for c in unsure if c.model == model], model)
    looked_at = [ids[i] for i in farthest_first(features)]
    there = set(ids)
    others = [c.sample.id for c in unsure if c.sample.id not in there] if there else []
    paced = [((i + 0.5) / len(line), id) for line in (looked_at, others) for i, id in enumerate(line)]
    return [id for _, id in sorted(paced)]


def farthest_first(features: NDArray[np.float32]) -> list[int]:
    """Rows of [n, d] in greedy k-centre order by direction (unit length), the first row first."""
    import numpy as np

    if not len(features):
        return []
    finite = np.nan_to_num(features, nan=0.0, posinf=0.0, neginf=0.0)
    rows = finite / np.maximum(np.linalg.norm(finite, axis=1, keepdims=True), 1e-9)
    gaps = np.full(len(rows), np.inf)
    order: list[int] = []
    at = 0
    for _ in range(len(rows)):
        order.append(at)
        gaps = np.minimum(gaps, ((rows - rows[at]) ** 2).sum(axis=1))
        gaps[at] = -1.0  # taken
        at = int(gaps.argmax())
    return order


def differs(c: Candidate) -> bool:
    """Whether teacher and model (or camera) have answers that differ."""
    return bool(c.teacher and c.answer) and c.teacher != c.answer


def disagreements(candidates: Sequence[Candidate], limit: int, share: float = labels.AUDIT_SHARE) -> list[Asked]:
    """Where teacher and camera disagree, the surest teacher first, no two near-duplicates; none of the audit set."""
    seen = _Seen(GAP_S)
    found: list[Asked] = []
    for c in sorted((c for c in candidates if differs(c)), key=lambda c: (-c.sure, c.sample.id)):
        if len(found) == limit:
            break
        if seen.fresh(c) and not labels.is_audit(c.sample.id, share):
            seen.add(c)
            found.append(_asked(c, "disagreement"))
    return found


def similar(store: Store, asked: Asked, given: Sequence[int]) -> bool:
    """Whether it looks like a sample of its camera that one of these labels (ids) is on."""
    if asked.hash is None or not given:
        return False
    rows = store.rows(
        "select i.hash from label l join sample s on s.id = l.sample join insight i on i.sample = s.id"
        " where l.id in (select value from json_each(?)) and l.undone is null and s.camera = ? and s.id <> ?",
        (json.dumps(list(given)), asked.sample.camera, asked.sample.id),
    )
    return any(near.distance(asked.hash, r[0]) <= near.NEAR for r in rows)


class _Seen:
    """What was chosen: who looks like it, or is of its moment, is a near-duplicate."""

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self._looks: dict[str, near.Index[None]] = {}
        self._times: dict[str, list[tuple[float, str, bool]]] = {}

    def add(self, c: Candidate) -> None:
        s = c.sample
        if c.hash is not None:
            self._looks.setdefault(s.camera, near.Index()).add(c.hash, None)
        bisect.insort(self._times.setdefault(s.camera, []), (s.ts, s.frame, c.hash is not None))

    def fresh(self, c: Candidate) -> bool:
        """Regions of one frame are told apart by their looks where these are known, else they count as the same."""
        s = c.sample
        if c.hash is not None and s.camera in self._looks and any(self._looks[s.camera].find(c.hash)):
            return False
        times = self._times.get(s.camera, [])
        start = bisect.bisect_left(times, (s.ts - self._gap_s, "", False))
        for ts, frame, hashed in times[start:]:
            if ts >= s.ts + self._gap_s:
                break
            if ts > s.ts - self._gap_s and not (hashed and c.hash is not None and frame == s.frame):
                return False
        return True


def _asked(c: Candidate, lane: Lane) -> Asked:
    return Asked(c.sample, lane, _why(c, lane), c.hash, c.teacher, c.sure)


def _why(c: Candidate, lane: Lane) -> str:
    if lane == "audit":
        return "drawn by lot, to tell how good the cameras really are"
    if lane == "margin":
        return f"{c.who} is unsure" if c.answer else "no model has an answer yet"
    if lane == "disagreement":
        return f"the teacher says {c.teacher}, {c.who} {c.answer}"
    if lane == "drift":
        return "what this camera sees has changed"
    return (
        "to cover all of this camera's day" if lane == "spread" else "like others that were asked; nothing else is left"
    )


def _spread(ordered: Sequence[Candidate], known: Mapping[str, Sequence[float]], rng: random.Random) -> list[Candidate]:
    """Cameras in turn; within a camera the middle of the longest stretch without a label first."""
    by_camera: dict[str, list[Candidate]] = {}
    for c in sorted(ordered, key=lambda c: (c.sample.ts, c.sample.id)):
        by_camera.setdefault(c.sample.camera, []).append(c)
    lines = [_halving(line, known.get(camera, ())) for camera, line in sorted(by_camera.items())]
    rng.shuffle(lines)
    return [line[i] for i in range(max(map(len, lines), default=0)) for line in lines if i < len(line)]


def _halving(line: Sequence[Candidate], known: Sequence[float]) -> list[Candidate]:
    """The middle of the stretch that holds most, and so on in its halves; a label at a time in `known` ends a stretch. Counted
    in crops, not in seconds: an hour that shows nothing wants no label.
    """
    times = [c.sample.ts for c in line]
    cuts = sorted({0, len(line), *(bisect.bisect_left(times, ts) for ts in known)})
    stretches = [(start - end, start, end) for start, end in itertools.pairwise(cuts)]
    heapq.heapify(stretches)
    order: list[Candidate] = []
    while stretches:
        _, start, end = heapq.heappop(stretches)
        middle = (start + end) // 2
        order.append(line[middle])
        for low, high in ((start, middle), (middle + 1, end)):
            if low < high:
                heapq.heappush(stretches, (low - high, low, high))
    return order


def _places(store: Store, seed: int) -> list[int] | None:
    """Rowids to look at; None = all there are. Rows of samples are never deleted, so they count upwards with time."""
    last = int(store.value("select coalesce(max(rowid), 0) from sample"))
    if last <= NEWEST + DAY_OLD + OLDER:
        return None
    day = store.value(
        "select rowid from sample where received >= ? order by received limit 1", (store.clock.now() - DAY_S,)
    )
    rng = random.Random(seed)
    newest = last - NEWEST
    start = min(int(day or newest), newest)
    lately, before = range(start, newest), range(1, start)
    k = min(len(lately), DAY_OLD + max(0, OLDER - len(before)))
    drawn = [*range(newest, last + 1), *rng.sample(lately, k)]
    drawn += rng.sample(before, min(len(before), DAY_OLD + OLDER - k))
    return sorted(drawn)


def _read(store: Store, ids: str, params: tuple[str, ...]) -> list[Candidate]:
    rows = store.rows(
        f"select {samples.COLUMNS}, i.hash, i.model, i.answer, i.margin from ({ids}) d join sample s on s.id = d.id"
        f" left join insight i on i.sample = s.id where s.object is not null and {samples.WITHOUT_HUMAN}",
        params,
    )
    found = []
    for r in rows:
        s = samples.of(r)
        hash, model, answer, margin = tuple(r)[14:]
        if not (surveyed := bool(model and answer)):
            margin, answer = s.margin, s.predicted
        found.append(Candidate(s, margin, answer, hash, model=model or "", surveyed=surveyed))
    if not store.value("select 1 from label where source = 'teacher' and undone is null limit 1"):
        return found
    said = {}
    for start in range(0, len(found), 500):
        ids_ = json.dumps([c.sample.id for c in found[start : start + 500]])
        for r in store.rows(
            "select sample, class, score from label where source = 'teacher' and undone is null"
            " and sample in (select value from json_each(?)) order by id",
            (ids_,),
        ):
            said[r[0]] = r[1], float(r[2] or 0.0)
    return [
        replace(c, teacher=said[c.sample.id][0], sure=said[c.sample.id][1]) if c.sample.id in said else c for c in found
    ]
