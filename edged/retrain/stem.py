"""The frozen part of a network: run once per picture, batch norm folded, by torch or by the inference engine.

Guarantees: features float16 [n, ...] in the pictures' order, the same by both ways within rounding. The engine is taken
where it saves more than its start costs (measured on the spot: a small network on few pictures is done before the engine
is there). Does not guarantee bit-equal features between the two ways: which one is taken depends on counts, not on time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edged import engine
from edged.engine import preprocess
from edged.retrain import export

BATCH = 64
ENGINE_MACS = 60e9  # multiply-adds below which exporting, checking and loading cost more than the engine saves
LARGEST = 65_504.0  # of a float16


Run = Callable[[NDArray[np.uint8]], NDArray[np.float16]]  # uint8 [n, px, px, 3] -> features


def runner(net: nn.Sequential, cut: int, px: int, pictures: int, threads: int) -> Run:
    """How to compute what enters `net[cut:]`; `pictures` is about how many will be asked for."""
    frozen = net[:cut]
    if macs(frozen, px) * pictures < ENGINE_MACS:
        folded = export.fold(frozen).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        def by_torch(pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
            with torch.inference_mode():
                return _half(folded(torch.from_numpy(pixels).permute(0, 3, 1, 2).float()).numpy())

        return by_torch
    loaded = engine.load(export.to_onnx(frozen, px), threads=threads)

    def by_engine(pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
        return _half(loaded.run(preprocess.marshal([p.astype(np.float32) for p in pixels]))[0])

    return by_engine


def features(run: Run, pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.float16]]:
    """Batch by batch, in order."""
    for i in range(0, len(pixels), BATCH):
        yield run(pixels[i : i + BATCH])


def shape(net: nn.Sequential, cut: int, px: int) -> tuple[int, ...]:
    """Of one picture's features."""
    with torch.inference_mode():
        return tuple(net[:cut].eval()(torch.zeros(1, 3, px, px)).shape[1:])


def macs(net: nn.Module, px: int) -> float:
    """Multiply-adds of one picture, by running one: kernels times the places they are applied at."""
    found = [0.0]

    def count(module: nn.Module, _given: object, out: torch.Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        places = out.shape[2] * out.shape[3] if out.ndim == 4 else 1
        found[0] += weight.numel() * places

    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    try:
        with torch.inference_mode():
            net.eval()(torch.zeros(1, 3, px, px))
    finally:
        for hook in hooks:
            hook.remove()
    return found[0]


def _half(found: NDArray[np.float32]) -> NDArray[np.float16]:
    return np.clip(found, -LARGEST, LARGEST).astype(np.float16)
