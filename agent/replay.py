"""Pictures from disk as a source of Shots: folders, CNRPark's patches, PKLot's marked pictures.

Guarantees: the order is by name or by the camera's own time, never by chance; an unreadable or oversized picture is
skipped and counted. The data sets stay where they are; nothing is copied.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
from numpy.typing import NDArray

from agent.source import WAIT_S, Box, Options, Shot, Tally
from edged.clock import Clock
from edged.errors import Misconfigured
from edged.wire.messages import MAX_REGIONS

MAX_FILE = 32 * 1024 * 1024  # bytes of one picture's file
MAX_PIXELS = 4096 * 4096
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def folder(where: Path, options: Options, tally: Tally, clock: Clock) -> Iterator[Shot]:
    """Every picture below `where`, by name; with truth=folder the class is the name of the folder that it lies in."""
    if not where.is_dir():
        raise Misconfigured(f"there is no folder {where}")
    paths = sorted(p for p in where.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise Misconfigured(f"{where} holds no picture", hint=f"looked for {', '.join(SUFFIXES)}")
    loop, roi = options.yes("loop"), options.text("kind", "frame", ("frame", "roi")) == "roi"
    named = options.text("truth", "none", ("none", "folder")) == "folder"
    if named and not roi:
        raise Misconfigured("folder: truth=folder needs kind=roi, a whole picture has no class")

    def play() -> Iterator[Shot]:
        while True:
            seen = tally.skipped
            for path in paths:
                raw = _file(path)
                image = decode(raw)
                if image is None:
                    tally.skipped += 1
                    continue
                jpeg = raw if raw[:2] == b"\xff\xd8" else None
                if roi:
                    yield _patch(image, clock.now(), path.parent.name if named else None, jpeg)
                else:
                    yield Shot(image, clock.now(), jpeg=jpeg)
            if not loop or tally.skipped - seen == len(paths):  # a loop over nothing would never come back
                tally.ended = "all pictures of the folder were shown"
                return

    return play()


def cnrpark(where: Path, options: Options, tally: Tally, clock: Clock) -> Iterator[Shot | None]:
    """CNRPark's patches by time; camera=A|B (both if not given), every n-th from `offset`, a slice by start/stop (0..1
    of what is left), only those after YYYYMMDD_HHMM, and none before `hold-file` exists."""
    index, archives = where / "index.csv", sorted(where.glob("*.zip"))
    if not index.is_file() or not archives:
        raise Misconfigured(f"{where} is not CNRPark: it needs index.csv and the zip of the patches")
    camera, after = options.text("camera", "", ("", "A", "B")), options.text("after")
    every, offset = options.whole("every", 1, 1), options.whole("offset", 0)
    start, stop = options.number("start", 0.0, 0, 1), options.number("stop", 1.0, 0, 1)
    hold = options.text("hold-file")
    try:
        with index.open(newline="", encoding="utf-8") as lines:
            rows = [
                (f"{row['date']}_{row['hhmm']}", row["slot"], row["path"], row["label"])
                for row in csv.DictReader(lines)
                if not camera or row["camera"] == camera
            ]
        rows = [row for row in sorted(rows) if row[0] > after]
        timed = [(_utc(when), path, label) for when, _, path, label in rows]
    except (KeyError, ValueError) as e:
        raise Misconfigured(f"{index} is not CNRPark's index: {e}") from e
    timed = timed[int(start * len(timed)) : int(stop * len(timed))][offset::every]
    if not timed:
        raise Misconfigured(f"cnrpark: no patch of {where} is left by these options")

    def play() -> Iterator[Shot | None]:
        while hold and not Path(hold).exists():
            clock.sleep(WAIT_S)
            yield None
        with zipfile.ZipFile(archives[0]) as patches:
            names = set(patches.namelist())
            for ts, name, label in timed:
                good = name in names and patches.getinfo(name).file_size <= MAX_FILE
                raw = patches.read(name) if good else b""
                image = decode(raw)
                if image is None:
                    tally.skipped += 1
                    continue
                yield _patch(image, ts, label, raw)
        tally.ended = "all patches were shown"

    return play()


def pklot(where: Path, options: Options, tally: Tally) -> Iterator[Shot]:
    """PKLot's pictures of some sequences ("0,2"; all if not given); each is shown once for every four of its marked spaces, a
    second apart, with the upright boxes around them."""
    chosen = options.text("sequence")
    folders = [where / f"sequence{n}" for n in chosen.split(",")] if chosen else sorted(where.glob("sequence*"))
    pictures = sorted(p for f in folders for p in (f / "frames").glob("*") if p.suffix.lower() in SUFFIXES)
    if not pictures:
        raise Misconfigured(f"{where} is not PKLot: no sequence{chosen or '*'}/frames with pictures")

    def play() -> Iterator[Shot]:
        for path in pictures:
            image, spaces = decode(_file(path)), _spaces(path)
            if image is None or not spaces:
                tally.skipped += 1
                continue
            height, width = image.shape[:2]
            ts = _utc(path.stem)
            for first in range(0, len(spaces), MAX_REGIONS):
                some = spaces[first : first + MAX_REGIONS]
                regions = tuple(_inside(box, width, height) for box, _ in some)
                yield Shot(image, ts + first / MAX_REGIONS, regions, tuple(word for _, word in some))
        tally.ended = "all pictures were shown"

    return play()


def decode(raw: bytes) -> NDArray[np.uint8] | None:
    """uint8 [h, w, 3] BGR, or None for what is no picture or larger than MAX_PIXELS."""
    if not raw:
        return None
    try:
        image = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    if image is None or image.shape[0] * image.shape[1] > MAX_PIXELS:
        return None
    return np.asarray(image, np.uint8)


def _file(path: Path) -> bytes:
    """Its bytes, or none when it is unreadable or too large."""
    try:
        return path.read_bytes() if path.stat().st_size <= MAX_FILE else b""
    except OSError:
        return b""


def _patch(image: NDArray[np.uint8], ts: float, label: str | None, jpeg: bytes | None) -> Shot:
    height, width = image.shape[:2]
    return Shot(image, ts, ((0, 0, width, height),), None if label is None else (label,), "roi", jpeg)


def _utc(text: str) -> float:
    """Seconds since 1970 of 20150703_0805 or 2013-02-24_10_05_04."""
    digits = text.replace("-", "").replace("_", "")
    pattern = "%Y%m%d%H%M%S" if len(digits) == 14 else "%Y%m%d%H%M"
    return datetime.strptime(digits, pattern).replace(tzinfo=UTC).timestamp()


def _spaces(picture: Path) -> list[tuple[Box, str]]:
    """The marked spaces (box, "busy" | "free") of a PKLot picture, [] when its XML is missing or broken."""
    raw = _file(picture.parent.parent / "bounding_boxes" / f"{picture.stem}.xml")
    try:
        found = []
        for space in ElementTree.fromstring(raw).iter("space"):
            points = [(int(p.attrib["x"]), int(p.attrib["y"])) for p in space.iter("point")]
            xs, ys = [x for x, _ in points], [y for _, y in points]
            box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
            found.append((box, "busy" if space.attrib["occupied"] == "1" else "free"))
        return found
    except (ElementTree.ParseError, KeyError, ValueError):
        return []


def _inside(box: Box, width: int, height: int) -> Box:
    x0, y0 = min(max(0, box[0]), width - 1), min(max(0, box[1]), height - 1)
    x1, y1 = min(max(x0 + 1, box[0] + box[2]), width), min(max(y0 + 1, box[1] + box[3]), height)
    return x0, y0, x1 - x0, y1 - y0
