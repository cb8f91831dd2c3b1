"""Labelled pictures of a data set in three parts: train, tune, and a hold-out that nothing but the last look reads.

    DIR with index.csv and a zip      CNRPark: its cameras A and B, each cut by time
    DIR with sequence0, ...           PKLot's frames: the camera cut by time
    any other                         as `edged train` takes it (folders, a zip of folders, IDX files); where there is no
                                      test set, the last fifth of each class by name is held out

Guarantees: a moment of a camera is in one part only; of several sets the classes must be the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.learning import worlds
from edged.errors import Misconfigured
from edged.retrain import folder, pictures
from edged.retrain.pictures import Crop, Pictures

TRAIN, TUNE = 0.6, 0.15  # shares of a camera's moments, in order of time; the rest is held out
HELD = 0.2  # of a set without a test part


@dataclass(frozen=True)
class Parts:
    classes: tuple[str, ...]
    train: Pictures
    tune: Pictures
    held: Pictures

    def __str__(self) -> str:
        return f"{len(self.train)} to train, {len(self.tune)} to tune, {len(self.held)} held out"


def load(data: Sequence[Path], px: int) -> Parts:
    """The parts of all sets together, at `px`. Raises Misconfigured when their classes differ, Refused as folder.look."""
    found = [_one(path, px) for path in data]
    if len({parts.classes for parts in found}) != 1:
        raise Misconfigured(f"the sets have other classes: {[parts.classes for parts in found]}")
    train, tune, held = (_joined([getattr(p, name) for p in found]) for name in ("train", "tune", "held"))
    return Parts(found[0].classes, train, tune, held)


def _one(path: Path, px: int) -> Parts:
    if (path / "index.csv").is_file() and any(path.glob("*.zip")):
        return _by_time([worlds.cnrpark(path, camera) for camera in "AB"], px)
    if (path / "sequence0").is_dir():
        return _by_time([worlds.pklot(path, "0,1,2")], px)
    looked = folder.look(path)
    if not looked["test"]:
        for name, files in looked["train"].items():
            first = len(files) - int(len(files) * HELD)
            looked["train"][name], looked["test"][name] = files[:first], files[first:]
    classes = tuple(looked["train"])
    train, tune, held = (pictures.load(_crops(looked[part]), classes, px) for part in ("train", "tune", "test"))
    return Parts(classes, train, tune, held)


def _crops(sets: folder.Classes) -> tuple[Crop, ...]:
    return tuple(Crop(file.path, "folder", name, file.read) for name, files in sets.items() for file in files)


def _by_time(cameras: Sequence[worlds.World], px: int) -> Parts:
    classes = tuple(sorted(set().union(*(world.classes for world in cameras))))
    parts: dict[str, list[Pictures]] = {"train": [], "tune": [], "held": []}
    for world in cameras:
        moments = sorted({item.ts for item in world.items})
        first, second = (moments[int(len(moments) * share)] for share in (TRAIN, TRAIN + TUNE))
        pixels, read = worlds.pixels(world, px)
        times = np.array([item.ts for item in world.items])
        labels = np.array([classes.index(item.label) for item in world.items], np.int64)
        for name, of in (
            ("train", times < first),
            ("tune", (times >= first) & (times < second)),
            ("held", times >= second),
        ):
            chosen = of & read
            parts[name].append(Pictures(pixels[chosen], labels[chosen], (world.name,) * int(chosen.sum())))
    return Parts(classes, *(_joined(parts[name]) for name in ("train", "tune", "held")))


def _joined(pics: Sequence[Pictures]) -> Pictures:
    if len(pics) == 1:
        return pics[0]
    return Pictures(
        np.concatenate([p.pixels for p in pics]), np.concatenate([p.labels for p in pics]),
        tuple(camera for p in pics for camera in p.cameras),
    )  # fmt: skip
