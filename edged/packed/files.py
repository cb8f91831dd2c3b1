"""Packed models and deltas as files: unpacked piece by piece beside their place, and moved there once their hash is right."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from edged import durable
from edged.errors import EXIT_NOT_FOUND, Refused
from edged.packed import container, delta

SUFFIX, DELTA_SUFFIX, MODEL_SUFFIX = ".epk", ".epd", ".onnx"
MODEL, PACKED = "model.onnx", "model.epk"  # in a folder that `edged train` left


def given(path: Path, name: str = MODEL) -> Path:
    """The file that is meant by a path: itself, or the one of this name in a folder. Raises Refused (not_found, is_folder)."""
    if path.is_dir():
        if (path / name).is_file():
            return path / name
        raise Refused(f"{path} is a folder without {name} in it", code="is_folder", hint="name a file")
    if not path.exists():
        raise Refused(f"there is no {path}", code="not_found", exit_code=EXIT_NOT_FOUND)
    return path


def place(source: Path, out: Path | None, suffix: str) -> Path:
    """Where the result goes: `out`, or beside its source under another suffix.

    Raises Refused: its folder is not there (not_found), it is a folder or its own source (in_the_way).
    """
    found = out or source.with_suffix(suffix)
    if found == source:
        raise Refused(f"{source} would be written over itself", code="in_the_way", hint="name another file with -o")
    if not found.parent.is_dir():
        raise Refused(
            f"there is no folder {found.parent}", code="not_found", hint="make it first", exit_code=EXIT_NOT_FOUND
        )
    if found.is_dir():
        raise Refused(f"{found} is a folder", code="in_the_way", hint="name a file in it with -o")
    return found


def keep(data: bytes, out: Path) -> None:
    """Write bytes; as it is where they are there already. Raises Refused (in_the_way) where something else is."""
    if not _free(out, hashlib.sha256(data).hexdigest()):
        durable.write(out, data)


def unpack(source: Path, out: Path, *, old: Path | None = None, most: int = container.MOST) -> tuple[int, int]:
    """The ONNX file of a packed one, or of a delta from the file `old`: bytes read and bytes written.

    Memory is that of one run of a tensor, and of the old file. Raises Corrupt and Refused as `container.stream` and
    `delta.stream`, Refused where it is the other one of the two (needs_source, not_packed) or another file is at `out`
    (in_the_way). Nothing appears at `out` before all of it is there and its hash is right.
    """
    with source.open("rb") as file:
        is_delta = file.read(len(delta.MAGIC)) == delta.MAGIC
        file.seek(0)
        if is_delta and old is None:
            raise Refused(
                f"{source} is a delta: it makes a file of another one", code="needs_source",
                hint="name the file that it starts from with --from",
            )  # fmt: skip
        if old is not None and not is_delta:
            raise Refused(f"{source} is no delta", code="not_packed", hint="leave out --from")
        pieces = container.stream(file, most=most) if old is None else delta.stream(old.read_bytes(), file, most=most)
        written = _write(pieces, out)
        return file.tell(), written


def _write(pieces: Iterable[bytes | memoryview], out: Path) -> int:
    """Beside `out`, and moved there once all of it is written; bytes."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    hashed, written = hashlib.sha256(), 0
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(descriptor, "wb") as to:
            for piece in pieces:
                to.write(piece)
                hashed.update(piece)
                written += len(piece)
            to.flush()
            os.fsync(to.fileno())
        if _free(out, hashed.hexdigest()):
            temporary.unlink()
        else:
            os.replace(temporary, out)
            durable.sync_folder(out.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return written


def _free(out: Path, sha256: str) -> bool:
    """Whether the very same file is there already. Raises Refused where another is."""
    if not out.exists():
        return False
    if out.is_file():
        with out.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                return True
    raise Refused(
        f"{out} is there already; nothing is written over", code="in_the_way", hint="name another file with -o"
    )
