"""Sealed pictures: a row of `object` says where in which segment its bytes lie.

Guarantees: a row is there only while its bytes are; ids are random and never used twice. Does not guarantee anything about
bytes that somebody else edits: `read` and `check` notice. The bytes of an object without a row are dead: `clean` takes
their room, and no start brings them back once their segment is recorded.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edged.errors import Corrupt, Refused
from edged.storage import disk, journal, seal, segment, segments
from edged.storage.store import Store

if TYPE_CHECKING:
    from edged.storage.seal import DataKey

_ID = re.compile(r"[0-9a-f]{32}")


def new_id(received: float) -> str:
    """A random id, 32 hex digits. It begins with the time (ms), so that the newest rows share pages of the index."""
    return f"{int(received * 1000) & 0xFFFFFFFFFFFF:012x}{secrets.token_hex(10)}"


def sealed(key: DataKey, camera: str, kind: str, content: bytes, received: float) -> segment.Body:
    """`content` sealed under an id of its own."""
    object_id = new_id(received)
    return segment.Body.of(object_id, kind, seal.seal(key, content, id=object_id, camera=camera, kind=kind))


def insert(store: Store, camera: str, key_id: str, created: float, at: journal.Place) -> None:
    """The rows of bodies that lie there now; call inside a transaction."""
    store.seal.require_live(store, key_id)
    store.execute_many(
        "insert into object (id, kind, camera, key_id, size, sha256, created, segment, place)"
        " values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(e.id, e.kind, camera, key_id, e.size, e.sha256, created, at.segment, e.place) for e in at.entries],
    )


def read(store: Store, object_id: str) -> bytes:
    """The unsealed content. Raises Refused if retention or erasure took it, Corrupt if damaged, Misconfigured without
    key.
    """
    row = _row(store, object_id)
    while True:
        try:
            raw = raw_bytes(store, object_id, row["segment"], row["place"], row["size"])
            key = store.seal.key_of(store, row["key_id"])
            return seal.unseal(key, raw, id=object_id, camera=row["camera"], kind=row["kind"])
        except Corrupt:
            before, row = row, _row(store, object_id)  # taken, or moved elsewhere, while we were reading?
            if tuple(before) == tuple(row):
                raise


def raw_bytes(store: Store, object_id: str, number: int | None, place: int | None, size: int) -> bytes:
    """The sealed bytes as they lie there. Raises Corrupt when they are not there."""
    path = plain_path(store, object_id) if number is None else segments.path_of(store, number)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            raw = os.pread(fd, size, place or 0)
        finally:
            os.close(fd)
    except FileNotFoundError as e:
        raise Corrupt(f"object {object_id} has a row but no file {path.name}", code="lost_object") from e
    except OSError as e:
        raise disk.renamed(e, path) from e
    if len(raw) != size:
        raise Corrupt(f"object {object_id} is cut off", code="lost_object")
    return raw


def forget(store: Store, object_ids: Sequence[str]) -> None:
    """Drop rows and every reference to them; call inside a durable transaction. Their bytes are dead then."""
    ids = [(i,) for i in object_ids]
    store.execute_many("update frame set object = null where object = ?", ids)
    store.execute_many("update sample set object = null where object = ?", ids)
    store.execute_many("delete from object where id = ?", ids)


def used(store: Store, camera: str | None = None) -> int:
    """Bytes of all sealed objects, or of one camera's."""
    return int(store.value("select coalesce(sum(bytes), 0) from holding where ?1 is null or camera = ?1", (camera,)))


def plain_path(store: Store, object_id: str) -> Path:
    """Where version 3 kept it."""
    if not _ID.fullmatch(object_id):
        raise Corrupt(f"{object_id[:80]!r} is no object id")
    return store.objects_dir / object_id[:2] / object_id


def _row(store: Store, object_id: str):  # type: ignore[no-untyped-def]
    row = store.row("select camera, kind, key_id, segment, place, size from object where id = ?", (object_id,))
    if row is None:
        raise Refused(f"object {object_id} is gone", code="gone")
    return row
