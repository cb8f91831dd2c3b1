"""A short delay between looking at a frame and covering it, so that what a later frame shows can cover an earlier one.

Guarantees: frames come out in the order in which they went in, each once, with everything that is to be covered in it;
never more than `back` + 1 of them wait. Does not guarantee a time: whoever owns the stream flushes it when it waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from edged.privacy.talk import Spot
from edged.privacy.track import Rules, Shift, Tracker

T = TypeVar("T")


@dataclass
class _Waiting(Generic[T]):
    item: T
    spots: list[Spot] = field(default_factory=list)


class Stream(Generic[T]):
    """One camera, or one film."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._tracker = Tracker(rules)
        self._waiting: deque[_Waiting[T]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def live(self) -> bool:
        """Whether anything is being followed."""
        return self._tracker.live()

    def push(
        self, item: T, spots: Sequence[Spot] | None, shift: Shift = (0.0, 0.0)
    ) -> list[tuple[T, tuple[Spot, ...]]]:
        """The next frame and what was found in it (None = nobody looked); what is ready now."""
        self._waiting.append(_Waiting(item))
        for ago, spot in self._tracker.step(spots, shift):
            if ago < len(self._waiting):
                self._waiting[-1 - ago].spots.append(spot)
        return self._pop(self.rules.back)

    def oldest(self) -> T | None:
        """What has waited longest."""
        return self._waiting[0].item if self._waiting else None

    def release(self) -> list[tuple[T, tuple[Spot, ...]]]:
        """What has waited longest, now; tracks live on."""
        return self._pop(max(0, len(self._waiting) - 1))

    def cut(self) -> list[tuple[T, tuple[Spot, ...]]]:
        """Everything that waits; what comes next has nothing to do with it."""
        self._tracker = Tracker(self.rules)
        return self._pop(0)

    def _pop(self, left: int) -> list[tuple[T, tuple[Spot, ...]]]:
        out = []
        while len(self._waiting) > left:
            waiting = self._waiting.popleft()
            out.append((waiting.item, tuple(waiting.spots)))
        return out
