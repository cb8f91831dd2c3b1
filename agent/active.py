"""The model that runs: loaded from its slot, watched on probation (watch.py), left by itself when it does not do.

Guarantees: there is always a pipeline (without a model, regions go out unlabelled); a model that took the process down
twice, does not load, fails, answers only rubbish or is absurdly slow on probation is left for the one before it without
asking anybody. A disk that takes nothing stops none of that: then a proven model runs though its loads cannot be
counted, and an unproven one does not. Does not guarantee: that labels are right; the box judges that from its labels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.pipeline import Box, Pipeline, Result
from agent.slots import Loaded, Slot, Slots
from agent.watch import Probation, Watch, bounded, fence, fenced, room_for
from edged.clock import cpu_seconds
from edged.engine import load, patterns
from edged.errors import Corrupt, EdgedError, Refused
from edged.wire.messages import REGION_PX, Health

__all__ = ["NO_MODEL", "Active", "Probation"]

log = logging.getLogger("edged.agent")

LOAD_TIMES = 3  # a load may take so many times as long as a picture; the self-test has shown that it ends
NO_MODEL = Pipeline(None, (), REGION_PX)


class Active:
    """The running model. `now` is monotonic seconds."""

    def __init__(self, slots: Slots, *, runtime: str = "auto", threads: int = 1, probation: Probation | None = None):
        self.slots, self.runtime, self.threads = slots, runtime, threads
        self.probation = probation or Probation()
        self.pipeline = NO_MODEL
        self.slot: Slot | None = None
        self.failed_total = 0  # pictures for which a proven model gave no usable answer
        self._answered = False
        self._failure = ""
        self._watch: Watch | None = None  # while on probation
        self._most = 0  # bytes that the process may have while the model on probation works, 0 = any number

    def boot(self, now: float) -> str:
        """Load what the pointer says, or what is left when that does not do. Returns why a model was left, or ""."""
        left = ""
        while self.slots.pointer.active:
            if self.slots.worn_out():
                reason = "it took the agent down twice"
            else:
                reason = self._load(now)
                if not reason:
                    if self.slots.pointer.probation:
                        self._watch = Watch(self.probation, self._fallback(), now)
                    return left
            left = left or reason
            self.slots.roll_back()
        self.pipeline, self.slot = NO_MODEL, None
        return left

    def switch(self, now: float) -> str:
        """Run the staged model on probation. Returns why it had to be left again at once, or ""."""
        before = self.pipeline if self.slot is not None and room_for(self.slots.size()) else None
        self.slots.switch()
        if (slot := self.slots.active()) is not None and slot.returns:
            before = None
        if before is None:
            self.pipeline = NO_MODEL  # two engines would not fit
        reason = self._load(now)
        if reason:
            self.roll_back(now)
        else:
            self._watch = Watch(self.probation, before, now)
        return reason

    def run(self, image: NDArray[np.uint8], boxes: Sequence[Box], now: float, **options: Any) -> Result:
        """The pipeline, with the model's failures caught: such a picture's regions go out unlabelled."""
        began = cpu_seconds()
        try:
            with self._guarded() if self._watch else nullcontext():
                result = self.pipeline.run(image, boxes, **options)
        except (Refused, MemoryError) as e:
            self._failed(f"it failed on a picture: {str(e) or 'it needs more memory than it may have'}")
            return NO_MODEL.run(image, boxes, **options)
        if self.slot is not None and result.regions:
            if result.bad == len(result.regions):
                self._failed("it answers with numbers that are not finite")
            elif self._watch is not None:
                self._answered = True
                self._watch.look(image, boxes, result, cpu_seconds() - began, now)
            elif not self._answered:
                self._answered = True
                self._forgiven()
        return result

    def verdict(self, now: float) -> tuple[bool, str] | None:
        """On probation: None while undecided, else (stays, why). The caller acts by `commit` or `roll_back`."""
        watch = self._watch
        if watch is None:
            return None
        if why := self._failure or watch.against():
            return False, why
        if watch.pictures >= self.probation.frames:
            return True, f"answered for {watch.pictures} pictures"
        if now - watch.since < self.probation.seconds:
            return None
        if watch.pictures == 0:  # nothing moved: ask it about a picture of our own
            self.run(patterns.picture(1, REGION_PX), [(0, 0, REGION_PX, REGION_PX)], now)
            return (False, self._failure) if self._failure else (True, "answered for a picture of its own")
        return True, f"answered for {watch.pictures} pictures in {self.probation.seconds:g} s"

    def health(self) -> Health | None:
        """What the probation has shown so far, None when none is under way."""
        return self._watch.health() if self._watch else None

    def commit(self) -> None:
        """Probation is over. Raises OSError when the disk does not take it; then it goes on."""
        self.slots.commit()
        self._watch = None

    def roll_back(self, now: float) -> None:
        """Leave this model for the one before it."""
        self.slots.roll_back()
        self.boot(now)

    def close(self) -> None:
        """A clean stop is no crash, on probation either."""
        if self._answered and not self._failure:
            self._forgiven()

    def _load(self, now: float) -> str:
        """Load the active slot; returns why not, or ""."""
        self._answered, self._failure, self._watch = False, "", None
        try:
            self.slots.loading()
        except OSError as e:
            if self.slots.pointer.probation:
                return f"it is not tried while the disk takes nothing: {e}"
            log.error("loads are not counted: %s", e)
        try:
            loaded = self.slots.load()
            if loaded is None:
                raise Corrupt("its slot is empty")
            self._most = fence(loaded.slot.memory) if self.probation.fenced else 0
            with self._guarded(LOAD_TIMES) if self.slots.pointer.probation else nullcontext():
                self.pipeline = self._pipeline(loaded)
        except (EdgedError, OSError, MemoryError) as e:
            return f"it does not load: {str(e) or type(e).__name__}"
        self.slot = loaded.slot
        return ""

    @contextmanager
    def _guarded(self, times: int = 1) -> Iterator[None]:
        with bounded(times * self.probation.hang_s), fenced(self._most):
            yield

    def _fallback(self) -> Pipeline | None:
        """The model before, after a start in the middle of a probation."""
        if self.slot is not None and self.slot.returns:
            return None
        try:
            loaded = self.slots.fallback()
            if loaded is not None and room_for(len(loaded.model)):
                return self._pipeline(loaded)
        except (EdgedError, OSError, MemoryError) as e:
            log.warning("nothing to compare with: %s", e)
        return None

    def _pipeline(self, loaded: Loaded) -> Pipeline:
        engine = load(loaded.model, runtime=self.runtime, threads=self.threads)
        return Pipeline(engine, loaded.slot.classes, loaded.slot.px)

    def _forgiven(self) -> None:
        try:
            self.slots.answered()
        except OSError as e:
            log.error("%s", e)

    def _failed(self, why: str) -> None:
        self.failed_total += 1
        if self.slots.pointer.probation:
            self._failure = self._failure or why
