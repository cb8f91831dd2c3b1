"""What is private moves on from frame to frame: held when a detector loses it, carried back when it appears.

Guarantees: a box once found is covered for `hold` frames after it was last seen, growing, and for `back` frames before
it was first seen; between two sightings it is covered all the way from the one to the other. Pure: no clock, no pixels.
Does not guarantee: that a face which no frame showed to the detector is found.

Matching is greedy by distance between predicted and found box (a simple form of SORT: Bewley et al. 2016,
arXiv 1602.00763). Two thresholds as in hysteresis (Canny 1986): a sure box starts a track, an unsure one prolongs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edged.privacy.talk import Spot

NEAR, FAR = 0.4, 3.0  # sizes: what detectors jitter, and what no face moves between two looks

Shift = tuple[float, float]  # how far the scene moved since the frame before, pixels right and down


@dataclass(frozen=True)
class Rules:
    """All in frames but `gap_s`: frames further apart than this belong to no common track."""

    hold: int = 10
    back: int = 5
    growth: float = 0.08  # of width and height on each side per frame without a sighting
    reach: float = 0.6  # of its size that a face may move in a frame beyond what is foreseen: a runner close by does
    gap_s: float = 1.0


@dataclass
class _Track:
    spot: Spot  # last sighting, moved along with the scene and its own speed
    rest: Spot  # last sighting, moved along with the scene only: it may have stopped
    speed: tuple[float, float] = (0.0, 0.0)  # pixels a frame beyond the scene's own shift
    missed: int = 0  # frames since the last sighting
    seen: int = 1


class Tracker:
    """One camera's tracks. `step` once per frame, in order."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._tracks: list[_Track] = []
        self._shifts: list[Shift] = []  # of the last `back` frames, newest last

    def step(self, spots: Sequence[Spot] | None, shift: Shift = (0.0, 0.0)) -> list[tuple[int, Spot]]:
        """What to cover: (frames ago, box); 0 = this frame, at most `back` ago. `spots` None = nobody looked.

        Boxes that are not sure are covered only where a track expects them.
        """
        rules = self.rules
        self._shifts = [*self._shifts, shift][-rules.back :] if rules.back else []
        self._tracks = [t for t in self._tracks if t.missed < rules.hold]
        for track in self._tracks:
            track.missed += 1
            track.rest = _moved(track.rest, *shift)
            track.spot = _moved(track.spot, shift[0] + track.speed[0], shift[1] + track.speed[1])
        out: list[tuple[int, Spot]] = []
        fresh: list[_Track] = []
        free = list(self._tracks)
        for spot in sorted(spots or (), key=lambda s: (not s.sure, -s.w * s.h)):
            known = _nearest(free, spot, rules)
            if known is not None:
                free.remove(known)
                out += self._between(known, spot)
                if spot.sure and _apart(known.spot, spot) > NEAR:  # perhaps it is another one, come in beside it
                    out += self._before(spot)
                self._sight(known, spot)
            elif spot.sure:
                fresh.append(_Track(spot, spot))
                out += self._before(spot)
            else:
                continue
            out.append((0, spot))
        for track in free:
            out += [(0, _grown(box, rules.growth * track.missed)) for box in (track.spot, track.rest)]
        self._tracks += fresh
        return out

    def live(self) -> bool:
        """Whether anything is being followed."""
        return bool(self._tracks)

    def _sight(self, track: _Track, spot: Spot) -> None:
        """The track is where `spot` says; its speed is what the scene's shift does not explain."""
        wrong_x = _middle(spot)[0] - _middle(track.spot)[0]
        wrong_y = _middle(spot)[1] - _middle(track.spot)[1]
        track.speed = (track.speed[0] + wrong_x / track.missed, track.speed[1] + wrong_y / track.missed)
        track.spot, track.rest, track.missed = spot, spot, 0
        track.seen += 1

    def _between(self, track: _Track, spot: Spot) -> list[tuple[int, Spot]]:
        """Boxes on the straight way from the last sighting to this one, and, for a young track, before the first."""
        steps = track.missed
        speed_x = track.speed[0] + (_middle(spot)[0] - _middle(track.spot)[0]) / steps
        speed_y = track.speed[1] + (_middle(spot)[1] - _middle(track.spot)[1]) / steps
        first = steps + self.rules.back if track.seen == 1 else steps - 1
        out = []
        there = spot
        for ago in range(1, min(first, len(self._shifts), self.rules.back) + 1):
            dx, dy = self._shifts[-ago]
            there = _moved(there, -dx - speed_x, -dy - speed_y)
            out.append((ago, _grown(there, self.rules.growth)))
        return out

    def _before(self, spot: Spot) -> list[tuple[int, Spot]]:
        """Boxes for the frames before a first sighting: where it would be if it stood still in the scene, growing."""
        out = []
        there = spot
        for ago in range(1, min(len(self._shifts), self.rules.back) + 1):
            dx, dy = self._shifts[-ago]
            there = _moved(there, -dx, -dy)
            out.append((ago, _grown(there, self.rules.growth * ago)))
        return out


def _nearest(tracks: Sequence[_Track], spot: Spot, rules: Rules) -> _Track | None:
    best, least = None, FAR
    for track in tracks:
        if track.spot.kind != spot.kind or not 0.4 < (spot.w * spot.h + 1) / (track.spot.w * track.spot.h + 1) < 2.5:
            continue
        distance = _apart(track.spot, spot)
        if distance < min(least, NEAR + rules.reach * track.missed):
            best, least = track, distance
    return best


def _apart(one: Spot, other: Spot) -> float:
    """How far their middles are apart, in sizes."""
    (x, y), (ox, oy) = _middle(one), _middle(other)
    return max(abs(x - ox) / max((one.w + other.w) / 2, 1), abs(y - oy) / max((one.h + other.h) / 2, 1))


def _middle(spot: Spot) -> tuple[float, float]:
    return spot.x + spot.w / 2, spot.y + spot.h / 2


def _moved(spot: Spot, dx: float, dy: float) -> Spot:
    return Spot(spot.kind, spot.x + dx, spot.y + dy, spot.w, spot.h, spot.sure)


def _grown(spot: Spot, share: float) -> Spot:
    """Larger by `share` of its size on each side."""
    dx, dy = spot.w * share, spot.h * share
    return Spot(spot.kind, spot.x - dx, spot.y - dy, spot.w + 2 * dx, spot.h + 2 * dy, True)
