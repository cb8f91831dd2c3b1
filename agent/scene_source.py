"""The generated street as a source of Shots; a small control file can let night fall while it runs.

Regions are the known boxes, jittered (default), or found by motion with the truth of what they show. By motion about
three of four things are found by day and fewer by night, when people in dark clothes come in pieces; a region whose
truth is not clear is left out. The known boxes make the demo's figures those of the classifier alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from agent.motion import Motion, padded
from agent.scene import VARIANTS, Picture, Scene, next_ts, truth_of
from agent.scene_street import HEIGHT, WIDTH, Phase
from agent.source import Box, Options, Shot
from edged.errors import Misconfigured
from edged.wire.messages import MAX_REGIONS

STEP_S = (
    20.0  # scene seconds from one picture to the next: a day in half an hour, so that splits by time mean something
)
FIRST_DAY = datetime(2026, 3, 1, tzinfo=UTC)


def shots(place: str, options: Options) -> Iterator[Shot]:
    """Endless. Without `start` the scene begins `seed` days after FIRST_DAY, so that another seed is another day."""
    if place not in VARIANTS:
        near = difflib.get_close_matches(place, VARIANTS, 1)
        raise Misconfigured(
            f"scene: there is no place {place!r}", hint=f"try {near[0] if near else ', '.join(VARIANTS)}"
        )
    seed = options.whole("seed", 1)
    phase: Phase = "night" if options.text("phase", "day", ("day", "night")) == "night" else "day"
    control = options.text("phase-file")
    step = options.number("step", STEP_S, 0.01, 3600)
    stride = options.whole("stride", 1)
    how = options.text("regions", "boxes", ("boxes", "motion"))
    start = options.text("start")
    try:
        first = datetime.fromisoformat(start) if start else FIRST_DAY + timedelta(days=seed % 10000)
    except ValueError as e:
        raise Misconfigured(f"scene: start={start!r} is no date like 2026-03-02") from e
    ts = (first if first.tzinfo else first.replace(tzinfo=UTC)).timestamp()
    return _play(Scene(place, seed), ts, step, phase, Path(control) if control else None, how, max(1, stride))


def _play(
    scene: Scene, ts: float, step: float, phase: Phase, control: Path | None, how: str, stride: int
) -> Iterator[Shot]:
    motion = Motion()
    index = 0
    while True:
        phase = _told(control, phase)
        ts = next_ts(ts, step, phase)
        picture = scene.picture(index, phase)
        if how == "motion":
            found = [(box, truth_of(box, picture.things)) for box in motion.regions(picture.image)]
            pairs = [(box, truth) for box, truth in found if truth is not None]
        else:
            pairs = jittered(picture, np.random.default_rng([scene.seed, 5, index]))
        yield Shot(picture.image, ts, tuple(box for box, _ in pairs), tuple(truth for _, truth in pairs))
        index += stride


def jittered(picture: Picture, rng: np.random.Generator) -> list[tuple[Box, str]]:
    """At most four (box, class): the best seen things, their boxes as badly placed as a detector's would be."""
    clear = [t for t in picture.things if t.seen >= 0.6 and min(t.box[2:]) >= 28]
    clear.sort(key=lambda t: (t.class_ == "nothing", -t.box[2] * t.box[3]))
    pairs = []
    for thing in clear[:MAX_REGIONS]:
        x, y, w, h = thing.box
        dx, dy, dw, dh = np.clip(rng.normal(0, 0.045, 4), -0.1, 0.1) * (w, h, w, h)
        moved = (round(x + dx), round(y + dy), max(8, round(w + dw)), max(8, round(h + dh)))
        pairs.append((padded(moved, WIDTH, HEIGHT), thing.class_))
    return pairs


def _told(control: Path | None, phase: Phase) -> Phase:
    """The phase that the control file names; without one, while it is away or half written, the one that was."""
    if control is None:
        return phase
    try:
        word = control.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return phase
    return "day" if word == "day" else "night" if word == "night" else phase
