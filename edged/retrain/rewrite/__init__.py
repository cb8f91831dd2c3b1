"""Other ways to compute the same convolution, as ONNX graphs of standard operators that any runtime executes.

    direct              one Conv, as it was
    space_to_depth      a stride taken apart into channels; -2 also makes small kernels of large ones at stride 1
    winograd-m          F(m x m, r x r) on tiles
    fft-t               tiles of t x t in the frequency domain

Guarantees: the same result up to rounding; inputs, outputs and metadata stay. Does not guarantee that any is faster:
`measure` says so, of one shape on one runtime with one instruction set.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from edged.retrain.rewrite import fft, graph, space_to_depth, winograd
from edged.retrain.rewrite.graph import Conv, Rewrite, convs

DIRECT = "direct"
MOST_BYTES = 64 << 20  # a layer's transformed kernel in memory; a camera has 512 MB to 4 GB for everything
_FACTORIES: dict[str, tuple[Callable[..., bool], Callable[..., None], Callable[..., tuple[int, int]], dict[str, int]]]
_FACTORIES = {
    "space_to_depth": (space_to_depth.applies, space_to_depth.rewrite, space_to_depth.work, {}),
    "space_to_depth-2": (space_to_depth.applies, space_to_depth.rewrite, space_to_depth.work, {"blocks": 2}),
    **{f"winograd-{m}": (winograd.applies, winograd.rewrite, winograd.work, {"m": m}) for m in (2, 4, 6)},
    **{f"fft-{t}": (fft.applies, fft.rewrite, fft.work, {"tile": t}) for t in (8, 16, 32)},
}
ALGORITHMS = (DIRECT, *_FACTORIES)


def candidates(conv: Conv, *, hopeful: bool = False) -> tuple[str, ...]:
    """The algorithms that can compute it, `direct` first. `hopeful`: only what fits into memory and has less to multiply
    than the convolution as it stands.
    """
    found = [DIRECT]
    for name, (applies, _, work, options) in _FACTORIES.items():
        if not applies(conv, **options):
            continue
        if hopeful:
            macs, held = work(conv, **options)
            if macs >= conv.macs or held > MOST_BYTES:
                continue
        found.append(name)
    return tuple(found)


def rewritten(model: bytes, chosen: dict[str, str]) -> bytes:
    """The model with each convolution (by `Conv.name`) by its algorithm. Raises KeyError for an unknown one."""
    changed: dict[str, Rewrite] = {
        name: partial(_FACTORIES[how][1], **_FACTORIES[how][3]) for name, how in chosen.items() if how != DIRECT
    }
    return graph.replaced(model, changed) if changed else model


__all__ = ["ALGORITHMS", "DIRECT", "Conv", "candidates", "convs", "rewritten"]
