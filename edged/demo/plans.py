"""What the demo plays: which cameras see what, and how their world changes. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edged.errors import Misconfigured

PHASE_FILE = "phase"  # in the demo's folder: what the street shows, "day" or "night"


@dataclass(frozen=True)
class Act:
    """What begins: cameras that get a (new) source, as `edged-agent --source` takes it, and the street's phase."""

    sources: Mapping[str, str] = field(default_factory=dict)
    phase: str = ""


@dataclass(frozen=True)
class Plan:
    """One play."""

    title: str
    classes: tuple[str, ...]
    first: Act  # the first model is learned and watched
    drift: Act  # the world changes while the old model is watched
    after: Act  # the new model is watched on the changed world
    old: Act  # ... and on the old world again
    drifted: frozenset[str]  # cameras on which drift is measured
    kept: frozenset[str]  # cameras on which the old world is measured
    drift_text: str
    first_samples: int  # collected before the first labels
    first_labels: int
    watch_samples: int  # per measurement
    drift_samples: int  # collected before the second labels
    drift_labels: int
    fps: float
    block_s: float
    epochs: int = 14
    input_px: int = 96
    companions: Mapping[str, str] = field(default_factory=dict)  # cameras that only show: no truth is known


def street(site: Path, small: bool) -> Plan:
    """The project's own street, day and night, on two cameras; nothing else is needed on disk."""
    both = ("north", "south")
    sources = {c: f"scene:{c}?seed={i}&stride=5&phase-file={site / PHASE_FILE}" for i, c in enumerate(both, 1)}
    return Plan(
        title="a street by day, then by night (pictures made by the project's own generator)",
        classes=("nothing", "person", "person-backpack", "vehicle"),
        first=Act(sources, "day"), drift=Act(phase="night"), after=Act(), old=Act(phase="day"),
        drifted=frozenset(both), kept=frozenset(both), drift_text="night falls",
        first_samples=360 if small else 600, first_labels=320 if small else 540,
        watch_samples=60 if small else 160, drift_samples=200 if small else 400, drift_labels=150 if small else 300,
        fps=1.5, block_s=160, epochs=8 if small else 16,
    )  # fmt: skip


def car_park(data: Path, clip: Path | None, small: bool) -> Plan:
    """CNRPark: camera A learns its car park, then camera B joins with another view of it."""
    folder = data / "cnrpark"
    if not (folder / "index.csv").exists():
        raise Misconfigured(f"{folder} has no index.csv", hint="--data DIR needs DIR/cnrpark with CNRPark's patches")
    if clip is not None and not clip.exists():
        raise Misconfigured(f"there is no clip at {clip}", exit_code=4)
    every = 24 if small else 6

    def patches(camera: str, offset: int) -> str:
        return f"cnrpark:{folder}?camera={camera}&every={every}&offset={offset}"

    return Plan(
        title="CNRPark, real pictures: camera A's car park, then camera B's view of it",
        classes=("busy", "free"),
        first=Act({"a": patches("A", 0)}), drift=Act({"a": patches("A", 2), "b": patches("B", 0)}),
        after=Act({"b": patches("B", 3)}), old=Act({"a": patches("A", 4)}),
        drifted=frozenset({"b"}), kept=frozenset({"a"}), drift_text="camera b joins and sees the car park from elsewhere",
        first_samples=200 if small else 1000, first_labels=180 if small else 900,
        watch_samples=80 if small else 600, drift_samples=200 if small else 1000,
        drift_labels=100 if small else 640,
        fps=20.0, block_s=900, epochs=8 if small else 14,
        companions={"clip": f"file:{clip}?loop=1"} if clip else {},
    )  # fmt: skip
