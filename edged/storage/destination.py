"""The folder that a site's backups lie in: whose it is, one backup into it at a time, which of them stay.

    DEST/edged-backup.json          which site this is the backup of
    DEST/<time>[.partial]/ ...      a backup, whole or not yet (backup.py)

Guarantees: what is wrong with DEST is told as an argument's fault; the newest undamaged backup is never thinned out. Does not
guarantee that a backup reads back: `backup.verify` looks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edged import durable
from edged.errors import Corrupt, Refused, Unavailable
from edged.storage import disk, manifest

MARK = "edged-backup.json"
_STAMP = re.compile(r"\d{8}T\d{6}Z")


def folders(dest: Path) -> list[Path]:
    """The whole backups in DEST, the newest first."""
    if not dest.is_dir():
        return []
    return sorted(
        (p for p in dest.iterdir() if _STAMP.fullmatch(p.name) and (p / manifest.FILE).is_file()), reverse=True
    )


@contextmanager
def alone(dest: Path) -> Iterator[None]:
    """One backup into DEST at a time. The lock lies there: the site's own disk may be read-only."""
    with explained(dest):
        fd = os.open(dest / ".backup.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise Unavailable(f"another backup into {dest} runs", code="busy") from e
        except OSError as e:
            if e.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS):  # some network file systems
                raise
        yield
    finally:
        os.close(fd)


@contextmanager
def explained(dest: Path) -> Iterator[None]:
    """What is wrong with DEST is an argument's fault, no configuration's."""
    try:
        yield
    except OSError as e:
        path = Path(os.fsdecode(e.filename)) if e.filename else dest
        ours = path == dest or dest in path.parents or path in dest.parents
        if ours and e.errno in (
            errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EEXIST, errno.EINVAL,
        ):  # fmt: skip
            raise Refused(
                f"no backup can be written to {dest}: {path}: {e.strerror}", code="bad_destination",
                hint="name a folder that the user edged runs as can write to; is the medium mounted?",
            ) from e  # fmt: skip
        raise disk.renamed(e, path) from e


def claim(dest: Path, site: str) -> None:
    """Make DEST, or see that it is this site's."""
    dest.mkdir(mode=0o700, parents=True, exist_ok=True)
    mark = dest / MARK
    if mark.exists():
        try:
            found = msgspec.json.decode(mark.read_bytes(), type=dict[str, str | int])
        except msgspec.DecodeError as e:
            raise Corrupt(f"{mark} is damaged", code="bad_manifest", hint="choose another folder") from e
        if found.get("site") != site:
            raise Refused(f"{dest} is the backup of site {found.get('site')}, not of {site}", code="other_site")
        return
    for left in dest.glob(f".{MARK}.*.tmp"):
        left.unlink()
    if any(dest.iterdir()):
        raise Refused(f"{dest} is not empty and no backup", code="bad_destination", hint="choose an empty folder")
    durable.write(mark, msgspec.json.encode({"site": site, "format": manifest.FORMAT}), mode=0o600)
    for name in ("segments", "models"):
        (dest / name).mkdir(mode=0o700, exist_ok=True)


def require_room(dest: Path, size: int) -> None:
    found = os.statvfs(dest)
    free = found.f_bavail * found.f_frsize
    if free < size:
        raise Unavailable(
            f"{size} bytes are needed at {dest}, {free} are free", code="disk_full", hint="make room there"
        )


def thin(dest: Path, keep_days: int) -> None:
    """Of each of the last days with a backup the newest stays; then files that none of those names go."""
    found = folders(dest)
    newest: dict[str, Path] = {}
    for folder in found:
        newest.setdefault(folder.name[:8], folder)
    stay = list(newest.values())[: max(1, keep_days)]
    undamaged = next((f for f in found if not manifest.read(f).damaged), None)
    if undamaged is not None and undamaged not in stay:
        stay.append(undamaged)
    for folder in found:
        if folder not in stay:
            (folder / manifest.FILE).unlink()  # first: what is half removed is no backup
            shutil.rmtree(folder)
    manifests = [manifest.read(f) for f in stay]
    named = {s.file for m in manifests for s in m.segments} | {Path(f.name).name for m in manifests for f in m.models}
    for path in (*(dest / "segments").glob("*"), *(dest / "models").glob("*")):
        if path.name not in named:
            path.unlink()


def sync(folder: Path) -> None:
    try:
        durable.sync_folder(folder)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):  # some network file systems cannot
            raise
