"""Figures of the daemon that rise and fall, each with when it was written, for the processes that only read.

Guarantees: one row for each name, the newest value. Does not guarantee that it outlives a power cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edged.storage.store import Store

# Upper bounds in seconds of the histograms that stand in counters (meter.py).
RECEIPT_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SCRUB_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)


@dataclass(frozen=True)
class Gauge:
    """`ts` by the box's clock."""

    value: float
    ts: float


def put(store: Store, values: Mapping[str, float]) -> None:
    now = store.clock.now()
    with store.transaction(durable=False):
        store.execute_many(
            "insert into gauge (name, value, ts) values (?1, ?2, ?3)"
            " on conflict (name) do update set value = ?2, ts = ?3",
            [(name, float(value), now) for name, value in values.items()],
        )


def all(store: Store) -> dict[str, Gauge]:
    return {r["name"]: Gauge(r["value"], r["ts"]) for r in store.rows("select name, value, ts from gauge")}
