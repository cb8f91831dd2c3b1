"""IDX files, the format of MNIST and Fashion-MNIST (Y. LeCun, "The MNIST database"), plain or gzipped.

    0  0  type  dimensions | size of each dimension, 4 bytes big-endian | the values, last dimension fastest

Guarantees: only type 0x08 (unsigned byte) is taken; the sizes are judged before the values are read, and no more is read
than they say; a file that is too short or too long is refused by name. Pure but for reading; does not guarantee that the
labels are right.
"""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from edged.errors import Refused

MAX_PICTURES = 20_000_000
MAX_SIDE = 1024
MAX_BYTES = 16 * 2**30
_UBYTE = 0x08
_PARTS = {"train": ("train",), "test": ("t10k", "test")}  # how the official files begin; EMNIST puts its name before


@dataclass(frozen=True)
class Digits:
    """`pixels` uint8 [n, height, width] of grey, black ground; `labels` uint8 [n]."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def find(folder: Path, part: str) -> tuple[Path, Path] | None:
    """The files of pictures and labels of part "train" or "test"; None when there are none.

    Raises Refused when one of the two is missing, or when there are several.
    """
    found = []
    for values, dimensions in (("images", 3), ("labels", 1)):
        names = {f"{start}-{values}{dot}idx{dimensions}-ubyte" for start in _PARTS[part] for dot in "-."}
        paths = sorted(p for p in folder.iterdir() if _plain(p.name).endswith(tuple(names)) and p.is_file())
        if len({_plain(p.name) for p in paths}) > 1:
            raise Refused(f"{folder} has several files of {part} {values}: {', '.join(p.name for p in paths)}")
        found.append(paths[:1])  # the same file plain and gzipped: the plain one sorts first
    pictures, labels = found
    if bool(pictures) != bool(labels):
        there, missing = (pictures, "labels") if pictures else (labels, "pictures")
        raise Refused(f"{there[0]} has no {missing} beside it", code="bad_idx")
    return (pictures[0], labels[0]) if pictures else None


def _plain(name: str) -> str:
    return name.removesuffix(".gz")


def read(pictures: Path, labels: Path) -> Digits:
    """Raises Refused (code bad_idx): not such a file, truncated, oversized, or not as many labels as pictures."""
    pixels, answers = _values(pictures, 3), _values(labels, 1)
    if len(pixels) != len(answers):
        raise Refused(f"{pictures} has {len(pixels)} pictures, {labels} has {len(answers)} labels", code="bad_idx")
    return Digits(pixels, answers)


def _values(path: Path, dimensions: int) -> NDArray[np.uint8]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            return _parse(file, path, dimensions)  # type: ignore[arg-type]  # GzipFile reads as any stream does
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise Refused(f"{path} is damaged: {e}", code="bad_idx") from e


def _parse(file: BinaryIO, path: Path, dimensions: int) -> NDArray[np.uint8]:
    header = file.read(4 + 4 * dimensions)
    if len(header) < 4 or header[:2] != b"\0\0":
        raise Refused(f"{path} is no IDX file", code="bad_idx")
    if header[2] != _UBYTE or header[3] != dimensions:
        raise Refused(
            f"{path} holds type {header[2]:#04x} in {header[3]} dimensions, not unsigned bytes in {dimensions}",
            code="bad_idx",
        )
    if len(header) < 4 + 4 * dimensions:
        raise Refused(f"{path} is cut short: its header has {len(header)} bytes", code="bad_idx")
    shape = tuple(int.from_bytes(header[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions))
    n, sides = shape[0], shape[1:]
    total = math.prod(shape)
    if not 1 <= n <= MAX_PICTURES or any(not 1 <= s <= MAX_SIDE for s in sides) or total > MAX_BYTES:
        raise Refused(f"{path} says that it holds {' x '.join(map(str, shape))} values", code="bad_idx")
    data = _exactly(file, total)
    if len(data) < total:
        raise Refused(f"{path} is cut short: {len(data)} of {total} values", code="bad_idx")
    if file.read(1):
        raise Refused(f"{path} goes on behind its {total} values", code="bad_idx")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _exactly(file: BinaryIO, total: int) -> bytes:
    """At most `total` bytes, in pieces: memory grows with what is there, not with what the header says."""
    pieces, missing = [], total
    while missing and (piece := file.read(min(missing, 1 << 20))):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)
