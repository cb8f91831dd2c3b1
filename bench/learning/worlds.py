"""Worlds: labelled pictures of one camera (or one domain of a drift set) in the order in which they were taken.

    DIR/cnrpark, DIR/pklot-720p        the data sets of these names, as the agent replays them
    DIR/SET/DOMAIN/CLASS/*.jpg|png     any other: a domain is a world, in sorted order or in one that is asked for

Guarantees: names are unique in a world; what does not decode is left out and counted; nothing is written beside the
data. Does not guarantee that a general set's pictures are in the order of time: they are drawn in one that depends on
their names only, so that no class comes before another.
"""

from __future__ import annotations

import csv
import hashlib
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from agent import replay
from agent.source import Options, Tally
from edged.engine import preprocess
from edged.errors import Misconfigured

STEP_S = 60.0  # of a general set's own clock: one picture a minute
EPOCH = 1_700_000_000.0
CROP_QUALITY = 90  # as the scrub child encodes a region


@dataclass(frozen=True)
class Item:
    """One labelled picture. `ts` seconds since 1970; `image` reads it as uint8 BGR, None when it does not decode."""

    name: str
    ts: float
    label: str
    image: Callable[[], NDArray[np.uint8] | None] = field(repr=False)


@dataclass(frozen=True)
class World:
    """`items` by time. `source`: how an agent plays it, "" = by files that the bench lays out."""

    name: str
    items: tuple[Item, ...]
    source: str = ""

    @property
    def classes(self) -> set[str]:
        return {item.label for item in self.items}

    def some(self, keep: Callable[[Item], bool], name: str = "") -> World:
        """Those of its pictures that `keep` takes."""
        return World(name or self.name, tuple(i for i in self.items if keep(i)))

    def changed(self, name: str, change: Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]) -> World:
        """The same pictures after `change(image, seed)`; the seed comes from the picture's name."""

        def through(item: Item) -> Callable[[], NDArray[np.uint8] | None]:
            def read() -> NDArray[np.uint8] | None:
                image = item.image()
                return None if image is None else change(image, drawn(item.name))

            return read

        return World(name, tuple(replace(i, image=through(i)) for i in self.items))


def drawn(name: str, seed: int = 0) -> int:
    """A number 0..2**32 - 1 that depends on the name only."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:4], "big")


def share(name: str, seed: int = 0) -> float:
    """The same as a number 0..1, for drawing a part of a world."""
    return drawn(name, seed) / 2**32


def crop(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The whole picture as the one region that an agent makes of it, 224x224 BGR."""
    height, width = image.shape[:2]
    return preprocess.cut(image, 0, 0, width, height)


def jpeg(image: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".jpg", crop(image), [cv2.IMWRITE_JPEG_QUALITY, CROP_QUALITY])[1].tobytes()


def pixels(world: World, px: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """uint8 RGB [n, px, px, 3] of every picture by the camera's preprocessing, and which of them could be read."""
    out, read = np.zeros((len(world.items), px, px, 3), np.uint8), np.zeros(len(world.items), bool)
    for i, item in enumerate(world.items):
        image = item.image()
        if image is not None:
            out[i], read[i] = np.rint(preprocess.to_float([crop(image)], px)[0]), True
    return out, read


# where worlds come from


def cnrpark(folder: Path, camera: str) -> World:
    """Camera A or B of CNRPark, in the order of its replay."""
    archives = sorted(folder.glob("*.zip"))
    if not archives or not (folder / "index.csv").is_file():
        raise Misconfigured(f"{folder} is not CNRPark: it needs index.csv and the zip of the patches")
    zipped = zipfile.ZipFile(archives[0])

    def reader(name: str) -> Callable[[], NDArray[np.uint8] | None]:
        return lambda: replay.decode(zipped.read(name))

    with (folder / "index.csv").open(newline="", encoding="utf-8") as lines:
        rows = sorted(
            (f"{r['date']}_{r['hhmm']}", r["slot"], r["path"], r["label"])
            for r in csv.DictReader(lines) if r["camera"] == camera
        )  # fmt: skip
    items = tuple(Item(path, replay._utc(when), label, reader(path)) for when, _, path, label in rows)
    return World(camera.lower(), items, f"cnrpark:{folder}?camera={camera}")


def pklot(folder: Path, sequences: str, name: str = "lot") -> World:
    """PKLot's marked spaces of some sequences ("0,2"), as the agent cuts them."""
    shots = replay.pklot(folder, Options("pklot", {"sequence": sequences}), Tally())
    items = []
    for n, shot in enumerate(shots):
        for i, (box, label) in enumerate(zip(shot.regions or (), shot.truth or (), strict=True)):
            region = preprocess.cut(shot.image, *box)
            items.append(Item(f"{sequences}/{n}/{i}", shot.ts, label, lambda region=region: region))
    return World(name, tuple(items), f"pklot:{folder}?sequence={sequences}")


def domains(folder: Path, order: Sequence[str] = ()) -> list[World]:
    """The worlds of a general set, DOMAIN/CLASS/*: all have the same clock, a picture a minute."""
    names = list(order) or sorted(p.name for p in folder.iterdir() if p.is_dir())
    found = []
    for name in names:
        if not (folder / name).is_dir():
            raise Misconfigured(f"{folder} has no domain {name!r}")
        paths = [
            p for p in sorted((folder / name).glob("*/*")) if p.suffix.lower() in replay.SUFFIXES and p.is_file()
        ]  # fmt: skip
        paths.sort(key=lambda p: drawn(p.relative_to(folder).as_posix()))
        items = tuple(
            Item(p.relative_to(folder).as_posix(), EPOCH + i * STEP_S, p.parent.name, lambda p=p: _read(p))
            for i, p in enumerate(paths)
        )
        if items:
            found.append(World(name, items))
    if len(found) < 2:
        raise Misconfigured(
            f"{folder} has {len(found)} domains with pictures; a drift needs two",
            hint="DIR/SET/DOMAIN/CLASS/*.jpg",
        )
    return found


def general(data: Path) -> list[Path]:
    """The sets of DIR that are laid out as SET/DOMAIN/CLASS/pictures."""
    return [
        p for p in sorted(data.iterdir())
        if p.is_dir() and p.name not in ("cnrpark", "pklot-720p")
        and any(q.suffix.lower() in replay.SUFFIXES for q in p.glob("*/*/*"))
    ]  # fmt: skip


def _read(path: Path) -> NDArray[np.uint8] | None:
    return replay.decode(path.read_bytes())


# what happens to a world


def dusk(image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Less light: gain 0.35..0.6, gamma 1.1..1.4, a warmer white, and the noise of a sensor that is turned up."""
    dice = np.random.default_rng(seed)
    light = (image / 255.0) ** dice.uniform(1.1, 1.4) * dice.uniform(0.35, 0.6) * np.array([0.8, 0.95, 1.1])
    return np.clip(light * 255 + dice.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def rain(image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """A wet lens: blurred, flatter in contrast, with streaks."""
    dice = np.random.default_rng(seed)
    height, width = image.shape[:2]
    out = cv2.GaussianBlur(image, (0, 0), dice.uniform(0.012, 0.02) * min(height, width)).astype(np.float32)
    out = 128 + (out - 128) * dice.uniform(0.5, 0.7)
    streaks = np.zeros((height, width), np.float32)
    for _ in range(int(dice.integers(12, 25))):
        x, y = int(dice.integers(0, width)), int(dice.integers(0, height))
        length = int(dice.integers(height // 10, height // 4))
        cv2.line(streaks, (x, y), (x + length // 5, y + length), float(dice.uniform(30, 70)), max(1, width // 150))
    return np.clip(out + streaks[..., None], 0, 255).astype(np.uint8)


# what tests and `--small` use: shapes drawn here, nothing from outside

SHAPES = ("box", "disc")


def shapes(name: str, n: int, *, seed: int = 0, light: bool = True, flat: str = "box", px: int = 64) -> World:
    """Boxes and discs in turn, those of the class `flat` four times as wide as high; `light`: bright on dark. Dark on bright
    is another world that has to be learned; dark with flat discs is one that a model of bright, flat boxes gets wrong.
    """

    def reader(number: int, label: str) -> Callable[[], NDArray[np.uint8] | None]:
        return lambda: _shape(label, seed * 100_000 + number, light, label == flat, px)

    items = (
        Item(f"{name}/{i}", EPOCH + i * STEP_S, SHAPES[i % 2], reader(i, SHAPES[i % 2])) for i in range(n)
    )  # fmt: skip
    return World(name, tuple(items))


def _shape(label: str, seed: int, light: bool, flat: bool, px: int) -> NDArray[np.uint8]:
    dice = np.random.default_rng(seed)
    image = dice.integers(0, 70, (px, px, 3), np.uint8)
    colour = tuple(int(c) for c in dice.integers(140, 255, 3))
    x, y = (int(v) for v in dice.integers(px // 3, 2 * px // 3, 2))
    size = int(dice.integers(px // 5, px // 3))
    high = size // 4 if flat else size
    if label == "disc":
        cv2.ellipse(image, (x, y), (size, high), 0, 0, 360, colour, -1)
    else:
        cv2.rectangle(image, (x - size, y - high), (x + size, y + high), colour, -1)
    return image if light else np.asarray(255 - image, np.uint8)
