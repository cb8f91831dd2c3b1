"""The part `recover`: which labelled pictures each way to recover is given, and the table of what came of it (recover.py).

Old: a third of the old world, drawn by name. New: every tenth of the new one in the order of its time, as a queue that
spreads its questions would have it. Tested on the rest of both, at most TESTED pictures of each, drawn by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.learning import recover
from bench.learning.record import Record
from bench.learning.worlds import Item, World, cnrpark, drawn, pixels, pklot, share
from edged.retrain.pictures import Pictures

TESTED = 2000
EVERY = 10
BLOCK_S = 900  # of a site, as it is made


def run(
    olds: Sequence[World], new: World, record: Record, *, seeds: Sequence[int], name: str, px: int = 64,
    arch: str = "mobilenet-0.25", every: int = EVERY, old_share: float = 1 / 3, test: World | None = None,
    strategies: Sequence[str] = recover.STRATEGIES, small: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """One drift. `test`: other pictures of the new world that it is tested on; None = those that were not labelled."""
    classes = sorted(set[str]().union(new.classes, *(o.classes for o in olds)))
    labelled = {i.name for i in new.items[every // 2 :: every]}
    train_new = new.some(lambda i: i.name in labelled)
    found = []
    for seed in seeds:
        parts = [o.some(lambda i, s=seed: share(i.name, s) < old_share) for o in olds]
        rest = [o.some(lambda i, s=seed: share(i.name, s) >= old_share) for o in olds]
        told = test or new.some(lambda i: i.name not in labelled)
        tests = {w.name: few(w) for w in (World(new.name, told.items), *rest)}
        result = recover.run(
            joined([pictures(p, classes, px) for p in parts]), pictures(train_new, classes, px),
            {k: pictures(w, classes, px) for k, w in tests.items()},
            classes=classes, arch=arch, seed=seed, strategies=strategies,
            moments={f"{new.name}:{i.name}": int(i.ts // BLOCK_S) for i in new.items},
        )  # fmt: skip
        found.append(result)
    measured = {"old": [o.name for o in olds], "new": new.name, "runs": found}
    _tell(measured, record, name)
    record.write(name, measured, seeds, small)
    return measured


def car_parks(folder: Path | None, lots: Path | None) -> list[tuple[str, dict[str, Any]]]:
    """A to B, and A and B to PKLot (five frames, all labelled)."""
    if folder is None:
        return []
    a, b = cnrpark(folder, "A"), cnrpark(folder, "B")
    found: list[tuple[str, dict[str, Any]]] = [("recover", {"olds": [a], "new": b})]
    if lots is not None:
        # Drawn by none of the seeds that `run` draws the old by: then all of it would be old, and nothing left to test on.
        few_b = World("b", tuple(i for i in b.items if share(i.name, 0) < 1 / EVERY * 3))
        found.append((
            "recover-pklot", {"olds": [a, few_b], "new": pklot(lots, "1"), "every": 1, "test": pklot(lots, "0,2")},
        ))  # fmt: skip
    return found


def few(world: World) -> World:
    """At most TESTED of its pictures."""
    chosen = {i.name for i in sorted(world.items, key=lambda i: drawn(i.name, 5))[:TESTED]}
    keep: Callable[[Item], bool] = lambda i: i.name in chosen  # noqa: E731
    return world.some(keep)


def pictures(world: World, classes: Sequence[str], px: int) -> Pictures:
    """What can be read of a world, in its order."""
    found, read = pixels(world, px)
    items = [i for i, ok in zip(world.items, read, strict=True) if ok]
    labels = np.array([classes.index(i.label) for i in items], np.int64)
    return Pictures(
        found[read], labels, tuple(world.name for _ in items), tuple(f"{world.name}:{i.name}" for i in items)
    )


def joined(parts: Sequence[Pictures]) -> Pictures:
    return Pictures(
        np.concatenate([p.pixels for p in parts]), np.concatenate([p.labels for p in parts]),
        tuple(c for p in parts for c in p.cameras), tuple(i for p in parts for i in p.ids),
    )  # fmt: skip


def _tell(measured: dict[str, Any], record: Record, name: str) -> None:
    rows = []
    for run_ in measured["runs"]:
        for strategy, facts in run_["strategies"].items():
            reached = facts.get("accuracy") or {}
            rows.append((
                str(run_["seed"]), strategy, f"{facts['cpu_s']:.1f}", f"{facts['peak_bytes'] / 1e6:.0f}",
                *(f"{reached[t]:.1%}" if t in reached else str(facts.get("refused", ""))[:40] for t in run_["tests"]),
            ))  # fmt: skip
        times = {k: run_.get(k) for k in ("times_whole", "times_first", "times_reached", "short_by", "equal")}
        rows.append((str(run_["seed"]), "full / ladder", str(times), "", *("" for _ in run_["tests"])))
    tests = measured["runs"][0]["tests"]
    record.table(
        f"{' + '.join(measured['old'])} -> {measured['new']}", ("seed", "way", "CPU s", "peak RSS MB", *tests), rows
    )  # fmt: skip
    first = measured["runs"][0]
    record.plot(name, recover.plot(first, f"{' + '.join(measured['old'])} -> {measured['new']}, seed {first['seed']}"))
