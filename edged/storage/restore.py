"""A site from its backup: onto an empty box, or in the place of a store that is broken or unwanted.

    run     1. the keyring is there and opens, and is not older than the backup
            2. every file of the backup is copied to `.restoring/` and hashed on the way; nothing else was touched so far
            3. `.restoring/ready`: from here on the switch is finished, whatever happens
            4. what lies in the way moves to `replaced-<time>/`, what was restored moves in; the catalogue last
            5. rows whose data key was destroyed since the backup lose their pictures; frames in the segments get rows
    finish  4. again, at the next start, should it have been cut off

Guarantees: a backup that is not whole changes nothing; a good store is replaced only on demand and never removed; what was
erased after the backup stays erased and is said to be, apart from damage. Does not guarantee what the backup does not have:
pictures and labels since then, the keys.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tomllib
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from edged.clock import Clock, iso
from edged.durable import sync_folder, write
from edged.errors import Corrupt, Misconfigured, Refused, Unavailable
from edged.storage import audit, backup, check, copies, disk, keyring, objects, recover, repair
from edged.storage.backup import Progress
from edged.storage.manifest import Manifest
from edged.storage.sheet import SiteKey
from edged.storage.store import CATALOGUE, Store

STAGE = ".restoring"
READY = "ready"
_BLOCK = 1 << 20
DATA_DIR = "/var/lib/edged"  # where a config.toml that names none has its site
# In the order they are switched: the catalogue last, so that it never stands beside a WAL of another.
_OLD_ONLY = (f"{CATALOGUE}-wal", f"{CATALOGUE}-shm", f"{CATALOGUE}{repair.REBUILT.removeprefix(CATALOGUE)}", "objects")
_SWITCHED = ("segments", "models", "tuf", CATALOGUE)


@dataclass(frozen=True)
class Restored:
    """`erased`: pictures of the backup whose data key was destroyed since; `frames`: brought back from segments beyond
    the catalogue; `aside`: where the old store lies, None if there was none; `moved_from`: the data_dir that the restored
    config.toml named before it was rewritten to the place restored to, "" if it was not.
    """

    made: str
    aside: Path | None
    objects: int
    erased: int
    frames: int
    findings: Sequence[check.Finding]
    moved_from: str = ""


def run(
    source: Path, data_dir: Path, open_: Callable[..., Store], clock: Clock, *, site_key: bytes,
    keyring_copy: Path | None = None, which: str = "", replace: bool = False, progress: Progress = lambda *_: None,
) -> Restored:  # fmt: skip
    """Restore the newest backup in `source`, or the one named `which`. No daemon may run.

    Raises Refused("store_exists") unless `replace`, Misconfigured("keyring_lost" | "keyring_old" | "wrong_key"),
    Corrupt("backup_damaged"), Unavailable("disk_full").
    """
    finish(data_dir)
    folder, manifest = backup.choose(source, which)
    if not replace and _in_use(data_dir):
        raise Refused(
            f"there is a good store at {data_dir}", code="store_exists",
            hint="with --yes it is moved aside and the backup put in its place",
        )  # fmt: skip
    _require_keyring(data_dir, site_key, keyring_copy, manifest, replace)
    _require_room(data_dir, manifest.total)
    stage = data_dir / STAGE
    shutil.rmtree(stage, ignore_errors=True)
    try:
        moved_from = _stage(source, folder, manifest, data_dir, progress)
        aside = data_dir / f"replaced-{iso(clock.now())[:19].replace(':', '').replace('-', '')}Z"
        write(stage / READY, aside.name.encode(), mode=0o600)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    finish(data_dir)
    progress("opening", 0)
    with open_(accept_catalogue=True) as store:
        erased = _forget_erased(store)
        found = recover.run(store)
        audit.append(store, "edged", "restored", manifest.site, {"made": manifest.made, "erased": erased})
        count = int(store.value("select count(*) from object"))
        findings = check.run(store, progress=lambda share: progress("check", share))
    return Restored(manifest.made, aside if aside.exists() else None, count, erased, found.frames, findings, moved_from)


def finish(data_dir: Path) -> None:
    """End a switch that was begun; throw away what was staged and not whole."""
    stage = data_dir / STAGE
    if not (stage / READY).is_file():
        shutil.rmtree(stage, ignore_errors=True)
        return
    aside = data_dir / (stage / READY).read_text()
    aside.mkdir(mode=0o700, exist_ok=True)
    if (stage / CATALOGUE).exists():
        for name in _OLD_ONLY:
            _move(data_dir / name, aside / name)
    sync_folder(data_dir)
    for name in _SWITCHED:
        if (stage / name).exists():
            _move(data_dir / name, aside / name)
            os.rename(stage / name, data_dir / name)
            sync_folder(data_dir)
    with suppress(OSError):
        aside.rmdir()  # nothing was in the way
    shutil.rmtree(stage)
    sync_folder(data_dir)


def _move(source: Path, target: Path) -> None:
    if source.exists():
        os.rename(source, target)
        sync_folder(target.parent)


def _in_use(data_dir: Path) -> bool:
    path = data_dir / CATALOGUE
    if not path.exists() or path.stat().st_size == 0 or repair.look(data_dir) is not None:
        return False
    with closing(copies.opened(path)) as conn:
        return any(
            conn.execute(f"select 1 from {t} limit 1").fetchone()
            for t in ("frame", "label", "mask", "request", "snapshot", "release")
        )


def _require_keyring(data_dir: Path, site_key: bytes, copy: Path | None, manifest: Manifest, anyway: bool) -> None:
    """A backup without its keys is labels without pictures; and an older keyring would pass for erasure."""
    copies = keyring.look(keyring.copies_of(data_dir, copy), SiteKey(site_key))
    good = [c.unlocked for c in copies if c.unlocked is not None]
    if not good:
        if any(c.state == "foreign" for c in copies):
            raise Misconfigured("the keyring here was made with another site key", code="wrong_key")
        raise Misconfigured(
            f"no copy of the keyring opens: {'; '.join(map(str, copies))}", code="keyring_lost",
            hint="a backup holds no keys: put the keyring and the site key back first (docs/backup.md)",
        )  # fmt: skip
    starts = max(u.ring.catalogue for u in good)
    if starts < manifest.starts and not anyway:
        raise Misconfigured(
            f"the keyring is older than the backup: it saw {starts} starts, the backup {manifest.starts}; pictures under"
            " keys made since could not be opened, and would be counted as erased",
            code="keyring_old", hint="bring a newer copy of the keyring; or --yes",
        )  # fmt: skip


def _require_room(data_dir: Path, size: int) -> None:
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = os.statvfs(data_dir)
    if found.f_bavail * found.f_frsize < size:
        raise Unavailable(
            f"the backup has {size} bytes, {found.f_bavail * found.f_frsize} are free", code="disk_full",
            hint="the old store is kept until you remove it: make room, or restore into another folder",
        )  # fmt: skip


def _stage(source: Path, folder: Path, manifest: Manifest, data_dir: Path, progress: Progress) -> str:
    """Returns the data_dir that config.toml named, "" if it stays as it is."""
    stage, moved_from = data_dir / STAGE, ""
    for name in ("", "segments", "models"):
        (stage / name).mkdir(mode=0o700)
    done = 0
    targets = [
        stage / CATALOGUE,
        *(stage / "segments" / f"{s.number:08d}.seg" for s in manifest.segments),
        *(stage / f.name for f in (*manifest.models, *manifest.files)),
    ]
    for (path, size, sha256), target in zip(backup.places(source, folder, manifest), targets, strict=True):
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _copy(path, target, size, sha256)
        done += size
        progress("copy", done / (manifest.total or 1))
    config = stage / "config.toml"
    if config.exists():
        if not (data_dir / "config.toml").exists():
            moved_from, text = moved(config.read_text("utf-8"), data_dir.resolve())
            if moved_from:
                write(config, text.encode(), mode=0o600)
            os.rename(config, data_dir / "config.toml")
        else:
            config.unlink()  # the box's own stays: it may lie elsewhere, and say where
    if _newer_metadata(data_dir / "tuf", stage / "tuf"):
        shutil.rmtree(stage / "tuf")
    for path in [stage, *(p for p in stage.rglob("*") if p.is_dir())]:
        sync_folder(path)
    return moved_from


def moved(text: str, here: Path) -> tuple[str, str]:
    """A config.toml for the site that lies at `here`, and the data_dir it named, "" if that was this one: else the
    restored site would work on, and erase, the one it was copied from. Comments and order stay.
    """
    try:
        before = str(tomllib.loads(text).get("server", {}).get("data_dir", DATA_DIR))
        if Path(before).is_absolute() and Path(before).resolve() == here:
            return "", text
        new = json.dumps(str(here), ensure_ascii=False)
        line = re.compile(r"^([ \t]*data_dir[ \t]*=[ \t]*)(\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*')", re.MULTILINE)
        text, found = line.subn(lambda m: m[1] + new, text, count=1)
        if not found:
            text = re.sub(
                r"^([ \t]*\[server\][^\n]*)$", lambda m: f"{m[1]}\ndata_dir = {new}", text, count=1, flags=re.MULTILINE
            )
        if Path(before).is_absolute():
            inside = re.compile(rf"([\"']){re.escape(before.rstrip('/'))}(?=/)")
            text = inside.sub(lambda m: m[1] + (new[1:-1] if m[1] == '"' else str(here)), text)
        if tomllib.loads(text)["server"]["data_dir"] == str(here):
            return before, text
    except (tomllib.TOMLDecodeError, KeyError, AttributeError):
        pass
    raise Misconfigured(
        "the data_dir of the backup's config.toml cannot be rewritten", code="bad_config",
        hint="put a config.toml of this box there first; it is left as it is",
    )  # fmt: skip


def _copy(source: Path, target: Path, size: int, sha256: str) -> None:
    digest, left = hashlib.sha256(), size
    try:
        with source.open("rb") as f:
            fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as out:
                while left and (block := f.read(min(_BLOCK, left))):
                    digest.update(block)
                    out.write(block)
                    left -= len(block)
                out.flush()
                os.fsync(fd)
    except FileNotFoundError as e:
        raise Corrupt(f"the backup lacks {source}", code="backup_damaged", hint=_OTHER) from e
    except OSError as e:
        raise disk.renamed(e, target) from e
    if left or digest.hexdigest() != sha256:
        raise Corrupt(
            f"{source} is not what was backed up; nothing was changed here", code="backup_damaged", hint=_OTHER
        )


_OTHER = "`edged db backup --list DEST` names the others; `edged db restore SRC --backup NAME` takes one"


def _newer_metadata(here: Path, there: Path) -> bool:
    """Cameras refuse signed metadata older than what they saw: what the box has and is newer stays."""
    versions = []
    for folder in (here, there):
        try:
            versions.append(int(json.loads((folder / "timestamp.json").read_bytes())["signed"]["version"]))
        except (OSError, ValueError, KeyError, TypeError):
            versions.append(0)
    return versions[0] > 0 and versions[0] >= versions[1]


def _forget_erased(store: Store) -> int:
    """Drop the rows of pictures whose data key was destroyed after the backup; returns how many."""
    with store.transaction():
        gone = [
            r[0] for r in store.rows(
                "select o.id from object o join data_key k on k.id = o.key_id where k.destroyed is not null"
            )
        ]  # fmt: skip
        objects.forget(store, gone)
    return len(gone)
