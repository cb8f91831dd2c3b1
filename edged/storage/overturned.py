"""Labels of people that now say another class than the one a model learned.

Guarantees: a label that was taken back (undo) contradicts nothing, neither what stood before it nor what comes after; a
person who corrects a teacher contradicts nobody. Does not guarantee that the majority is right: it asks that somebody looks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from edged.errors import Refused
from edged.storage import snapshots
from edged.storage.store import Store

SAYS = "now say another class"  # of what a refused cycle says, by which the page knows it
FEWEST, SHARE = 20, 0.2  # of what was learned: at least so many, and more than this share, are surprising


@dataclass(frozen=True)
class Overturned:
    """`n` of `of` labels of people in a snapshot now say another class; `by` whom, how many."""

    n: int
    of: int
    by: Mapping[str, int]

    @property
    def told(self) -> str:
        """A sentence when that is surprising, else ""."""
        if self.n < FEWEST or self.n <= SHARE * self.of:
            return ""
        whom = ", ".join(f"{k} by {author}" for author, k in sorted(self.by.items(), key=lambda p: (-p[1], p[0])))
        return f"{self.n} of {self.of} labels that the present model learned {SAYS}: {whom}"

    @property
    def author(self) -> str:
        """Who made most of them; "" = nobody."""
        return max(sorted(self.by), key=lambda a: self.by[a], default="")


def since(store: Store, snapshot: str) -> Overturned:
    """Of a snapshot, any part; nothing of "" or of a snapshot that is not there."""
    try:
        body = snapshots.get(store, snapshot)
    except Refused:
        return Overturned(0, 0, {})
    taught = set(body.get("teacher", ()))
    learned = {s: c for part in snapshots.PARTS for s, c in body[part] if s not in taught}
    newest: dict[str, tuple[str, str]] = {}
    said: set[tuple[str, str]] = set()
    for sample, class_, author in store.rows(
        "select sample, class, author from label where source = 'human' and undone is null order by id"
    ):
        if sample in learned:
            newest[sample] = class_, author
            said.add((sample, class_))
    by: Counter[str] = Counter()
    for sample, (class_, author) in newest.items():
        if class_ != learned[sample] and (sample, learned[sample]) in said:
            by[author] += 1
    return Overturned(sum(by.values()), len(learned), dict(by))
