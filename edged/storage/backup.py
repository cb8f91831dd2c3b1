"""Copies of a site that a disk's death, a theft or a wrong command leaves alone.

    DEST/edged-backup.json          which site this is the backup of
    DEST/<time>/manifest.json       written last: what belongs to this backup, each with its SHA-256
    DEST/<time>/edged.db, config.toml, tuf/...
    DEST/segments/<number>.<generation>.seg   shared by all backups; only what was added since is copied
    DEST/models/<sha256>...

    run     1. the catalogue by SQLite's online backup from one read transaction: of one moment, whoever writes
            2. of each segment what that catalogue counts on; one that was begun anew meanwhile: from 1. again
            3. models and the ways to them, tuf metadata, config.toml
            4. manifest, sync, rename of the folder from `<time>.partial`
            5. remove backups beyond `keep` days but the newest undamaged one, then what none of those left names

Guarantees: a folder without `.partial` is a whole backup; `verify` reads every byte of it; the daemon goes on meanwhile and
waits for nothing. **No key is in it**: not the site key, not the keyring, not the keys of CA, broker and releases; so pictures
whose data key is destroyed later cannot be opened from any backup made before. Does not guarantee a restore without them:
the operator keeps `keys/` and the keyring elsewhere (docs/backup.md).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from edged import __version__, durable
from edged.clock import Clock, iso
from edged.errors import Corrupt, Refused, Unavailable
from edged.storage import check, copies, destination, disk, manifest, segment
from edged.storage.manifest import Kept, Manifest, Part
from edged.storage.store import CATALOGUE

PARTIAL = ".partial"
RESCUE = "rescue"
KEEP_DAYS = 7
ROUNDS = 4  # a store that cleans all the time may need a second or third look
MODELS = (".onnx", ".safetensors")
WAYS = (".epk", ".epd")  # without them cameras that are on one wait a minute before they take the whole file
_BLOCK = 1 << 20

Progress = Callable[[str, float], None]  # what is being done; share done, 0..1


@dataclass(frozen=True)
class Made:
    """A backup that is whole. `copied`: bytes written for it; `damaged`: what of the site's segments is not as it was
    written, a sentence each.
    """

    folder: Path
    manifest: Manifest
    copied: int
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trouble:
    """A file of a backup that is not as the manifest says."""

    code: str  # backup_lost, backup_damaged
    subject: str
    message: str


def run(
    data_dir: Path, dest: Path, clock: Clock, *, site: str, config: Path | None = None, keep_days: int = KEEP_DAYS,
    progress: Progress = lambda *_: None,
) -> Made:  # fmt: skip
    """Add a backup to DEST. Raises Refused for a folder that is another site's or inside the store, Unavailable for a full
    disk, or while another backup runs, Corrupt when the catalogue is damaged: a bad copy must not push out good ones.
    """
    dest = dest.absolute()
    data_dir = data_dir.absolute()
    if dest == data_dir or data_dir in dest.parents or dest in data_dir.parents:
        raise Refused(f"{dest} and the store {data_dir} lie in each other", code="bad_destination")
    with destination.explained(dest):
        destination.claim(dest, site)
    with destination.alone(dest), destination.explained(dest):
        for left in [*dest.glob(f"*{PARTIAL}")]:
            shutil.rmtree(left)
        before = {
            (s.number, s.generation): s for folder in destination.folders(dest) for s in manifest.read(folder).segments
        }
        stamp = iso(clock.now())[:19].replace("-", "").replace(":", "") + "Z"
        if (dest / stamp).exists():
            raise Unavailable(f"{dest / stamp} was made this very second", code="busy")
        partial = dest / f"{stamp}{PARTIAL}"
        partial.mkdir(mode=0o700)
        copied = 0
        damaged: dict[int, str] = {}
        source = _rescued(data_dir, partial) if _read_only(data_dir) else data_dir / CATALOGUE
        for attempt in range(1, ROUNDS + 1):
            (partial / CATALOGUE).unlink(missing_ok=True)
            progress("catalogue", 0)
            catalogue = Kept(
                CATALOGUE,
                *copies.copy(source, partial / CATALOGUE, lambda s: progress("catalogue", s)),
            )
            wanted, starts, version = _contents(partial / CATALOGUE)
            more = sum(n for *_, n in wanted) - sum(s.bytes for s in before.values())
            destination.require_room(dest, max(0, more) + _lacking(_models(data_dir), dest / "models"))
            segments: list[Part] = []
            total = sum(n for *_, n in wanted) or 1
            for number, generation, size in wanted:
                known = before.get((number, generation))
                last = attempt == ROUNDS
                part, wrote, kept = _copy_segment(data_dir, dest, number, generation, size, known, last)
                if part is None:
                    break
                if part.damaged:
                    damaged[number] = (
                        f"segment {number}: {part.damaged} pictures or stretches are not as they were written"
                    )
                elif kept:
                    damaged[number] = f"segment {number} is damaged; an older copy of it is whole, and stays"
                copied += wrote
                segments.append(part)
                before[(number, generation)] = part
                progress("segments", sum(s.bytes for s in segments) / total)
            if len(segments) == len(wanted):
                break
        else:
            raise Unavailable("segments were written anew faster than they were copied", code="busy", hint="try again")
        shutil.rmtree(partial / RESCUE, ignore_errors=True)
        copied += catalogue.bytes
        models = list(_copied(_models(data_dir), dest / "models"))
        files = [_copy(p, partial / p.relative_to(data_dir), str(p.relative_to(data_dir))) for p in _tuf(data_dir)]
        if config is not None and config.is_file():
            files.append(_copy(config, partial / "config.toml", "config.toml"))
        copied += sum(wrote for _, wrote in (*models, *files))
        whole = Manifest(
            manifest.FORMAT, site, iso(clock.now()), __version__, version, starts, catalogue, tuple(segments),
            tuple(k for k, _ in models), tuple(k for k, _ in files),
        )  # fmt: skip
        for folder in (dest / "segments", dest / "models", partial):
            if folder.is_dir():
                destination.sync(folder)
        manifest.write(partial, whole)
        os.rename(partial, dest / stamp)
        destination.sync(dest)
        destination.thin(dest, keep_days)
        progress("done", 1)
        return Made(dest / stamp, whole, copied, tuple(damaged[n] for n in sorted(damaged)))


def choose(source: Path, which: str = "") -> tuple[Path, Manifest]:
    """A backup by its folder's name, "" = the newest whole one. Raises Refused("no_backup"), Corrupt("bad_manifest")."""
    found = [f for f in destination.folders(source) if not which or f.name == which]
    if not found:
        raise Refused(
            f"no whole backup{f' {which}' if which else ''} in {source}", code="no_backup", exit_code=4,
            hint=f"there are: {', '.join(f.name for f in destination.folders(source)) or 'none'}",
        )  # fmt: skip
    return found[0], manifest.read(found[0])


def verify(source: Path, which: str = "", progress: Progress = lambda *_: None) -> list[Trouble]:
    """Read every byte of a backup. Raises as `choose`."""
    folder, whole = choose(source, which)
    found: list[Trouble] = []
    done = 0
    for path, size, sha256 in places(source, folder, whole):
        found += _differs(path, size, sha256)
        done += size
        progress("verify", done / (whole.total or 1))
    for part in () if found else whole.segments:
        with (source / "segments" / part.file).open("rb") as f:
            bad = _damaged(f.fileno(), part.number, part.generation, part.bytes)
        if bad:
            text = f"segment {part.number}: {bad} pictures or stretches were damaged already when it was backed up"
            found.append(Trouble("backup_damaged", part.file, text))
    if not found:
        with closing(copies.opened(folder / CATALOGUE)) as conn:
            try:
                said = conn.execute("pragma integrity_check(1)").fetchone()[0]
            except sqlite3.DatabaseError as e:
                said = str(e)
        if said != "ok":
            found.append(Trouble("backup_damaged", CATALOGUE, f"{folder / CATALOGUE}: {said}"))
    return found


def places(source: Path, folder: Path, m: Manifest) -> list[tuple[Path, int, str]]:
    """Where each file of a backup lies, its length and hash."""
    return [
        (folder / CATALOGUE, m.catalogue.bytes, m.catalogue.sha256),
        *((source / "segments" / s.file, s.bytes, s.sha256) for s in m.segments),
        *((source / f.name, f.bytes, f.sha256) for f in m.models),
        *((folder / f.name, f.bytes, f.sha256) for f in m.files),
    ]


# the parts


def _read_only(folder: Path) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def _rescued(data_dir: Path, partial: Path) -> Path:
    """The catalogue of a site whose disk is read-only, copied with its log: SQLite must write beside what it opens."""
    (partial / RESCUE).mkdir(mode=0o700)
    for name in (CATALOGUE, f"{CATALOGUE}-wal"):
        if (data_dir / name).exists():
            shutil.copyfile(data_dir / name, partial / RESCUE / name)
    return partial / RESCUE / CATALOGUE


def _contents(catalogue: Path) -> tuple[list[tuple[int, int, int]], int, int]:
    """(number, generation, bytes) of each segment it counts on; how often the site was started; schema version."""
    with closing(copies.opened(catalogue)) as conn:
        rows = conn.execute(
            "select number, generation, recorded from segment where state <> 'free' and recorded > 0 order by number"
        ).fetchall()
        starts = conn.execute("select value from mark where name = 'catalogue'").fetchone()
        return rows, int(starts[0]) if starts else 0, int(conn.execute("pragma user_version").fetchone()[0])


def _copy_segment(
    data_dir: Path, dest: Path, number: int, generation: int, size: int, known: Part | None, last: bool
) -> tuple[Part | None, int, bool]:
    """Bring the copy of a segment up to `size`; None if it is no longer of this generation. And bytes written, and
    whether the copy has older bytes that are whole where the segment now has others.
    """
    path = data_dir / "segments" / f"{number:08d}.seg"
    target = dest / "segments" / f"{number:08d}.{generation}.seg"
    if known is not None and known.bytes == size and target.is_file() and target.stat().st_size >= size:
        return known, 0, False
    (dest / "segments").mkdir(mode=0o700, exist_ok=True)
    digest, wrote, kept = hashlib.sha256(), 0, False
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        copy = os.open(target, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Within a generation bytes are only added: where others stand now, the segment is damaged.
            good = known.bytes if known is not None and not any(_differs(target, known.bytes, known.sha256)) else 0
            for at in range(0, size, _BLOCK):
                want = os.pread(source, min(_BLOCK, size - at), at)
                have = os.pread(copy, len(want), at)
                if have != want:
                    stay = have[: max(0, good - at)]
                    kept = kept or stay != want[: len(stay)]
                    want = stay + want[len(stay) :]
                if have != want:
                    disk.write_at(copy, at, [want])
                    wrote += len(want)
                digest.update(want)
            # A segment is begun anew from its first byte: while that is of this generation, all that was read was.
            first = segment.read(source, number, 0)
            # No first record is one that is being written, or, when it stays so, a damaged one.
            if first.generation != generation if first is not None else not (last or kept):
                return None, wrote, False
            if os.fstat(copy).st_size < size:
                raise Corrupt(f"{path} is shorter than its rows say", code="lost_object", hint="edged check")
            os.fsync(copy)
            damaged = _damaged(copy, number, generation, size)
        finally:
            os.close(copy)
        os.posix_fadvise(source, 0, 0, os.POSIX_FADV_DONTNEED)  # the daemon needs the cache more
    finally:
        os.close(source)
    return Part(number, generation, size, digest.hexdigest(), damaged), wrote, kept


def _damaged(fd: int, number: int, generation: int, size: int) -> int:
    """Bodies that are not what their record says, and stretches without a whole record. Needs no key."""
    walk = check.walked(fd, number, generation, size)
    return len(walk.holes) + sum(segment.bodies(fd, (entry,)) is None for entry, _ in walk.named.values())


def _models(data_dir: Path) -> list[Path]:
    folder = data_dir / "models"
    return sorted(p for p in folder.iterdir() if p.suffix in (*MODELS, *WAYS)) if folder.is_dir() else []


def _copied(paths: Iterable[Path], folder: Path) -> Iterator[tuple[Kept, int]]:
    for path in paths:
        try:
            yield _copy(path, folder / path.name, f"models/{path.name}")
        except FileNotFoundError:
            if path.suffix not in WAYS or path.exists():  # a release that was signed meanwhile drops old ways
                raise


def _lacking(paths: Iterable[Path], folder: Path) -> int:
    """Bytes of those that are not in the folder yet."""
    total = 0
    for path in paths:
        if not (folder / path.name).exists():
            with suppress(FileNotFoundError):
                total += path.stat().st_size
    return total


def _tuf(data_dir: Path) -> list[Path]:
    return sorted(p for p in (data_dir / "tuf").rglob("*") if p.is_file())


def _copy(source: Path, target: Path, name: str) -> tuple[Kept, int]:
    data = source.read_bytes()
    kept = Kept(name, len(data), hashlib.sha256(data).hexdigest())
    if target.is_file() and target.stat().st_size == len(data) and target.read_bytes() == data:
        return kept, 0
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    durable.write(target, data, mode=0o600)
    return kept, len(data)


def _differs(path: Path, size: int, sha256: str) -> Iterator[Trouble]:
    digest = hashlib.sha256()
    left = size
    try:
        with path.open("rb") as f:
            while left and (block := f.read(min(_BLOCK, left))):
                digest.update(block)
                left -= len(block)
    except OSError as e:
        yield Trouble("backup_lost", path.name, f"{path}: {e.strerror}")
        return
    if left or digest.hexdigest() != sha256:
        yield Trouble("backup_damaged", path.name, f"{path} is not what was backed up")
