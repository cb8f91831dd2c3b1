"""The steps of compression: each takes a model and an amount, and gives a model and facts (`apply`).

A step on the network changes `Model.net` in place of a copy and retrains it (`refine`); from the first step on the file
the model has bytes (`Model.onnx`) and no network any more. What retraining must keep true of a changed network (zeros stay
zeros, equal weights stay equal) is a `Hold`; every later retraining keeps the holds of all steps before it.

Guarantees: the same model, amount, lesson and seed give the same result on one thread; accuracies in `Facts` are measured
on the tune split (the train split where that is empty). Does not guarantee that the loss is small: the gate decides.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from edged.chain import OF_FILES, Step
from edged.clock import Clock
from edged.errors import Refused
from edged.retrain import source
from edged.retrain.jobs import Progress
from edged.retrain.pictures import Pictures

if TYPE_CHECKING:
    from torch import nn


class Hold(Protocol):
    """Something that retraining must keep true of a network. Tensors are known by their names in its state dict."""

    def after_backward(self, net: nn.Module) -> None:
        """Change gradients so that a step keeps to the hold as nearly as a step can."""
        ...

    def after_step(self, net: nn.Module) -> None:
        """Put the weights back where the hold wants them, exactly."""
        ...


@dataclass(frozen=True)
class Model:
    """What is being compressed. `net` takes float32 RGB [n, 3, px, px] 0..255 and gives logits; None once it is a file.

    `teacher` is a frozen copy of the network before the first step: what retraining learns from besides the labels.
    """

    px: int
    classes: tuple[str, ...]
    net: nn.Module | None = None
    onnx: bytes = b""
    holds: tuple[Hold, ...] = ()
    teacher: nn.Module | None = None


@dataclass(frozen=True)
class Lesson:
    """What retraining and calibration may use. `effort` scales the length of retraining (1 = usual, 0 = none)."""

    train: Pictures
    tune: Pictures
    clock: Clock
    progress: Callable[[Progress], None] = lambda _: None
    seed: int = 1
    threads: int = 1
    calibration: int = 200
    max_loss: float = 0.01  # accuracy that a step with accuracy control may lose
    device: str = "atom-x5-e3940"  # what `tune` tunes for
    effort: float = 1.0
    folder: str = ""  # where a step may keep what it measured, "" = nowhere
    previous: bytes = b""  # the version before, as it was delivered: int8 weights stay near it (near.py); b"" = none
    until: float = float("inf")  # of clock.monotonic(); retraining ends before

    @property
    def judged(self) -> Pictures:
        return self.tune if len(self.tune) else self.train


class Near(Struct, frozen=True):
    """What is as in the version before (near.py). `changed`: share of the bytes of the tensors that differ, those of new tensors
    included.
    """

    steps: int  # of hysteresis
    weights: int  # of layers that both versions have
    kept: int  # the same whole number
    channels: int
    rescaled: int  # channels with a new scale
    changed: float

    def __str__(self) -> str:
        scales = f", {self.rescaled} of {self.channels} channels have new scales" if self.rescaled else ""
        return (
            f"{self.kept} of {self.weights} weights are those of the version before (kept within {self.steps} "
            f"step{'' if self.steps == 1 else 's'}){scales}; {self.changed:.1%} of the bytes changed"
        )


class Facts(Struct, frozen=True, kw_only=True):
    """What a step did. Accuracies by torch or the engine on the tune split; `seconds` are CPU seconds."""

    step: str
    accuracy_before: float
    accuracy_after: float
    parameters_before: int
    parameters: int
    nonzero: int
    seconds: float
    epochs: float = 0
    note: str = ""  # a sentence
    table: tuple[dict[str, Any], ...] = ()  # what was measured of each layer (rewrite/tuner.py)
    multiply_adds_before: int = 0  # of one picture; 0 = the step leaves them as they are
    multiply_adds: int = 0
    near: Near | None = None  # what is as in the version before


Method = Callable[[Model, float, Lesson], tuple[Model, Facts]]


def apply(model: Model, step: Step, lesson: Lesson) -> tuple[Model, Facts]:
    """One step of a chain: `methods/<name>.py`'s `apply`.

    Raises Refused when the step needs a network and there is none (code no_weights), or when a weight is NaN or infinite
    (code bad_weights).
    """
    if model.net is None and step.name not in OF_FILES:
        raise Refused(
            f"`{step.name}` needs weights that can be trained, and this model is a file only", code="no_weights"
        )
    if model.net is not None:
        tensors = model.net.state_dict().items()
        _check(name for name, t in tensors if t.is_floating_point() and not bool(t.isfinite().all()))
        if model.teacher is None:
            model = replace(model, teacher=_frozen(model.net))
    else:
        _check(_without_numbers(model.onnx))
    method: Method = import_module(f"edged.retrain.methods.{step.name}").apply
    return method(model, step.amount, lesson)


def _check(odd: Iterable[str]) -> None:
    if names := list(odd):
        raise Refused(
            f"the model's weights hold numbers that are none (NaN or infinite) in {', '.join(names[:3])}",
            hint="train it again: training diverged",
            code="bad_weights",
        )


def _without_numbers(model: bytes) -> Iterator[str]:
    """The tensors of an ONNX file that hold NaN or an infinity."""
    import numpy as np
    from onnx import TensorProto, numpy_helper

    from edged.engine import onnx_file

    onnx_file.check(model)  # refuses what lies in another file before it is looked for
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    for tensor in source.parse(model).graph.initializer:
        if tensor.data_type in floats and not np.isfinite(numpy_helper.to_array(tensor)).all():
            yield tensor.name


def _frozen(net: nn.Module) -> nn.Module:
    return copy.deepcopy(net).requires_grad_(False).eval()
