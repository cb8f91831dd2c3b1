"""A film, frame by frame: look often enough, follow what was seen, cover it a little later.

Guarantees: as many frames come out as went in, in order, of one size; every frame is covered by what the looks before it
and up to five frames behind it found (track.py); two looks are never further apart than `Rules.back` frames, nor, while
anything moves, than about 100 ms or, in a slow film, every third frame; a frame that could not be judged is grey all
over, and so are its neighbours up to the looks that could. Never more than `Rules.back` + 2 frames are held. Does not
guarantee: that all private content is found.

Between two looks the whole scene's shift moves what is followed (motion.py), so that a pan does not run away from its
masks. Where nothing changed since the last look, that look still holds and none is taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edged.errors import Refused
from edged.privacy import picture
from edged.privacy.motion import Change, Motion
from edged.privacy.picture import Scrubber
from edged.privacy.scrub import Withheld
from edged.privacy.stream import Stream
from edged.privacy.talk import Polygon, Spot
from edged.privacy.track import Rules

LOOK_S = 0.1  # two looks are about this far apart at most while anything moves,
SLOW_FPS = (
    10.0  # but from this rate on every third frame is enough (docs/privacy.md, "On files", says how it was measured)
)


class Covered(NamedTuple):
    """A frame as it may be shown. `blank` is "" or why all of it is grey."""

    image: NDArray[np.uint8]
    hidden: dict[str, int]
    blank: str


@dataclass
class _Frame:
    image: NDArray[np.uint8]
    change: Change
    blank: str = ""


@dataclass
class Tally:
    """What a film came to. `hidden` counts areas over all frames, `blank` frames by reason, `ms` sums per stage."""

    frames: int = 0
    looks: int = 0
    hidden: Counter[str] = field(default_factory=Counter)
    blank: Counter[str] = field(default_factory=Counter)
    ms: dict[str, float] = field(default_factory=dict)


class Film:
    """One film. `push` every frame, then `end`; images are written to.

    `scrubber` should raise Withheld for what it cannot judge (its default); whatever it raises as Withheld blanks the
    frames around. Masks are burned into every frame before anyone looks.
    """

    def __init__(
        self, scrubber: Scrubber, fps: float, *, masks: Sequence[Polygon] = (), margin: float = 0.25,
        rules: Rules | None = None, every: int | None = None,
    ) -> None:  # fmt: skip
        self._scrubber, self._masks, self._margin = scrubber, masks, margin
        self._rules = rules or Rules()
        self._every = every or looks_every(fps, self._rules)
        self._stream: Stream[_Frame] = Stream(self._rules)
        self._motion = Motion()
        self._burned: picture.Hidden | None = None
        self._next: _Frame | None = None  # came in last, not dealt with yet
        self._seen: tuple[Spot, ...] = ()  # by the last look
        self._doubt = ""  # why the last look did not count
        self._unlooked: list[_Frame] = []  # frames since the last look
        self.tally = Tally()

    def push(self, image: NDArray[np.uint8]) -> list[Covered]:
        """The next frame, BGR [h,w,3], and what is ready now. Raises Refused (size) when its size is not the first's."""
        self._burn(image)
        frame = _Frame(image, self._motion.step(image))
        ready = self._deal(last=frame.change.cut)
        self._next = frame
        return ready

    def end(self) -> list[Covered]:
        """What still waits."""
        return [*self._deal(last=True), *map(self._cover, self._stream.cut())]

    def _deal(self, *, last: bool) -> list[Covered]:
        """Look at the frame that came before the newest one, or not; `last` = of its scene."""
        frame, self._next = self._next, None
        if frame is None:
            return []
        change, since = frame.change, len(self._unlooked) + 1
        ready = self._stream.cut() if change.cut else []
        holds = not self._doubt and self._motion.still(change)
        if last or change.cut or change.stir or since >= (self._rules.back if holds else self._every):
            spots = self._look(frame)
        else:
            spots = self._seen if holds else None
            frame.blank = self._doubt
            self._unlooked.append(frame)
        ready += self._stream.push(frame, spots, change.shift)
        return [self._cover(one) for one in ready]

    def _look(self, frame: _Frame) -> tuple[Spot, ...] | None:
        """What is seen in a frame; None when nobody can say, and then the frames since the last look are blank too."""
        self.tally.looks += 1
        try:
            spots, why, ms = self._scrubber.see(frame.image)
        except Withheld as e:
            spots, why, ms = (), e.code, {}
        except Exception:  # noqa: BLE001 whatever it was, nobody can say what this frame shows
            spots, why, ms = (), "child_error", {}
        for stage, took in ms.items():
            self.tally.ms[stage] = self.tally.ms.get(stage, 0.0) + took
        self._motion.looked(frame.change)
        for one in (*self._unlooked, frame):
            one.blank = one.blank or why
        self._unlooked = []
        self._seen, self._doubt = spots, why
        return None if why else spots

    def _cover(self, ready: tuple[_Frame, tuple[Spot, ...]]) -> Covered:
        frame, spots = ready
        hidden = picture.cover(frame.image, spots, self._margin, blank=bool(frame.blank))
        self.tally.frames += 1
        self.tally.hidden.update(hidden)
        if frame.blank:
            self.tally.blank[frame.blank] += 1
        return Covered(frame.image, hidden, frame.blank)

    def _burn(self, image: NDArray[np.uint8]) -> None:
        height, width = image.shape[:2]
        if self._burned is None:
            self._size = (width, height)
            self._burned = picture.blocks(image)
            for polygon in self._masks:
                self._burned |= picture.blocks_of_polygon(polygon, width, height)
        if (width, height) != self._size:
            raise Refused(f"a frame of {width}x{height} in a film of {self._size[0]}x{self._size[1]}", code="size")
        picture.fill(image, self._burned)


def looks_every(fps: float, rules: Rules) -> int:
    """Frames from one look to the next: 1 below 10 frames/s, 3 from there, 5 at 60, never more than `Rules.back`."""
    return max(1, min(rules.back, max(int(fps * LOOK_S + 0.5), 1 + 2 * (fps >= SLOW_FPS))))
