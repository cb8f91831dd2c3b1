"""Sealed files on disk: objects/<first two of id>/<id>.

Guarantees: a row of `object` is committed only after its file is durable, and a file is removed only after its row is
gone; so after a crash there may be files without a row (`recover` removes them), never a row without its file. Ids are
random and never used twice. Does not guarantee anything about a file that somebody else edits: `read` and `check`
notice.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edged.clock import day
from edged.errors import Corrupt, Refused
from edged.storage import audit, disk, seal
from edged.storage.store import Store

_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Sealed:
    """A durable file that has no row yet; the fields are those of table `object`."""

    id: str
    kind: str
    camera: str
    key_id: str
    size: int
    sha256: str
    created: float


@dataclass(frozen=True)
class Recovered:
    """What `recover` removed."""

    temps: int
    orphans: int


def path_of(store: Store, object_id: str) -> Path:
    if not _ID.fullmatch(object_id):
        raise Corrupt(f"{object_id[:80]!r} is no object id")
    return store.objects_dir / object_id[:2] / object_id


@contextmanager
def writing(store: Store) -> Iterator[None]:
    """Hold this from `write` until the rows are committed, so that `recover` of another process keeps off the files."""
    with _flock(store, fcntl.LOCK_SH):
        yield


def write(store: Store, camera: str, received: float, contents: Sequence[tuple[str, bytes]]) -> list[Sealed]:
    """Seal `contents` (kind, bytes) into durable files, all in one directory: one directory sync for a whole frame."""
    key = store.seal.key_for(store, camera, day(received))
    prefix = secrets.token_hex(1)
    directory = store.objects_dir / prefix
    disk.make_dir(directory)
    made: list[Sealed] = []
    files: list[tuple[str, bytes]] = []
    for kind, content in contents:
        object_id = prefix + secrets.token_hex(15)
        body = seal.seal(key, content, id=object_id, camera=camera, kind=kind)
        made.append(Sealed(object_id, kind, camera, key.id, len(body), hashlib.sha256(body).hexdigest(), received))
        files.append((object_id, body))
    disk.write_all(directory, files)
    return made


def record(store: Store, made: Iterable[Sealed]) -> None:
    """Insert the rows; call inside a transaction, within `writing`."""
    made = list(made)
    for key_id in {m.key_id for m in made}:
        store.seal.require_live(store, key_id)
    store.execute_many(
        "insert into object (id, kind, camera, key_id, size, sha256, created) values (?, ?, ?, ?, ?, ?, ?)",
        [(m.id, m.kind, m.camera, m.key_id, m.size, m.sha256, m.created) for m in made],
    )


def discard(store: Store, made: Iterable[Sealed]) -> None:
    """Remove files that got no row."""
    disk.remove(path_of(store, m.id) for m in made)


def read(store: Store, object_id: str) -> bytes:
    """The unsealed content. Raises Refused if retention or erasure took it, Corrupt if damaged, Misconfigured without
    key.
    """
    row = store.row("select camera, kind, key_id from object where id = ?", (object_id,))
    if row is None:
        raise Refused(f"object {object_id} is gone", code="gone")
    try:
        sealed = path_of(store, object_id).read_bytes()
        key = store.seal.key_of(store, row["key_id"])
    except (FileNotFoundError, Corrupt) as e:
        if store.row("select 1 from object where id = ?", (object_id,)) is None:  # taken while we were reading
            raise Refused(f"object {object_id} is gone", code="gone") from e
        if isinstance(e, Corrupt):
            raise
        raise Corrupt(f"object {object_id} has a row but no file", code="lost_object") from e
    except OSError as e:
        raise disk.renamed(e, path_of(store, object_id)) from e
    return seal.unseal(key, sealed, id=object_id, camera=row["camera"], kind=row["kind"])


def forget(store: Store, object_ids: Sequence[str]) -> None:
    """Drop rows and every reference to them; call inside a transaction, and `remove_files` after it is committed."""
    ids = [(i,) for i in object_ids]
    store.execute_many("update frame set object = null where object = ?", ids)
    store.execute_many("update sample set object = null where object = ?", ids)
    store.execute_many("delete from object where id = ?", ids)


def remove_files(store: Store, object_ids: Iterable[str]) -> int:
    return disk.remove(path_of(store, i) for i in object_ids)


def erase(store: Store, camera: str, day: str, *, actor: str) -> int:
    """Destroy the data keys of one camera and UTC day (YYYY-MM-DD) and everything they sealed; returns how many
    objects.

    Rows of frames, samples and labels stay (they hold no picture). The act is in the audit log.
    """
    with store.transaction():
        keys = [
            r["id"]
            for r in store.rows(
                "select id from data_key where camera = ? and day = ? and destroyed is null", (camera, day)
            )
        ]
        ids = [r["id"] for k in keys for r in store.rows("select id from object where key_id = ?", (k,))]
        forget(store, ids)
        store.execute_many(
            "update data_key set wrapped = null, destroyed = ? where id = ?", [(store.clock.now(), k) for k in keys]
        )
        audit.append(store, actor, "erase", f"{camera}/{day}", {"keys": len(keys), "objects": len(ids)})
    if store.has_key:
        for k in keys:
            store.seal.forget(k)
    remove_files(store, ids)
    store.rows("pragma wal_checkpoint(truncate)")  # the wrapped key must not stay behind in the WAL
    return len(ids)


def recover(store: Store) -> Recovered:
    """Remove what a crash left: temporaries and files without a row. Run at every start, before frames come in."""
    temps: list[Path] = []
    orphans: list[Path] = []
    with _flock(store, fcntl.LOCK_EX):
        known = {r[0] for r in store.rows("select id from object")}
        for path in files(store):
            if path.name.startswith(disk.TEMP):
                temps.append(path)
            elif _ID.fullmatch(path.name) and path.name not in known:
                orphans.append(path)
        disk.remove(temps)
        disk.remove(orphans)
    return Recovered(len(temps), len(orphans))


def files(store: Store) -> Iterator[Path]:
    """Every file under objects/, whatever its name, but for the lock."""
    for directory in sorted(store.objects_dir.iterdir()):
        if directory.is_dir():
            yield from sorted(directory.iterdir())
        elif directory.name != _LOCK:
            yield directory


_LOCK = ".lock"


@contextmanager
def _flock(store: Store, how: int) -> Iterator[None]:
    # A file description of its own each time: threads that share one would release each other's lock.
    fd = os.open(store.objects_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)
