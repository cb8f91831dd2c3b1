"""Convolution at stride 1 by the discrete Fourier transform of tiles (overlap-save), in real arithmetic.

Of a tile's spectrum half is kept (it is that of real values); a complex product takes three real ones (Gauss). The kernel's
spectrum is conjugated, since a network's "convolution" is a correlation. Mathieu et al., arXiv 1312.5851.
"""

from __future__ import annotations

import numpy as np

from edged.retrain.rewrite import bilinear
from edged.retrain.rewrite.bilinear import Lines
from edged.retrain.rewrite.graph import Conv, Draft


def lines(tile: int, kernel: int) -> Lines:
    """A tile is of even length and longer than the kernel."""
    step, half = tile - kernel + 1, tile // 2 + 1
    turns = 2 * np.pi * np.outer(np.arange(tile), np.arange(tile)) / tile
    cos, sin = np.cos(turns), np.sin(turns)
    twice = np.full((half, 1), 2.0)
    twice[[0, -1]] = 1
    # Data turn by -i, taps by +i: (a, b) is the picture's number, (c, d) the kernel's.
    a, b = np.stack([cos, sin], 1), np.stack([-sin, cos], 1)  # [points, parts, tile]
    c, d = np.stack([cos, -sin], 1)[:, :, :kernel], np.stack([sin, cos], 1)[:, :, :kernel]
    # k1 = c (a + b), k2 = a (d - c), k3 = b (c + d); real part k1 - k3, imaginary k1 + k2.
    c1, s1 = cos[:, :step] / tile, sin[:, :step] / tile
    return Lines(
        step,
        data=np.stack([cos[:half], -sin[:half]]),
        taps=np.stack([cos[:half, :kernel], sin[:half, :kernel]]),
        data2=np.stack([a + b, a, b]),
        taps2=np.stack([c, d - c, c + d]),
        back2=np.stack([np.stack([c1 - s1, -s1, -c1]), np.stack([c1 + s1, c1, -s1])]),
        back=np.stack([twice * cos[:half, :step], -twice * sin[:half, :step]]) / tile,
    )


def applies(conv: Conv, tile: int) -> bool:
    """A tile smaller than the kernel makes nothing; one much larger than the map is mostly padding."""
    most = max(conv.made[i] + conv.kernel[i] for i in (0, 1))
    return conv.plain and conv.strides == (1, 1) and min(conv.kernel) >= 3 and max(conv.kernel) < tile <= 2 * most


def rewrite(draft: Draft, tile: int) -> None:
    down, across = (lines(tile, k) for k in draft.conv.kernel)
    bilinear.rewrite(draft, down, across)


def work(conv: Conv, tile: int) -> tuple[int, int]:
    """(multiply-adds of one picture, bytes of the transformed kernel that the runtime will hold)."""
    down, across = (lines(tile, k) for k in conv.kernel)
    return bilinear.work(conv, down, across)
