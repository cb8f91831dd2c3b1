"""Put a new secret file in the place of an old one, and leave nothing of the old one on the disk.

Guarantees: a reader finds the old file or the new one, whole, also after a power cut (edged.durable). When `write`
returns, the blocks of the old file were overwritten with zeros and synced; what a crash kept from being overwritten,
`sweep` overwrites later (but on a file system without hard links, such as FAT). A symbolic link is followed. Does not
guarantee that: on flash (its controller writes elsewhere), on file systems that copy on write (btrfs, ZFS) or journal
data, nor for a file with a second hard link, which is somebody's copy and is left alone.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from edged import durable


def write(path: Path, data: bytes) -> None:
    """Put `data` (mode 0600) at `path`, whole or not at all, and overwrite what was there. Raises OSError.

    One writer at a time: hold a lock.
    """
    path = path.resolve()
    old = _old(path)
    discard(old)
    unlinked = -1
    try:
        os.link(path, old)
    except FileNotFoundError:
        pass
    except OSError:  # no hard links here: what is open keeps its blocks until it is closed
        with suppress(FileNotFoundError):
            unlinked = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        owner = _owner(path)
        durable.write(path, data, mode=0o600)
        give(path, owner)
        if unlinked >= 0:
            _zero(unlinked)
    finally:
        if unlinked >= 0:
            os.close(unlinked)
    discard(old)


def give(path: Path, owner: tuple[int, int] | None = None) -> None:
    """Root leaves no file that the service cannot open: it gets the owner of its folder, or `owner` (user, group).

    As SQLite does with its WAL. Raises OSError.
    """
    if os.geteuid() == 0:
        user, group = owner or _owner(path.parent)
        os.chown(path, user, group)


def discard(path: Path) -> None:
    """Overwrite a file and remove its name; only the name when it has another. Nothing there is fine. Raises OSError."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        if os.fstat(fd).st_nlink == 1:
            _zero(fd)
    finally:
        os.close(fd)
    os.unlink(path)


def sweep(path: Path) -> None:
    """Overwrite and remove what a crash of `write` to `path` left beside it. Hold the writers' lock. Raises OSError."""
    path = path.resolve()
    for left in (_old(path), *path.parent.glob(f".{path.name}.*.tmp")):  # the temporaries of durable.write
        discard(left)


def _owner(path: Path) -> tuple[int, int]:
    """Of the file, or of its folder while there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        found = os.stat(path.parent)
    return found.st_uid, found.st_gid


def _zero(fd: int) -> None:
    os.pwrite(fd, bytes(os.fstat(fd).st_size), 0)
    os.fsync(fd)


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")
