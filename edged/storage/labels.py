"""Labels, kept apart by source for ever: human, teacher, camera. Nothing is overwritten; undo sets a time, and redo clears it.

The class "" means "cannot say / bad crop": it takes the sample out of the queue and out of every training set.
Guarantees: `effective` and `accuracy` count, of each source, the newest label that was not undone; whether a sample
belongs to the audit set depends on its id alone. Does not guarantee that a class is one of the task's: the page and the
importer check that (the store does not know the task).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edged.errors import EXIT_NOT_FOUND, Refused
from edged.storage import audit, samples
from edged.storage.samples import Sample
from edged.storage.store import Store

AUDIT_SHARE = 0.1  # of samples: an honest estimate beside the hard cases ([label] random_audit)

# A class for a sample, and how sure the source was of it (0..1; None = it does not say).
Pair = tuple[str, str] | tuple[str, str, float | None]


@dataclass(frozen=True)
class Label:
    """One row. `class_` "" = cannot say; `undone` seconds since 1970 or None; `score` 0..1, how sure a teacher was."""

    id: int
    sample: str
    class_: str
    source: str
    author: str
    ts: float
    undone: float | None
    score: float | None = None


def is_audit(sample_id: str, share: float = AUDIT_SHARE) -> bool:
    """Whether a sample belongs to the audit set: about `share` (0..1) of all, the same ones for ever, and a larger share
    holds a smaller one. The queue asks about them by lot only, so people's labels on them are an unbiased sample of what
    the cameras saw. A camera that knows this could choose its frames' ids: it is no defence against one that lies.
    """
    drawn = hashlib.blake2b(sample_id.encode(), digest_size=8, person=b"edged-audit").digest()
    return int.from_bytes(drawn, "big") < share * 2**64


def add(store: Store, sample: str | Sample, class_: str, source: str, author: str, score: float | None = None) -> int:
    """Label one sample; returns the label's id, for undo. Raises Refused for an unknown sample or source."""
    sample_id = sample.id if isinstance(sample, Sample) else sample
    _check_source(source)
    with store.transaction():
        samples.get(store, sample_id)
        return store.insert(_INSERT, (sample_id, class_, source, author, store.clock.now(), score))


def add_many(
    store: Store, pairs: Iterable[Pair], source: str, author: str, overturned: Mapping[str, int] | None = None
) -> int:  # fmt: skip
    """Add labels (sample id, class, or sample id, class, score), all or none, with one row in the audit log; returns how
    many. `overturned`: other people's labels that they contradict, by author, for the audit log.
    """
    _check_source(source)
    listed = list(pairs)
    with store.transaction():
        now = store.clock.now()
        for pair in listed:
            samples.get(store, pair[0])
        store.execute_many(_INSERT, [(p[0], p[1], source, author, now, p[2] if len(p) == 3 else None) for p in listed])
        detail: dict[str, object] = {"labels": len(listed)} | ({"overturned": dict(overturned)} if overturned else {})
        audit.append(store, author, "label.import", source, detail)
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


def undo_author(store: Store, author: str, *, since: float = 0.0, sample: str = "", by: str = "") -> int:
    """Take back every label of one author, or those made at or after `since` (box time), or on one sample, with one row
    in the audit log (`by` whom, else the author); returns how many. Raises Refused for an unknown sample, and for an author
    who never labelled.
    """
    with store.transaction():
        _require_author(store, author)
        if sample:
            samples.get(store, sample)
        n = store.execute(
            "update label set undone = ?1 where author = ?2 and undone is null and ts >= ?3 and (?4 = '' or sample = ?4)",
            (store.clock.now(), author, since, sample),
        )
        detail = {"labels": n} | ({"since": since} if since else {}) | ({"sample": sample} if sample else {})
        audit.append(store, by or author, "label.undo", author, detail)
    return n


def redo_author(store: Store, author: str, *, by: str = "") -> int:
    """Give back what was taken back of one author the last time, all that one undo took: it stands as it did, and newer labels
    count before it, as ever. Once more gives back what the undo before took. Returns how many. Raises Refused for an author
    who never labelled.
    """
    with store.transaction():
        _require_author(store, author)
        n = store.execute(
            "update label set undone = null where author = ?1"
            " and undone = (select max(undone) from label where author = ?1)",
            (author,),
        )
        audit.append(store, by or author, "label.redo", author, {"labels": n})
    return n


def _require_author(store: Store, author: str) -> None:
    if not store.value("select exists (select 1 from label where author = ?)", (author,)):
        raise Refused(
            f"nobody called {author!r} has labelled anything", code="not_found", exit_code=EXIT_NOT_FOUND,
            hint="`edged label stats` lists the authors",
        )  # fmt: skip


def of(store: Store, sample_id: str) -> list[Label]:
    """Every label a sample ever had, newest first."""
    rows = store.rows(
        "select id, sample, class, source, author, ts, undone, score from label where sample = ? order by id desc",
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


def accuracy(
    store: Store, camera: str | None, since: float, until: float, model: str | None = None, audit: float | None = None
) -> tuple[int, int]:
    """(right, n): the camera's own predictions against human labels, of samples received in [since, until).

    `camera` None = all. `model` restricts it to predictions of one model (sha256), `audit` to the audit set of that
    share: only that one is an honest estimate, since the queue prefers what the cameras get wrong.
    """
    rows = store.rows(
        "select s.id, l.class = s.predicted from label l join sample s on s.id = l.sample"
        " where l.id in (select max(id) from label where source = 'human' and undone is null group by sample)"
        " and l.class <> '' and s.predicted <> '' and s.received >= ?2 and s.received < ?3"
        " and (?1 is null or s.camera = ?1) and (?4 is null or s.model = ?4)",
        (camera, since, until, model),
    )
    hits = [int(hit) for id, hit in rows if audit is None or is_audit(id, audit)]
    return sum(hits), len(hits)


def queue(store: Store, limit: int, seed: int = 0, share: float = AUDIT_SHARE) -> list[Sample]:
    """What to ask a person next; storage/queue.py says why each is asked."""
    from edged.storage import queue as asking

    return [asked.sample for asked in asking.ask(store, limit, seed, share=share)]


_INSERT = "insert into label (sample, class, source, author, ts, score) values (?, ?, ?, ?, ?, ?)"


def _check_source(source: str) -> None:
    if source not in ("human", "teacher", "camera"):
        raise Refused(f"a label's source is human, teacher or camera, not {source[:40]!r}", code="bad_source")
