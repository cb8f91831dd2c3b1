"""Labelled crops as arrays, prepared by the camera's own preprocessing, so that training cannot differ from the camera.

Guarantees: pixels come from `edged.engine.preprocess.to_float` at the network's size; a picture's size is judged before
it is decoded (dimensions.py); a crop that cannot be read or decoded is left out, counted and named, never guessed. Does
not guarantee that labels are right. Pixels are held as uint8 (rounded: at most half a grey level off what the engine
sees) to keep them at px*px*3 bytes a crop: in memory, or in a mapped file where they would take more than half of what
is free.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edged import durable
from edged.engine import preprocess
from edged.errors import Corrupt, Refused, Unavailable
from edged.retrain import dimensions

NAMED = 20  # crops that could not be read are named, so many at most
_AHEAD = 64  # pictures per thread that are decoded before they are taken


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
    crops left out, `bad` the first of them.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    cameras: tuple[str, ...]
    ids: tuple[str, ...] = ()
    skipped: int = 0
    bad: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int) -> Iterable[NDArray[np.float32]]:
        """NCHW float32 batches in order, as an engine takes them."""
        for i in range(0, len(self), size):
            yield preprocess.marshal([p.astype(np.float32) for p in self.pixels[i : i + size]])

    def share(self, rank: int, size: int) -> Pictures:
        """Every `size`-th one from `rank` on: what one of `size` processes looks at."""
        if size == 1:
            return self
        cameras, ids = self.cameras[rank::size], self.ids[rank::size]
        return replace(self, pixels=self.pixels[rank::size], labels=self.labels[rank::size], cameras=cameras, ids=ids)


def decode(jpeg: bytes) -> NDArray[np.uint8]:
    """A picture file -> BGR uint8 HWC. Raises Corrupt when it does not decode, Refused when it is too large to."""
    import cv2

    if not jpeg:
        raise Corrupt("a crop does not decode", code="bad_crop")
    dimensions.check(jpeg)
    try:
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as e:
        raise Corrupt(f"a crop does not decode: {e}", code="bad_crop") from e
    if image is None:
        raise Corrupt("a crop does not decode", code="bad_crop")
    return image.astype(np.uint8, copy=False)


def load(
    crops: Sequence[Crop],
    classes: Sequence[str],
    px: int,
    *,
    threads: int = 1,
    cache: Path | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> Pictures:
    """Read, decode and resize. Crops whose label is no class, or that are gone or damaged, are skipped and counted.

    With `cache` the pixels lie in a mapped file of that name, and a second call takes them from there; its caller
    vouches that the crops are the same. `progress` gets 0..1. Raises Unavailable when the disk has no room for it.
    """
    if cache is not None and (kept := _recall(cache)) is not None:
        return kept
    index = {name: i for i, name in enumerate(classes)}
    pixels = _room((len(crops), px, px, 3), cache)
    labels: list[int] = []
    cameras: list[str] = []
    ids: list[str] = []
    bad: list[str] = []

    def prepare(crop: Crop) -> NDArray[np.uint8] | None:
        if crop.label not in index:
            return None
        try:
            image = decode(crop.jpeg())
        except (Refused, Corrupt):
            return None
        return np.rint(preprocess.to_float([image], px)[0]).astype(np.uint8)

    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(crops), _AHEAD * threads):
            some = crops[start : start + _AHEAD * threads]
            for crop, ready in zip(some, pool.map(prepare, some) if threads > 1 else map(prepare, some), strict=True):
                if ready is None:
                    bad.append(crop.id)
                    continue
                pixels[len(labels)] = ready
                labels.append(index[crop.label])
                cameras.append(crop.camera)
                ids.append(crop.id)
            progress(start / len(crops))
    n = len(labels)
    found = Pictures(
        pixels[:n], np.array(labels, np.int64), tuple(cameras), tuple(ids), len(crops) - n, tuple(bad[:NAMED])
    )
    if cache is not None:
        _remember(found, cache)
    return found


def crowded(n: int, px: int) -> bool:
    """Whether n pictures would take more than half of the memory that is free now."""
    import psutil

    return n * px * px * 3 > psutil.virtual_memory().available / 2


class _Listed(msgspec.Struct):
    """What stands beside the pixels in a cache."""

    shape: tuple[int, int, int, int]
    labels: list[int]
    cameras: list[str]
    ids: list[str]
    skipped: int
    bad: tuple[str, ...]


def _room(shape: tuple[int, int, int, int], cache: Path | None) -> NDArray[np.uint8]:
    if cache is None or 0 in shape:
        return np.empty(shape, np.uint8)
    size = int(np.prod(shape, dtype=np.int64))
    try:
        with open(cache, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is told now, not by a signal in the middle
    except OSError as e:
        cache.unlink(missing_ok=True)
        if e.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise Unavailable(
            f"the disk of {cache.parent} has no room for the {size / 1e6:.0f} MB of prepared pictures",
            hint="make room, or choose a smaller --px",
            code="disk_full",
        ) from e
    return np.memmap(cache, np.uint8, "r+", shape=shape)


def _remember(found: Pictures, cache: Path) -> None:
    """The list comes last: a cache without one was never finished."""
    if isinstance(found.pixels, np.memmap):
        found.pixels.flush()
    shape = (len(found), *found.pixels.shape[1:])
    listed = _Listed(shape, found.labels.tolist(), list(found.cameras), list(found.ids), found.skipped, found.bad)
    durable.write(cache.with_suffix(".list"), msgspec.json.encode(listed))


def _recall(cache: Path) -> Pictures | None:
    try:
        listed = msgspec.json.decode(cache.with_suffix(".list").read_bytes(), type=_Listed)
        empty = 0 in listed.shape
        pixels = np.empty(listed.shape, np.uint8) if empty else np.memmap(cache, np.uint8, "r+", shape=listed.shape)
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
    labels = np.array(listed.labels, np.int64)
    return Pictures(pixels, labels, tuple(listed.cameras), tuple(listed.ids), listed.skipped, listed.bad)


def forget(cache: Path) -> None:
    """Remove the files of a cache; who has them mapped keeps them until then."""
    cache.unlink(missing_ok=True)
    cache.with_suffix(".list").unlink(missing_ok=True)
