"""Photographs to draw on and to learn from: folders of pictures and films, and frames whose plates somebody boxed.

Guarantees: nothing is copied or kept; `digest` names exactly what was read. Boxed frames come with a table of the
columns image, film, xmin, ymin, xmax, ymax (pixels). A frame may show plates without a box, so scenes made of frames
carry little trust in the absence of one.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.privacy.plates import clutter, render, scenes
from edged.privacy.plates.scenes import Grey, Rng, Scene

PICTURES = (".jpg", ".jpeg", ".png")
FILMS = (".mp4", ".avi", ".mkv")
TRUST = 0.1  # in the absence of a box beyond the boxed plates' surroundings
LONGEST = 1600  # pixels of a background's long side


class Frame(NamedTuple):
    """`boxes` are (x, y, w, h) in pixels; `luma` is the whole frame."""

    name: str
    film: str
    luma: Grey
    boxes: tuple[tuple[float, float, float, float], ...]


def backgrounds(folders: Iterable[Path]) -> list[Grey]:
    """Every picture and a frame every four seconds of every film beneath the folders, in luma."""
    found: list[Grey] = []
    for path in _files(folders, PICTURES + FILMS):
        if path.suffix.lower() in PICTURES:
            read = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            found += [] if read is None else [_shrunk(np.asarray(read, np.uint8))]
            continue
        film = cv2.VideoCapture(str(path))
        step = max(1, round(4 * (film.get(cv2.CAP_PROP_FPS) or 25)))
        number = 0
        while film.grab():
            if number % step == 0:
                ok, frame = film.retrieve()
                if ok:
                    found.append(_shrunk(np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), np.uint8)))
            number += 1
    return [one for one in found if min(one.shape) >= 64]


def frames(pictures: Path, table: Path, wanted: Callable[[str, str], bool]) -> list[Frame]:
    """The boxed frames for which `wanted(name, film)` holds, in the order of their names."""
    boxes: dict[tuple[str, str], list[tuple[float, float, float, float]]] = {}
    with table.open(newline="") as f:
        for row in csv.DictReader(f):
            x0, y0, x1, y1 = (float(row[key]) for key in ("xmin", "ymin", "xmax", "ymax"))
            boxes.setdefault((row["image"], row["film"]), []).append((x0, y0, x1 - x0, y1 - y0))
    out = []
    for (name, film), of in sorted(boxes.items()):
        if wanted(name, film):
            read = cv2.imread(str(pictures / name), cv2.IMREAD_GRAYSCALE)
            if read is not None:
                out.append(Frame(name, film, np.asarray(read, np.uint8), tuple(of)))
    return out


def skies(of: Iterable[Frame]) -> list[Grey]:
    """The upper part of every fourth boxed frame, down to their highest plate: houses, trees, signs and lamps, but no plate."""
    out = []
    for frame in list(of)[::4]:
        lowest = min(int(frame.luma.shape[0] * 0.42), int(min(box[1] for box in frame.boxes)) - 20)
        if lowest >= 128:
            out.append(frame.luma[:lowest])
    return out


def digest(folders: Iterable[Path]) -> str:
    """SHA-256 over names and contents of the pictures and films beneath the folders."""
    total = hashlib.sha256()
    for path in _files(folders, (*PICTURES, *FILMS, ".csv")):
        total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def scene(rng: Rng, of: Sequence[Frame], side: int = scenes.SIDE) -> Scene:
    """A cut around a boxed plate, at any size; half of the time with a drawn plate in the place of the real one."""
    frame = of[int(rng.integers(len(of)))]
    luma, boxes = frame.luma, list(frame.boxes)
    chosen = boxes[int(rng.integers(len(boxes)))]
    if rng.random() < 0.5:
        luma = luma.copy()
        boxes = [_replaced(rng, luma, box) for box in boxes]
        chosen = boxes[frame.boxes.index(chosen)]
    x, y, w, h = chosen
    wanted = float(np.exp(rng.uniform(np.log(scenes.NARROWEST), np.log(scenes.WIDEST))))
    scale = float(np.clip(wanted / w, side / min(luma.shape), 3.0))
    cut = side / scale  # pixels of the frame
    left = float(np.clip(x + w / 2 - cut * rng.uniform(0.15, 0.85), 0, luma.shape[1] - cut))
    top = float(np.clip(y + h / 2 - cut * rng.uniform(0.15, 0.85), 0, luma.shape[0] - cut))
    size = round(cut)
    piece = luma[int(top) : int(top) + size, int(left) : int(left) + size]
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    out = np.asarray(cv2.resize(piece, (side, side), interpolation=how), np.uint8)
    placed = [((bx - int(left)) * scale, (by - int(top)) * scale, bw * scale, bh * scale) for bx, by, bw, bh in boxes]
    inside = [b for b in placed if b[0] + b[2] > 0 and b[1] + b[3] > 0 and b[0] < side and b[1] < side]
    if rng.random() < 0.3:
        clutter.clutter(rng, out, inside)
    return Scene(scenes.light(rng, out, (), inside, False), scenes.table(inside, side), TRUST)


def _replaced(rng: Rng, luma: Grey, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Paints a drawn plate over a real one, in place, as bright as that one was; returns the new box."""
    x, y, w, h = box
    grown = (int(x - w * 0.05), int(y - h * 0.12), int(np.ceil(w * 1.1)), int(np.ceil(h * 1.24)))
    x0, y0 = max(0, grown[0]), max(0, grown[1])
    x1, y1 = min(luma.shape[1], grown[0] + grown[2]), min(luma.shape[0], grown[1] + grown[3])
    bright = float(np.percentile(luma[int(y) : int(y + h) + 1, int(x) : int(x + w) + 1], 80))
    edge = luma[max(0, y0 - 3) : y1 + 3, max(0, x0 - 3) : x1 + 3]
    luma[y0:y1, x0:x1] = int(np.median(np.concatenate([edge[0], edge[-1], edge[:, 0], edge[:, -1]])))
    kind = render.layout(rng)
    plate = render.plate(rng, kind, 320)
    aspect = plate.mm[0] / plate.mm[1]
    wide = float(x1 - x0) if aspect > 2.6 else w * rng.uniform(0.5, 0.75)
    high = wide / aspect
    left, top = x + w / 2 - wide / 2, y + h / 2 - high / 2
    source = np.asarray(
        [(0, 0), (plate.luma.shape[1], 0), plate.luma.shape[::-1], (0, plate.luma.shape[0])], np.float32
    )
    drop = float(rng.normal(0, 0.02)) * wide  # a little roll
    goal = np.asarray(
        [(left, top), (left + wide, top + drop), (left + wide, top + high + drop), (left, top + high)], np.float32
    )
    gain = float(np.clip(bright / 215, 0.15, 1.2))
    blur = max(0.3, 320 / max(8.0, wide) * 0.4)
    shown = np.asarray(cv2.GaussianBlur(plate.luma * gain, (0, 0), blur), np.float32)
    matrix = cv2.getPerspectiveTransform(source, goal)
    size = (luma.shape[1], luma.shape[0])
    x0, y0 = max(0, int(left) - 2), max(0, int(goal[:, 1].min()) - 2)
    x1, y1 = min(size[0], int(left + wide) + 3), min(size[1], int(goal[:, 1].max()) + 3)
    matrix = np.asarray([[1, 0, -x0], [0, 1, -y0], [0, 0, 1]], np.float64) @ matrix
    around = (max(1, x1 - x0), max(1, y1 - y0))
    warped = cv2.warpPerspective(shown, matrix, around, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpPerspective(plate.alpha, matrix, around, flags=cv2.INTER_LINEAR)
    part = luma[y0:y1, x0:x1]
    if part.shape == warped.shape:
        part[:] = np.clip(part + (warped - part) * mask, 0, 255).astype(np.uint8)
    y_top = float(goal[:, 1].min())
    return left, y_top, wide, float(goal[:, 1].max()) - y_top


def _files(folders: Iterable[Path], suffixes: tuple[str, ...]) -> list[Path]:
    return sorted(p for folder in folders for p in folder.rglob("*") if p.suffix.lower() in suffixes and p.is_file())


def _shrunk(luma: NDArray[np.uint8]) -> Grey:
    scale = LONGEST / max(luma.shape)
    if scale >= 1:
        return luma
    return np.asarray(cv2.resize(luma, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
