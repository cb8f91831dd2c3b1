"""What is left of earlier worlds: one drift after the other, the loop's own cycle after each, every world tested again.

A world is split by its pictures' names: some come in at the box and may be labelled, the others are only ever tested
on. After each drift the queue is asked for labels, then `improve.Loop.run_once` runs: snapshot, learn, int8, re-test, gate,
release. The next world is answered by what was released.

Guarantees: every figure is the released int8 file's on pictures that never came near the store. What is left out: scrubbing and
the network (the part `loop` has them).
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.learning import chart
from bench.learning.footprint import watched
from bench.learning.labels import ask
from bench.learning.record import Record
from bench.learning.score import Eye
from bench.learning.site import Site
from bench.learning.worlds import World, cnrpark, drawn, dusk, pklot, rain, share
from edged import site as sites
from edged.improve import Loop
from edged.retrain import children
from edged.storage import cycles, releases

ARRIVE = 0.5  # share of a world that comes in
RUN_JOB = children.run


def car_parks(folder: Path, lots: Path | None) -> list[World]:
    """A by day, at dusk, in rain (other pictures of A each, the change is made here), B, PKLot."""
    a = cnrpark(folder, "A")
    thirds = [a.some(lambda i, k=k: drawn(i.name, 7) % 3 == k) for k in range(3)]
    them = [
        World("a", thirds[0].items), thirds[1].changed("a-dusk", dusk), thirds[2].changed("a-rain", rain),
        World("b", cnrpark(folder, "B").some(lambda i: drawn(i.name, 7) % 3 == 0).items),
    ]  # fmt: skip
    return [*them, pklot(lots, "0,1,2")] if lots else them


def run(
    worlds: Sequence[World], record: Record, *, name: str = "forget", first_share: float = 1 / 3, next_share: float = 0.1,
    px: int = 64, epochs: int = 14, block_s: float = 900, seed: int = 1,
    limits: Mapping[str, float] | None = None, small: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """The whole part. Shares are of all of a world's pictures; labels come from those that arrive. `limits` of the
    gate that are not the defaults (but the speed, which is not asked here).
    """
    classes = sorted(set[str]().union(*(w.classes for w in worlds)))
    eye, steps = Eye(classes, px), []
    tested = [w.some(lambda i: share(i.name, 3) >= ARRIVE) for w in worlds]
    with watched() as taken, tempfile.TemporaryDirectory(prefix="edged-forget-") as folder, Site(
        Path(folder) / "site", classes, [w.name for w in worlds], px=px, epochs=epochs, block_s=block_s,
        extra="on_drift = false\n",
    ) as site:  # fmt: skip
        rules = dataclasses.replace(
            site.rules,
            seconds=1.0,
            limits=msgspec.structs.replace(site.rules.limits, min_fps=0, **(limits or {})),
        )
        loop = Loop(site.store, rules, sites.open_repository(site.config, site.clock), site.clock, RUN_JOB)
        for i, world in enumerate(worlds):
            coming = world.some(lambda item: share(item.name, 3) < ARRIVE)
            release = releases.latest(site.store)
            before = None
            if release is None:
                site.arrive(coming)
            else:
                model = site.model(release.sha256)
                site.arrive(coming, eye.answers(model, coming), release.sha256)
                site.survey(release.sha256, {world.name})
                before = eye.score(model, tested[i])
            wanted = round((next_share if i else first_share) * len(world.items))
            given = site.answer(ask(site, world.name, wanted, seed))
            taken.lap()
            state = loop.run_once(f"{world.name} was labelled")
            lap, cycle = taken.lap(), cycles.latest(site.store)
            assert cycle is not None
            now = releases.latest(site.store)
            scores = {w.name: eye.score(site.model(now.sha256), w).facts() for w in tested[: i + 1]} if now else {}
            steps.append({
                "world": world.name, "labels": given, "state": state, "detail": cycle.detail,
                "before": before.facts() if before else None, "scores": scores, "taken": lap,
                "stages": {s.name: s.detail.get("told", "") for s in cycles.stages(site.store, cycle.id)},
                "stages_s": {
                    s.name: round((s.ended or s.started) - s.started, 1) for s in cycles.stages(site.store, cycle.id)
                },
            })  # fmt: skip
            print(
                f"{world.name}: {given} labels, {state}: {cycle.detail}; "
                + ", ".join(f"{k} {v['accuracy']:.1%}" for k, v in scores.items()),
                flush=True,
            )
    measured = {
        "worlds": {w.name: len(w.items) for w in worlds}, "tested": {w.name: len(w.items) for w in tested}, "steps": steps,
        "px": px, "seed": seed, "block_s": block_s, "taken": taken.facts(),
        "how": "in one process: real store, queue, cycles with their children; pictures not scrubbed, no network",
    }  # fmt: skip
    _tell(measured, record, name)
    record.write(name, measured, [seed], small)
    return measured


def _tell(measured: dict[str, Any], record: Record, name: str) -> None:
    names, steps = list(measured["worlds"]), measured["steps"]
    rows, cells = [], []
    for step in steps:
        found = [step["scores"].get(w, {}).get("accuracy") for w in names]
        cells.append(found)
        before = f"{step['before']['accuracy']:.1%}" if step["before"] else ""
        shown = ["" if v is None else f"{v:.1%}" for v in found]
        cpu = sum(v for k, v in step["taken"]["cpu_s"].items() if k.startswith("stage "))
        rows.append((f"{step['world']}", str(step["labels"]), before, step["state"], *shown, f"{cpu:.0f}"))
    record.table(
        "accuracy on pictures that never came in, after each drift was learned",
        ("learned", "labels", "this world before", "cycle", *names, "CPU s of stages"), rows,
    )  # fmt: skip
    record.plot(name, chart.heat(
        f"{len(names) - 1} drifts in a row",
        "accuracy of the released int8 file on each world so far, after each cycle (rows, downwards)",
        [f"after {s['world']}" for s in steps], names, cells,
    ))  # fmt: skip
