"""What a cycle that began now would do, and what that needs: `edged cycle run --dry-run`.

Guarantees: nothing is written. Does not guarantee the figures: they are estimated (`retrain/fits.py`), and a label that comes
before the cycle begins changes them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edged import plan, registry
from edged.plan import Course, Split
from edged.retrain import fits
from edged.retrain.choice import FEWEST
from edged.storage import snapshots
from edged.storage.snapshots import Body
from edged.storage.store import Store


@dataclass(frozen=True)
class Preview:
    """What a cycle that began now would do. `past` names of models tried first; `anew` as `plan.anew`."""

    body: Body
    course: Course
    past: tuple[str, ...]
    against: str = ""  # which labels contradict: the cycle would be refused for them

    @property
    def counts(self) -> dict[str, int]:
        return {str(part): len(self.body[part]) for part in snapshots.PARTS}

    @property
    def anew(self) -> bool:
        return self.course.stage == "train" and not self.past

    @property
    def pictures(self) -> int:
        """That are learned from: what is new and, when a model is brought up to date, about as many old ones."""
        new = self.course.new
        return min(self.counts["train"], 2 * new) if self.course.stage == "learn" else self.counts["train"]


def of(store: Store, split: Split, arch: Mapping[str, Any], model: str = "") -> Preview:
    """Nothing is written. `model` sha256 of a brought one that is asked for. Raises Refused as `registry.asked`."""
    frozen = plan.body(store, split)
    if model:
        found = registry.asked(store, model, split.classes)
        return Preview(frozen, Course("taken", taken=model, note=f"{found.name}: asked for, nothing is trained"), ())
    way = plan.course(store, frozen, arch, split.classes, plan.standing(store))
    if beside := len(plan.taught_beside(store, frozen, way, split, math.inf)):
        way = replace(way, note=f"{way.note}; {beside} unlabelled pictures that show the same teach beside them")
    tried = (
        registry.past(store, split.classes) if way.new >= FEWEST and plan.base(store, registry.champion(store)) else []
    )
    return Preview(frozen, way, tuple(p.name for p in tried), plan.contradicted(store).told)


@dataclass(frozen=True)
class Forecast:
    """What a rung needs, estimated. `fits` "yes", "perhaps" or "no" within the limit."""

    name: str
    seconds: float
    bytes: int
    fits: str


def forecast(found: Preview, arch: Mapping[str, Any], classes: int, memory_bytes: int) -> list[Forecast]:
    """CPU seconds and memory of each rung that the course may climb, on this machine; none of a model that is taken."""
    rungs: tuple[fits.Rung, ...] = found.course.rungs
    if found.course.stage == "train":
        rungs = ("all",) if found.course.start else ("scratch",)
    speed = fits.measure_speed() if rungs else None
    made = [
        fits.estimate(str(arch["name"]), int(arch["input_px"]), classes, rung, pictures=found.pictures, speed=speed)
        for rung in rungs
    ]
    return [Forecast(f.rung, f.cpu_seconds, f.peak_bytes, f.within(memory_bytes)) for f in made]
