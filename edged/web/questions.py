"""What a person is asked next, and taking back what was answered. The session remembers the last acts, for undo.

Guarantees: an answer is one durable row by storage.labels; undo reverses the last act (a label or a skip) of this
browser only; of an audit sample nobody's guess is told, it could sway the answer that all guesses are judged by. Does not
guarantee that two browsers are never asked about the same sample: the newest label counts.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from edged.storage import census, cycles, drifts, insights, labels, queue, samples, views
from edged.storage.queue import Asked
from edged.storage.samples import Sample
from edged.storage.store import Store

KEYS = 9  # classes that have a number key
REMEMBERED = 60  # acts; a cookie holds 4 KB
LOOKED_THROUGH = REMEMBERED + 60  # of the queue, so that what was skipped cannot hide what was not
REFRESH_S = 60.0
COUNT_S = 10.0  # classes and disagreements are counted anew
BROWSERS = 16  # whose queues are kept
LATELY = 5  # labels that a question is compared with
SHOWN_APART = 6
LOPSIDED = 3.0  # so many times the labels of another class


@dataclass(frozen=True)
class Asking:
    """What of the configuration labelling needs: the share of the audit, the labels that start a cycle (0 = none do)."""

    share: float = labels.AUDIT_SHARE
    new_labels: int = 0


@dataclass(frozen=True)
class Tally:
    """Labels of people by class, in the order of the task, and where teacher and camera disagree."""

    classes: tuple[tuple[str, int], ...] = ()
    apart: tuple[Asked, ...] = ()

    @property
    def lopsided(self) -> tuple[str, str] | None:
        """The class with the most and the one with the fewest labels, when they are too far apart."""
        if len(self.classes) < 2:
            return None
        (least, few), *_, (most, many) = sorted(self.classes, key=lambda pair: pair[1])
        return (most, least) if many > LOPSIDED * few and many >= 2 * KEYS else None


@dataclass(frozen=True)
class Question:
    """`sample` None: nothing waits. `guess` is the camera's class if it is one of the task's, else "". `why` it is asked;
    `blind`: of the audit set, so `guess` and `teacher` are not told. `sure` 0..1 of the teacher's class. `similar`: it looks
    like one that was just labelled here. `fresh` labels of `needed` have come since the last cycle (0 = not by labels).
    """

    sample: Sample | None
    guess: str
    classes: tuple[str, ...]
    labelled: int
    waiting: int
    many: bool  # `waiting` was not counted to its end
    undoable: bool
    why: str = ""
    blind: bool = False
    teacher: str = ""
    sure: float = 0.0
    similar: bool = False
    fresh: int = 0
    needed: int = 0
    tally: Tally = Tally()


class Queues:
    """The queues that were made lately, by the seed of the browser: making one reads thousands of rows, a person takes a
    second for each answer. One per process; a queue is made anew after REFRESH_S or when it is used up.
    """

    def __init__(self, store: Store, classes: Sequence[str] = (), asking: Asking = Asking()) -> None:
        self.asking = asking
        self._store = store
        self._classes = tuple(classes)
        self._made: dict[int, tuple[float, list[Asked]]] = {}
        self._tally: tuple[float, Tally] | None = None
        self._apart: tuple[float, tuple[Asked, ...]] | None = None

    def of(self, seed: int, *, anew: bool = False) -> list[Asked]:
        at, made = self._made.pop(seed, (0.0, []))
        now = self._store.clock.monotonic()
        if anew or not made or now - at > REFRESH_S:
            found = queue.candidates(self._store, seed, LOOKED_THROUGH)
            drifting = [s.camera for s in drifts.standing(self._store)]
            share, n = self.asking.share, LOOKED_THROUGH
            first = queue.cover(self._store, found, n, share)
            at, made = (
                now,
                queue.choose(
                    found, n, seed, share=share, drifting=drifting, first=first, known=queue.labelled(self._store)
                ),
            )
            self._apart = now, tuple(queue.disagreements(found, SHOWN_APART + BROWSERS, share))
        self._made[seed] = (at, made)
        while len(self._made) > BROWSERS:
            self._made.pop(next(iter(self._made)), None)
        return made

    def tally(self) -> Tally:
        now = self._store.clock.monotonic()
        if self._tally is None or now - self._tally[0] > COUNT_S:
            found = census.balance(self._store)
            apart = [a for a in (self._apart[1] if self._apart else ()) if is_open(self._store, a.sample.id)]
            classes = tuple((c, found.get(c, 0)) for c in self._classes)
            self._tally = now, Tally(classes, tuple(apart[:SHOWN_APART]))
        return self._tally[1]


class Questions:
    """The labelling of one browser. `session`: "seed" and "acts" (label ids, or the mark of a skipped sample)."""

    def __init__(self, store: Store, queues: Queues, session: MutableMapping[str, Any], classes: Sequence[str]) -> None:
        self._store = store
        self._queues = queues
        self._session = session
        self._classes = tuple(classes)

    def next(self, wanted: str = "") -> Question:
        """`wanted`: ask about this sample (it was just taken back, or somebody pointed at it)."""
        acts = self._session.get("acts", [])
        asked = self._wanted(wanted) if wanted else self._first(frozenset(map(str, acts)))
        labelled, waiting = views.progress(self._store)
        last = cycles.latest(self._store)
        needed = self._queues.asking.new_labels
        fresh = labels.count(self._store, "human", since=last.started) if needed and last else labelled
        many, tally = waiting >= views.MOST_WAITING, self._queues.tally()
        if asked is None:
            return Question(
                None, "", self._classes, labelled, waiting, many, bool(acts), fresh=fresh, needed=needed, tally=tally
            )
        given = [act for act in acts if isinstance(act, int)][-LATELY:]
        blind = labels.is_audit(asked.sample.id, self._queues.asking.share)
        guess = asked.sample.predicted if asked.sample.predicted in self._classes and not blind else ""
        return Question(
            asked.sample, guess, self._classes, labelled, waiting, many, bool(acts), asked.why, blind,
            "" if blind else asked.teacher, asked.sure, queue.similar(self._store, asked, given), fresh, needed, tally,
        )  # fmt: skip

    def answer(self, sample: str, class_: str, author: str) -> None:
        """`class_` "" = cannot say / bad crop. Raises Refused("not_found")."""
        self._remember(labels.add(self._store, sample, class_, "human", author))

    def skip(self, sample: str) -> None:
        """Not asked again by this browser for a while."""
        self._remember(_mark(samples.get(self._store, sample).id))

    def undo(self, author: str) -> str:
        """Take back the last act; returns the id of the sample it was about, "" when that is not known any more."""
        acts = list(self._session.get("acts", []))
        if not acts:
            return ""
        last = acts.pop()
        self._session["acts"] = acts
        if isinstance(last, int):
            return labels.undo(self._store, last, author)
        return next((a.sample.id for a in self._queues.of(self._seed()) if _mark(a.sample.id) == last), "")

    def _first(self, skipped: frozenset[str]) -> Asked | None:
        """The first of the queue that nobody has labelled since it was made; a fresh queue when there is none."""
        for anew in (False, True):
            for a in self._queues.of(self._seed(), anew=anew):
                if _mark(a.sample.id) not in skipped and is_open(self._store, a.sample.id):
                    return a
        return None

    def _wanted(self, sample: str) -> Asked:
        """As the queue has it, else with what is known. Raises Refused("not_found")."""
        for a in (*self._queues.of(self._seed()), *self._queues.tally().apart):
            if a.sample.id == sample:
                return a
        hashes = insights.hashes(self._store, [sample])
        return Asked(samples.get(self._store, sample), "rest", "asked once more", hashes.get(sample))

    def _seed(self) -> int:
        seed = self._session.get("seed")
        if seed is None:
            seed = self._session["seed"] = secrets.randbelow(1 << 30)
        return int(seed)

    def _remember(self, act: int | str) -> None:
        self._session["acts"] = [*self._session.get("acts", []), act][-REMEMBERED:]


def is_open(store: Store, sample: str) -> bool:
    """It has a picture, and no label of a person."""
    human = any(label.source == "human" and label.undone is None for label in labels.of(store, sample))
    return not human and samples.get(store, sample).object is not None


def _mark(sample: str) -> str:
    return "s" + hashlib.sha256(sample.encode()).hexdigest()[:10]
