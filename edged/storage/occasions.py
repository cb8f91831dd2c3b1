"""What the rows say about whether a cycle is due; `edged.due` decides. Reads only, a few rows each time.

Labels are counted by their numbers, not by the time they carry: a clock that was set back must not hide new ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from edged.storage import requests
from edged.storage.store import Store

_CYCLES = 32  # looked back over


@dataclass(frozen=True)
class Occasion:
    """`asked` authors that wait; `new` human labels since the last cycle that came to a verdict (one that its labels did not let
    begin came to none), `since_last` since the last of any kind; `started`, `ended` of the last cycle, 0 = there was none;
    `failures` in a row up to now; `at` the cycle that runs and its stage, "cycle 3: train"; `against` why the last one could
    not train on its labels."""

    running: bool
    asked: tuple[str, ...]
    new: int
    since_last: int
    started: float
    ended: float
    failures: int
    at: str = ""
    against: str = ""


def look(store: Store) -> Occasion:
    """The present one."""
    past = store.rows("select id, started, ended, state from cycle order by id desc limit ?", (_CYCLES,))
    failures = next((i for i, c in enumerate(past) if c["state"] != "failed"), len(past))
    judged = next((c for c in past if c["state"] in ("released", "refused") and not _never_began(store, c["id"])), None)
    return Occasion(
        running=any(c["state"] == "running" for c in past),
        asked=tuple(r.author for r in requests.pending(store) if r.verb == "cycle"),
        new=_since(store, judged["id"], judged["started"]) if judged else _labelled(store),
        since_last=_since(store, past[0]["id"], past[0]["started"]) if past else _labelled(store),
        started=past[0]["started"] if past else 0.0,
        ended=(past[0]["ended"] or 0.0) if past else 0.0,
        failures=failures,
        against=_against(store, past[0]["id"]) if past else "",
        at=next((_at(store, c["id"]) for c in past if c["state"] == "running"), ""),
    )


def last_label(store: Store) -> int:
    """The number of the newest label, 0 = there is none: what a snapshot has seen."""
    return int(store.value("select coalesce(max(id), 0) from label"))


def _at(store: Store, cycle: int) -> str:
    stage = store.value(
        "select name from stage where cycle = ? order by ended is not null, started desc, name limit 1", (cycle,)
    )
    return f"cycle {cycle}: {stage or 'begins'}"


def _never_began(store: Store, cycle: int) -> bool:
    """Whether its labels did not let it begin: nothing came after the snapshot."""
    further = store.value("select count(*) from stage where cycle = ? and name <> 'snapshot'", (cycle,))
    return not further and bool(_against(store, cycle))


def _against(store: Store, cycle: int) -> str:
    detail = store.value(
        "select detail from stage where cycle = ? and name = 'snapshot' and ended is not null", (cycle,)
    )
    return str(json.loads(detail).get("against", "")) if detail else ""


def _since(store: Store, cycle: int, started: float) -> int:
    """Samples with human labels after those that the snapshot of a cycle saw; after its start, if it has no snapshot."""
    detail = store.value("select detail from stage where cycle = ? and name = 'snapshot'", (cycle,))
    seen = json.loads(detail).get("last_label") if detail else None
    return _labelled(store, since=started) if seen is None else _labelled(store, after=seen)


def _labelled(store: Store, after: int = 0, since: float = 0.0) -> int:
    """Samples with a human label that stands and says a class: a picture that is labelled anew is no further one."""
    return int(
        store.value(
            "select count(distinct sample) from label where source = 'human' and undone is null and class <> ''"
            " and id > ? and ts >= ?",
            (after, since),
        )
    )
