"""What a person is asked next, and taking back what was answered. The session remembers the last acts, for undo.

Guarantees: an answer is one durable row by storage.labels; undo reverses the last act (a label or a skip) of this
browser only. Does not guarantee that two browsers are never asked about the same sample: the newest label counts.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from edged.storage import labels, samples, views
from edged.storage.samples import Sample
from edged.storage.store import Store

KEYS = 9  # classes that have a number key
REMEMBERED = 60  # acts; a cookie holds 4 KB
LOOKED_THROUGH = REMEMBERED + 60  # of the queue, so that what was skipped cannot hide what was not
REFRESH_S = 60.0
BROWSERS = 16  # whose queues are kept


@dataclass(frozen=True)
class Question:
    """`sample` None: nothing waits. `guess` is the camera's class if it is one of the task's, else ""."""

    sample: Sample | None
    guess: str
    classes: tuple[str, ...]
    labelled: int
    waiting: int
    many: bool  # `waiting` was not counted to its end
    undoable: bool


class Queues:
    """The queues that were made lately, by the seed of the browser: making one reads thousands of rows, a person takes a
    second for each answer. One per process; a queue is made anew after REFRESH_S or when it is used up.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._made: dict[int, tuple[float, list[Sample]]] = {}

    def of(self, seed: int, *, anew: bool = False) -> list[Sample]:
        at, queue = self._made.pop(seed, (0.0, []))
        now = self._store.clock.monotonic()
        if anew or not queue or now - at > REFRESH_S:
            at, queue = now, labels.queue(self._store, LOOKED_THROUGH, seed)
        self._made[seed] = (at, queue)
        while len(self._made) > BROWSERS:
            self._made.pop(next(iter(self._made)), None)
        return queue


class Questions:
    """The labelling of one browser. `session`: "seed" and "acts" (label ids, or the mark of a skipped sample)."""

    def __init__(self, store: Store, queues: Queues, session: MutableMapping[str, Any], classes: Sequence[str]) -> None:
        self._store = store
        self._queues = queues
        self._session = session
        self._classes = tuple(classes)

    def next(self, wanted: str = "") -> Question:
        """`wanted`: ask about this sample again (it was just taken back)."""
        acts = self._session.get("acts", [])
        sample = samples.get(self._store, wanted) if wanted else self._first(frozenset(map(str, acts)))
        labelled, waiting = views.progress(self._store)
        guess = sample.predicted if sample and sample.predicted in self._classes else ""
        return Question(sample, guess, self._classes, labelled, waiting, waiting >= views.MOST_WAITING, bool(acts))

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
        return next((s.id for s in self._queues.of(self._seed()) if _mark(s.id) == last), "")

    def _first(self, skipped: frozenset[str]) -> Sample | None:
        """The first of the queue that nobody has labelled since it was made; a fresh queue when there is none."""
        for anew in (False, True):
            for s in self._queues.of(self._seed(), anew=anew):
                if _mark(s.id) not in skipped and self._open(s.id):
                    return s
        return None

    def _open(self, sample: str) -> bool:
        human = any(label.source == "human" and label.undone is None for label in labels.of(self._store, sample))
        return not human and samples.get(self._store, sample).object is not None

    def _seed(self) -> int:
        seed = self._session.get("seed")
        if seed is None:
            seed = self._session["seed"] = secrets.randbelow(1 << 30)
        return int(seed)

    def _remember(self, act: int | str) -> None:
        self._session["acts"] = [*self._session.get("acts", []), act][-REMEMBERED:]


def _mark(sample: str) -> str:
    return "s" + hashlib.sha256(sample.encode()).hexdigest()[:10]
