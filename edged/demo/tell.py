"""What the demo says: steps with times, a progress line that rewrites itself on a terminal, a table at the end."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from edged.clock import Clock


class Teller:
    """Writes to stdout. On a terminal the progress line is rewritten; elsewhere it is printed at most every 10 s."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._start = clock, clock.monotonic()
        self._tty = sys.stdout.isatty()
        self._last_progress, self._open_line = -1e9, False

    def elapsed(self) -> float:
        return self._clock.monotonic() - self._start

    def step(self, text: str) -> None:
        """A new chapter."""
        self._close_line()
        print(f"\n[{self._stamp()}] {text}", flush=True)

    def say(self, text: str) -> None:
        """A fact under the current step."""
        self._close_line()
        print(f"        {text}", flush=True)

    def progress(self, text: str, fraction: float, eta_s: float | None = None) -> None:
        """How far the current step is; `fraction` 0..1."""
        now = self._clock.monotonic()
        if now - self._last_progress < (0.2 if self._tty else 10.0):
            return
        self._last_progress = now
        done = round(24 * min(max(fraction, 0.0), 1.0))
        eta = f", {eta_s:.0f} s left" if eta_s is not None else ""
        line = f"        [{'#' * done}{'.' * (24 - done)}] {text}{eta}"
        if self._tty:
            print(f"\r\x1b[2K{line[:118]}", end="", flush=True)
            self._open_line = True
        else:
            print(line, flush=True)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table that is also valid Markdown."""
        self._close_line()
        print(markdown(header, rows), flush=True)

    def _stamp(self) -> str:
        seconds = int(self.elapsed())
        return f"{seconds // 60}:{seconds % 60:02d}"

    def _close_line(self) -> None:
        if self._open_line:
            print("\r\x1b[2K", end="")
            self._open_line = False


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as an aligned Markdown table."""
    cells = [list(header), *[list(r) for r in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)
