"""One bad release after another, signed, on cameras that run: how far each one gets, and how fast all is as before."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bench.fleets.agents import Cameras
from bench.fleets.faulty import Model
from bench.fleets.place import Place, Seen
from edged.clock import stopwatch
from edged.errors import Refused
from edged.publish import rollout
from edged.storage import deliveries, releases

LOOK_S = 0.02
QUIET_S = 1.5  # after which nobody else is told either
SILENT_S = 15.0  # without a labelled frame by a model that works: a camera without one


@dataclass
class Told:
    """What a bad release came to. Times are seconds; None = never.

    to_switch   from the offer until it ran on a camera, None = it never did
    back        from that switch until the model before it answered again for a real picture
    to_halt     from the offer until the box had halted it
    gap         the longest that any camera was without a labelled frame by a model that works, meanwhile
    """

    name: str
    release: int
    offered: list[str] = field(default_factory=list)
    status: str = ""
    detail: str = ""
    state: str = ""
    why: str = ""
    to_switch: float | None = None
    back: float | None = None
    to_halt: float | None = None
    gap: float = 0.0
    ends: list[int] = field(default_factory=list)  # exit codes of agents that ended meanwhile
    blocked: str = ""  # what the box says when the same bytes are to be signed again
    without: list[str] = field(default_factory=list)  # cameras without a working model when it was over
    answered: int = 0  # labelled frames by the bad model that reached the box

    @property
    def contained(self) -> bool:
        """One camera at most was told, it was halted and is blocked, and every camera has a working model."""
        return len(self.offered) == 1 and self.state == "halted" and self.blocked == "blocked" and not self.without

    def document(self) -> dict[str, Any]:
        return {k: round(v, 1) if isinstance(v, float) else v for k, v in asdict(self).items()}


class Watch:
    """Which model each camera's frames were labelled by, and when."""

    def __init__(self) -> None:
        self.last: dict[str, Seen] = {}  # the newest labelled frame
        self.frames: list[Seen] = []
        self.keep = False

    def __call__(self, seen: Seen) -> None:
        if seen.labelled:
            self.last[seen.camera] = seen
        if self.keep:
            self.frames.append(seen)


class Trial:
    """Releases on one fleet, one at a time."""

    def __init__(self, place: Place, cameras: Cameras, watch: Watch, quiet_s: float = QUIET_S) -> None:
        self.place, self.cameras, self.watch, self._quiet_s = place, cameras, watch, quiet_s
        self.runs = ""  # SHA-256 of the model that all run

    def good(self, model: Model, limit_s: float = 300.0) -> float:
        """Bring a good release to every camera; returns the seconds until all answer with it."""
        began, number = stopwatch(), self.place.publish(model)
        sha256 = self._row(number).sha256
        while True:
            done = all(self._answers(c, sha256) for c in self.place.cameras)
            if done and self._row(number).state == "complete":
                self.runs = sha256
                return stopwatch() - began
            if stopwatch() - began > limit_s or self._row(number).state == "halted":
                raise SystemExit(f"release {number} ({model.name}) did not reach all: {self._why(number)}")
            self.place.clock.sleep(0.1)

    def bad(self, model: Model, limit_s: float = 180.0) -> Told:
        """Sign it, and watch until the box has halted it and every camera answers with what ran before."""
        self.watch.frames.clear()
        self.watch.keep = True
        began, number = stopwatch(), self.place.publish(model)
        told = Told(model.name, number)
        sha256 = self._row(number).sha256
        counts = {c: len(e) for c, e in self.cameras.ends.items()}
        canary, switched_at, offered_at, returned_at = "", 0.0, 0.0, 0.0
        while stopwatch() - began < limit_s:
            now = stopwatch()
            if not canary:
                rows = self.place.do(lambda: deliveries.of(self.place.store, number))
                canary, offered_at = (rows[0].camera, now) if rows else ("", 0.0)
            elif told.to_switch is None:
                slot, _ = self.cameras.state(canary)
                if slot is not None and slot.release == number:
                    switched_at, told.to_switch = now, now - offered_at
            elif told.back is None:
                seen = self.watch.last.get(canary)
                slot, pointer = self.cameras.state(canary)
                old = slot is not None and slot.sha256 == self.runs and not pointer.probation
                returned_at = (returned_at or now) if old else 0.0
                # later than that: the model before may have labelled a frame that was on its way at the switch
                if returned_at and seen is not None and seen.model == self.runs and seen.at >= returned_at:
                    told.back = seen.at - switched_at
            state = self._row(number).state
            if canary and told.to_halt is None and state == "halted":
                told.to_halt = now - offered_at
            if state == "halted" and (told.to_switch is None or told.back is not None):
                break
            if state == "complete":
                break
            self.place.clock.sleep(LOOK_S)
        self.place.clock.sleep(self._quiet_s)
        self.watch.keep = False
        self._judge(told, number, sha256, began, counts)
        try:
            told.blocked = f"signed as {self.place.publish(replace(model, name=f'{model.name}-again'))}"
        except Refused as e:
            told.blocked = e.code
        return told

    def _judge(self, told: Told, number: int, sha256: str, began: float, counts: dict[str, int]) -> None:
        rows = self.place.do(lambda: deliveries.of(self.place.store, number))
        told.offered = [d.camera for d in rows]
        told.status = ", ".join(sorted({d.status for d in rows}))
        told.detail = next((d.detail for d in rows if d.status in rollout.BAD), "")
        told.state, told.why = self._row(number).state, self._row(number).detail
        told.ends = [code for c, e in self.cameras.ends.items() for code in e[counts[c] :]]
        told.answered = sum(f.model == sha256 and f.labelled for f in self.watch.frames)
        end = stopwatch()
        for camera in self.place.cameras:
            times = [
                began,
                *(f.at for f in self.watch.frames if f.camera == camera and f.model == self.runs and f.labelled),
            ]
            told.gap = max(told.gap, *(b - a for a, b in zip(times, [*times[1:], end], strict=True)))
        if told.state == "complete":
            self.runs = sha256  # all have it: there is no way back to wait for
        deadline = end + SILENT_S
        while stopwatch() < deadline and not all(self._answers(c, self.runs, end) for c in self.place.cameras):
            self.place.clock.sleep(0.1)
        told.without = [c for c in self.place.cameras if not self._answers(c, self.runs, end)]

    def _answers(self, camera: str, sha256: str, after: float = 0.0) -> bool:
        seen = self.watch.last.get(camera)
        return seen is not None and seen.model == sha256 and seen.at >= after

    def _row(self, number: int) -> releases.ReleaseRow:
        row = self.place.do(lambda: releases.get(self.place.store, number))
        assert row is not None
        return row

    def _why(self, number: int) -> str:
        rows = self.place.do(lambda: deliveries.of(self.place.store, number))
        said = "; ".join(f"{d.camera} {d.status} {d.detail}" for d in rows)
        return f"{self._row(number).state} {self._row(number).detail}: {said}"
