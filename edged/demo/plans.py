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
class Round:
    """One change of the world: the old model is watched on it, labels arrive, the next model is watched on it."""

    text: str  # "night falls"
    name: str  # of what is measured, in the table
    drift: Act
    after: Act  # pictures of the changed world that nothing was learned from
    cameras: frozenset[str]  # on which it is measured
    samples: int  # watched before the labels
    labels: int
    watch: int  # watched after


@dataclass(frozen=True)
class Plan:
    """One play."""

    title: str
    classes: tuple[str, ...]
    first: Act  # the first model is learned
    before: Act  # and watched on pictures that it has not learned from
    samples: int  # collected before the first labels
    labels: int
    watch: int
    kept: frozenset[str]  # cameras on which the old world is measured, before and after
    rounds: tuple[Round, ...]
    old: Act  # the old world once more
    fps: float
    block_s: float
    epochs: int
    input_px: int
    architecture: str = "mobilenet-0.25"
    companions: Mapping[str, str] = field(default_factory=dict)  # cameras that only show: no truth is known

    def cameras(self) -> list[str]:
        """Those whose truth is known."""
        acts = (self.first, self.before, self.old, *(a for r in self.rounds for a in (r.drift, r.after)))
        return sorted({camera for act in acts for camera in act.sources})


def street(site: Path, small: bool) -> Plan:
    """The project's own street, day and night, on two cameras; nothing else is needed on disk."""
    both = frozenset({"north", "south"})
    # A picture in five steps of the scene: few passers-by are on two pictures of different blocks of time.
    sources = {c: f"scene:{c}?seed={i}&stride=5&phase-file={site / PHASE_FILE}" for i, c in enumerate(sorted(both), 1)}
    night = Round(
        "night falls", "by night", Act(phase="night"), Act(), both,
        samples=200 if small else 400, labels=150 if small else 320, watch=80 if small else 200,
    )  # fmt: skip
    return Plan(
        title="a street by day, then by night (pictures made by the project's own generator)",
        classes=("nothing", "person", "person-backpack", "vehicle"),
        first=Act(sources, "day"), before=Act(), samples=360 if small else 600, labels=320 if small else 540,
        watch=80 if small else 200, kept=both, rounds=(night,), old=Act(phase="day"),
        fps=1.5, block_s=160, epochs=8 if small else 16, input_px=96,
    )  # fmt: skip


def car_park(data: Path, clip: Path | None, small: bool) -> Plan:
    """CNRPark: camera A learns its car park, then camera B joins with another view of it, then PKLot's, if it is there."""
    folder, lots = data / "cnrpark", data / "pklot-720p"
    if not (folder / "index.csv").exists():
        raise Misconfigured(f"{folder} has no index.csv", hint="--data DIR needs DIR/cnrpark with CNRPark's patches")
    if clip is not None and not clip.exists():
        raise Misconfigured(f"there is no clip at {clip}", exit_code=4)
    every = 24 if small else 6

    def patches(camera: str, offset: int) -> str:
        return f"cnrpark:{folder}?camera={camera}&every={every}&offset={offset}"

    b = Round(
        "camera b joins and sees the car park from elsewhere", "on camera b",
        Act({"b": patches("B", 0)}), Act({"b": patches("B", 3)}), frozenset({"b"}),
        samples=220 if small else 1000, labels=110 if small else 640, watch=100 if small else 800,
    )  # fmt: skip
    lot = Round(
        "camera lot joins: another country, whole 720p frames with 40 marked spaces", "on camera lot",
        Act({"lot": f"pklot:{lots}?sequence=1"}), Act({"lot": f"pklot:{lots}?sequence=0,2"}), frozenset({"lot"}),
        samples=190, labels=200, watch=380,
    )  # fmt: skip
    return Plan(
        title="real pictures: CNRPark's camera A, then its camera B, then PKLot",
        classes=("busy", "free"),
        first=Act({"a": patches("A", 0)}), before=Act({"a": patches("A", 2)}),
        samples=220 if small else 1000, labels=200 if small else 900,
        watch=100 if small else 800, kept=frozenset({"a"}),
        rounds=(b, lot) if lots.exists() and not small else (b,), old=Act({"a": patches("A", 4)}),
        fps=20.0, block_s=900, epochs=8 if small else 14, input_px=64,
        companions={"clip": f"file:{clip}?loop=1"} if clip else {},
    )  # fmt: skip
