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

# The passes and the rate of stage `train`. With 8 passes at half that rate camera B of CNRPark ended at 90.7 to 91.5 %, with
# these at 92.5 to 94.3 % (measured on arrays, three choices of 641 labels).
EPOCHS = 14
LEAST, MOST = 1000, 2000  # samples drawn in one pass
# Beyond MOST pictures the steps are smaller, so that weights do not go farther from what they knew: with PKLot as a new camera
# beside 10,000 old pictures of two others, the usual rate kept 90.8 % of the second, a third of it 93.8 % (measured).
SMALLEST = 1 / 3


def drawn(pictures: int) -> int:
    """Samples drawn in all."""
    return EPOCHS * max(LEAST, min(MOST, pictures))


def rate(usual: float, pictures: int) -> float:
    """The highest learning rate; `usual` is that of stage `train`."""
    return usual * max(SMALLEST, min(1.0, MOST / pictures))


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
