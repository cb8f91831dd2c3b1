"""How `edged train` trains each family of networks where nothing else is asked for: one table. Pure, light.

Guarantees: depends on the network only, never on the data. The rows of the first two are what reached 10.0 and 8.0 % error on
Fashion-MNIST in two and four CPU minutes (docs/training.md); those of the networks without batch norm keep to learning
rates at which they start to learn at all. Does not guarantee that they are the best for a set: `--epochs`, `--batch`,
`--lr`.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from msgspec import Struct

from edged.retrain import nets


class Recipe(Struct, frozen=True):
    """`lr` is AdamW's at the peak, for batches of `batch` pictures."""

    px: int
    epochs: int
    batch: int
    lr: float
    weight_decay: float = 0.02


_FAMILIES = {
    "lenet-300-100": Recipe(px=28, epochs=25, batch=64, lr=2e-3),
    "lenet-5": Recipe(px=32, epochs=25, batch=64, lr=3e-3),
    "lenet-5-caffe": Recipe(px=28, epochs=15, batch=64, lr=2e-3),
    "mobilenet": Recipe(px=64, epochs=20, batch=32, lr=4e-3),
    "squeezenet-1.1": Recipe(px=96, epochs=20, batch=32, lr=1e-3),
    "alexnet": Recipe(px=96, epochs=20, batch=64, lr=3e-4),
    "vgg-16": Recipe(px=64, epochs=20, batch=64, lr=2e-4),
}

Augment = Literal["none", "light", "camera"]
AUGMENT: dict[Augment, dict[str, float]] = {
    "none": {"mirror": 0.0, "shift": 0.0, "light": 0.0, "fill": 0.0},
    "light": {"mirror": 0.0, "shift": 0.08, "light": 0.1, "fill": 0.0},  # a mirrored digit is another one, or none
    "camera": {"mirror": 0.5, "shift": 0.08, "light": 0.3, "fill": 0.5},  # as a snapshot's crops: jobs.TrainJob
}


def of(name: str) -> Recipe:
    """By the network's name. Raises Refused: unknown."""
    return _FAMILIES["mobilenet" if nets.width_of(name) else name]


def rate(name: str, batch: int) -> float:
    """The learning rate of a network for batches of another size: with its square root (Malladi et al., arXiv
    2205.10287, for Adam).
    """
    usual = of(name)
    return usual.lr * math.sqrt(batch / usual.batch)


def zoom(name: str) -> float:
    """By how much a camera's crops are shown larger and smaller to a network: one that has more room learns more of that (Tan &
    Le, EfficientNetV2, arXiv 2104.00298, 4.2). Camera B of CNRPark after a tenth of labels (docs/learning-results.md): width 0.5
    ended at 95.4 % with a fifth and at 93.5 % without, width 0.25 at 94.1 and 94.5 %. Others were not tried.
    """
    return 0.2 if nets.width_of(name) >= 0.5 else 0.0


def settings(
    name: str, augment: Augment, *, px: int = 0, epochs: int = 0, batch: int = 0, lr: float = 0
) -> dict[str, Any]:
    """Fields of a TrainJob; 0 = the recipe's. Another batch moves the learning rate, unless that is given too."""
    usual = of(name)
    size = batch or usual.batch
    return {
        "arch": {"name": name, "input_px": px or usual.px},
        "epochs": epochs or usual.epochs,
        "batch": size,
        "lr": lr or rate(name, size),
        "weight_decay": usual.weight_decay,
        "epoch_most": 10**9,
        "draw": "turns",
        "zoom": zoom(name) if augment == "camera" else 0.0,
        **AUGMENT[augment],
    }
