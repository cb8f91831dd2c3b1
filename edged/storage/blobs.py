"""Data keys of schema versions 1 to 3, which lay in the catalogue, each wrapped by the site key: they move to the keyring.

Guarantees: a key is nulled in the catalogue only once it is durable in the keyring; a death at any step loses none; what
does not open stays where it is and is named. Then the WAL and the pages that held them are overwritten. Does not
guarantee: backups of the catalogue from before hold the wrapped keys: destroy them, or rotate the site key.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edged.errors import Misconfigured
from edged.storage.keyring import Keyring
from edged.storage.sheet import Key, Ring

if TYPE_CHECKING:
    from edged.storage.store import Store

_LEFT = "blobs_left"  # the row of `mark` that stands while moved keys may still be in the WAL or in old pages
_MARK, _NONCE, _SEALED = 8, 12, 48  # bytes of a blob: whose it is, nonce, key with tag

log = logging.getLogger(__name__)


def require_own(store: Store, site_key: bytes) -> None:
    """Raises Misconfigured("wrong_key") when there are blobs and none is of this site key."""
    found = [bytes(r[0]) for r in store.rows("select wrapped from data_key where wrapped is not null")]
    if found and not any(blob[:_MARK] == _mark(site_key) for blob in found):
        raise Misconfigured(
            "this store was sealed with another site key", code="wrong_key", hint="check storage.key_file"
        )


def take(store: Store, ring: Keyring, site_key: bytes) -> None:
    """Move every blob that opens to the keyring. Nothing to move is the rule and costs one query."""
    opened: dict[str, Key] = {}
    for row in store.rows("select id, camera, day, created, wrapped from data_key where wrapped is not null"):
        try:
            key = _unwrap(site_key, bytes(row["wrapped"]), row["id"], row["camera"], row["day"])
        except InvalidTag:
            log.error("data key %s in the catalogue is damaged: what it sealed is lost", row["id"])
            continue
        opened[row["id"]] = Key(row["id"], row["camera"], row["day"], 1, row["created"], key)
    if opened:
        _move(store, ring, opened)
    if store.value("select 1 from mark where name = ?", (_LEFT,)) is not None:
        busy = store.value("pragma wal_checkpoint(truncate)")
        if not busy:  # else a reader holds the old pages: the next opening tries again
            store.execute("delete from mark where name = ?", (_LEFT,))


def _move(store: Store, ring: Keyring, opened: Mapping[str, Key]) -> None:
    def with_them(there: Ring) -> Ring:
        missing = tuple(k for k in opened.values() if there.get(k.id) is None)
        return msgspec.structs.replace(there, keys=(*there.keys, *missing)) if missing else there

    ring.update(with_them)
    with store.transaction():
        store.execute_many("update data_key set wrapped = null where id = ?", [(i,) for i in opened])
        store.execute("insert into mark (name, value) values (?, 1) on conflict do nothing", (_LEFT,))
    log.warning("%d data keys moved from the catalogue to the keyring", len(opened))


def _mark(site_key: bytes) -> bytes:
    return hashlib.sha256(b"edged site key\0" + site_key).digest()[:_MARK]


def _unwrap(site_key: bytes, wrapped: bytes, key_id: str, camera: str, day: str) -> bytes:
    if wrapped[:_MARK] != _mark(site_key) or len(wrapped) != _MARK + _NONCE + _SEALED:
        raise InvalidTag
    nonce, sealed = wrapped[_MARK : _MARK + _NONCE], wrapped[_MARK + _NONCE :]
    aad = json.dumps(["edged data key 1", key_id, camera, day], separators=(",", ":")).encode()
    return AESGCM(site_key).decrypt(nonce, sealed, aad)
