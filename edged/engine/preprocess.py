"""From pixels to a classifier's input and from its logits to an answer; camera and box use these very functions.

Guarantees: the same bytes give the same numbers on both ends (given the same OpenCV). Does not guarantee: bit-equal
resizing between OpenCV builds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.engine.onnx_file import Takes
from edged.errors import Refused
from edged.wire.messages import REGION_PX

__all__ = ["REGION_PX", "cut", "decode", "marshal", "prepare", "stack", "to_float"]


def prepare(crops: Sequence[NDArray[np.uint8]], px: int, takes: Takes) -> list[Any]:
    """BGR uint8 [h,w,3] pictures of any size -> what `stack` makes a batch of: as `to_float`, or for a model that takes
    uint8 as they are, at its size.
    """
    return to_float(crops, px) if takes == "float32" else [_sized(crop, px) for crop in crops]


def stack(prepared: Sequence[Any], takes: Takes) -> NDArray[Any]:
    """n prepared pictures -> one contiguous batch: float32 [n,3,px,px] RGB, or uint8 [n,px,px,3] BGR."""
    return marshal(prepared) if takes == "float32" else np.ascontiguousarray(np.stack(prepared))


def to_float(crops: Sequence[NDArray[np.uint8]], px: int) -> list[NDArray[np.float32]]:
    """BGR uint8 [h,w,3] pictures of any size -> RGB float32 [px,px,3], 0..255 (INTER_AREA)."""
    out = []
    for crop in crops:
        out.append(cv2.cvtColor(_sized(crop, px), cv2.COLOR_BGR2RGB).astype(np.float32))
    return out


def _sized(crop: NDArray[np.uint8], px: int) -> NDArray[np.uint8]:
    if crop.shape[:2] == (px, px):
        return crop
    return np.asarray(cv2.resize(crop, (px, px), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def marshal(tensors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """n tensors [px,px,3] -> one contiguous float32 [n,3,px,px]."""
    return np.ascontiguousarray(np.stack(tensors).transpose(0, 3, 1, 2), dtype=np.float32)


def decode(logits: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Logits [n,classes] -> (index, score, margin), each [n]: the best class, its softmax probability, and that minus
    the second best one's (equal to the score when there is one class)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    odds = np.exp(shifted)
    odds /= odds.sum(axis=1, keepdims=True)
    index = odds.argmax(axis=1)
    ordered = np.sort(odds, axis=1)
    score = ordered[:, -1]
    margin = score - ordered[:, -2] if odds.shape[1] > 1 else score
    return index, score, margin


def cut(image: NDArray[np.uint8], x: int, y: int, w: int, h: int) -> NDArray[np.uint8]:
    """The region (pixels) of a BGR picture as [224,224,3]: clipped to the picture, padded to a square by repeating its
    own edges, resized by INTER_AREA. Raises Refused (code bad_region) when it lies outside the picture."""
    height, width = image.shape[:2]
    left, top, right, bottom = max(0, x), max(0, y), min(width, x + w), min(height, y + h)
    if right <= left or bottom <= top:
        raise Refused(f"region {x},{y} {w}x{h} lies outside the {width}x{height} picture", code="bad_region")
    region = image[top:bottom, left:right]
    side = max(right - left, bottom - top)
    dx, dy = side - (right - left), side - (bottom - top)
    if dx or dy:
        # OpenCV takes border pixels from around a view unless it is told that the view stands alone.
        border = cv2.BORDER_REPLICATE | cv2.BORDER_ISOLATED
        padded = cv2.copyMakeBorder(region, dy // 2, dy - dy // 2, dx // 2, dx - dx // 2, border)
        region = np.asarray(padded, dtype=np.uint8)
    if side == REGION_PX:
        return np.ascontiguousarray(region)
    return np.asarray(cv2.resize(region, (REGION_PX, REGION_PX), interpolation=cv2.INTER_AREA), dtype=np.uint8)
