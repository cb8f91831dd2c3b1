"""Labelled crops as arrays, prepared by the camera's own preprocessing, so that training cannot differ from the camera.

Guarantees: pixels come from `edged.engine.preprocess.to_float` at the network's size; a crop that cannot be read or
decoded is left out and counted, never guessed. Does not guarantee that labels are right. Pixels are held as uint8
(rounded: at most half a grey level off what the engine sees) to keep memory at px*px*3 bytes a crop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edged.engine import preprocess
from edged.errors import Corrupt, Refused


@dataclass(frozen=True)
class Crop:
    """One labelled region: its id, camera, class name, and a way to its JPEG (Refused if gone, Corrupt if damaged)."""

    id: str
    camera: str
    label: str
    jpeg: Callable[[], bytes]


@dataclass(frozen=True)
class Pictures:
    """`pixels` uint8 [n, px, px, 3] RGB; `labels` int64 [n] indices into the classes; `cameras` n names; `skipped`
    crops left out.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    cameras: tuple[str, ...]
    ids: tuple[str, ...] = ()
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int) -> Iterable[NDArray[np.float32]]:
        """NCHW float32 batches in order, as an engine takes them."""
        for i in range(0, len(self), size):
            yield preprocess.marshal([p.astype(np.float32) for p in self.pixels[i : i + size]])


def decode(jpeg: bytes) -> NDArray[np.uint8]:
    """JPEG -> BGR uint8 HWC. The crops are our own, re-encoded by the scrub child; damage is Corrupt all the same."""
    import cv2

    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None
    if image is None:
        raise Corrupt("a crop does not decode", code="bad_crop")
    return image.astype(np.uint8, copy=False)


def load(crops: Sequence[Crop], classes: Sequence[str], px: int) -> Pictures:
    """Read, decode and resize. Crops whose label is no class, or that are gone or damaged, are skipped and counted."""
    index = {name: i for i, name in enumerate(classes)}
    pixels = np.empty((len(crops), px, px, 3), np.uint8)
    labels: list[int] = []
    cameras: list[str] = []
    ids: list[str] = []
    for crop in crops:
        if crop.label not in index:
            continue
        try:
            image = decode(crop.jpeg())
        except (Refused, Corrupt):
            continue
        pixels[len(labels)] = np.rint(preprocess.to_float([image], px)[0])
        labels.append(index[crop.label])
        cameras.append(crop.camera)
        ids.append(crop.id)
    n = len(labels)
    return Pictures(pixels[:n], np.array(labels, np.int64), tuple(cameras), tuple(ids), len(crops) - n)
