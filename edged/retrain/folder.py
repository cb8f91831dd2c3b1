"""A folder of pictures as a source of crops, for `edged train`: one folder per class, any depth below it.

The last fifth of each class by name is kept for tuning: where names count up with time, neighbouring frames meet at one
place only, and the same folder splits the same way everywhere. Nothing here is scrubbed or sealed: the folder is the
operator's own. Models are left in `out/models`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from edged import durable
from edged.errors import Refused
from edged.retrain.pictures import Crop

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
TUNE = 0.2  # share kept for tuning


def classes(folder: Path) -> tuple[str, ...]:
    """The names of the folders that hold pictures, sorted. Raises Refused unless there are at least two."""
    found = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and next(_pictures(p), None)))
    if len(found) < 2:
        raise Refused(
            f"{folder} has {len(found)} folders with pictures; a model needs at least two classes",
            hint="one folder per class: DIR/free/*.jpg, DIR/busy/*.jpg",
        )
    return found


def _pictures(folder: Path) -> Iterator[Path]:
    return (p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES and p.is_file())


class Folder:
    """The same shape as `source.Source`, on plain files."""

    def __init__(self, folder: Path, out: Path, names: tuple[str, ...]) -> None:
        self._folder, self._models, self._names = folder, out / "models", names
        self._models.mkdir(parents=True, exist_ok=True)

    def crops(self, part: str) -> list[Crop]:
        """Pictures of "train" or "tune"; there is no hold-out here."""
        found = []
        for name in self._names:
            paths = list(_pictures(self._folder / name))
            first_tune = len(paths) - int(len(paths) * TUNE)
            for path in paths[:first_tune] if part == "train" else paths[first_tune:]:
                relative = path.relative_to(self._folder).as_posix()
                found.append(Crop(relative, "folder", name, path.read_bytes))
        return found

    def model(self, sha256: str) -> bytes:
        raise Refused("a folder of pictures holds no models", code="not_found")

    def weights(self, sha256: str) -> bytes:
        raise Refused("training on a folder starts from scratch", code="no_weights")

    def put(self, onnx: bytes) -> str:
        return self._put(onnx, ".onnx")

    def put_weights(self, data: bytes) -> str:
        return self._put(data, ".safetensors")

    def _put(self, data: bytes, suffix: str) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        durable.write(self._models / f"{sha256}{suffix}", data)
        return sha256
