"""Convolution at stride 1 by tiles: transform tiles of the picture and the kernel, multiply, transform back.

Winograd's (Lavin and Gray, arXiv 1509.09308) and the FFT's fast convolution are the same five steps with other matrices.
`Lines` holds them for one dimension, `parts` numbers to a point (1; of a complex spectrum 2). As ONNX nodes, for
maps [n, C, H, W]:

    columns   MatMul with a banded matrix     [n, C, H, W]        -> [n, C, H * parts, tiles * points]   cuts, pads, transforms
    rows      MatMul with a banded matrix     [n, C, H * parts,.] -> [n, C, tiles * products, tiles * points]
    gather    Reshape, Transpose, Reshape     -> [products * points, C, n * tiles * tiles]
    multiply  MatMul, one for each product    with [products * points, outputs, C]
    back      the same in reverse, the last matrices cut the padding of the last tiles off

A banded matrix is mostly zeros; it wastes little while a row has few tiles, and no runtime has to gather overlapping
tiles. The kernel's transform is two MatMuls of constants, which a runtime computes when it loads the file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edged.retrain.rewrite.graph import Conv, Draft

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Lines:
    """One dimension: `tile` values in a line make `step` outputs, `tile - step + 1` being the kernel's side.

    data, taps   [parts, points, tile], [parts, points, kernel]                        along the width
    data2, taps2 [products, points, parts, tile], [products, points, parts, kernel]    along the height
    back2        [parts, products, points, step]                                       along the height
    back         [parts, points, step]                                                 along the width
    """

    step: int
    data: Matrix
    taps: Matrix
    data2: Matrix
    taps2: Matrix
    back2: Matrix
    back: Matrix


def rewrite(draft: Draft, down: Lines, across: Lines) -> None:
    """`down` has the matrices for the height, `across` for the width."""
    conv = draft.conv
    (height, width), (top, left, _, _), (made_h, made_w) = conv.size, conv.pads, conv.made
    high, wide = -(-made_h // down.step), -(-made_w // across.step)
    parts, points = across.data.shape[:2]
    pairs = down.data2.shape[0] * down.data2.shape[1]

    bands = over(across.data, wide, across.step, left, width).transpose(3, 0, 2, 1).reshape(width, -1)
    maps = draft.add("MatMul", conv.source, draft.const(bands))
    if parts > 1:
        maps = draft.reshape(maps, [0, conv.inputs, height * parts, wide * points])
    bands = over(down.data2, high, down.step, top, height).transpose(3, 0, 1, 4, 2).reshape(high * pairs, -1)
    maps = draft.add("MatMul", draft.const(bands), maps)
    maps = draft.reshape(maps, [-1, conv.inputs, high, pairs, wide, points])
    maps = draft.add("Transpose", maps, perm=[3, 5, 1, 0, 2, 4])
    maps = draft.reshape(maps, [pairs * points, conv.inputs, -1])

    maps = draft.add("MatMul", _kernel(draft, down, across), maps)

    maps = draft.reshape(maps, [pairs, points, conv.outputs, -1, high, wide])
    maps = draft.add("Transpose", maps, perm=[3, 2, 4, 0, 5, 1])
    maps = draft.reshape(maps, [-1, conv.outputs, high * pairs, wide * points])
    bands = over(down.back2, high, down.step, 0, made_h).transpose(4, 0, 3, 1, 2).reshape(made_h * parts, -1)
    maps = draft.add("MatMul", draft.const(bands), maps)
    if parts > 1:
        maps = draft.reshape(maps, [0, conv.outputs, made_h, parts * wide * points])
    bands = over(across.back, wide, across.step, 0, made_w).transpose(0, 2, 1, 3).reshape(-1, made_w)
    maps = draft.add("MatMul", maps, draft.const(bands))
    if conv.bias:
        # OpenVINO 2026.3 joins an Add to the MatMul before it as if its columns were the channels, and fails.
        maps = draft.reshape(maps, [0, conv.outputs, made_h * made_w])
        maps = draft.add("Add", maps, draft.add("Unsqueeze", conv.bias, draft.const([1])))
        draft.reshape(maps, [0, conv.outputs, made_h, made_w])


def _kernel(draft: Draft, down: Lines, across: Lines) -> str:
    """[outputs, inputs, k, k] -> [products * points, outputs, inputs]."""
    conv = draft.conv
    parts, points = across.taps.shape[:2]
    taps = draft.add("MatMul", conv.weights, draft.const(across.taps.reshape(-1, conv.kernel[1]).T))
    taps = draft.reshape(taps, [conv.outputs, conv.inputs, conv.kernel[0] * parts, points])
    laid = down.taps2.transpose(0, 1, 3, 2).reshape(-1, conv.kernel[0] * parts)
    taps = draft.add("MatMul", draft.const(laid), taps)
    taps = draft.add("Transpose", taps, perm=[2, 3, 0, 1])
    return draft.reshape(taps, [len(laid) * points, conv.outputs, conv.inputs])


def work(conv: Conv, down: Lines, across: Lines) -> tuple[int, int]:
    """(multiply-adds of one picture, bytes of the transformed kernel that the runtime will hold)."""
    (height, width), (made_h, made_w) = conv.size, conv.made
    high, wide = -(-made_h // down.step), -(-made_w // across.step)
    parts, points = across.data.shape[:2]
    pairs = down.data2.shape[0] * down.data2.shape[1]
    columns, rows = wide * points, high * pairs
    into = height * width * parts * columns + height * parts * rows * columns
    back = made_h * parts * rows * columns + made_h * parts * columns * made_w
    products = pairs * points * conv.outputs * conv.inputs
    return conv.inputs * into + conv.outputs * back + products * high * wide, 4 * products


def over(lines: Matrix, tiles: int, step: int, before: int, size: int) -> Matrix:
    """[..., line] -> [..., tiles, size]: tile t's line lies at t * step - before; what lies outside is cut."""
    laid = np.zeros((*lines.shape[:-1], tiles, size))
    for t in range(tiles):
        start = t * step - before
        first, last = max(0, -start), min(lines.shape[-1], size - start)
        if last > first:
            laid[..., t, start + first : start + last] = lines[..., first:last]
    return laid
