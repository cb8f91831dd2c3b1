"""What the rungs of the ladder draw: which samples how often, in what light, in steps of what size. Pure but for torch's dice.

Guarantees: the same job and data draw the same. `new` is the number of new samples: where they are few, light is varied,
steps are shorter and more of the old is drawn beside them.
"""

from __future__ import annotations

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from edged.retrain import fit, jobs, lesson, mix, recipes, refit
from edged.retrain.jobs import LearnJob
from edged.retrain.pictures import Pictures

PATCHED = 0.25  # share of the pictures with a patch of the scrubber's grey (decision 0007)
SLICES = 6  # of a whole rung: looks at the tune split
LIGHT = 0.3  # contrast and brightness of augmented pictures, as in stage `train`
FEW = 300  # new samples below which light is varied (cached features: four copies) and steps are shorter
REPEATED = 10  # times that a new sample is drawn at most, where there are old ones to draw instead
BATCH = 32


def how(job: LearnJob, new: int, light: float | None = None) -> jobs.TrainJob:
    """Augmentation in a short run: patches, and light where the new are few. More of it cost accuracy (measured)."""
    light = (LIGHT if new < FEW else 0.0) if light is None else light
    return msgspec.structs.replace(as_train(job), mirror=0.0, shift=0.0, zoom=0.0, light=light, fill=PATCHED)


def copies(both: Pictures, job: LearnJob, new: int) -> Pictures:
    """What cached features are made of: the pictures, and where the new are few again in other light."""
    times = 4 if new < FEW else 1
    dice, out = torch.Generator().manual_seed(job.seed), np.empty((times, *both.pixels.shape), np.uint8)
    for i in range(times):
        for at in range(0, len(both), 256):
            part = torch.from_numpy(both.pixels[at : at + 256])
            changed = fit.augment(part, dice, how(job, new, LIGHT if i else 0.0), 1.0)
            out[i, at : at + 256] = changed.permute(0, 2, 3, 1).to(torch.uint8).numpy()
    return Pictures(
        out.reshape(-1, *both.pixels.shape[1:]), np.tile(both.labels, times), both.cameras * times, both.ids * times
    )  # fmt: skip


def recipe(job: LearnJob, new: int, slices: int, drawn: int) -> refit.Recipe:
    """`drawn` samples in each of `slices`."""
    return refit.Recipe(
        epochs=slices,
        drawn=drawn,
        lr=recipes.rate(job.arch.name, BATCH) / (2.5 if new < FEW else 1),
        batch=BATCH,
        seed=job.seed,
    )


def chances(data: lesson.Data, job: LearnJob, drawn: int) -> NDArray[np.float64]:
    """Of each training sample, new ones first; [n], the sum is 1. `drawn` in all: of the old more where the new are few,
    so that none of those is drawn more than REPEATED times.
    """
    both = data.train
    return mix.chances(
        lesson.groups(both, job), np.arange(len(both)) < len(data.new),
        replay=max(job.replay, 1 - REPEATED * len(data.new) / drawn), balance=0.5, cap=job.camera_cap,
    )  # fmt: skip


def as_train(job: LearnJob) -> jobs.TrainJob:
    """The same as a training job, for what training and learning share."""
    return jobs.TrainJob(
        data_dir=job.data_dir, classes=job.classes, arch=job.arch, start=job.start, seed=job.seed, threads=job.threads,
        lr=recipes.rate(job.arch.name, BATCH), batch=BATCH, zoom=recipes.zoom(job.arch.name),
    )  # fmt: skip
