"""A small network, taught on part of a set, and its answers to the rest of it as it is and under other light."""

from __future__ import annotations

import csv
import gzip
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.clock import SystemClock
from edged.engine import preprocess

Image = NDArray[np.uint8]
BATCH = 128


@dataclass(frozen=True)
class Crops:
    """Pictures RGB uint8 [n, px, px, 3], class indices [n], and the time of each in seconds since 1970 [n], ascending."""

    pixels: Image
    labels: NDArray[np.int64]
    ts: NDArray[np.float64]
    group: NDArray[np.int64]  # what must not be on both sides of a split: the parking space, the picture

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: NDArray) -> Crops:
        return Crops(self.pixels[chosen], self.labels[chosen], self.ts[chosen], self.group[chosen])


@dataclass(frozen=True)
class Answers:
    """What the network said of each crop: class index, margin 0..1, last features [n, d]; `right`: whether it was."""

    predicted: NDArray[np.int64]
    margin: NDArray[np.float64]
    features: NDArray[np.float32]
    right: NDArray[np.bool_]
    ts: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.margin)

    def take(self, chosen: NDArray) -> Answers:
        return Answers(
            self.predicted[chosen], self.margin[chosen], self.features[chosen], self.right[chosen], self.ts[chosen]
        )


def cnrpark(data: Path, camera: str, px: int) -> Crops:
    """One camera in the order of time."""
    folder = data / "cnrpark"
    rows = [r for r in csv.DictReader((folder / "index.csv").read_text().splitlines()) if r["camera"] == camera]
    rows.sort(key=lambda r: (r["date"], r["hhmm"], int(r["slot"])))
    with zipfile.ZipFile(folder / "CNRPark-Patches-150x150.zip") as packed:
        known = {n.rpartition(f"{camera}/")[2]: n for n in packed.namelist() if f"{camera}/" in n}
        pictures = [_decoded(packed.read(known[r["path"].partition("/")[2]]), px) for r in rows]
    days = {d: i for i, d in enumerate(sorted({r["date"] for r in rows}))}
    seconds = [days[r["date"]] * 86400.0 + int(r["hhmm"][:2]) * 3600 + int(r["hhmm"][2:]) * 60 for r in rows]
    return Crops(
        np.stack(pictures), np.array([("busy", "free").index(r["label"]) for r in rows]), np.array(seconds),
        np.array([int(r["slot"]) for r in rows]),
    )  # fmt: skip


def pklot(data: Path, px: int) -> Crops:
    """Every space of the fifteen frames, upright."""
    pixels, labels, group = [], [], []
    for i, box in enumerate(sorted((data / "pklot-720p").glob("sequence*/bounding_boxes/*.xml"))):
        frame = next(p for p in (box.parent.parent / "frames").iterdir() if p.stem == box.stem)
        image = cv2.imread(str(frame))
        for space in ElementTree.parse(box).getroot().iter("space"):
            rect = space.find("rotatedRect")
            if rect is None or "occupied" not in space.attrib:
                continue
            centre, size = rect.find("center").attrib, rect.find("size").attrib
            reach = max(float(size["w"]), float(size["h"])) / 2
            x, y = float(centre["x"]), float(centre["y"])
            crop = preprocess.cut(image, int(x - reach), int(y - reach), int(2 * reach), int(2 * reach))
            pixels.append(np.rint(preprocess.to_float([crop], px)[0]).astype(np.uint8))
            labels.append(0 if space.attrib["occupied"] == "1" else 1)
            group.append(i)
    return Crops(np.stack(pixels), np.array(labels), np.array(group) * 300.0, np.array(group))


def fashion(data: Path, part: str, first: int, last: int) -> Crops:
    """28 px, three equal channels; their order says nothing, so one comes every 20 seconds."""
    folder = data / "fashion-mnist"
    images = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    grey = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)[first:last]
    wanted = np.frombuffer(labels, np.uint8, offset=8)[first:last].astype(np.int64)
    return Crops(np.repeat(grey[..., None], 3, 3), wanted, np.arange(len(wanted)) * 20.0, np.arange(len(wanted)))


def street(px: int, phase: str, pictures: int, seed: int) -> Crops:
    """Things of the generated street, one picture every 20 seconds."""
    from agent.scene import CLASSES, Scene

    scene = Scene("north", seed)
    pixels, labels, ts = [], [], []
    for i in range(pictures):
        made = scene.picture(i, phase)
        for thing in made.things:
            if thing.seen > 0.6:
                crop = preprocess.cut(made.image, *thing.box)
                pixels.append(np.rint(preprocess.to_float([crop], px)[0]).astype(np.uint8))
                labels.append(CLASSES.index(thing.class_))
                ts.append(i * 20.0)
    return Crops(np.stack(pixels), np.array(labels), np.array(ts), np.arange(len(ts)))


def _decoded(jpeg: bytes, px: int) -> Image:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    return np.rint(preprocess.to_float([image], px)[0]).astype(np.uint8)


def gain(by: float) -> Callable[[Image], Image]:
    return lambda x: np.clip(x * np.float32(by), 0, 255).astype(np.uint8)


def gamma(by: float) -> Callable[[Image], Image]:
    table = (255 * (np.arange(256) / 255) ** by).round().astype(np.uint8)
    return lambda x: table[x]


def blur(by: float) -> Callable[[Image], Image]:
    return lambda x: np.stack([cv2.GaussianBlur(p, (0, 0), by) for p in x])


def noise(by: float) -> Callable[[Image], Image]:
    def change(x: Image) -> Image:
        dice = np.random.default_rng(len(x))
        return np.clip(x + dice.normal(0, by, x.shape).astype(np.float32), 0, 255).astype(np.uint8)

    return change


class Network:
    """Taught by `edged.retrain.train.teach`, one thread, seeded."""

    def __init__(self, crops: Crops, classes: int, arch: str, epochs: int, scratch: Path) -> None:
        import torch

        from edged.retrain import train
        from edged.retrain.jobs import Arch, TrainJob
        from edged.retrain.pictures import Pictures

        self._torch, px = torch, crops.pixels.shape[1]
        job = TrainJob(
            data_dir=str(scratch), classes=tuple(f"c{i}" for i in range(classes)), arch=Arch(arch, px), epochs=epochs
        )
        dice = np.random.default_rng(1)
        groups = np.unique(crops.group)
        tuned = np.isin(crops.group, dice.choice(groups, max(1, len(groups) // 7), replace=False))

        def part(chosen: NDArray[np.bool_]) -> Pictures:
            return Pictures(crops.pixels[chosen], crops.labels[chosen], ("",) * int(chosen.sum()))

        file = scratch / f"{arch}-{len(crops)}.safetensors"
        net, self.state = train.teach(
            job, part(~tuned), part(tuned), b"", file, clock=SystemClock(), progress=lambda _: None
        )
        self._net = net.eval()
        last = [i for i, m in enumerate(net) if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)][-1]
        self._stem, self._head = net[:last], net[last:]

    def answers(self, crops: Crops, change: Callable[[Image], Image] = lambda x: x) -> Answers:
        parts = [self._some(change(crops.pixels[i : i + BATCH])) for i in range(0, len(crops), BATCH)]
        features, share = (np.concatenate(p) for p in zip(*parts, strict=True))
        order = np.sort(share, 1)
        predicted = share.argmax(1)
        return Answers(
            predicted, (order[:, -1] - order[:, -2]).astype(np.float64), features, predicted == crops.labels, crops.ts
        )

    def _some(self, pixels: Image) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        from edged.retrain.fit import to_input

        torch = self._torch
        with torch.inference_mode():
            found = self._stem(to_input(torch.from_numpy(np.ascontiguousarray(pixels))))
            return found.flatten(1).numpy().copy(), torch.softmax(self._head(found), 1).flatten(1).numpy().copy()
