"""What was planted, and what of it was hidden: the measure of what leaks.

Guarantees: the newest KEPT rows stay; a picture that came to nothing counts apart, neither as hidden nor as leaked. Does
not guarantee that a share is that of real pictures (see privacy/planted).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edged.interval import wilson
from edged.privacy.sizes import SIZES
from edged.storage import alarms, counters
from edged.storage.store import Store

KEPT = 3000
WINDOW = 200  # newest things of a kind and size, on which a recall stands


@dataclass(frozen=True)
class Observed:
    """One planted thing: its box is `px` wide, `share` (0..1) of it was covered."""

    kind: str
    size: str
    px: float
    easy: bool
    share: float
    hidden: bool


@dataclass(frozen=True)
class Recall:
    """`hidden` of the newest `n` of one kind and size, with Wilson's 95 % interval."""

    kind: str
    size: str
    hidden: int
    n: int

    @property
    def share(self) -> float | None:
        return self.hidden / self.n if self.n else None

    @property
    def lower(self) -> float:
        return wilson(self.hidden, self.n)[0]

    @property
    def upper(self) -> float:
        return wilson(self.hidden, self.n)[1]


@dataclass(frozen=True)
class Measure:
    """What is known of what leaks. `last` is when a planted picture was judged last, None = never."""

    alarms: tuple[alarms.Alarm, ...]
    recalls: tuple[Recall, ...]
    last: float | None
    unjudged: dict[str, int]  # planted pictures that came to nothing, by why
    covered: dict[str, int]  # areas covered in cameras' pictures so far, by kind


@dataclass(frozen=True)
class Last:
    """The newest planted picture."""

    seed: int
    ts: float


def add(store: Store, seed: int, observed: Sequence[Observed]) -> None:
    """A picture that was judged."""
    ts = store.clock.now()
    with store.transaction(durable=False):
        for o in observed:
            store.execute(
                "insert into planted (ts, seed, kind, size, px, easy, share, hidden) values (?, ?, ?, ?, ?, ?, ?, ?)",
                (ts, seed, o.kind, o.size, o.px, o.easy, o.share, o.hidden),
            )
            counters.bump(store, f"planted:{o.kind}:{o.size}")
            if o.hidden:
                counters.bump(store, f"planted_hidden:{o.kind}:{o.size}")
        _forget(store)


def add_unjudged(store: Store, seed: int, why: str) -> None:
    """A picture that came to nothing; `why` is a code."""
    with store.transaction(durable=False):
        ts = store.clock.now()
        store.execute("insert into planted (ts, seed, kind, detail) values (?, ?, '', ?)", (ts, seed, why))
        counters.bump(store, f"planted_unjudged:{why}")
        _forget(store)


def measure(store: Store) -> Measure:
    """Everything that the page and `edged status` say of it."""
    judged = last(store, judged=True)
    return Measure(
        alarms=tuple(a for a in alarms.standing(store) if a.code in alarms.PRIVACY),
        recalls=tuple(recalls(store)), last=judged.ts if judged else None, unjudged=unjudged(store),
        covered={k.partition(":")[2]: n for k, n in counters.all(store).items() if k.startswith("scrubbed:")},
    )  # fmt: skip


def recalls(store: Store) -> list[Recall]:
    """Of every kind and size that is planted, also of those that were not yet."""
    return [Recall(k, s, sum(seen), len(seen)) for k, sizes in SIZES.items() for s in sizes
            for seen in [newest(store, k, s)]]  # fmt: skip


def newest(store: Store, kind: str, size: str, after: float = 0.0, limit: int = WINDOW) -> list[bool]:
    """Whether each was hidden, the newest first, of those planted later than `after`."""
    found = store.rows(
        "select hidden from planted where kind = ? and size = ? and ts > ? order by id desc limit ?",
        (kind, size, after, limit),
    )
    return [bool(r[0]) for r in found]


def newest_easy(store: Store, kind: str, after: float = 0.0, limit: int = 10) -> list[bool]:
    """As `newest`, of those of a kind that no scrubber which works can miss."""
    found = store.rows(
        "select hidden from planted where kind = ? and easy = 1 and ts > ? order by id desc limit ?",
        (kind, after, limit),
    )
    return [bool(r[0]) for r in found]


def last(store: Store, *, judged: bool = False) -> Last | None:
    """The newest picture of all, or of those that were judged."""
    row = store.row("select seed, ts from planted where kind <> '' or not ? order by id desc limit 1", (judged,))
    return None if row is None else Last(row["seed"], row["ts"])


def unjudged(store: Store) -> dict[str, int]:
    """How many of the pictures in the table came to nothing, by why."""
    rows = store.rows("select detail, count(*) from planted where kind = '' group by detail order by 2 desc, 1")
    return {r[0]: r[1] for r in rows}


def _forget(store: Store) -> None:
    store.execute("delete from planted where id <= (select max(id) from planted) - ?", (KEPT,))
