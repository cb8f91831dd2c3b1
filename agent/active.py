"""The model that runs: loaded from its slot, watched on probation, left by itself when it does not do.

Guarantees: there is always a pipeline (without a model, regions go out unlabelled); a model that took the process down
twice, does not load, fails or answers only rubbish on probation is left for the one before it without asking anybody.
Does not guarantee: that labels are right; the box judges that from its own labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.pipeline import Box, Pipeline, Result
from agent.slots import Slot, Slots
from edged.engine import load, patterns
from edged.errors import Corrupt, EdgedError, Refused
from edged.wire.messages import REGION_PX

NO_MODEL = Pipeline(None, (), REGION_PX)


@dataclass(frozen=True)
class Probation:
    """How long a new model is watched: until it has answered for `frames` pictures, or `seconds` have passed."""

    frames: int = 20
    seconds: float = 60.0


class Active:
    """The running model. `now` is monotonic seconds."""

    def __init__(self, slots: Slots, *, runtime: str = "auto", threads: int = 1, probation: Probation | None = None):
        self.slots, self.runtime, self.threads = slots, runtime, threads
        self.probation = probation or Probation()
        self.pipeline = NO_MODEL
        self.slot: Slot | None = None
        self.failed_total = 0  # pictures for which a proven model gave no usable answer
        self._frames, self._since = 0, 0.0
        self._failure = ""

    def boot(self, now: float) -> str:
        """Load what the pointer says, or what is left when that does not do. Returns why a model was left, or ""."""
        left = ""
        while self.slots.pointer.active:
            if self.slots.worn_out():
                reason = "it took the agent down twice"
            else:
                reason = self._load(now)
                if not reason:
                    return left
            left = left or reason
            self.slots.roll_back()
        self.pipeline, self.slot = NO_MODEL, None
        return left

    def switch(self, now: float) -> str:
        """Run the staged model on probation. Returns why it had to be left again at once, or ""."""
        self.slots.switch()
        reason = self._load(now)
        if reason:
            self.roll_back(now)
        return reason

    def run(self, image: NDArray[np.uint8], boxes: Sequence[Box], now: float, **options: Any) -> Result:
        """The pipeline, with the model's failures caught: such a picture's regions go out unlabelled."""
        try:
            result = self.pipeline.run(image, boxes, **options)
        except Refused as e:
            self._failed(f"it failed on a picture: {e}")
            return NO_MODEL.run(image, boxes, **options)
        if self.slot is not None and result.regions:
            if result.bad == len(result.regions):
                self._failed("it answers with numbers that are not finite")
            else:
                self._frames += 1
                if not self.slots.pointer.probation:
                    self.slots.answered()
        return result

    def verdict(self, now: float) -> tuple[bool, str] | None:
        """On probation: None while undecided, else (stays, why). The caller acts by `commit` or `roll_back`."""
        if self._failure:
            return False, self._failure
        if self._frames >= self.probation.frames:
            return True, f"answered for {self._frames} pictures"
        if now - self._since < self.probation.seconds:
            return None
        if self._frames == 0:  # nothing moved: ask it about a picture of our own
            self.run(patterns.picture(1, REGION_PX), [(0, 0, REGION_PX, REGION_PX)], now)
            return self.verdict(now) if self._failure else (True, "answered for a picture of its own")
        return True, f"answered for {self._frames} pictures in {self.probation.seconds:g} s"

    def commit(self) -> None:
        """Probation is over."""
        self.slots.commit()

    def roll_back(self, now: float) -> None:
        """Leave this model for the one before it."""
        self.slots.roll_back()
        self.boot(now)

    def close(self) -> None:
        """A clean stop is no crash, on probation either."""
        if self._frames and not self._failure:
            self.slots.answered()

    def _load(self, now: float) -> str:
        """Load the active slot; returns why not, or ""."""
        self.slots.loading()
        self._frames, self._since, self._failure = 0, now, ""
        try:
            loaded = self.slots.load()
            if loaded is None:
                raise Corrupt("its slot is empty")
            engine = load(loaded.model, runtime=self.runtime, threads=self.threads)
        except EdgedError as e:
            return f"it does not load: {e}"
        self.slot = loaded.slot
        self.pipeline = Pipeline(engine, loaded.slot.classes, loaded.slot.px)
        return ""

    def _failed(self, why: str) -> None:
        self.failed_total += 1
        if self.slots.pointer.probation:
            self._failure = self._failure or why
