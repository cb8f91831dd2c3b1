"""A new model on probation, beside the one before it: how fast, how sure of itself, and where the two disagree.

While it is watched, the model before stays in memory and looks at some of the same pictures (the shadow): at every
picture as long as that has taken at most the share `shadow` of the time since the probation began, measured in CPU
seconds. That costs the memory of a second engine until the probation ends (MobileNet 1.0 at 224 px, a file of 12 MB: 53
MiB, docs/camera.md); where less than that is free, or nothing ran before, there is no shadow and nothing to compare.

What stops a model here is only what no good model does, since one that was made because the world has changed *must*
differ from the one before:

    slow        more CPU time a picture than `slowest_s`; or more than there is between two pictures (`picture_s`) and
                more than `max_slowdown` times what the one before took
    one class   every one of at least MIN_REGIONS regions is put into one class, where the one before saw others in more
                than a fifth of the same regions
    chance      the two agree less often than their own shares of classes would by chance, beyond two standard errors
                (Cohen's kappa, 1960, below zero): labels that were swapped, for example
    memory      it asks for more than its self-test was allowed (1 GiB unless signed otherwise) or than is free (256 MiB
                are granted in any case): the runtime gets none, and the picture or the load fails
    by limits   agreement below `min_agreement`, confidence shifted by more than `max_shift`: both off by default, for who
                knows the place

A way back to the bytes of an earlier release (signed as such: `returns_to`) is not compared: what it leaves may be fast
and wrong, so being slower and disagreeing speaks for it. It has no shadow either, since a model that is left because it
crashes would be asked again and again, and its crashes counted against the one that comes. What such a release does by
itself counts as ever: it crashes, hangs, answers only rubbish, takes more than `slowest_s`.

A model that answers like a coin is not found here but by the box, which gets `health` and knows the labels: the gate
before, the rollout's abort criteria after. A good model after a drift can be stopped by "one class" in one case: all that
is seen during the probation is of one class and the one before was wrong in more than a fifth of it.
"""

from __future__ import annotations

import faulthandler
import math
import resource
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent import vitals
from agent.pipeline import Box, Pipeline, Result
from edged.clock import cpu_seconds
from edged.errors import Refused
from edged.wire.messages import Health, Region

MIN_REGIONS = 16  # before two models are compared
MIN_TIMED = 3  # pictures, before a model is called slow
FEW = 0.8  # the model before saw the one class in fewer regions than this share
BINS = 10  # of the histogram of confidence
SPARE_BYTES = 64 * 2**20  # left free beside a second engine
LEAST_FENCE = 256 * 2**20  # that a model may take on probation, however little is free
ENGINE_TIMES = 5  # an engine takes up to so many times its file (measured: 4.4 with MobileNet 1.0)


@dataclass(frozen=True)
class Probation:
    """A new model is watched until it has answered for `frames` pictures, or `seconds` have passed; and what stops it."""

    frames: int = 20
    seconds: float = 60.0
    picture_s: float = 0.2  # between two pictures of this camera
    max_slowdown: float = 3.0
    slowest_s: float = 2.0
    min_agreement: float = 0.0
    max_shift: float = 1.0
    shadow: float = 0.5  # CPU seconds for the model before, for each second of probation; 0 = no shadow
    fenced: bool = False  # a model that asks for more memory than its self-test allowed, or than is free, gets none
    hang_s: float = 0.0  # a picture that takes longer, a load of three times that, ends the process: a crash; 0 = never


class Watch:
    """What is seen of one model on probation since `since` (monotonic seconds). `before`: the pipeline it replaces."""

    def __init__(self, limits: Probation, before: Pipeline | None, since: float) -> None:
        self.limits, self.since = limits, since
        self.before = before if before is not None and before.model is not None and limits.shadow > 0 else None
        self.pictures = 0  # that it answered
        self._new: list[float] = []  # CPU seconds of each picture
        self._old: list[float] = []
        self._pairs: list[tuple[Region, Region]] = []  # the new one's answer and the old one's, for the same region

    def look(self, image: NDArray[np.uint8], boxes: Sequence[Box], result: Result, seconds: float, now: float) -> None:
        """The new model answered `result` for this picture in `seconds` of CPU time."""
        self.pictures += 1
        self._new.append(seconds)
        if self.before is None or sum(self._old) > self.limits.shadow * (now - self.since):
            return
        began = cpu_seconds()
        try:
            shadow = self.before.run(image, boxes)
        except Refused:
            self.before = None
            return
        self._old.append(cpu_seconds() - began)
        pairs = zip(result.regions, shadow.regions, strict=True)
        self._pairs += [(new, old) for new, old in pairs if new.label and old.label]

    def against(self) -> str:
        """Why it must not stay, "" = nothing speaks against it."""
        return self._slow() or self._odd()

    def health(self) -> Health:
        """For the report."""
        n = len(self._pairs)
        return Health(
            pictures=self.pictures,
            fps=_rate(self._new),
            fps_before=_rate(self._old) if self._old else None,
            agreement=round(self._agreement(), 4) if n else None,
            shift=round(self._shift(), 4) if n else None,
            regions=n,
        )

    def _slow(self) -> str:
        if len(self._new) < MIN_TIMED:
            return ""
        took = statistics.median(self._new)
        if took > self.limits.slowest_s:
            return f"it is too slow: {took:.3g} s of CPU time a picture (at most {self.limits.slowest_s:g})"
        before = statistics.median(self._old) if self._old else 0.0
        if before and took > self.limits.picture_s and took > self.limits.max_slowdown * before:
            return f"it is too slow: {took:.3g} s of CPU time a picture, {took / before:.1f} times that of the model before"
        return ""

    def _odd(self) -> str:
        n = len(self._pairs)
        if n < MIN_REGIONS:
            return ""
        agreement, shift = self._agreement(), self._shift()
        new, old = (Counter(pair[i].label for pair in self._pairs) for i in (0, 1))
        words = f"it agrees with the model before in {agreement:.0%} of {n} regions"
        if len(new) == 1 and old[next(iter(new))] < FEW * n:
            label, seen = next(iter(new)), old[next(iter(new))]
            return f"it calls all of {n} regions {label!r}, the model before only {seen} of them"
        if self.before is not None and self.before.classes and not set(new) & set(self.before.classes):
            return ""  # other classes altogether: nothing can agree
        chance = sum(new[label] * old[label] for label in new) / n**2
        if agreement + 2 * math.sqrt(max(agreement * (1 - agreement), 1 / n) / n) < chance:
            return f"{words}, less than by chance ({chance:.0%})"
        if agreement < self.limits.min_agreement:
            return f"{words} (at least {self.limits.min_agreement:.0%})"
        if shift > self.limits.max_shift:
            return (
                f"how sure it is has shifted by {shift:.0%} from the model before (at most {self.limits.max_shift:.0%})"
            )
        return ""

    def _agreement(self) -> float:
        return sum(new.label == old.label for new, old in self._pairs) / len(self._pairs)

    def _shift(self) -> float:
        """Total variation distance of the two histograms of confidence."""
        new, old = (np.histogram([pair[i].score for pair in self._pairs], BINS, (0, 1))[0] for i in (0, 1))
        return float(np.abs(new - old).sum()) / (2 * len(self._pairs))


def room_for(model_bytes: int) -> bool:
    """Whether a second engine for a file of this size fits beside all else."""
    free = vitals.memory_available()
    return free == 0 or free > SPARE_BYTES + ENGINE_TIMES * model_bytes


def fence(memory: int) -> int:
    """How large this process may grow (see `fenced`) with a new model whose self-test allowed `memory` bytes; 0 = unknown."""
    here, free = vitals.data_bytes(), vitals.memory_available()
    return here and here + (min(memory, max(LEAST_FENCE, free)) if free else memory)


@contextmanager
def fenced(most: int) -> Iterator[None]:
    """Inside, memory of this process beyond `most` bytes cannot be had: who asks for it fails (RLIMIT_DATA). 0 = no limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if not most or most >= (soft if soft != resource.RLIM_INFINITY else most + 1):
        yield
        return
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@contextmanager
def bounded(seconds: float) -> Iterator[Any]:
    """The process ends when what is inside takes longer (0 = it may); the clock for that runs beside Python's lock."""
    if seconds > 0:
        with suppress(RuntimeError, ValueError, AttributeError):  # there is no standard error to say it to
            faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        if seconds > 0:
            faulthandler.cancel_dump_traceback_later()


def _rate(times: Sequence[float]) -> float:
    """Pictures a second."""
    median = statistics.median(times) if times else 0.0
    return round(1 / median, 3) if median > 0 else 0.0
