"""What the store asks of the disk beyond `edged.durable`, and the disk's errors in the words of edged's families.

A failed fsync is never tried again on the same file (the kernel may have dropped the pages and then reports success).
Names that start with TEMP are leftovers of a crash.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edged.durable import sync_folder
from edged.errors import Corrupt, EdgedError, Misconfigured, Unavailable

TEMP = ".tmp-"
_IOV_MAX = 512


def make_dir(path: Path) -> None:
    """Make one directory (0700), durably; an existing one is fine: whoever made it may have died before its name was
    durable. Its parent must exist.
    """
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        sync_folder(path.parent)
    except OSError as e:
        raise renamed(e, path) from e


def write_at(fd: int, offset: int, pieces: Sequence[bytes]) -> None:
    """Write all `pieces`, one behind the other, from `offset` on. Raises OSError."""
    left = [memoryview(p) for p in pieces if p]
    while left:
        n = os.pwritev(fd, left[:_IOV_MAX], offset)
        offset += n
        while left and n >= len(left[0]):
            n -= len(left.pop(0))
        if n:
            left[0] = left[0][n:]


def free(folder: Path) -> int:
    """Bytes that the file system has for those who are not root."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def require_space(folder: Path, size: int, reserve: int) -> None:
    """Raises Unavailable("disk_full") if `size` more bytes would leave less than `reserve` free; 0 = no reserve."""
    if reserve and (left := free(folder)) - size < reserve:
        raise Unavailable(
            f"disk full: {left / 1e6:.0f} MB are free, storage.min_free keeps {reserve / 1e6:.0f} MB from pictures",
            code="disk_full", hint="free space on the disk",
        )  # fmt: skip


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Rename an operating system error about `path`, or the file that it names, into edged's families."""
    try:
        yield
    except OSError as e:
        raise renamed(e, Path(e.filename) if e.filename else path) from e


def renamed(e: OSError, path: Path) -> EdgedError:
    """An operating system error in the words of edged's families."""
    what = f"{path}: {e.strerror or e}"
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        return Unavailable(f"disk full: {what}", code="disk_full", hint="free space on the disk")
    if e.errno == errno.EROFS:
        return Unavailable(
            f"the disk cannot be written: {what}", code="disk_failed", hint="look at dmesg; mount it again for writing"
        )
    if e.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN):
        return Unavailable(what)
    if e.errno in (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        return Misconfigured(what, hint="check that the directory exists and belongs to the user edged runs as")
    return Corrupt(f"the disk failed: {what}", code="disk_failed", hint="look at dmesg; edged must be started again")
