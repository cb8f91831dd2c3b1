"""The fsck of exactly the invariants in docs/storage.md. It changes nothing.

Guarantees: an empty list means that every numbered invariant held while it looked. Run on a store that is being written
it may report an object of the frame that is just arriving; `edged db check` says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from edged.errors import Corrupt, EdgedError, Refused
from edged.storage import audit, masks, models, objects, seal, snapshots
from edged.storage.store import Store


@dataclass(frozen=True)
class Finding:
    """One broken invariant: its short code, what it is about, a sentence."""

    code: str
    subject: str
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def run(store: Store, published: audit.Head | None = None) -> list[Finding]:
    """Walk the whole store; opens every object when the store has the site key. `published`: an audit head seen
    outside.
    """
    found: list[Finding] = []
    for look in (_database, _objects, _samples, _keys, _snapshots, _models, _masks):
        try:
            found += list(look(store))
        except Corrupt as e:  # a damaged page ends this look; the others may still read theirs
            found.append(Finding(e.code, "edged.db", str(e)))
    try:
        audit.verify(store, published)
    except Corrupt as e:
        found.append(Finding(e.code, "audit", str(e)))
    return found


def _database(store: Store) -> Iterator[Finding]:
    for row in store.rows("pragma integrity_check"):
        if row[0] != "ok":
            yield Finding("database", "edged.db", str(row[0]))
    for row in store.rows("pragma foreign_key_check"):
        yield Finding("dangling", str(row[0]), f"a row of {row[0]} points to a row of {row[2]} that is not there")


def _objects(store: Store) -> Iterator[Finding]:
    for row in store.rows("select id, kind, camera, key_id, size, sha256, segment, place from object"):
        object_id = row["id"]
        try:
            sealed = objects.raw_bytes(store, object_id, row["segment"], row["place"], row["size"])
        except EdgedError as e:
            yield Finding(e.code, object_id, str(e))
            continue
        if hashlib.sha256(sealed).hexdigest() != row["sha256"]:
            yield Finding("damaged", object_id, f"object {object_id} is not what was written")
        elif store.has_key:
            try:
                key = store.seal.key_of(store, row["key_id"])
                seal.unseal(key, sealed, id=object_id, camera=row["camera"], kind=row["kind"])
            except EdgedError as e:
                yield Finding(e.code, object_id, str(e))
    for row in store.rows(
        "select id from object o where not exists (select 1 from frame f where f.object = o.id)"
        " and not exists (select 1 from sample s where s.object = o.id)"
    ):
        yield Finding("unused_object", row["id"], f"object {row['id']} belongs to no frame and no sample")


def _samples(store: Store) -> Iterator[Finding]:
    for row in store.rows(
        "select s.id from sample s where not exists (select 1 from frame f where f.camera = s.camera and f.id = s.frame"
        " and f.status = 'stored')"
    ):
        yield Finding("lost_frame", row["id"], f"sample {row['id']} is of a frame that was not stored")
    for row in store.rows("select camera, id from frame where status <> 'stored' and object is not null"):
        yield Finding("kept_frame", row["id"], f"frame {row['id']} of {row['camera']} was not stored but has a picture")


def _keys(store: Store) -> Iterator[Finding]:
    if store.has_key:
        for trouble in store.seal.trouble(store):
            yield Finding(trouble.code, "keyring", trouble.text)
        for key_id in store.seal.half_destroyed(store):
            yield Finding("half_destroyed", key_id, f"data key {key_id} is half destroyed")
    for row in store.rows(
        "select distinct key_id from object where key_id in (select id from data_key where destroyed is not null)"
    ):
        yield Finding("key_destroyed", row[0], f"objects are sealed by data key {row[0]}, which was destroyed")


def _snapshots(store: Store) -> Iterator[Finding]:
    for row in store.rows("select id from snapshot"):
        try:
            body = snapshots.get(store, row["id"])
        except Corrupt as e:
            yield Finding(e.code, row["id"], str(e))
            continue
        ids = [{s for s, _ in part} for part in (body["train"], body["tune"], body["holdout"])]
        if ids[0] & ids[1] or ids[0] & ids[2] or ids[1] & ids[2]:
            yield Finding("leak", row["id"], f"snapshot {row['id']} has a sample in two parts")


def _models(store: Store) -> Iterator[Finding]:
    for row in store.rows(
        "select distinct sha256 from (select sha256 from candidate union select sha256 from release)"
    ):
        try:
            models.read_model(store, row[0])
        except (Corrupt, Refused) as e:
            yield Finding("model_" + ("changed" if isinstance(e, Corrupt) else "lost"), row[0], str(e))


def _masks(store: Store) -> Iterator[Finding]:
    masks.holding(store)  # raises Corrupt for the first that does not read back
    yield from ()
