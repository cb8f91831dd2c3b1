"""Annotated pictures: a folder and CSV files of boxes, read so that any set can be put in.

A row is one box: `file,x,y,w,h[,kind[,region]]`. `file` is the path below the folder; x, y, w, h are pixels of the
stored picture (an EXIF orientation is not applied), left and top first, and may reach beyond its edges. `kind` is face
(when it is left out), plate, or a word that begins with `ignore`: what lies in such a box need not be hidden and may be
(crowds, faces that nobody could count). `region` is a word of the annotator's (eu, br, us) by which plates are told
apart. A row with a file and nothing else is a picture without any box. A first row with `file` in it names the columns,
in any order, and then xmin,ymin,xmax,ymax will do too; columns with other names are passed over. What `edged privacy
audit` reads, this reads as well.

Guarantees: a row that is no box and a file that is no picture are counted and passed over, never guessed at. Each CSV is
one set: all of its pictures are measured for the kinds that it has boxes of, and for no others, so that a set annotated
for faces does not count the plates in it as false. Does not guarantee: that the annotators saw everything.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.errors import Misconfigured
from edged.privacy.audit import IGNORE, size_of
from edged.privacy.examine import letterbox

COLUMNS = ("file", "x", "y", "w", "h", "kind", "region")
KINDS = ("face", "plate")
CORNERS = ("xmin", "ymin", "xmax", "ymax")
MAX_PIXELS = 1920 * 1200  # what a scrub child takes; larger pictures are shrunk to it
MIN_SIDE = 16

Image = NDArray[np.uint8]  # [h,w,3] BGR


class Box(NamedTuple):
    """In pixels of the picture; `size` is a plate's width, else the shorter side."""

    kind: str
    x: float
    y: float
    w: float
    h: float
    region: str = ""

    @property
    def size(self) -> float:
        return size_of(self.kind, self.w, self.h)


@dataclass(frozen=True)
class Picture:
    """One file of a set and what is known of it."""

    path: Path
    kinds: frozenset[str]
    boxes: tuple[Box, ...] = ()
    region: str = ""


@dataclass
class Found:
    """The pictures of all sets, and what was passed over and why."""

    pictures: list[Picture] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)


def read(folder: Path, tables: Iterable[str], kinds: Iterable[str] = ()) -> Found:
    """`tables` are CSV files, each perhaps with a region before it: `eu=boxes-eu.csv`. `kinds` limits what is measured.

    Raises Misconfigured when a file is missing or nothing at all is left to measure.
    """
    found = Found()
    wanted = frozenset(kinds)
    for table in tables:
        region, _, name = table.rpartition("=") if not Path(table).exists() else ("", "", table)
        _read_set(folder, Path(name), region, wanted, found)
    if not found.pictures:
        raise Misconfigured(
            f"no annotated picture was found below {folder} ({dict(found.passed_over)})",
            hint="a row is file,x,y,w,h[,kind[,region]], file the path below the folder",
        )
    return found


def _read_set(folder: Path, table: Path, region: str, wanted: frozenset[str], found: Found) -> None:
    try:
        text = table.read_text("utf-8-sig", errors="replace")
    except OSError as e:
        raise Misconfigured(f"the boxes {table} cannot be read: {e.strerror}") from e
    columns: tuple[str, ...] = COLUMNS
    boxes: dict[str, list[Box]] = {}
    for row in csv.reader(text.splitlines()):
        if not row or not row[0].strip():
            continue
        named = [cell.strip().lower() for cell in row]
        if "file" in named:
            columns = tuple(named)
            continue
        cells = dict(zip(columns, (cell.strip() for cell in row), strict=False))
        listed = boxes.setdefault(cells.get("file", ""), [])
        if not any(cells.get(name) for name in (*"xywh", *CORNERS)):
            continue
        box = _box(cells, region)
        if box is None:
            found.passed_over["rows that are no box"] += 1
        else:
            listed.append(box)
    there = frozenset(box.kind for listed in boxes.values() for box in listed if not box.kind.startswith(IGNORE))
    if unknown := there - frozenset(KINDS):
        found.passed_over[f"boxes of other kinds ({', '.join(sorted(unknown))})"] += 1
    kinds = (there & frozenset(KINDS)) if there else frozenset(KINDS)
    if wanted:
        kinds = (kinds & wanted) if there else wanted
    if not kinds:
        return
    for name, listed in boxes.items():
        path = folder / name
        if not path.is_file():
            found.passed_over["files that are not there"] += 1
            continue
        found.pictures.append(Picture(path, kinds, tuple(listed), region))


def _box(cells: dict[str, str], region: str) -> Box | None:
    try:
        if "xmin" in cells:
            x, y, right, bottom = (float(cells[name]) for name in CORNERS)
            w, h = right - x, bottom - y
        else:
            x, y, w, h = (float(cells[name]) for name in "xywh")
    except (KeyError, ValueError):
        return None
    if not all(map(math.isfinite, (x, y, w, h))) or w <= 0 or h <= 0:
        return None
    return Box((cells.get("kind") or "face").lower(), x, y, w, h, cells.get("region") or region)


class Frame(NamedTuple):
    """A picture as all tools get it. `width` and `height` are its own, within the frame; `boxes` are in its pixels."""

    picture: Picture
    image: Image
    width: int
    height: int
    boxes: tuple[Box, ...]


def load(picture: Picture, fit: tuple[int, int] | None) -> Frame | None:
    """Shrunk into a frame of exactly `fit`, never enlarged, grey where it does not reach; without `fit` as it is, but
    shrunk to what a scrub child takes.

    None for a file that does not decode. A box that lies outside by more than half is left out: there is too little of
    it to be hidden or seen.
    """
    data = np.fromfile(picture.path, np.uint8)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(data, flags) if data.size else None
    except cv2.error:
        image = None
    if image is None or image.ndim != 3 or min(image.shape[:2]) < MIN_SIDE:
        return None
    height, width = image.shape[:2]
    if fit is None:
        shrink = min(1.0, math.sqrt(MAX_PIXELS / (width * height)))
        fit = (max(MIN_SIDE, int(width * shrink)), max(MIN_SIDE, int(height * shrink)))
    out, scale, (width, height) = letterbox(np.asarray(image, np.uint8), fit)
    boxes = (b._replace(x=b.x * scale, y=b.y * scale, w=b.w * scale, h=b.h * scale) for b in picture.boxes)
    return Frame(picture, out, width, height, tuple(b for b in boxes if _inside(b, width, height) >= 0.5))


def _inside(box: Box, width: int, height: int) -> float:
    across = min(width, box.x + box.w) - max(0.0, box.x)
    down = min(height, box.y + box.h) - max(0.0, box.y)
    return max(0.0, across) * max(0.0, down) / (box.w * box.h)
