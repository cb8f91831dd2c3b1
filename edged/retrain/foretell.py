"""The profiles of the ladder's rungs: each trained a little on a tenth of the samples (probe.py has the arithmetic).

Guarantees: the network's weights are as before afterwards; a rung that needs more memory than allowed is not run, and said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edged.clock import Clock, cpu_seconds
from edged.retrain import draws, lesson, mix, probe, refit, rung, standing, stem, zoo
from edged.retrain.jobs import LearnJob, Progress
from edged.retrain.pictures import Pictures
from edged.retrain.standing import Standing

JUDGED = 120  # new tune samples, and as many old ones, that a profile looks at


def profiles(
    net: nn.Sequential,
    data: lesson.Data,
    job: LearnJob,
    names: Sequence[str],
    *,
    drawn: int,
    folder: Path,
    clock: Clock,
    left: Callable[[], float],
    progress: Callable[[Progress], None],
) -> tuple[list[probe.Profile], list[str]]:
    """From cheap to dear, and sentences on those that were left out. `drawn` samples in a whole rung; `left` seconds."""
    progress(Progress(0.15, text="profiling the rungs on a tenth of the samples"))
    walk = _Profiling(net, data, job, drawn, folder, clock, left, progress)
    here = refit.copy(net)
    found, notes = [], []
    for name, cut in walk.cuts(names):
        needed = walk.bytes(cut)
        if job.memory_bytes and needed > job.memory_bytes:
            notes.append(f"{name} needs about {needed / 1e6:.0f} MB and was left out")
            continue
        found.append(walk.profile(name, cut, needed))
        net.load_state_dict(here)
    return sorted(found, key=lambda p: p.seconds), notes


@dataclass(frozen=True)
class _Profiling:
    net: nn.Sequential
    data: lesson.Data
    job: LearnJob
    drawn: int
    folder: Path
    clock: Clock
    left: Callable[[], float]
    progress: Callable[[Progress], None]

    def cuts(self, names: Sequence[str]) -> list[tuple[str, int]]:
        """Name and cut of each rung: the head, tails that hold about a half and three quarters of the work, and all."""
        px, blocks = self.job.arch.input_px, zoo.blocks(self.net)
        whole = stem.macs(self.net, px)
        found: dict[int, str] = {}
        if "all" in names:
            found[0] = "all"
        if "head" in names and blocks:
            found[blocks[-1]] = "head"
        if "tail" in names and len(blocks) > 1:
            frozen = {cut: stem.macs(self.net[:cut], px) / whole for cut in blocks[:-1]}
            for share in (0.25, 0.5, 0.75):  # the deepest tail that fits: a profile favours shallow ones (measured)
                cut = min(frozen, key=lambda c: abs(frozen[c] - share))
                if not self.job.memory_bytes or self.bytes(cut) <= self.job.memory_bytes:
                    break
            found.setdefault(cut, f"tail-{len(blocks) - blocks.index(cut) - 1}")
        return sorted(((name, cut) for cut, name in found.items()), key=lambda pair: -pair[1])

    def bytes(self, cut: int) -> int:
        px = self.job.arch.input_px
        shape = stem.shape(self.net, cut, px) if cut else (3, px, px)
        training = probe.training_bytes(self.net[cut:], shape, draws.BATCH)
        return probe.INTERPRETER_BYTES + training + self.data.train.pixels.nbytes

    def profile(self, name: str, cut: int, needed: int) -> probe.Profile:
        before, both = cpu_seconds(), self.data.train
        tail = self.net[cut:]
        picked = probe.sample(draws.chances(self.data, self.job, self.drawn), self.job.seed)
        some = lesson.subset(both, picked)
        given = rung.entering(self.net, cut, some, None, 1)
        few, new = self.few()
        judged = rung.entering(self.net, cut, few, None, 1)
        features = (cpu_seconds() - before) / (len(some) + len(few)) if cut else 0.0
        stood: list[Standing] = []
        looked: list[tuple[float, float]] = []  # CPU seconds at the beginning and the end of each look

        def look(_: nn.Module) -> tuple[float, float]:
            at = cpu_seconds()
            stood.append(standing.of(rung.logits(tail, judged), few.labels, new))
            looked.append((at, cpu_seconds()))
            return stood[-1].mean_loss, stood[-1].accuracy

        checkpoint = self.folder / "profile.safetensors"
        checkpoint.unlink(missing_ok=True)
        refit.run(
            tail, rung.drawn_from(given, draws.how(self.job, self.data.labelled, 0.0)), torch.from_numpy(some.labels),
            torch.full((len(picked),), 1 / len(picked), dtype=torch.float64),
            draws.recipe(self.job, self.data.labelled, probe.SLICES, len(picked)), checkpoint, look,
            limit_s=self.left(), clock=self.clock,
            tell=lambda _, done: self.progress(Progress(0.15, text=f"profiling {name}: {done:.0%}")),
        )  # fmt: skip
        checkpoint.unlink(missing_ok=True)
        # The first slice pays for what the libraries prepare once.
        slices = [after[0] - before[1] for before, after in pairwise(looked)]
        rate = min(slices) / (max(1, len(picked) // draws.BATCH) * draws.BATCH)
        tune = len(self.data.tune)
        looks = draws.SLICES * min(end - start for start, end in looked) * tune / max(1, len(few))
        seconds = features * (len(both) + tune) + rate * self.drawn + looks
        losses = tuple(s.mean_loss for s in stood)
        return probe.Profile(name, cut, losses, stood[-1], seconds, needed, cpu_seconds() - before)

    def few(self) -> tuple[Pictures, int]:
        """Of the tune part what a profile looks at, and how many of it are new."""
        new, old = (
            mix.exemplars(lesson.groups(part, self.job), JUDGED, self.job.seed)
            for part in (self.data.tune_new, self.data.tune_old)
        )
        return lesson.subset(self.data.tune, np.concatenate([new, old + len(self.data.tune_new)])), len(new)
