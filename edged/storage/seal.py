"""Sealing: AES-256-GCM, a data key per camera and UTC day of receipt, kept in the keyring (keyring.py).

Guarantees: what opens is what was sealed under that very id, camera, kind, day and data key: a swapped, renamed,
shortened, rolled back or damaged object is Corrupt. Without the site key nothing opens; once a data key is destroyed
nothing it sealed opens again, in this store or in a backup of its objects or of its catalogue. A data key is durable in
both copies of the keyring, and known to the catalogue, before anything is sealed with it. Does not guarantee: anything
against someone who holds the site key and a copy of the keyring from before the destruction.

Order of locks: never wait for the catalogue while holding the keyring; the other way round is allowed.

Nonces are random, 96 bits: a data key would have to seal 2^32 objects before NIST SP 800-38D section 8.3 objects; four
regions at 30 frames/s are 13 million a day.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edged.errors import EXIT_CONFIG, Corrupt, Misconfigured, Unavailable
from edged.storage import blobs, keyring
from edged.storage.keyring import Keyring, Trouble
from edged.storage.sheet import Key, Ring
from edged.storage.sitekey import KEY_BYTES, make_key, read_key

if TYPE_CHECKING:
    from edged.storage.store import Store

__all__ = ["KEY_BYTES", "OVERHEAD", "DataKey", "Listed", "Seal", "make_key", "read_key", "seal", "unseal"]

_MAGIC = b"EDO2"
_MAGIC_1 = b"EDO1"  # schema versions 1 to 3: no day in the AAD
_NONCE = 12
_TAG = 16
OVERHEAD = len(_MAGIC) + _NONCE + _TAG
_CATALOGUE = "catalogue"  # the row of `mark` that counts starts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataKey:
    """An open data key. `id` is its row."""

    id: str
    camera: str
    day: str
    cipher: AESGCM


@dataclass(frozen=True)
class Listed:
    """A data key that is there, without its bytes. `epoch` 1.. counts the keys of that camera and day."""

    id: str
    camera: str
    day: str
    epoch: int
    created: float


@dataclass(frozen=True)
class Accepted:
    """What `accept_catalogue` changed: keys that got a row, rows whose key is gone and that are destroyed now."""

    found: tuple[str, ...]
    lost: tuple[str, ...]


class Seal:
    """Seals and opens with keys of one store. Holds opened data keys in memory; safe to share between threads."""

    def __init__(self, site_key: bytes, copies: tuple[Path, Path]) -> None:
        self.ring = Keyring(site_key, copies)
        self._site_key = site_key
        self._lock = threading.Lock()
        self._open: dict[str, DataKey] = {}
        self._of_day: dict[tuple[str, str], DataKey] = {}

    def check_site_key(self, store: Store, *, accept_catalogue: bool = False) -> None:
        """At every opening of a store: the keyring fits the site key and the catalogue; a writer mends what it can.

        Raises Misconfigured("wrong_key"), Corrupt("keyring_lost"), Corrupt("catalogue_rolled_back") unless the older
        catalogue is accepted. A store without a keyring, new or of an older version, gets one.
        """
        if store.readonly:
            if self.ring.there():
                self._require_newest(store)
            return
        if not self.ring.there():
            self._require_new(store)
            blobs.require_own(store, self._site_key)
            self.ring.create()
        self.ring.update(lambda ring: ring)  # makes the copies equal
        blobs.take(store, self.ring, self._site_key)
        if accept_catalogue:
            self.accept_catalogue(store)
        self._require_newest(store)
        self._finish_destroying(store)

    def key_for(self, store: Store, camera: str, day: str) -> DataKey:
        """The data key for what this camera sends on this day; made, durably, when it is the first."""
        known = self._of_day.get((camera, day))
        if known is not None and not self.ring.changed():
            return known
        found = self._live(store, self.ring.ring().of(camera, day))
        if found is None or not self._has_row(store, found.id):
            # Found without a row, it may be of a write that failed half way: written again before it is used.
            found = self._made(store, camera, day, again=False)
        return self._remember(found, of_day=True)

    def fresh(self, store: Store, camera: str, day: str) -> DataKey:
        """A new data key of this camera and day: what comes is sealed with it, the older ones still open theirs."""
        return self._remember(self._made(store, camera, day, again=True), of_day=True)

    def key_of(self, store: Store, key_id: str) -> DataKey:
        """The data key of that id; raises Corrupt when it is gone or does not open."""
        row = store.row("select wrapped, destroyed from data_key where id = ?", (key_id,))
        if row is not None and row["destroyed"] is not None:
            self.forget(key_id)
            raise Corrupt(f"data key {key_id} is destroyed", code="key_destroyed")
        known = self._open.get(key_id)
        if known is not None:
            return known
        found = self.ring.ring().get(key_id)
        if found is None:
            damaged = row is not None and row["wrapped"] is not None
            raise Corrupt(f"data key {key_id} is {'damaged' if damaged else 'gone'}", code="key_lost")
        return self._remember(found)

    def camera_of(self, store: Store, key_id: str) -> str:
        """Whose data key it is. Raises as `key_of`."""
        return self.key_of(store, key_id).camera

    def require_live(self, store: Store, key_id: str) -> None:
        """Inside the transaction that records objects: raises Unavailable if another process destroyed their key."""
        if store.value("select destroyed is null from data_key where id = ?", (key_id,)) != 1:
            self.forget(key_id)
            raise Unavailable("the data key was destroyed while the picture was being sealed", code="key_destroyed")

    def forget(self, key_id: str) -> None:
        """Drop an open key from memory."""
        with self._lock:
            self._open.pop(key_id, None)
            self._of_day = {k: v for k, v in self._of_day.items() if v.id != key_id}

    def keys(self, store: Store) -> list[Listed]:
        """The data keys that are there, by camera, day and epoch."""
        condemned = {r[0] for r in store.rows("select id from data_key where destroyed is not null")}
        listed = [Listed(k.id, k.camera, k.day, k.epoch, k.created) for k in self.ring.ring().keys]
        return sorted((k for k in listed if k.id not in condemned), key=lambda k: (k.camera, k.day, k.epoch))

    def condemn(self, store: Store, key_ids: Sequence[str]) -> None:
        """Inside the caller's transaction: from its commit on nobody uses these keys; `destroy` them after it.

        Should the process die between the two, the next opening of the store destroys them.
        """
        store.execute_many(
            "update data_key set wrapped = null, destroyed = coalesce(destroyed, ?) where id = ?",
            [(store.clock.now(), k) for k in key_ids],
        )

    def destroy(self, store: Store, key_ids: Sequence[str]) -> None:
        """Destroy data keys for good, durably, in the catalogue and both copies of the keyring. Not in a transaction.

        A copy that cannot be reached is written at the next opening or change that reaches it; until then `trouble`
        says so.
        """
        gone = frozenset(key_ids)
        with store.transaction():
            if store.depth > 1:
                raise RuntimeError("a destroyed key does not come back when the transaction does: destroy it after")
            self.condemn(store, sorted(gone))
        for key_id in gone:
            self.forget(key_id)
        self._drop(gone)

    def destroy_unused(self, store: Store, before: str, used: Collection[str] = ()) -> list[str]:
        """Destroy the keys of days before `before` (YYYY-MM-DD) that no object and none of `used` needs; their ids."""
        ids = [
            k.id
            for k in self.keys(store)
            if k.day < before
            and k.id not in used
            and store.value("select 1 from object where key_id = ? limit 1", (k.id,)) is None
        ]
        if ids:
            self.destroy(store, ids)
        return ids

    def note_start(self, store: Store) -> int:
        """Count a start, in the catalogue first and then in the keyring: an older catalogue is known by its number."""
        with store.transaction():
            number = max(self._number(store), self.ring.ring().catalogue) + 1
            self._set_number(store, number)
        self.ring.update(lambda ring: msgspec.structs.replace(ring, catalogue=max(ring.catalogue, number)))
        return number

    def accept_catalogue(self, store: Store) -> Accepted:
        """Take an older or rebuilt catalogue for the true one: it gets the keyring's number and its keys.

        Rows whose key is gone are destroyed keys from now on.
        """
        ring = self.ring.ring()
        there = {k.id for k in ring.keys}
        with store.transaction():
            rows = {r["id"]: r for r in store.rows("select id, wrapped, destroyed from data_key")}
            found = tuple(k.id for k in ring.keys if k.id not in rows)
            for key in ring.keys:
                self._insert(store, key)
            lost = tuple(
                i for i, r in rows.items() if i not in there and r["destroyed"] is None and r["wrapped"] is None
            )
            self.condemn(store, lost)
            self._set_number(store, max(self._number(store), ring.catalogue))
        return Accepted(found, lost)

    def half_destroyed(self, store: Store) -> set[str]:
        """Data keys that the catalogue holds for destroyed and that are in the keyring."""
        there = {k.id for k in self.ring.ring().keys}
        return {r[0] for r in store.rows("select id from data_key where destroyed is not null")} & there

    def lost(self, store: Store) -> list[str]:
        """Data keys that the catalogue counts on and the keyring does not have."""
        there = {k.id for k in self.ring.ring().keys}
        return [r[0] for r in store.rows("select id from data_key where destroyed is null") if r[0] not in there]

    def trouble(self, store: Store) -> list[Trouble]:
        """What is wrong with the keys, worst last."""
        found = keyring.trouble(self.ring.copies, self._site_key)
        if not any(t.code == "keyring_lost" for t in found):
            lost = self.lost(store)
            if lost:
                found.append(
                    Trouble("key_lost", f"{len(lost)} data keys are in no copy of the keyring", "edged db check")
                )
        return found

    def _made(self, store: Store, camera: str, day: str, *, again: bool) -> Key:
        """The newest key of the day, written anew, or with `again` or for want of one a new one; its row is there."""
        if store.readonly:
            raise Misconfigured("the store is open for reading only: no data key can be made", code="readonly")
        rows = store.rows("select id, destroyed from data_key where camera = ? and day = ?", (camera, day))
        condemned = {r["id"] for r in rows if r["destroyed"] is not None}
        made: list[Key] = []

        def add(ring: Ring) -> Ring:
            there = ring.of(camera, day)
            live = [k for k in there if k.id not in condemned]
            made.clear()
            if live and not again:
                made.append(live[-1])
                return ring
            epoch = max([len(rows), *(k.epoch for k in there)]) + 1
            made.append(Key(secrets.token_hex(8), camera, day, epoch, store.clock.now(), AESGCM.generate_key(256)))
            return msgspec.structs.replace(ring, keys=(*ring.keys, made[0]))

        self.ring.update(add, always=True)
        with store.transaction():
            self._insert(store, made[0])
            self.require_live(store, made[0].id)
        return made[0]

    def _live(self, store: Store, keys: Sequence[Key]) -> Key | None:
        for key in reversed(keys):
            if store.value("select destroyed from data_key where id = ?", (key.id,)) is None:
                return key
        return None

    def _has_row(self, store: Store, key_id: str) -> bool:
        return store.value("select 1 from data_key where id = ?", (key_id,)) is not None

    def _insert(self, store: Store, key: Key) -> None:
        store.execute(
            "insert into data_key (id, camera, day, created) values (?, ?, ?, ?) on conflict (id) do nothing",
            (key.id, key.camera, key.day, key.created),
        )

    def _remember(self, key: Key, *, of_day: bool = False) -> DataKey:
        with self._lock:
            known = self._open.get(key.id)
            if known is None:
                known = self._open[key.id] = DataKey(key.id, key.camera, key.day, AESGCM(key.key))
            if of_day:
                self._of_day[(key.camera, key.day)] = known
            return known

    def _drop(self, gone: Collection[str]) -> None:
        def without(ring: Ring) -> Ring:
            left = tuple(k for k in ring.keys if k.id not in gone)
            return ring if len(left) == len(ring.keys) else msgspec.structs.replace(ring, keys=left)

        self.ring.update(without)

    def _finish_destroying(self, store: Store) -> None:
        """What was condemned and, for a crash or a copy put back, still is in the keyring."""
        condemned = self.half_destroyed(store)
        if condemned:
            log.warning("%d destroyed data keys were still in the keyring: destroyed again", len(condemned))
            self._drop(condemned)

    def _number(self, store: Store) -> int:
        return int(store.value("select value from mark where name = ?", (_CATALOGUE,)) or 0)

    def _set_number(self, store: Store, number: int) -> None:
        store.execute(
            "insert into mark (name, value) values (?, ?) on conflict (name) do update set value = excluded.value",
            (_CATALOGUE, number),
        )

    def _require_newest(self, store: Store) -> None:
        wanted = self.ring.ring().catalogue  # before the catalogue's: another process may be starting
        number = self._number(store)
        if number < wanted:
            raise Corrupt(
                f"the catalogue is older than the keyring: it saw {number} starts, the keyring {wanted}",
                code="catalogue_rolled_back",
                exit_code=EXIT_CONFIG,
                hint="put the newest edged.db back, or accept this one with `edged db restore` or `edged db rebuild`",
            )

    def _require_new(self, store: Store) -> None:
        """Raises Corrupt unless this store never had a keyring."""
        had = store.value("select 1 from data_key where destroyed is null and wrapped is null limit 1")
        had = had or store.value("select 1 from mark limit 1")
        if not had and store.value("select 1 from data_key limit 1") is None:
            had = next((store.data_dir / "segments").glob("*.seg"), None)
        if had:
            raise Corrupt(
                f"the keyring is gone: neither {self.ring.copies[0]} nor {self.ring.copies[1]} is there",
                code="keyring_lost", hint=keyring.LOST, exit_code=EXIT_CONFIG,
            )  # fmt: skip


def seal(key: DataKey, content: bytes, *, id: str, camera: str, kind: str) -> bytes:
    """The bytes to put on disk: magic, nonce, ciphertext with tag."""
    nonce = secrets.token_bytes(_NONCE)
    aad = _aad("edged object 2", id, camera, kind, key.day, key.id)
    return _MAGIC + nonce + key.cipher.encrypt(nonce, content, aad)


def unseal(key: DataKey, sealed: bytes, *, id: str, camera: str, kind: str) -> bytes:
    """What was sealed; raises Corrupt unless it was sealed with this key under this id, camera and kind."""
    start = len(_MAGIC)
    magic, nonce, body = sealed[:start], sealed[start : start + _NONCE], sealed[start + _NONCE :]
    if len(sealed) < OVERHEAD or magic not in (_MAGIC, _MAGIC_1):
        raise Corrupt(f"object {id} is not a sealed object", code="bad_seal")
    if magic == _MAGIC:
        aad = _aad("edged object 2", id, camera, kind, key.day, key.id)
    else:
        aad = _aad("edged object 1", id, camera, kind, key.id)
    try:
        return key.cipher.decrypt(nonce, body, aad)
    except InvalidTag as e:
        raise Corrupt(f"object {id} does not open: damaged, renamed or swapped", code="bad_seal") from e


def _aad(*words: str) -> bytes:
    """Unambiguous bytes of a list of words (a plain join would let 'a','bc' pass for 'ab','c')."""
    return json.dumps(words, separators=(",", ":")).encode()
