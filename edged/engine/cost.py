"""What one layer asks of a processor: its kind, multiply-adds, bytes moved. Pure.

Guarantees: the kinds are those that a latency model has numbers for. Does not guarantee how a runtime executes a layer: what
runtimes are known to fuse (batch norm and ReLU after a convolution, quantize and dequantize between int8 layers) counts
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

Kind = Literal[
    "stem", "conv", "pointwise", "depthwise", "full", "pool", "elementwise", "movement", "convert", "prepare"
]  # fmt: skip
Precision = Literal["float32", "int8"]

STEM_CHANNELS = 4  # a convolution from at most so many channels fills no vector: it is a kind of its own


class Cost(Struct, frozen=True):
    """Layers of one kind: how many, multiply-adds in all, bytes read and written in all (weights once)."""

    kind: Kind
    precision: Precision
    macs: float
    bytes: float
    calls: int = 1


def of_conv(channels: int, groups: int, kernel: int) -> Kind:
    """Which kind a convolution of `channels` input channels, in so many groups, with `kernel` taps is."""
    if groups == channels and groups > 1:
        return "depthwise"
    if channels <= STEM_CHANNELS:
        return "stem"
    return "pointwise" if kernel == 1 else "conv"


def by_kind(costs: Iterable[Cost]) -> tuple[Cost, ...]:
    """Summed: one Cost per kind and precision, in the order of their names."""
    found: dict[tuple[Kind, Precision], Cost] = {}
    for c in costs:
        at = (c.kind, c.precision)
        old = found.get(at, Cost(c.kind, c.precision, 0, 0, 0))
        found[at] = Cost(c.kind, c.precision, old.macs + c.macs, old.bytes + c.bytes, old.calls + c.calls)
    return tuple(found[at] for at in sorted(found))
