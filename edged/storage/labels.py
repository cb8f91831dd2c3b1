"""Labels, kept apart by source for ever: human, teacher, camera. Nothing is overwritten; undo sets a time.

The class "" means "cannot say / bad crop": it takes the sample out of the queue and out of every training set.
Guarantees: `effective` and `accuracy` count, of each source, the newest label that was not undone. Does not guarantee
that a class is one of the task's: the page and the importer check that (the store does not know the task).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from edged.errors import EXIT_NOT_FOUND, Refused
from edged.storage import audit, samples
from edged.storage.samples import Sample
from edged.storage.store import Store

AUDIT_EVERY = 10  # one of ten questions is drawn blindly: an honest estimate beside the hard cases
_CANDIDATES = 20_000


@dataclass(frozen=True)
class Label:
    """One row. `class_` "" = cannot say; `undone` seconds since 1970 or None."""

    id: int
    sample: str
    class_: str
    source: str
    author: str
    ts: float
    undone: float | None


def add(store: Store, sample: str | Sample, class_: str, source: str, author: str) -> int:
    """Label one sample; returns the label's id, for undo. Raises Refused for an unknown sample or source."""
    sample_id = sample.id if isinstance(sample, Sample) else sample
    _check_source(source)
    with store.transaction():
        samples.get(store, sample_id)
        return store.insert(
            "insert into label (sample, class, source, author, ts) values (?, ?, ?, ?, ?)",
            (sample_id, class_, source, author, store.clock.now()),
        )


def add_many(store: Store, pairs: Iterable[tuple[str, str]], source: str, author: str) -> int:
    """Import labels (sample id, class), all or none, with one row in the audit log; returns how many."""
    _check_source(source)
    listed = list(pairs)
    with store.transaction():
        for sample_id, _ in listed:
            samples.get(store, sample_id)
        now = store.clock.now()
        store.execute_many(
            "insert into label (sample, class, source, author, ts) values (?, ?, ?, ?, ?)",
            [(sample_id, class_, source, author, now) for sample_id, class_ in listed],
        )
        audit.append(store, author, "label.import", source, {"labels": len(listed)})
    return len(listed)


def undo(store: Store, label_id: int, author: str) -> str:
    """Take a label back; returns its sample's id. Raises Refused if there is none or it is somebody else's."""
    with store.transaction():
        row = store.row("select sample, author, undone from label where id = ?", (label_id,))
        if row is None:
            raise Refused(f"no label {label_id}", code="not_found", exit_code=EXIT_NOT_FOUND)
        if row["author"] != author:
            raise Refused(f"label {label_id} is by {row['author']}, not by {author}", code="not_yours")
        if row["undone"] is None:
            store.execute("update label set undone = ? where id = ?", (store.clock.now(), label_id))
        return str(row["sample"])


def undo_author(store: Store, author: str) -> int:
    """Take back every label of one author, with one row in the audit log; returns how many."""
    with store.transaction():
        n = store.execute(
            "update label set undone = ? where author = ? and undone is null", (store.clock.now(), author)
        )
        audit.append(store, author, "label.undo", "all", {"labels": n})
    return n


def of(store: Store, sample_id: str) -> list[Label]:
    """Every label a sample ever had, newest first."""
    rows = store.rows(
        "select id, sample, class, source, author, ts, undone from label where sample = ? order by id desc",
        (sample_id,),
    )
    return [Label(*r) for r in rows]


def effective(store: Store, sources: Sequence[str] = ("human",)) -> list[tuple[Sample, str]]:
    """The class of every sample that has one, by camera time. Of several sources the one named first wins; "cannot say"
    of the winning source takes the sample out.
    """
    chosen: dict[str, tuple[Sample, str]] = {}
    for source in sources:
        _check_source(source)
        for row in store.rows(
            f"select {samples.COLUMNS}, l.class from label l join sample s on s.id = l.sample where l.id in"
            " (select max(id) from label where source = ? and undone is null group by sample) order by s.ts, s.id",
            (source,),
        ):
            chosen.setdefault(row["id"], (samples.of(row), row["class"]))
    return sorted(((s, c) for s, c in chosen.values() if c), key=lambda pair: (pair[0].ts, pair[0].id))


def count(store: Store, source: str = "human", since: float = 0.0) -> int:
    """Labels that were not undone, made at or after `since` (box time), "cannot say" not counted."""
    return int(
        store.value(
            "select count(*) from label where source = ? and undone is null and ts >= ? and class <> ''",
            (source, since),
        )
    )


def accuracy(store: Store, camera: str | None, since: float, until: float, model: str | None = None) -> tuple[int, int]:
    """(right, n): the camera's own predictions against human labels, of samples received in [since, until).

    `camera` None = all. `model` restricts it to predictions of one model (sha256).
    """
    row = store.row(
        "select coalesce(sum(l.class = s.predicted), 0), count(*) from label l join sample s on s.id = l.sample"
        " where l.id in (select max(id) from label where source = 'human' and undone is null group by sample)"
        " and l.class <> '' and s.predicted <> '' and s.received >= ?2 and s.received < ?3"
        " and (?1 is null or s.camera = ?1) and (?4 is null or s.model = ?4)",
        (camera, since, until, model),
    )
    return (0, 0) if row is None else (int(row[0]), int(row[1]))


def queue(store: Store, limit: int, seed: int = 0, gap_s: float = 2.0) -> list[Sample]:
    """What to ask a person next, from the newest samples that have a picture and no human label; see `choose`."""
    rows = store.rows(
        f"select {samples.COLUMNS} from sample s where s.object is not null and {samples.WITHOUT_HUMAN}"
        " order by s.received desc, s.id limit ?",
        (_CANDIDATES,),
    )
    return choose([samples.of(r) for r in rows], limit, seed, gap_s)


def choose(candidates: Sequence[Sample], limit: int, seed: int, gap_s: float) -> list[Sample]:
    """Pick `limit` samples; pure. Of ten places one is drawn blindly, the others take turns between the smallest margin
    and an even spread over cameras and time.

    Two samples of one camera less than `gap_s` seconds of camera time apart are near-duplicates: the second is taken
    only when nothing else is left.
    """
    rng = random.Random(seed)
    ordered = sorted(candidates, key=lambda s: s.id)
    sources: dict[str, list[Sample]] = {
        "audit": rng.sample(ordered, len(ordered)),
        "margin": sorted(ordered, key=lambda s: (s.margin, s.id)),
        "spread": _spread(ordered, rng),
    }
    phase = rng.randrange(AUDIT_EVERY)
    chosen: list[Sample] = []
    ids: set[str] = set()
    times: dict[str, list[float]] = {}

    def fresh(s: Sample) -> bool:
        return s.id not in ids and all(abs(s.ts - t) >= gap_s for t in times.get(s.camera, ()))

    def take(source: list[Sample], wanted: Callable[[Sample], bool]) -> bool:
        for i, s in enumerate(source):
            if wanted(s):
                del source[: i + 1]  # what was passed over now will be passed over again
                chosen.append(s)
                ids.add(s.id)
                times.setdefault(s.camera, []).append(s.ts)
                return True
        source.clear()
        return False

    while len(chosen) < min(limit, len(ordered)):
        place = len(chosen)
        first = "audit" if (place + phase) % AUDIT_EVERY == 0 else ("margin" if place % 2 == 0 else "spread")
        if not any(take(sources[name], fresh) for name in (first, *(n for n in sources if n != first))):
            break
    rest = [s for s in sorted(ordered, key=lambda s: (s.margin, s.id)) if s.id not in ids]
    return chosen + rest[: limit - len(chosen)]


def _spread(ordered: Sequence[Sample], rng: random.Random) -> list[Sample]:
    """Cameras in turn; within a camera the middle of the widest gap first (a binary subdivision of its time)."""
    by_camera: dict[str, list[Sample]] = {}
    for s in sorted(ordered, key=lambda s: (s.ts, s.id)):
        by_camera.setdefault(s.camera, []).append(s)
    lanes = [_halving(lane) for _, lane in sorted(by_camera.items())]
    rng.shuffle(lanes)
    return [lane[i] for i in range(max(map(len, lanes), default=0)) for lane in lanes if i < len(lane)]


def _halving(lane: Sequence[Sample]) -> list[Sample]:
    order: list[Sample] = []
    spans = [(0, len(lane))]
    for start, end in spans:  # grows as it goes: breadth first
        if start < end:
            middle = (start + end) // 2
            order.append(lane[middle])
            spans += [(start, middle), (middle + 1, end)]
    return order


def _check_source(source: str) -> None:
    if source not in ("human", "teacher", "camera"):
        raise Refused(f"a label's source is human, teacher or camera, not {source[:40]!r}", code="bad_source")
