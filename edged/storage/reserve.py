"""Space that is taken beforehand and given back when the disk is full: labels, audit, rollback and erasure work then.

A file of `size` bytes, really written (random bytes, so that no file system folds them), and NAMES empty ones, for a
file system that runs out of inodes. It is given back

    at once       when a durable transaction finds the disk full (`Store`): the caller tries again
    beforehand    on the tick, when less than LOW is free

and taken again on the tick when `size` + BACK is free. Given back it stays as an empty file, a sign for `require`.

Guarantees: no frame uses it: none is taken while it is given back. Does not guarantee that it lasts.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from edged.durable import sync_folder
from edged.errors import Unavailable
from edged.storage import disk

log = logging.getLogger(__name__)

SIZE = 16 * 10**6
LOW = 4 * 2**20
BACK = 16 * 2**20
NAME = "reserve"
NAMES = 8
_BLOCK = 2**20

T = TypeVar("T")


def step(folder: Path, size: int = SIZE) -> bool:
    """Give it back or take it again, as the free space says; True if all of it is held now. `size` 0 = there is none."""
    path = folder / NAME
    if not size:
        path.unlink(missing_ok=True)
        _drop_names(folder)
        return False
    have = _size(path)
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    if have == size:
        _keep_names(folder)
        return not (free < LOW and release(folder))
    if free + max(have, 0) < size + BACK:
        if have < 0:
            with suppress(OSError):
                path.touch(0o600)
        return False
    _keep_names(folder)
    return _take(path, size)


def release(folder: Path) -> bool:
    """Give the space back to the file system, and the names; True if there was any."""
    path = folder / NAME
    size = _size(path)
    _drop_names(folder)
    if size <= 0:
        return False
    try:
        os.truncate(path, 0)
    except OSError:
        return False
    log.warning("the disk is full: the reserve of %d bytes is given back", size)
    return True


def _keep_names(folder: Path) -> None:
    """Empty files, so that a file system without inodes has some for those who spend."""
    with suppress(OSError):
        for n in range(NAMES):
            path = folder / f"{NAME}.{n}"
            if not path.exists():
                path.touch(0o600)


def _drop_names(folder: Path) -> None:
    for n in range(NAMES):
        with suppress(OSError):
            (folder / f"{NAME}.{n}").unlink(missing_ok=True)


def spend(folder: Path, do: Callable[[], T]) -> T:
    """What `do` returns; when it finds the disk full it is done again with the reserve given back. Raises what it
    raised, OSError as `disk.renamed` names it.
    """
    try:
        try:
            return do()
        except OSError as e:
            if e.errno not in (errno.ENOSPC, errno.EDQUOT) or not release(folder):
                raise
            return do()
    except OSError as e:
        raise disk.renamed(e, folder) from e


def require(folder: Path) -> None:
    """Raises Unavailable("disk_full") while it is given back."""
    if _size(folder / NAME) == 0:
        raise Unavailable("disk full: the reserve is given back", code="disk_full", hint="free space on the disk")


def _take(path: Path, size: int) -> bool:
    making = path.with_name(f".{NAME}")  # an empty file of the reserve's own name would say that it is given back
    try:
        with os.fdopen(os.open(making, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as f:
            for start in range(0, size, _BLOCK):
                f.write(secrets.token_bytes(min(_BLOCK, size - start)))
            f.flush()
            os.fsync(f.fileno())
        os.replace(making, path)
        sync_folder(path.parent)
    except OSError as e:
        log.warning("no reserve of %d bytes: %s", size, e.strerror)
        with suppress(OSError):
            making.unlink()
        return False
    return True


def _size(path: Path) -> int:
    """-1 = there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1
