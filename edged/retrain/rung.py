"""One rung: the layers from a cut on, trained on what enters them. Cut 0 is the whole network on pictures.

Guarantees: the stem before the cut is not touched, batch norm's statistics included; what enters the tail is computed
once per distinct picture and copy and read from the cache, or kept in memory where the disk has no room.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edged.errors import Unavailable
from edged.retrain import cache, fit, refit, stem
from edged.retrain.jobs import TrainJob
from edged.retrain.pictures import Pictures


@dataclass(frozen=True)
class Entering:
    """What enters `net[cut:]` for all samples: uint8 pictures (cut 0) or float16 features, `rows` their place in it."""

    values: NDArray[np.uint8] | NDArray[np.float16]
    rows: NDArray[np.int64]
    note: str = ""

    def take(self, chosen: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self.values[self.rows[chosen]]).float()

    def picked(self, chosen: NDArray[np.int64]) -> Entering:
        """Of some samples only."""
        return Entering(self.values, self.rows[chosen], self.note)


def entering(
    net: nn.Sequential, cut: int, pictures: Pictures, folder: Path | None, threads: int, foot: str = ""
) -> Entering:
    """Compute or read what enters the tail. `folder` None = in memory, for a few; `foot` names the weights before `cut`."""
    first, rows = cache.distinct(pictures.pixels)
    if cut == 0:
        return Entering(pictures.pixels, np.arange(len(pictures)))
    pixels = pictures.pixels[first]
    px = pixels.shape[1]
    run = None

    def compute(done: int) -> Iterator[NDArray[np.float16]]:
        nonlocal run
        run = run or stem.runner(net, cut, px, len(first), threads)
        yield from stem.features(run, pixels[done:])

    if folder is not None:
        name = cache.key(foot, cut, pixels.tobytes())
        try:
            return Entering(cache.filled(folder, name, len(first), stem.shape(net, cut, px), compute), rows)
        except Unavailable as e:
            note = f"{e}: they are kept in memory"
            return Entering(np.concatenate(list(compute(0))), rows, note)
    return Entering(np.concatenate(list(compute(0))), rows)


def drawn_from(given: Entering, job: TrainJob) -> refit.Draw:
    """Batches for the tail: features as they are, pictures augmented."""

    def pictures(chosen: Tensor, dice: torch.Generator, strength: float) -> Tensor:
        return fit.augment(torch.from_numpy(given.values[given.rows[chosen.numpy()]]), dice, job, strength)

    def features(chosen: Tensor, _dice: torch.Generator, _strength: float) -> Tensor:
        found = given.take(chosen.numpy())
        return found.contiguous(memory_format=torch.channels_last) if found.ndim == 4 else found

    return pictures if given.values.dtype == np.uint8 else features


def logits(tail: nn.Module, given: Entering, batch: int = 128) -> NDArray[np.float32]:
    """float32 [n, classes] by torch."""
    tail.eval()
    found = []
    with torch.inference_mode():
        for i in range(0, len(given.rows), batch):
            values = given.take(np.arange(i, min(i + batch, len(given.rows))))
            found.append(tail(values.permute(0, 3, 1, 2) if given.values.dtype == np.uint8 else values).numpy())
    return np.concatenate(found) if found else np.zeros((0, 1), np.float32)


def foot(net: nn.Sequential, cut: int) -> str:
    """A name for the weights before a cut."""
    return cache.key(*(value.numpy().tobytes() for value in net[:cut].state_dict().values()))
