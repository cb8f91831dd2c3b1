"""What an act is, and the clock that it sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

NOON = 1_795_262_400.0  # 2026-11-21T12:00:00Z

Promise = Callable[[str], None]


@dataclass(frozen=True)
class Act:
    """`prepare` makes the folder, `play` does it and promises, `check` says what does not hold after a kill; `final` = the
    act has been played to its end since.
    """

    prepare: Callable[[Path], None]
    play: Callable[[Path, Promise, str], None]
    check: Callable[[Path, Sequence[str], bool], list[str]]


class Still:
    """Time stands still, so that every run takes the same steps."""

    def __init__(self, at: float = NOON) -> None:
        self.at = at

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds
