"""Pictures on disk as a source of crops, for `edged train`: a folder per class (any depth below it), a zip file of such
folders (also a folder inside it: DATA.zip/A), or a folder with the IDX files of MNIST or Fashion-MNIST.

    DIR/<class>/**                            the last fifth of each class by name tunes (TUNE_MOST pictures in all at most)
    DIR/<class>/**, DIR/test/<class>/**       what lies in test/ is only ever tested on
    DIR/train/<class>/**, val/, test/         as data sets are often laid out; val/ or valid/ tunes, if it is there
    DIR/train-images-idx3-ubyte[.gz], ...     t10k-* is the test set

The last by name: where names count up with time, neighbouring frames meet at one place only, and the same folder splits
the same way everywhere. Guarantees: nothing of the test set is trained or tuned on (the very same picture in both is
counted: `overlap`); a picture is read when asked for, and no name from a zip file becomes a path on disk. Nothing here is
scrubbed or sealed: the pictures are the operator's own. Models are left in `out/models`.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from edged import durable
from edged.errors import Corrupt, Refused
from edged.retrain import idx
from edged.retrain.dimensions import MAX_FILE
from edged.retrain.pictures import Crop

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
TUNE = 0.2  # share kept for tuning
TUNE_MOST = 5000  # pictures: enough to know an accuracy of 90 % to 0.4 points (one standard error)

Part = Literal["train", "tune", "test"]
PARTS: tuple[Part, ...] = ("train", "tune", "test")
_NAMES: dict[str, Part] = {
    "train": "train", "training": "train", "val": "tune", "valid": "tune", "validation": "tune", "test": "test",
    "testing": "test",
}  # fmt: skip


@dataclass(frozen=True)
class File:
    """One picture: its path below the root (with /), and a way to its bytes (OSError if gone, Refused if damaged)."""

    path: str
    read: Callable[[], bytes]


Classes = dict[str, list[File]]


def exists(path: Path) -> bool:
    """Whether there is such a folder, zip file or folder in a zip file."""
    if path.is_dir():
        return True
    archive, inner = _in_zip(path)
    return archive is not None and (not inner or bool(_zipped(archive, inner)))


def look(root: Path, test: Path | None = None, names: Sequence[str] = ()) -> dict[Part, Classes]:
    """Every picture by part and class, sorted by path; `tune` is cut from `train` unless it has its own folder.

    `names` are those of the classes 0, 1, ... of IDX files; of folders, those that are taken. Raises Refused: fewer than
    two classes, a test set of other classes, damaged IDX or zip files; OSError: a folder that may not be read.
    """
    found = _sets(root, names)
    if test is not None:
        alone = _sets(test, names)
        found["test"] = alone["test"] or _joined(alone["train"], alone["tune"])
        if not found["test"]:
            raise Refused(f"{test} has no folders with pictures", code="no_pictures")
    if len(found["train"]) < 2:
        raise Refused(
            f"{root} has {len(found['train'])} folders with pictures; a model needs at least two classes",
            hint=_hint(found["train"]), code="one_class",
        )  # fmt: skip
    for part in ("tune", "test"):
        if foreign := sorted(set(found[part]) - set(found["train"])):
            raise Refused(
                f"the {part} set has classes that are not trained: {', '.join(foreign)}", code="other_classes"
            )
    if not found["tune"]:
        most = TUNE_MOST // len(found["train"])
        for name, files in found["train"].items():
            first = len(files) - min(int(len(files) * TUNE), most)
            found["train"][name], found["tune"][name] = files[:first], files[first:]
    return found


def classes(root: Path) -> tuple[str, ...]:
    """The names of the classes, sorted. Raises what `look` does."""
    return tuple(look(root)["train"])


@dataclass(frozen=True)
class Digest:
    """`sha256` over parts, classes, names and contents; `overlap`: test pictures that are in train or tune too."""

    sha256: str
    overlap: int


def digest(parts: Mapping[Part, Classes]) -> Digest:
    """Reads everything once. A picture that does not read back counts as an empty one (`load` names it)."""
    whole, seen, overlap = hashlib.sha256(), set(), 0
    for part in PARTS:
        for name, files in parts[part].items():
            for file in files:
                try:
                    one = hashlib.sha256(file.read()).digest()
                except Refused:
                    one = hashlib.sha256().digest()
                whole.update(f"{part}\0{name}\0{file.path}\0".encode(errors="surrogateescape") + one)
                if part != "test":
                    seen.add(one)
                elif one in seen:
                    overlap += 1
    return Digest(whole.hexdigest(), overlap)


def _sets(root: Path, names: Sequence[str]) -> dict[Part, Classes]:
    found: dict[Part, Classes] = {"train": {}, "tune": {}, "test": {}}
    if root.is_dir() and (training := idx.find(root, "train")):
        found["train"] = _digits(idx.read(*training), names, training[0])
        if testing := idx.find(root, "test"):
            found["test"] = _digits(idx.read(*testing), tuple(found["train"]), testing[0])
        return found
    files = _files(root)
    layout = _layout(files)
    for file in files:
        top, _, rest = file.path.partition("/")
        if top in layout:
            found[layout[top]].setdefault(rest.partition("/")[0], []).append(file)
        elif "train" not in layout.values():
            found["train"].setdefault(top, []).append(file)
    if names:
        found = {part: {k: v for k, v in sets.items() if k in names} for part, sets in found.items()}
        if missing := set(names) - set(found["train"]):
            raise Refused(f"{root} has no pictures of: {', '.join(sorted(missing))}", code="missing_class")
    return {part: {k: sets[k] for k in sorted(sets)} for part, sets in found.items()}


def _layout(files: Sequence[File]) -> dict[str, Part]:
    """Which top folders are parts. One with pictures directly in it is a class of that name; without a `train` beside it
    only a `test` with folders of the classes counts.
    """
    flat = {f.path.partition("/")[0] for f in files if f.path.count("/") == 1}
    tops = {f.path.partition("/")[0] for f in files}
    layout = {t: _NAMES[t.lower()] for t in tops - flat if t.lower() in _NAMES}
    if "train" in layout.values():
        return layout
    inside: dict[str, set[str]] = {}
    for f in files:
        top, _, rest = f.path.partition("/")
        inside.setdefault(top, set()).add(rest.partition("/")[0])
    return {t: part for t, part in layout.items() if part == "test" and inside[t] <= tops - {t}}


def _joined(one: Classes, other: Classes) -> Classes:
    return {k: one.get(k, []) + other.get(k, []) for k in sorted({*one, *other})}


def _hint(found: Classes) -> str:
    """Where only one folder holds pictures, the classes may be one floor down."""
    for name, files in found.items():
        if len({f.path.split("/")[1] for f in files if f.path.count("/") > 1}) > 1:
            return f"the classes may be the folders in {name}/: --data DIR/{name}"
    return "one folder per class: DIR/free/*.jpg, DIR/busy/*.jpg"


def _files(root: Path) -> list[File]:
    """The pictures below the folders of `root`, by path; those directly in it belong to no class."""
    if root.is_dir():
        return sorted(_walk(root), key=lambda f: f.path)
    archive, inner = _in_zip(root)
    if archive is None:
        raise Refused(f"{root} is neither a folder nor a zip file", code="no_pictures")
    return _zipped(archive, inner)


def _walk(root: Path) -> Iterator[File]:
    def fail(e: OSError) -> None:
        raise e  # os.walk would leave out what it may not read

    for top in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        for folder, _, names in os.walk(top, onerror=fail):
            for name in names:
                path = Path(folder) / name
                if path.suffix.lower() in SUFFIXES and path.is_file():
                    yield File(path.relative_to(root).as_posix(), partial(_read, path))


def _read(path: Path) -> bytes:
    with open(path, "rb") as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise Refused(f"{path} is larger than {MAX_FILE >> 20} MiB", code="oversized")
    return data


def _in_zip(path: Path) -> tuple[Path | None, str]:
    """The zip file on the way to `path`, and what of the path lies inside it."""
    for archive in (path, *path.parents):
        if archive.suffix.lower() == ".zip" and archive.is_file():
            return archive, path.relative_to(archive).as_posix().removeprefix(".")
    return None, ""


def _zipped(archive: Path, inner: str) -> list[File]:
    try:
        opened = zipfile.ZipFile(archive)
    except zipfile.BadZipFile as e:
        raise Refused(f"{archive} is no zip file: {e}", code="bad_zip") from e
    start = f"{inner}/" if inner else ""
    found = [
        File(info.filename[len(start) :], partial(_unzip, opened, info))
        for info in opened.infolist()
        if info.filename.startswith(start)
        and info.filename.lower().endswith(SUFFIXES)
        and "/" in info.filename[len(start) :]
        and not info.filename.startswith("__MACOSX/")
    ]
    return sorted(found, key=lambda f: f.path)


def _unzip(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Never more than the directory says, and never more than MAX_FILE."""
    if info.file_size > MAX_FILE:
        raise Refused(f"{info.filename} is larger than {MAX_FILE >> 20} MiB", code="oversized")
    try:
        return archive.read(info)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        RuntimeError,
        NotImplementedError,
    ) as e:  # RuntimeError: a password
        raise Refused(f"{info.filename} does not unpack: {e}", code="bad_zip") from e


def _digits(digits: idx.Digits, names: Sequence[str], file: Path) -> Classes:
    """IDX pictures as PGM files (Netpbm: a header before the grey bytes), so that they go the way of all pictures."""
    known = tuple(names) or tuple(map(str, range(int(digits.labels.max()) + 1)))
    if (top := int(digits.labels.max())) >= len(known):
        raise Refused(f"{file} has labels up to {top}, there are {len(known)} classes", code="other_classes")
    height, width = digits.pixels.shape[1:]
    start = b"P5\n%d %d\n255\n" % (width, height)
    found: Classes = {name: [] for name in known}
    for i, label in enumerate(digits.labels.tolist()):
        path = f"{file.name.removesuffix('.gz')}#{i}"
        found[known[label]].append(File(path, partial(_pgm, start, digits.pixels[i])))
    return found


def _pgm(start: bytes, pixels: object) -> bytes:
    return start + bytes(pixels)  # type: ignore[call-overload,no-any-return]  # an array is a buffer


class Folder:
    """The same shape as `source.Source`, on plain files."""

    def __init__(self, folder: Path, out: Path, names: Sequence[str], test: Path | None = None) -> None:
        self._folder, self._test, self._names = folder, test, tuple(names)
        self._parts: dict[Part, Classes] | None = None
        self._models = out / "models"
        self._models.mkdir(parents=True, exist_ok=True)

    def crops(self, part: Part | Literal["holdout"]) -> list[Crop]:
        """Pictures of one part, class by class, of no camera. The hold-out is the test part, or all where there is none."""
        if self._parts is None:
            self._parts = look(self._folder, self._test, self._names)
        parts = self._parts
        found = parts["test"] or _joined(parts["train"], parts["tune"]) if part == "holdout" else parts[part]
        return [Crop(file.path, "", name, file.read) for name, files in found.items() for file in files]

    def named(self, pairs: Sequence[tuple[str, str]]) -> list[Crop]:
        """None: nothing of a folder is pinned."""
        return []

    def model(self, sha256: str) -> bytes:
        """As `source.Source.model`, from OUT/models."""
        return self._get(sha256, ".onnx")

    def weights(self, sha256: str) -> bytes:
        """The weights that an ONNX file there names, or those of this hash. Raises Refused when they are not there."""
        from edged.retrain import source

        if (self._models / f"{sha256}.onnx").exists():
            sha256 = source.metadata(self.model(sha256)).get(source.WEIGHTS, "")
        return self._get(sha256, ".safetensors")

    def _get(self, sha256: str, suffix: str) -> bytes:
        try:
            data = (self._models / f"{sha256}{suffix}").read_bytes()
        except FileNotFoundError:
            if suffix == ".onnx":
                raise Refused(f"model file {sha256[:12]!r}: not in {self._models}", code="not_found") from None
            raise Refused(
                "a step that retrains needs the model's weights, and here is its file only", code="no_weights",
                hint="name the folder that `edged train` left, not the ONNX file in it",
            ) from None  # fmt: skip
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Corrupt(f"{self._models / sha256}{suffix} was changed", code="changed")
        return data

    def put(self, onnx: bytes) -> str:
        return self._put(onnx, ".onnx")

    def put_weights(self, data: bytes) -> str:
        return self._put(data, ".safetensors")

    def _put(self, data: bytes, suffix: str) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        durable.write(self._models / f"{sha256}{suffix}", data)
        return sha256
