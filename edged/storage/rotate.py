"""A new site key for a store. No picture is sealed anew: the keyring is, which holds their keys.

    1  the new key is written beside the old one, as `<name>.new`
    2  the keyring gets a second slot: either key opens it
    3  the key file is replaced, then its copy
    4  the keyring gets a new body key and only the new key's slot; the act is audited
    5  `<name>.new` is overwritten and removed

Guarantees: after a death at any step the key that lies at its place opens the store; run again, it goes on where it
stopped. What step 3 and 4 replace is overwritten on the disk. Does not guarantee: that somebody who holds the old key
*and* an old copy of the keyring cannot open what was sealed before (only sealing anew under fresh data keys helps).

No daemon may run, and every other process that had the old key must be started again.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from edged import durable
from edged.errors import Misconfigured, Refused
from edged.storage import audit, disk, sitekey, supersede
from edged.storage.keyring import Keyring
from edged.storage.sheet import SiteKey
from edged.storage.sitekey import KEY_BYTES, Ask, Place
from edged.storage.store import Store

ACT = "key.rotated"


@dataclass(frozen=True)
class Rotated:
    """The new key's fingerprint; `resumed`: an earlier rotation was brought to its end, and no other begun."""

    fingerprint: str
    resumed: bool


def run(store: Store, place: Place, actor: str, *, passphrase: str = "", ask: Ask | None = None) -> Rotated:
    """Rotate the key of a file, or end a rotation that was cut off. The store is to be closed after it.

    `passphrase` wraps the new file, "" = none. Raises Unavailable when the second copy of the keyring is not there,
    Refused("under_way") while a key that was handed over waits to be used.
    """
    ring, file = store.seal.ring, place.staged
    try:
        with ring.locked():
            new = _resumable(ring, file, ask)
            resumed = new is not None
            if new is None:
                _require_none_under_way(ring)
                supersede.sweep(file)
                supersede.discard(file)
                new = secrets.token_bytes(KEY_BYTES)
                durable.write(file, sitekey.pack(new, passphrase), mode=0o600)
                ring.admit(new)
            _replace(place, file.read_bytes())
        _note(store, new, actor, Keyring(new, ring.copies))
        supersede.discard(file)
    except OSError as e:
        raise disk.renamed(e, place.path) from e
    return Rotated(sitekey.fingerprint(new), resumed)


def hand_over(store: Store, target: Path, passphrase: str = "") -> Rotated:
    """For a key that we cannot replace (a credential of systemd): make the new one at `target`; either opens the store.

    Once it is in its place and used, `finish`. Raises as `run`, Misconfigured("key_exists").
    """
    _require_none_under_way(store.seal.ring)
    new = secrets.token_bytes(KEY_BYTES)
    sitekey.put_new(Place(target, None), new, passphrase)
    store.seal.ring.admit(new)
    return Rotated(sitekey.fingerprint(new), False)


def finish(store: Store, place: Place, key: bytes, actor: str) -> bool:
    """From now on only the key in use opens the store. False: that is the old one, so the rotation was called off."""
    ring = store.seal.ring
    marks = ring.marks()
    if len(marks) == 1:
        raise Refused("no rotation of the site key is under way", code="not_under_way")
    is_new = SiteKey(key).mark == marks[-1]
    try:
        if place.copy is not None and place.path.is_file():
            with ring.locked():
                _replace(place, place.path.read_bytes())
        if is_new:
            _note(store, key, actor, ring)
        else:
            ring.retire()
        supersede.discard(place.staged)
    except OSError as e:
        raise disk.renamed(e, place.path) from e
    return is_new


def _replace(place: Place, content: bytes) -> None:
    for target in place.files:
        supersede.sweep(target)
        if not target.is_file() or target.read_bytes() != content:
            supersede.write(target, content)


def _note(store: Store, new: bytes, actor: str, ring: Keyring) -> None:
    """Step 4. The row stands before the old key is gone, and once, however often this is run."""
    said = store.value("select detail from audit where act = ? order by n desc limit 1", (ACT,))
    name = sitekey.fingerprint(new)
    if said is None or json.loads(said).get("fingerprint") != name:
        audit.append(store, actor, ACT, "site key", {"fingerprint": name})
    ring.retire()


def _resumable(ring: Keyring, file: Path, ask: Ask | None) -> bytes | None:
    """The staged key of a rotation that got as far as the keyring; None when there is none."""
    if not file.is_file():
        return None
    try:
        new = sitekey.read(Place(file, None), ask)
    except Misconfigured as e:
        if e.code != "bad_key":
            raise
        return None  # step 5 died while it overwrote the file
    return new if SiteKey(new).mark in ring.marks() else None


def _require_none_under_way(ring: Keyring) -> None:
    if len(ring.marks()) > 1:
        raise Refused(
            "a rotation is under way: two site keys open this store", code="under_way",
            hint="`edged key rotate --finish` keeps the key that is in use now and drops the other",
        )  # fmt: skip
