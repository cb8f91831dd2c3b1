"""A convolution with a stride as one without: blocks of b x b pixels become channels. Exact up to rounding.

Output (i, j) of phase (p, q), with b = blocks * stride, reads rows of blocks i .. i + ceil((k + stride * (blocks - 1)) / b) - 1:
the kernel is laid into a frame of whole blocks, once for each of the blocks^2 phases, zeros around it. blocks = 1 is the
usual rewrite of a first layer (MLPerf's ResNet on TPUs, arXiv 1909.09756, section 3.2); more than one makes small kernels of
large ones at stride 1, for a little more work: 11x11 becomes 6x6 of four times the channels.
"""

from __future__ import annotations

import numpy as np

from edged.retrain.rewrite.graph import Conv, Draft
from edged.retrain.rewrite.kernels import LARGEST


def applies(conv: Conv, blocks: int = 1) -> bool:
    """Where there is something to win: one square stride, a kernel larger than a block."""
    stride = conv.strides[0]
    return (
        conv.plain and conv.strides[0] == conv.strides[1] and stride * blocks > 1
        and min(conv.kernel) > stride and min(conv.kernel) >= 3
    )  # fmt: skip


def rewrite(draft: Draft, blocks: int = 1) -> None:
    conv = draft.conv
    stride = conv.strides[0]
    side = stride * blocks
    tiles = tuple(-(-n // blocks) for n in conv.made)  # outputs in blocks of blocks x blocks
    spans = tuple(-(-(k + stride * (blocks - 1)) // side) for k in conv.kernel)
    wanted = tuple(side * (t - 1 + s) for t, s in zip(tiles, spans, strict=True))
    maps = conv.source
    before, after = conv.pads[:2], tuple(wanted[i] - conv.size[i] - conv.pads[i] for i in (0, 1))
    if min(after) < 0:  # a border that no output reads
        maps = draft.add("Slice", maps, draft.const([0, 0]), draft.const([conv.size[i] + min(0, after[i]) for i in (0, 1)]),
                         draft.const([2, 3]))  # fmt: skip
    if any(before) or max(after) > 0:
        pads = [0, 0, *before, 0, 0, *(max(0, a) for a in after)]
        maps = draft.add("Pad", maps, draft.const(pads))
    maps = draft.add("SpaceToDepth", maps, blocksize=side)
    inputs = [maps, _kernel(draft, stride, blocks, spans)]
    if conv.bias:
        inputs.append(draft.add("Concat", *[conv.bias] * blocks**2, axis=0) if blocks > 1 else conv.bias)
    maps = draft.add("Conv", *inputs, kernel_shape=list(spans))
    if blocks > 1:
        maps = draft.add("DepthToSpace", maps, blocksize=blocks)
        if (tiles[0] * blocks, tiles[1] * blocks) != conv.made:
            draft.add("Slice", maps, draft.const([0, 0]), draft.const(list(conv.made)), draft.const([2, 3]))


def _kernel(draft: Draft, stride: int, blocks: int, spans: tuple[int, ...]) -> str:
    """[outputs, inputs, k, k] -> [blocks^2 * outputs, side^2 * inputs, span, span], in the order of SpaceToDepth's channels."""
    conv, side = draft.conv, stride * blocks
    made = (blocks**2 * conv.outputs, side**2 * conv.inputs, *spans)
    if (
        blocks == 1 and draft.weights is not None
    ):  # hardly larger: stored, so that quantisation sees a plain convolution
        after = [spans[i] * side - conv.kernel[i] for i in (0, 1)]
        framed = np.pad(draft.weights, [(0, 0), (0, 0), (0, after[0]), (0, after[1])])
        split = framed.reshape(conv.outputs, conv.inputs, spans[0], side, spans[1], side)
        return draft.const(split.transpose(0, 3, 5, 1, 2, 4).reshape(made))
    phases = []
    for p in range(blocks):
        for q in range(blocks):
            first = (p * stride, q * stride)
            pads = [0, 0, *first, 0, 0, *(spans[i] * side - first[i] - conv.kernel[i] for i in (0, 1))]
            phases.append(draft.add("Pad", conv.weights, draft.const(pads)))
    joined = phases[0] if len(phases) == 1 else draft.add("Concat", *phases, axis=0)
    split_up = draft.reshape(joined, [blocks**2 * conv.outputs, conv.inputs, spans[0], side, spans[1], side])
    turned = draft.add("Transpose", split_up, perm=[0, 3, 5, 1, 2, 4])
    return draft.reshape(turned, list(made))


def work(conv: Conv, blocks: int = 1) -> tuple[int, int]:
    """(multiply-adds of one picture, bytes of the kernel). Beside a kernel so large that a runtime may have a reference one
    for it, and for one block, which is chosen for the runtime's sake, the multiply-adds count as none.
    """
    stride = conv.strides[0]
    spans = [-(-(k + stride * (blocks - 1)) // (stride * blocks)) for k in conv.kernel]
    numbers = blocks**2 * conv.outputs * (stride * blocks) ** 2 * conv.inputs * spans[0] * spans[1]
    tiles = -(-conv.made[0] // blocks) * -(-conv.made[1] // blocks)
    return (0 if blocks == 1 or max(conv.kernel) > LARGEST else numbers * tiles), 4 * numbers
