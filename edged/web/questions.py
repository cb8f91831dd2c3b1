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
LOOKED_THROUGH = REMEMBERED + 1  # of the queue, so that what was skipped cannot hide what was not


@dataclass(frozen=True)
class Question:
    """`sample` None: nothing waits. `guess` is the camera's class if it is one of the task's, else ""."""

    sample: Sample | None
    guess: str
    classes: tuple[str, ...]
    labelled: int
    waiting: int
    undoable: bool


class Questions:
    """The labelling of one browser. `session`: "seed" and "acts" (label ids, or the mark of a skipped sample)."""

    def __init__(self, store: Store, session: MutableMapping[str, Any], classes: Sequence[str]) -> None:
        self._store = store
        self._session = session
        self._classes = tuple(classes)

    def next(self, wanted: str = "") -> Question:
        """`wanted`: ask about this sample again (it was just taken back)."""
        acts = self._session.get("acts", [])
        sample = samples.get(self._store, wanted) if wanted else self._first(frozenset(map(str, acts)))
        labelled, waiting = views.progress(self._store)
        guess = sample.predicted if sample and sample.predicted in self._classes else ""
        return Question(sample, guess, self._classes, labelled, waiting, bool(acts))

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
        return next((s.id for s in self._queue() if _mark(s.id) == last), "")

    def _first(self, skipped: frozenset[str]) -> Sample | None:
        return next((s for s in self._queue() if _mark(s.id) not in skipped), None)

    def _queue(self) -> list[Sample]:
        seed = self._session.get("seed")
        if seed is None:
            seed = self._session["seed"] = secrets.randbelow(1 << 30)
        return labels.queue(self._store, LOOKED_THROUGH, seed)

    def _remember(self, act: int | str) -> None:
        self._session["acts"] = [*self._session.get("acts", []), act][-REMEMBERED:]


def _mark(sample: str) -> str:
    return "s" + hashlib.sha256(sample.encode()).hexdigest()[:10]
