"""Several files of one directory, there whole or not at all, for less than one `edged.durable.write` each.

Guarantees: once a function here returns, its files survive a power cut on a file system that honours fsync; before that
a reader sees the old state or the new one, never half a file. A failed fsync is never tried again (the kernel may have
dropped the pages and then reports success): it is Corrupt. Does not guarantee: that leftovers of a crash (names that
start with TEMP) are gone; `objects.recover` removes them.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edged.durable import sync_folder
from edged.errors import Corrupt, EdgedError, Misconfigured, Unavailable

TEMP = ".tmp-"
_IOV_MAX = 512


def make_dir(path: Path) -> None:
    """Make one directory (0700), durably; an existing one is fine. Its parent must exist."""
    if path.is_dir():
        return
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        sync_folder(path.parent)
    except OSError as e:
        raise renamed(e, path) from e


def write_all(directory: Path, files: Sequence[tuple[str, bytes]]) -> None:
    """Write `files` (name, content) into one directory; either all are durable on return or none is left.

    The temporaries are written first and synced after, so that one journal commit of the file system serves several.
    """
    temps: list[Path] = []
    placed: list[Path] = []
    try:
        opened: list[int] = []
        try:
            for _, content in files:
                temp = directory / f"{TEMP}{secrets.token_hex(8)}"
                fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                temps.append(temp)
                opened.append(fd)
                _write(fd, content)
            for fd in opened:
                os.fsync(fd)
        finally:
            for fd in opened:
                os.close(fd)
        for temp, (name, _) in zip(temps, files, strict=True):
            os.rename(temp, directory / name)
            placed.append(directory / name)
        sync_folder(directory)
    except BaseException as e:
        remove([*temps, *placed])
        if isinstance(e, OSError):
            raise renamed(e, directory) from e
        raise


def remove(paths: Iterable[Path]) -> int:
    """Unlink what is there; returns how many were. Not synced: what a power cut brings back is an orphan."""
    gone = 0
    for path in paths:
        try:
            path.unlink()
            gone += 1
        except FileNotFoundError:
            pass
    return gone


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


def require_space(folder: Path, size: int, reserve: int) -> None:
    """Raises Unavailable("disk_full") if `size` more bytes would leave less than `reserve` free; 0 = no reserve."""
    if reserve:
        found = os.statvfs(folder)
        if found.f_bavail * found.f_frsize - size < reserve:
            raise Unavailable("disk full", code="disk_full", hint="free space, or lower storage.max_bytes")


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
        return Unavailable(f"disk full: {what}", code="disk_full", hint="free space, or lower storage.max_bytes")
    if e.errno == errno.EROFS:
        return Unavailable(
            f"the disk cannot be written: {what}", code="disk_failed", hint="look at dmesg; mount it again for writing"
        )
    if e.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN):
        return Unavailable(what)
    if e.errno in (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        return Misconfigured(what, hint="check that the directory exists and belongs to the user edged runs as")
    return Corrupt(f"the disk failed: {what}", code="disk_failed", hint="look at dmesg; edged must be started again")


def _write(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
