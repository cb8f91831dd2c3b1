"""The last rung: every layer, by the recipe of stage `train` (fit.py), from the present weights, on the new samples and thousands
of the old ones. Where the world has changed much, nothing less will do.

Guarantees: as fit.py's: seeded, resumed after its last finished epoch. Draws a fraction of what a whole training would,
since the weights begin near.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
from torch import nn

from edged.clock import Clock
from edged.retrain import fit, lesson
from edged.retrain.jobs import TrainJob

EPOCHS = 8
# Samples an epoch. The more there are the smaller the steps, so that weights go about as far in all: with PKLot as a new camera
# beside 10,000 old pictures of two others, the usual rate kept 90.8 % of the second, a third of it 93.8 % (measured).
LEAST, MOST = 1000, 3000


def drawn(pictures: int) -> int:
    """Samples drawn in all."""
    return EPOCHS * max(LEAST, min(MOST, pictures))


def rate(usual: float, pictures: int) -> float:
    """The highest learning rate: `usual` is that of an epoch of LEAST samples."""
    return usual * LEAST * EPOCHS / drawn(pictures)


def learn(
    net: nn.Module,
    data: lesson.Data,
    job: TrainJob,
    camera_cap: float,
    folder: Path,
    *,
    limit_s: float,
    clock: Clock,
    tell: Callable[[fit.State, float], None],
) -> fit.State:
    """Train `net` in place. Raises Refused when it diverges; what reading the old may raise."""
    everything = lesson.join(data.train, data.more()) if data.more else data.train
    recipe = msgspec.structs.replace(
        job,
        lr=rate(job.lr, len(everything)),
        epochs=EPOCHS,
        epoch_least=LEAST,
        epoch_most=MOST,
        max_minutes=max(0.01, limit_s / 60),
        camera_cap=camera_cap,
    )
    return fit.fit(net, everything, data.tune, recipe, folder / "full.safetensors", clock=clock, progress=tell)
