"""Convolution and pooling over NCHW arrays in plain numpy, for any kind of number: integers, float32, float64.

Guarantees: with integers (as integers or as whole numbers in a float type that holds every partial sum exactly) the result is
exact, whatever the order of the sums. Does not guarantee speed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

Array = NDArray[Any]


def windows(
    x: Array,
    kernel: tuple[int, int],
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilations: tuple[int, int] = (1, 1),
    *,
    fill: float = 0,
    ceil: bool = False,
) -> Array:
    """[n, c, h, w] -> a view [n, c, rows, columns, *kernel]; `pads` are top, left, bottom, right. With `ceil` a last window
    may hang over the edge (but not begin beyond it), as in ONNX.
    """
    sides = [x.shape[2] + pads[0] + pads[2], x.shape[3] + pads[1] + pads[3]]
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    counts, more = [], []
    for side, span, stride, before, inner in zip(sides, spans, strides, pads[:2], x.shape[2:], strict=True):
        n = (side - span) // stride + 1
        if ceil and (side - span) % stride and n * stride < inner + before:
            n += 1
        counts.append(n)
        more.append(max(0, (n - 1) * stride + span - side))
    if min(counts) < 1:
        raise ValueError(f"a window of {spans} does not fit into {sides}")
    around = ((0, 0), (0, 0), (pads[0], pads[2] + more[0]), (pads[1], pads[3] + more[1]))
    padded = np.ascontiguousarray(np.pad(x, around, constant_values=fill) if any(map(any, around)) else x)
    n, c, h, w = padded.strides
    return as_strided(
        padded,
        (*x.shape[:2], *counts, *kernel),
        (n, c, h * strides[0], w * strides[1], h * dilations[0], w * dilations[1]),
        writeable=False,
    )


def conv(
    x: Array,
    weight: Array,
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilations: tuple[int, int] = (1, 1),
    group: int = 1,
    *,
    fill: float = 0,
) -> Array:
    """[n, c, h, w] and [out, c / group, kh, kw] of the same type -> [n, out, rows, columns]."""
    seen = windows(x, (weight.shape[2], weight.shape[3]), strides, pads, dilations, fill=fill)
    n, c, rows, columns, kh, kw = seen.shape
    if group == c and len(weight) == c:  # depthwise: no matrix to multiply
        total = np.zeros((n, c, rows, columns), x.dtype)
        for i in range(kh):
            for j in range(kw):
                total += seen[..., i, j] * weight[:, 0, i, j].reshape(1, -1, 1, 1)
        return total
    out = []
    for g in range(group):
        part = seen[:, g * (c // group) : (g + 1) * (c // group)]
        matrix = part.transpose(0, 2, 3, 1, 4, 5).reshape(n * rows * columns, -1)
        kernels = weight[g * (len(weight) // group) : (g + 1) * (len(weight) // group)]
        product = matrix @ kernels.reshape(len(kernels), -1).T
        out.append(product.reshape(n, rows, columns, -1).transpose(0, 3, 1, 2))
    return np.concatenate(out, axis=1)
