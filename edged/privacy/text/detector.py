"""Burned-in text (names, dates, readings over a picture) by the network of plates/net.py with weights of its own.

Guarantees: those of heatmap.py. Reads no characters. Does not guarantee that every letter is found: how many are is
measured, see README.md. A line of text is found in pieces of a few letters, whose boxes touch when they are grown by the
usual margin. Text of the scene itself (signs, labels) is hidden, too.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from edged.privacy.detect import Found, View
from edged.privacy.heatmap import Finder


class TextDetector:
    """Detector of kind "text" (detect.py). Not thread-safe.

    `weights` is a folder with another text.onnx and text.json, say, from train.py. Raises Misconfigured when the
    weights or their card are missing, unreadable or do not belong together.
    """

    kind = "text"

    def __init__(self, runtime: str = "auto", threads: int = 1, *, weights: Path | None = None) -> None:
        home = files("edged.privacy.text") if weights is None else weights
        self.finder = Finder(home, "text", runtime, threads)
        self.sha256, self.runtime = self.finder.sha256, self.finder.runtime
        self.start, self.keep = self.finder.card.start, self.finder.card.keep

    def find(self, view: View) -> list[Found]:
        """Boxes of pieces of text, several to a line, that score at least `keep`; raises Withheld (code detector)."""
        return [
            Found(self.kind, g.x0, g.y0, g.x1 - g.x0, g.y1 - g.y0, g.score)
            for g in self.finder.guesses(view, self.keep)
        ]
