"""Licence plates by our own small network (net.py, train.py; weights and their figures: README.md), run on ONNX.

Guarantees: those of heatmap.py. Reads no characters. Does not guarantee that every plate is found: how many are is
measured, see README.md; what would fill more than LARGEST of a frame is taken for none. The network sees each picture
at two sizes: the fine one (long side 960) finds plates of about 2 to 18 % of the picture's width, the coarse one, a
third of it for a ninth of the cost, those beyond.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from edged.privacy.detect import Found, View
from edged.privacy.heatmap import Finder

LARGEST = 0.15  # of a frame: an inset picture, a poster or a window, not a plate
FRAME = 480  # narrower pictures are cut-out regions, which a plate may fill


class PlateDetector:
    """Detector of kind "plate" (detect.py). Not thread-safe.

    `weights` is a folder with another plates.onnx and plates.json, say, from train.py. Raises Misconfigured when the
    weights or their card are missing, unreadable or do not belong together.
    """

    kind = "plate"

    def __init__(self, runtime: str = "auto", threads: int = 1, *, weights: Path | None = None) -> None:
        home = files("edged.privacy.plates") if weights is None else weights
        self.finder = Finder(home, "plates", runtime, threads)
        self.sha256, self.runtime = self.finder.sha256, self.finder.runtime
        self.start, self.keep = self.finder.card.start, self.finder.card.keep

    def find(self, view: View) -> list[Found]:
        """Boxes of plates that score at least `keep`; raises Withheld (code detector)."""
        most = LARGEST * view.width * view.height if view.width >= FRAME else float("inf")
        found = [
            Found(self.kind, g.x0, g.y0, g.x1 - g.x0, g.y1 - g.y0, g.score)
            for g in self.finder.guesses(view, self.keep)
        ]
        return [plate for plate in found if plate.w * plate.h <= most]
