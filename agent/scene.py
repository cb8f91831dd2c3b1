"""A street that nobody lives in: pictures with known truth for the demo, the tests and a first look at the page.

Guarantees: `Scene(variant, seed).picture(index, phase)` is a pure function, the same bytes each time on one machine;
each object's box and class come with it. Does not guarantee: that a detector made for real streets finds anything here.

Actors keep to a timetable, so that a picture needs no history: cars for the first half of each cycle, then people on
the zebra, others on the pavements all the time, and now and then something that is nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from agent.scene_brush import Box
from agent.scene_clutter import draw_clutter
from agent.scene_people import draw_person
from agent.scene_street import CROSSING, HEIGHT, VARIANTS, WIDTH, Image, Phase, Street, build
from agent.scene_vehicle import draw_vehicle

CLASSES = ("vehicle", "person", "person-backpack", "nothing")
CYCLE = 8  # pictures in one change of the traffic lights

DAY_HOURS = (8.0, 17.0)  # UTC hours in which the day is shown; the night is NIGHT_HOURS, past midnight
NIGHT_HOURS = (19.0, 29.0)


@dataclass(frozen=True)
class Thing:
    """What is at `box` (x, y, w, h in pixels). `seen` is the share of it that nothing nearer hides, 0..1."""

    box: Box
    class_: str
    seen: float


@dataclass(frozen=True)
class Picture:
    """`image` is 720x1280x3 BGR uint8; `things` far to near."""

    image: Image
    things: tuple[Thing, ...]


@dataclass(frozen=True)
class _Actor:
    kind: str  # "vehicle" | "person" | "nothing"
    seed: tuple[int, ...]
    x: float
    z: float
    beat: float  # 0..1 through its life
    backpack: bool = False
    facing: str = "side"
    mirror: bool = False


def next_ts(ts: float, step: float, phase: Phase) -> float:
    """The scene time after `ts`: `step` seconds on, or the start of the phase's next hours if outside them."""
    low, high = DAY_HOURS if phase == "day" else NIGHT_HOURS
    midnight = ts - ts % 86400
    for base in (midnight - 86400, midnight, midnight + 86400):
        start, end = base + low * 3600, base + high * 3600
        if ts < start:
            return start
        if ts + step < end:
            return ts + step
    raise AssertionError("some day has the hour")


class Scene:
    """`variant` is the place, `seed` who and what passes through it. Raises KeyError for an unknown variant."""

    def __init__(self, variant: str, seed: int) -> None:
        self.street: Street = build(variant)
        self.seed = seed
        rng = np.random.default_rng([seed, 2])
        self._noise = {
            "day": rng.normal(128, 2.5, (HEIGHT + 64, WIDTH + 64, 3)).astype(np.uint8),
            "night": np.clip(rng.normal(128, 7, (HEIGHT + 64, WIDTH + 64, 3)), 0, 255).astype(np.uint8),
        }

    def picture(self, index: int, phase: Phase) -> Picture:
        """Picture number `index` (>= 0); about 10-20 ms on one core."""
        image = (self.street.day if phase == "day" else self.street.night).copy()
        drawn: list[tuple[Box, str]] = []
        for actor in sorted(self._timetable(index), key=lambda a: -a.z):
            box = self._draw(image, actor, phase)
            if box[2] >= 24 and box[3] >= 24:
                name = "person-backpack" if actor.backpack else actor.kind
                drawn.append((box, name))
        rng = np.random.default_rng([self.seed, 3, index])
        dy, dx = (int(v) for v in rng.integers(0, 64, 2))
        noise = self._noise[phase][dy : dy + HEIGHT, dx : dx + WIDTH]
        gain = float(rng.normal(1.0, 0.012 if phase == "day" else 0.03))
        image = np.asarray(cv2.addWeighted(image, gain, noise, 1.0, -128.0), np.uint8)
        things = [Thing(b, c, _seen(b, [n for n, _ in drawn[i + 1 :]])) for i, (b, c) in enumerate(drawn)]
        return Picture(image, tuple(things))

    def _draw(self, image: Image, actor: _Actor, phase: Phase) -> Box:
        rng = np.random.default_rng(actor.seed)
        view, light = self.street.view, self.street.light(actor.x, actor.z, phase)
        if actor.kind == "vehicle":
            return draw_vehicle(image, view, rng, actor.x, actor.z, phase, light, front=actor.x < 0)
        if actor.kind == "person":
            return draw_person(
                image, view, rng, actor.x, actor.z, light, backpack=actor.backpack, facing=actor.facing,
                mirror=actor.mirror, stride=actor.beat * 17 + actor.seed[-1],
            )  # fmt: skip
        return draw_clutter(image, view, rng, actor.x, actor.z, phase, light, actor.beat)

    def _timetable(self, index: int) -> list[_Actor]:
        return [*self._lanes(index), *self._zebra(index), *self._pavements(index), *self._clutter(index)]

    def _lanes(self, index: int) -> list[_Actor]:
        cycle, at = divmod(index, CYCLE)
        found = []
        for lane, side in enumerate((-1, 1)):
            rng = np.random.default_rng([self.seed, 10, lane, cycle])
            start, speed = float(rng.uniform(0, 0.9)), float(rng.uniform(0.8, 1.1))
            x, present, jitter = side * float(rng.uniform(1.45, 1.8)), rng.random() < 0.85, float(rng.normal(0, 0.1))
            beat = (at - start) / 3.0
            if present and 0 <= beat <= 1:
                z = 9.6 - beat * 4.5 * speed if side < 0 else 5.0 + beat * 4.4 * speed
                found.append(_Actor("vehicle", (self.seed, 11, lane, cycle), x + jitter * beat, max(4.9, z), beat))
        return found

    def _zebra(self, index: int) -> list[_Actor]:
        cycle, at = divmod(index, CYCLE)
        found = []
        for walker in range(2):
            rng = np.random.default_rng([self.seed, 20, walker, cycle])
            present, backpack, left = rng.random() < (0.95, 0.7)[walker], rng.random() < 0.5, rng.random() < 0.5
            z = float(rng.uniform(CROSSING[0] + 0.1, CROSSING[1] - 0.2))
            beat = (at - 4 + float(rng.uniform(0, 0.5))) / 3.5
            if present and 0 <= beat <= 1:
                reach = 3.0
                x = (-1 if left else 1) * (1 - 2 * beat) * -reach + (0.7 if walker else -0.7)
                found.append(_Actor("person", (self.seed, 21, walker, cycle), x, z, beat, backpack, "side", not left))
        return found

    def _pavements(self, index: int) -> list[_Actor]:
        found = []
        for side, period in ((-1, 3), (1, 4)):
            turn, at = divmod(index + (1 if side > 0 else 0), period)
            rng = np.random.default_rng([self.seed, 30, side + 1, turn])
            present, backpack = rng.random() < 0.7, rng.random() < 0.5
            facing = ("front", "back", "side")[int(rng.integers(3))]
            mirror = bool(rng.random() < 0.5)
            x, beat = side * float(rng.uniform(3.55, 4.2)), at / (period - 1)
            near, far = 6.9, 11.8
            z = far - (far - near) * beat if facing != "back" else near + (far - near) * beat
            if present:
                seed = (self.seed, 31, side + 1, turn)
                found.append(_Actor("person", seed, x, z, beat, backpack, facing, mirror))
        return found

    def _clutter(self, index: int) -> list[_Actor]:
        found = []
        for slot, period in ((0, 2), (1, 3)):
            turn, at = divmod(index, period)
            rng = np.random.default_rng([self.seed, 40, slot, turn])
            if rng.random() < 0.6:
                drift, beat = float(rng.uniform(-0.5, 0.5)), at / (period - 1)
                x = float(rng.uniform(-3.9, 3.9)) + drift * beat
                z = float(rng.uniform(5.2, 9.5))
                found.append(_Actor("nothing", (self.seed, 41, slot, turn), x, z, beat))
        return found


def truth_of(region: Box, things: tuple[Thing, ...]) -> str | None:
    """The class of what `region` shows, or None when it is not clear: two kinds at once, or only part of a thing."""
    shares = sorted(
        ((_overlap(region, t.box) / (t.box[2] * t.box[3]) * t.seen, t) for t in things), key=lambda s: -s[0]
    )
    covered = max(
        (_overlap(region, t.box) / (region[2] * region[3]) for t in things if t.class_ != "nothing"), default=0
    )
    shares = [(share, t) for share, t in shares if share >= 0.25]
    if not shares or all(t.class_ == "nothing" for _, t in shares):
        return "nothing" if covered < 0.15 else None
    kinds = {t.class_ for _, t in shares if t.class_ != "nothing"}
    if len(kinds) > 1:
        return None
    (kind,) = kinds
    share, best = max(((s, t) for s, t in shares if t.class_ == kind), key=lambda s: s[0])
    filled = best.box[2] * best.box[3] / (region[2] * region[3])
    return kind if share >= 0.6 and filled >= 0.2 else None


def _overlap(a: Box, b: Box) -> int:
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0, w) * max(0, h)


def _seen(box: Box, nearer: list[Box]) -> float:
    """The share of `box` that no nearer box covers, by counting on a 16x16 grid."""
    x, y, w, h = box
    xs, ys = x + (np.arange(16) + 0.5) * w / 16, y + (np.arange(16) + 0.5) * h / 16
    free = np.ones((16, 16), bool)
    for nx, ny, nw, nh in nearer:
        free &= ~(((ys >= ny) & (ys < ny + nh))[:, None] & ((xs >= nx) & (xs < nx + nw))[None, :])
    return float(free.mean())


__all__ = ["CLASSES", "VARIANTS", "Picture", "Scene", "Thing", "next_ts", "truth_of"]
