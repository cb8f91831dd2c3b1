"""Which files are scrubbed, and where to: names and folders only, no file is opened.

Guarantees: no output lies where an input does; a folder is mirrored, and two inputs never share an output; outputs of an
earlier run inside the folder are no inputs. Does not guarantee: that a file is what its name says.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from edged.errors import EXIT_NOT_FOUND, Refused
from edged.privacy.encoder import CONTAINERS

JPEGS = (".jpg", ".jpeg", ".jpe")
PICTURES = (*JPEGS, ".png", ".webp", ".bmp", ".tif", ".tiff", ".jp2", ".ppm", ".pgm")
FILMS = (
    *CONTAINERS, ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp", ".wmv", ".flv", ".ogv", ".vob", ".mjpeg",
)  # fmt: skip
MARK = ".scrubbed"


class Work(NamedTuple):
    """One file to scrub."""

    source: Path
    target: Path
    kind: Literal["picture", "film"]


class Plan(NamedTuple):
    """`others` are files that are neither picture nor film; nothing is done with them."""

    works: tuple[Work, ...]
    others: tuple[Path, ...]


def plan(source: Path, out: Path | None) -> Plan:
    """Raises Refused: not_found, unsupported, same_file."""
    if source.is_dir():
        return _folder(source, out or source.with_name(source.resolve().name + MARK))
    if not source.is_file():
        raise Refused(f"there is no file or folder {source}", code="not_found", exit_code=EXIT_NOT_FOUND)
    kind = kind_of(source)
    if kind is None:
        raise Refused(
            f"{source} is no picture or film by its name", hint=f"known are {' '.join((*PICTURES, *FILMS))}",
            code="unsupported",
        )  # fmt: skip
    target = out or source.with_name(source.stem + MARK + suffix_of(source, kind))
    if target.is_dir():
        target = target / (source.stem + suffix_of(source, kind))
    allowed = (*JPEGS, ".png") if kind == "picture" else CONTAINERS
    if target.suffix.lower() not in allowed:
        raise Refused(f"a scrubbed {kind} is written as {' '.join(allowed)}, not {target.name}", code="unsupported")
    _apart(source, target)
    return Plan((Work(source, target, kind),), ())


def kind_of(path: Path) -> Literal["picture", "film"] | None:
    """By its name."""
    suffix = path.suffix.lower()
    return "picture" if suffix in PICTURES else "film" if suffix in FILMS else None


def suffix_of(source: Path, kind: str) -> str:
    """Of what is made from it: its own where that can be written."""
    suffix = source.suffix
    if kind == "picture":
        return suffix if suffix.lower() in (*JPEGS, ".png") else ".jpg"
    return suffix if suffix.lower() in CONTAINERS else ".mp4"


def _folder(source: Path, out: Path) -> Plan:
    if out.resolve() == source.resolve():
        raise Refused("the scrubbed files cannot lie on the originals", hint="name another folder", code="same_file")
    works: list[Work] = []
    others: list[Path] = []
    taken: set[Path] = set()
    for path in _files(source, out.resolve()):
        kind = kind_of(path)
        if kind is None:
            others.append(path)
            continue
        below = path.relative_to(source)
        target = out / below.with_suffix(suffix_of(path, kind))
        if target in taken:  # a.png beside a.webp.png, a.bmp beside a.jpg
            target = out / below.with_name(below.name + suffix_of(path, kind))
        if target in taken:
            raise Refused(f"two files would become {target}", code="same_file")
        taken.add(target)
        _apart(path, target)
        works.append(Work(path, target, kind))
    return Plan(tuple(works), tuple(others))


def _files(folder: Path, out: Path) -> Iterator[Path]:
    """Every file below, in the order of names, but hidden ones, links to folders and what lies in `out`."""
    for base, folders, names in os.walk(folder):
        here = Path(base)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and (here / f).resolve() != out)
        yield from (here / name for name in sorted(names) if not name.startswith(".") and (here / name).is_file())


def _apart(source: Path, target: Path) -> None:
    if target.resolve() == source.resolve() or (target.exists() and target.samefile(source)):
        raise Refused(f"{target} is the original itself", hint="give another name with -o", code="same_file")
