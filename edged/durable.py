"""Nothing appears half made: temporary file, fsync, rename, fsync of the folder.

Guarantees: after `write` returns, the file is there with all of its bytes, also after a power cut; before, either the old
file or none. Does not guarantee anything on file systems that lie about fsync.
"""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, data: bytes, *, mode: int = 0o644, replace: bool = True, fsync: bool = True) -> None:
    """Put `data` at `path`, whole or not at all. Raises OSError, FileExistsError when `replace` is False and it is there.

    `fsync` False is for what may be lost in a power cut but must not be half read (progress).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    except OSError as e:
        e.filename = str(path)  # nobody asked for the temporary one
        raise
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if fsync:
                file.flush()
                os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)
            os.unlink(temporary)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if fsync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make names that were added to or removed from a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
