"""Where the store may lie: what file system it is, and whether that keeps what the store relies on.

Guarantees: `require` lets no network file system and no FUSE mount pass unless it is told to: their locks and fsync mean
something else, or nothing, and SQLite's WAL needs memory shared between processes
(https://www.sqlite.org/wal.html#noshm, https://www.sqlite.org/howtocorrupt.html section 2.1). `probe` tries each call
the store relies on. Does not guarantee that a disk which says "flushed" has flushed: no program can see that.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import secrets
import stat
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edged.errors import Misconfigured
from edged.storage import disk

# Of other machines, or handed through by a hypervisor; all of FUSE but block devices and containers' overlays besides.
_NETWORK = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "coda", "9p", "virtiofs", "vboxsf", "vmhgfs", "prl_fs", "ceph",
    "glusterfs", "lustre", "gfs2", "ocfs2", "orangefs", "pvfs2", "beegfs", "gpfs", "davfs",
})  # fmt: skip
_FUSE_LOCAL = frozenset({"fuseblk", "fuse.fuse-overlayfs", "fuse.ext2", "fuse.ext4"})
_MEMORY = frozenset({"tmpfs", "ramfs"})
_NO_BARRIER = frozenset({"nobarrier", "barrier=0"})
MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Place:
    """A mounted file system. `rotational` None = not known; `inodes` None = the file system makes them as needed."""

    kind: str
    mount: str
    source: str
    options: tuple[str, ...]
    network: bool
    memory: bool
    rotational: bool | None
    inodes_free: int | None

    @property
    def unsafe(self) -> tuple[str, ...]:
        """Mount options that let the disk reorder what must not be reordered."""
        return tuple(o for o in self.options if o in _NO_BARRIER)


def look(folder: Path, mounts: Path = MOUNTS) -> Place | None:
    """The file system that `folder` (or its nearest parent that exists) lies on; None where the kernel does not say."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    real = os.path.realpath(folder)
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    best: tuple[int, Place] | None = None
    for line in lines:  # proc(5): id parent major:minor root mount options [optional ...] - type source options
        before, dash, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        if not dash or len(fields) < 6 or len(rest) < 3:
            continue
        mount = _unescaped(fields[4])
        if not (real == mount or real.startswith(mount.rstrip("/") + "/")):
            continue
        if best is None or len(mount) >= best[0]:  # of two mounts on one folder the later hides the earlier
            options = tuple(dict.fromkeys([*fields[5].split(","), *rest[2].split(",")]))
            best = len(mount), _place(rest[0], mount, _unescaped(rest[1]), options, fields[2], real)
    return best[1] if best is not None else None


def require(folder: Path, *, allow_network: bool = False, mounts: Path = MOUNTS) -> Place | None:
    """What `look` found; raises Misconfigured("network_disk") for a file system that the store cannot trust."""
    place = look(folder, mounts)
    if place is not None and place.network and not allow_network:
        raise Misconfigured(
            f"{folder} lies on {place.kind} ({place.source} at {place.mount}): its locks and flushes cannot be relied on,"
            " so pictures and labels could be lost",
            code="network_disk",
            hint="put data_dir on a disk of this machine; back up to the network with `edged db backup`;"
            " or storage.allow_network = true, at your own risk",
        )
    return place


def probe(folder: Path) -> None:
    """Try in `folder` each call that the store relies on; raises Misconfigured("unfit_disk") naming the first that fails.

    Leaves nothing behind. Some file systems say yes and do nothing; those are not found out.
    """
    path = folder / f".tmp-probe-{secrets.token_hex(8)}"
    other = path.with_name(path.name + "-2")
    what = "making a file"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            what = "keeping a file from others (mode 0600)"
            if stat.S_IMODE(os.fstat(fd).st_mode) & 0o077:
                raise OSError("others may read it")
            what = "flushing a file"
            os.pwrite(fd, b"edged" * 1000, 4096)
            os.fsync(fd)
            os.fdatasync(fd)
            what = "sharing memory through a file"
            with mmap.mmap(fd, 4096, mmap.MAP_SHARED) as shared:
                shared[:5] = b"share"
                shared.flush()
            if os.pread(fd, 5, 0) != b"share":
                raise OSError("what was written through memory is not in the file")
            what = "locking"
            _try_locks(path, fd)
        finally:
            os.close(fd)
        what = "linking and renaming a file"
        os.link(path, other)
        os.rename(other, path)  # two names of one file: both stay
        os.rename(path, other)
        what = "flushing a folder"
        folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder_fd)
        finally:
            os.close(folder_fd)
    except (OSError, ValueError) as e:
        if isinstance(e, OSError) and e.errno is not None and e.errno in _NOT_ITS_FAULT:
            raise disk.renamed(e, folder) from e
        place = look(folder)
        raise Misconfigured(
            f"{what} does not work in {folder}{f' ({place.kind})' if place else ''}: {getattr(e, 'strerror', None) or e}",
            code="unfit_disk", hint="put data_dir on a local disk with a Linux file system (ext4, xfs, btrfs, f2fs)",
        ) from e  # fmt: skip
    finally:
        for left in (path, other):
            with suppress(OSError):
                left.unlink()


def _try_locks(path: Path, fd: int) -> None:
    """Two holders must exclude each other, by flock and by the record locks that SQLite takes."""
    second = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with suppress(BlockingIOError):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            raise OSError("two holders of one lock (flock)")
        fcntl.flock(fd, fcntl.LOCK_UN)
        whole = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, whole)
        with suppress(BlockingIOError, PermissionError):
            fcntl.fcntl(second, fcntl.F_OFD_SETLK, whole)
            raise OSError("two holders of one lock (fcntl)")
    finally:
        os.close(second)


# A full disk, no permission, no descriptor: no fault of the file system.
_NOT_ITS_FAULT = frozenset(
    {errno.EACCES, errno.EIO, errno.ENFILE, errno.EMFILE, errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.ENOENT}
)


def _place(kind: str, mount: str, source: str, options: tuple[str, ...], device: str, real: str) -> Place:
    fuse = (kind == "fuse" or kind.startswith("fuse.")) and kind not in _FUSE_LOCAL
    inodes: int | None = None
    with suppress(OSError):
        found = os.statvfs(real)
        inodes = found.f_favail if found.f_files else None
    return Place(
        kind, mount, source, options, kind in _NETWORK or fuse, kind in _MEMORY, _rotational(device, source), inodes
    )


def _rotational(device: str, source: str) -> bool | None:
    """Of the disk under a partition; by the source's name where the file system has no device number of its own."""
    blocks = Path("/sys/dev/block")
    candidates = [blocks / device]
    with suppress(OSError, ValueError):
        number = os.stat(source).st_rdev
        candidates.append(blocks / f"{os.major(number)}:{os.minor(number)}")
    for candidate in candidates:
        for folder in (candidate, candidate / ".."):
            with suppress(OSError):
                return Path(os.path.realpath(folder), "queue/rotational").read_text().strip() == "1"
    return None


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), text)
