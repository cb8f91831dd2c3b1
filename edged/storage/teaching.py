"""How far a teacher is believed: from which score on its labels may train, measured against people.

A teacher is the author of labels with source `teacher`. It is judged on audit samples alone, which were drawn by lot, by
the newest label of each side; "cannot say" counts on neither. Believed is what scores at least `above`: the smallest of TESTED
scores, taken at even shares of the audit labels, at and above which the lower bound (Wilson, 95 %) of the agreement with
people is at least the wanted one. No more scores are tried, since each try is a chance to err: of 600 simulated teachers
that agree with people in 89.5 %, 90 % wanted, 20 were believed with ten tries, 47 with all (tests/storage/test_teaching.py
counts it anew). A class with enough audit labels of its own goes by those. Counted are the newest MOST labels of people.

Guarantees: with too few audit labels nothing is believed, and `told` says so; a new teacher inherits nothing. Does not
guarantee that the teacher is as good on cameras that no audit label is of.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from edged.interval import Z_95, wilson
from edged.storage import labels, samples
from edged.storage.samples import Sample
from edged.storage.store import Store

LEAST = 40  # audit labels, whatever agreement is wanted
TESTED = 10
MOST = 20_000


@dataclass(frozen=True)
class Mark:
    """One audit sample that both have labelled: the teacher's class and score (0..1), and the person's class."""

    class_: str
    score: float
    human: str


@dataclass(frozen=True)
class Belief:
    """`above` None: nothing of this teacher is believed. `classes` have their own line, None = nothing of this class.
    `agreed` of `n` audit labels, `needed` at least. `told` says it in words.
    """

    teacher: str
    above: float | None
    n: int
    agreed: int
    needed: int
    told: str
    classes: Mapping[str, float | None] = field(default_factory=lambda: MappingProxyType({}))

    def accepts(self, class_: str, score: float) -> bool:
        line = self.classes.get(class_, self.above)
        return line is not None and score >= line


def needed(agreement: float) -> int:
    """The fewest labels, all agreeing, whose lower bound reaches `agreement` (0.5..1), LEAST at least."""
    return max(LEAST, math.ceil(Z_95 * Z_95 * agreement / (1 - agreement)))


def line(marks: Sequence[Mark], agreement: float) -> float | None:
    """The score from which on labels agree often enough, None when there is none."""
    ordered = sorted(marks, key=lambda m: -m.score)
    agreed = [0]
    for m in ordered:
        agreed.append(agreed[-1] + (m.class_ == m.human))
    found = None
    for k in range(1, TESTED + 1):
        n = math.ceil(len(ordered) * k / TESTED)
        while 0 < n < len(ordered) and ordered[n].score == ordered[n - 1].score:
            n += 1
        if n >= needed(agreement) and wilson(agreed[n], n)[0] >= agreement:
            found = ordered[n - 1].score
    return found


def believe(teacher: str, marks: Sequence[Mark], agreement: float, accept_above: float = 0.0) -> Belief:
    """What these audit labels say of one teacher; pure. `agreement` 0.5..1 is wanted; `accept_above` > 0 is set by hand and
    counts instead.
    """
    n, agreed, least = len(marks), sum(m.class_ == m.human for m in marks), needed(agreement)
    if accept_above > 0:
        return Belief(
            teacher, accept_above, n, agreed, least, f"believed from {accept_above:g} on, as [label.teacher] says"
        )
    if n < least:
        return Belief(teacher, None, n, agreed, least, f"not believed yet: {n} of at least {least} audit labels")
    above = line(marks, agreement)
    by_class: dict[str, list[Mark]] = defaultdict(list)
    for m in marks:
        by_class[m.class_].append(m)
    classes = {c: line(own, agreement) for c, own in sorted(by_class.items()) if len(own) >= least}
    share = f"agrees with people on {agreed} of {n} audit labels"
    if above is None:
        told = f"not believed: {share}, at no score surely {agreement:.0%}"
    else:
        told = f"believed from a score of {above:.2f} on: {share}"
    lines = ", ".join(f"{c} " + ("not at all" if v is None else f"from {v:.2f}") for c, v in classes.items())
    told += f"; {lines}" if lines else ""
    return Belief(teacher, above, n, agreed, least, told, MappingProxyType(classes))


def beliefs(store: Store, share: float, agreement: float, accept_above: float = 0.0) -> list[Belief]:
    """One of each teacher that has labels, by name. `share` of the audit, 0..1."""
    marks: dict[str, list[Mark]] = {
        r[0]: [] for r in store.rows("select distinct author from label where source = 'teacher' and undone is null")
    }
    for sample, author, mark in _marked(store):
        if labels.is_audit(sample, share):
            marks[author].append(mark)
    return [believe(author, found, agreement, accept_above) for author, found in sorted(marks.items())]


def accepted(store: Store, share: float, agreement: float, accept_above: float = 0.0) -> list[tuple[Sample, str]]:
    """The teachers' labels that may train, by camera time: the newest of each sample that has a picture and no label of a
    person, not even "cannot say". Pass as `weak` to `snapshots.build`.
    """
    believed = {b.teacher: b for b in beliefs(store, share, agreement, accept_above)}
    if all(b.above is None and not any(v is not None for v in b.classes.values()) for b in believed.values()):
        return []
    rows = store.rows(
        f"select {samples.COLUMNS}, l.class, l.score, l.author from label l join sample s on s.id = l.sample where l.id in"
        " (select max(id) from label where source = 'teacher' and undone is null group by sample)"
        " and l.class <> '' and s.object is not null and not exists (select 1 from label h where h.sample = s.id"
        "  and h.source = 'human' and h.undone is null) order by s.ts, s.id"
    )
    return [(samples.of(r), r[14]) for r in rows if believed[r[16]].accepts(r[14], float(r[15] or 0.0))]


def disagreement(store: Store, share: float = labels.AUDIT_SHARE) -> tuple[int, int]:
    """(different, n): audit samples that the newest teacher and a person labelled, and on how many they differ."""
    newest = {sample: mark for sample, _, mark in _marked(store) if labels.is_audit(sample, share)}
    return sum(m.class_ != m.human for m in newest.values()), len(newest)


def _marked(store: Store) -> list[tuple[str, str, Mark]]:
    """(sample, teacher, mark) of each sample that a person and a teacher labelled, a teacher's newest label; the newest
    teacher last.
    """
    rows = store.rows(
        "select t.sample, t.author, t.class, t.score, h.class from (select id, sample, class from label where"
        "  source = 'human' and undone is null order by id desc limit ?) h join label t on t.sample = h.sample"
        " where h.class <> '' and t.source = 'teacher' and t.undone is null and t.class <> ''"
        " and not exists (select 1 from label x where x.sample = h.sample and x.source = 'human'"
        "  and x.undone is null and x.id > h.id) and not exists (select 1 from label x where x.sample = t.sample"
        "  and x.source = 'teacher' and x.author = t.author and x.undone is null and x.id > t.id) order by t.id",
        (MOST,),
    )
    return [(r[0], r[1], Mark(r[2], float(r[3] or 0.0), r[4])) for r in rows]
