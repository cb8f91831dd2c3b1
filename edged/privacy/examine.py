"""One annotated picture through the real path, inside the file child: what of its boxes is covered when it comes out?

Guarantees: what counts as covered is read from the encoded picture that would be delivered: whole blocks of 16x16 pixels
of exactly the filling's luma that were not so before. Does not guarantee: that an annotated box is right.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.privacy import photo, picture
from edged.privacy.file_talk import DoAudit, GotAudit
from edged.privacy.photo import Photographs
from edged.privacy.picture import BLOCK, GREY, Hidden
from edged.privacy.scrub import Withheld

PAD = 114  # grey of a letterbox
FULL_WELL, READ_NOISE = 4000.0, 4.0  # electrons: a small sensor, by EMVA 1288's model
SEED = 1

Corners = tuple[float, float, float, float]  # x, y, w, h


def examine(task: DoAudit, data: bytes, photographs: Photographs, margin: float) -> GotAudit:
    """Raises Refused, Withheld. EXIF orientation is not applied: boxes are in the stored picture's pixels."""
    image = photo.decode(data, upright=False)
    image, scale, (width, height) = letterbox(image, task.fit) if task.fit else (image, 1.0, image.shape[1::-1])
    if task.light < 1:
        image = in_less_light(image, task.light, np.random.default_rng(SEED))
    boxes = [_scaled(box[1:], scale) for box in task.boxes]
    grey_before = covered_blocks(photo.encode(image, "jpeg"))
    done = photographs.cover(image, task.masks)
    covered = covered_blocks(photo.encode(done.image, "jpeg")) & ~grey_before
    wanted = picture.blocks(image)
    for box in (*boxes, *(_scaled(other, scale) for other in task.others)):
        picture.hide_box(wanted, box, margin)
    wrong = covered & ~wanted
    false = int(wrong.repeat(BLOCK, 0).repeat(BLOCK, 1)[:height, :width].sum())
    shares = tuple(covered_share(covered, box, width, height) for box in boxes)
    whole = tuple((round(x), round(y), round(w), round(h)) for x, y, w, h in boxes)
    return GotAudit(task.seq, width, height, shares, whole, false, done.unjudged, done.ms)


def letterbox(image: NDArray[np.uint8], size: tuple[int, int]) -> tuple[NDArray[np.uint8], float, tuple[int, int]]:
    """A frame of exactly `size` with the picture in its upper left corner, its scale (never above 1), its own size."""
    height, width = image.shape[:2]
    scale = min(1.0, size[0] / width, size[1] / height)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    out = np.full((size[1], size[0], 3), PAD, np.uint8)
    out[: inner[1], : inner[0]] = cv2.resize(image, inner, interpolation=cv2.INTER_AREA) if scale < 1 else image
    return out, scale, inner


def in_less_light(image: NDArray[np.uint8], light: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The picture in this share of its light: linear light after sRGB's curve (IEC 61966-2-1), with a sensor's noise."""
    code = np.arange(256, dtype=np.float32) / 255
    linear = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4).astype(np.float32)
    electrons = linear[image] * np.float32(FULL_WELL * light)
    spread = np.sqrt(electrons + np.float32(READ_NOISE**2))
    electrons += rng.standard_normal(image.shape, dtype=np.float32) * spread
    share = np.clip(electrons / FULL_WELL, 0, 1)
    coded = np.where(share <= 0.0031308, share * 12.92, 1.055 * share ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(255 * coded), np.uint8)


def covered_blocks(delivered: bytes) -> Hidden:
    """Blocks of a delivered picture whose luma is nothing but the filling's: it decodes exactly, colours mix at edges."""
    luma = cv2.imdecode(np.frombuffer(delivered, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    if luma is None:
        raise Withheld("what was encoded does not decode", code="uncovered")
    height, width = luma.shape
    down, across = -(-height // BLOCK), -(-width // BLOCK)
    grey = np.ones((down * BLOCK, across * BLOCK), bool)  # what lies outside changes nothing
    grey[:height, :width] = luma == GREY
    return np.asarray(grey.reshape(down, BLOCK, across, BLOCK).all(axis=(1, 3)))


def covered_share(hidden: Hidden, box: Corners, width: int, height: int) -> float:
    """Share of a box that lies in covered blocks, as far as it lies in the picture; 0 for one that lies outside."""
    x, y, w, h = box
    left, right = np.clip([x, x + w], 0, width)
    top, bottom = np.clip([y, y + h], 0, height)
    if right <= left or bottom <= top:
        return 0.0
    rows, columns = hidden.shape
    down = np.clip(
        np.minimum(bottom, np.arange(1, rows + 1) * BLOCK) - np.maximum(top, np.arange(rows) * BLOCK), 0, None
    )
    across = np.clip(
        np.minimum(right, np.arange(1, columns + 1) * BLOCK) - np.maximum(left, np.arange(columns) * BLOCK), 0, None
    )
    return float(min(1.0, down @ hidden @ across / ((right - left) * (bottom - top))))


def _scaled(box: Corners, scale: float) -> Corners:
    x, y, w, h = box
    return x * scale, y * scale, w * scale, h * scale
