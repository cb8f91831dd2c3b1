"""Sealing: AES-256-GCM, a data key per camera and UTC day of receipt, wrapped by the site key.

Guarantees: what opens is what was sealed under that very id, camera, kind and data key: a swapped, renamed, shortened
or damaged object is Corrupt. Without the site key nothing opens; once a data key is destroyed nothing it sealed opens
again, in this store or in a backup of its objects. Does not guarantee: anything against someone who holds the site key
and a backup of the catalogue taken before the destruction.

Nonces are random, 96 bits: a data key would have to seal 2^32 objects before NIST SP 800-38D section 8.3 objects; four
regions at 30 frames/s are 13 million a day.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edged import durable
from edged.errors import Corrupt, Misconfigured, Unavailable

if TYPE_CHECKING:
    from edged.storage.store import Store

KEY_BYTES = 32
_FILE_WORD = "edged-key-1"
_OBJECT_MAGIC = b"EDO1"
_NONCE = 12
_TAG = 16
OVERHEAD = len(_OBJECT_MAGIC) + _NONCE + _TAG


def make_key(path: Path) -> bytes:
    """Make a key file (mode 0600) and return its key; raises Misconfigured rather than replace a file."""
    key = secrets.token_bytes(KEY_BYTES)
    line = f"{_FILE_WORD} {key.hex()} {_checksum(key)}\n"
    try:
        durable.write(path, line.encode(), mode=0o600, replace=False)
    except FileExistsError as e:
        raise Misconfigured(
            f"{path} exists: a new key would make everything sealed with it unreadable",
            code="key_exists", hint="keep it, or move it away by hand if you are sure",
        ) from e  # fmt: skip
    return key


def read_key(path: Path) -> bytes:
    """The 32 bytes of a key file; raises Misconfigured if it is missing, readable by others, or damaged."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as f:
            mode = stat.S_IMODE(os.fstat(fd).st_mode)
            content = f.read(4096)
    except OSError as e:
        raise Misconfigured(f"key file {path}: {e.strerror}", code="no_key", hint="edged init makes one") from e
    if mode & 0o077:
        raise Misconfigured(
            f"key file {path} can be read by others (mode {mode:04o})", code="key_mode", hint=f"chmod 600 {path}"
        )
    damaged = Misconfigured(f"key file {path} is damaged", code="bad_key", hint="restore it from its copy")
    try:
        words = content.decode("ascii").removesuffix("\n").split(" ")
        if len(words) != 3 or words[0] != _FILE_WORD:
            raise damaged
        key = bytes.fromhex(words[1])
    except ValueError as e:
        raise damaged from e
    if len(key) != KEY_BYTES or key.hex() != words[1] or _checksum(key) != words[2]:
        raise damaged
    return key


@dataclass(frozen=True)
class DataKey:
    """An open data key. `id` is its row."""

    id: str
    cipher: AESGCM


class Seal:
    """Seals and opens with keys of one store. Holds opened data keys in memory; safe to share between threads."""

    def __init__(self, site_key: bytes) -> None:
        if len(site_key) != KEY_BYTES:
            raise Misconfigured(f"a site key has {KEY_BYTES} bytes, not {len(site_key)}", code="bad_key")
        self._site = AESGCM(site_key)
        self._mark = hashlib.sha256(b"edged site key\0" + site_key).digest()[:8]
        self._open: dict[str, DataKey] = {}
        self._of_day: dict[tuple[str, str], DataKey] = {}

    def check_site_key(self, store: Store) -> None:
        """Raises Misconfigured if the store's newest data key was wrapped by another site key."""
        row = store.row("select wrapped from data_key where wrapped is not null order by created desc limit 1")
        if row is not None and bytes(row["wrapped"])[: len(self._mark)] != self._mark:
            raise Misconfigured(
                "this store was sealed with another site key", code="wrong_key", hint="check storage.key_file"
            )

    def key_for(self, store: Store, camera: str, day: str) -> DataKey:
        """The data key for what this camera sends on this day; made, durably, when it is the first."""
        known = self._of_day.get((camera, day))
        if known is not None:
            return known
        with store.transaction():
            row = store.row(
                "select id, wrapped from data_key where camera = ? and day = ? and destroyed is null", (camera, day)
            )
            if row is None:
                key_id, key = secrets.token_hex(8), AESGCM.generate_key(256)
                store.execute(
                    "insert into data_key (id, camera, day, wrapped, created) values (?, ?, ?, ?, ?)",
                    (key_id, camera, day, self._wrap(key, key_id, camera, day), store.clock.now()),
                )
                cipher = AESGCM(key)
            elif row["wrapped"] is None:
                raise Corrupt(f"data key {row['id']} is half destroyed", code="half_destroyed")
            else:
                key_id, cipher = row["id"], self._unwrap(bytes(row["wrapped"]), row["id"], camera, day)
        made = DataKey(key_id, cipher)
        self._open[key_id] = self._of_day[(camera, day)] = made
        return made

    def key_of(self, store: Store, key_id: str) -> DataKey:
        """The data key of that id; raises Corrupt when it is gone or does not open."""
        row = store.row("select camera, day, wrapped, destroyed from data_key where id = ?", (key_id,))
        if row is None or row["wrapped"] is None:
            self.forget(key_id)
            raise Corrupt(f"data key {key_id} is gone", code="key_destroyed")
        known = self._open.get(key_id)
        if known is None:
            known = DataKey(key_id, self._unwrap(bytes(row["wrapped"]), key_id, row["camera"], row["day"]))
            self._open[key_id] = known
        return known

    def require_live(self, store: Store, key_id: str) -> None:
        """Inside the transaction that records objects: raises Unavailable if another process destroyed their key."""
        if store.value("select destroyed is null from data_key where id = ?", (key_id,)) != 1:
            self.forget(key_id)
            raise Unavailable("the data key was destroyed while the picture was being sealed", code="key_destroyed")

    def forget(self, key_id: str) -> None:
        self._open.pop(key_id, None)
        for of_day in [k for k, v in list(self._of_day.items()) if v.id == key_id]:
            self._of_day.pop(of_day, None)

    def _wrap(self, key: bytes, key_id: str, camera: str, day: str) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        return self._mark + nonce + self._site.encrypt(nonce, key, _aad("edged data key 1", key_id, camera, day))

    def _unwrap(self, wrapped: bytes, key_id: str, camera: str, day: str) -> AESGCM:
        start = len(self._mark)
        if wrapped[:start] != self._mark:
            raise Misconfigured(f"data key {key_id} was wrapped by another site key", code="wrong_key")
        nonce, sealed = wrapped[start : start + _NONCE], wrapped[start + _NONCE :]
        try:
            return AESGCM(self._site.decrypt(nonce, sealed, _aad("edged data key 1", key_id, camera, day)))
        except (InvalidTag, ValueError) as e:
            raise Corrupt(f"data key {key_id} does not open: damaged or moved", code="bad_seal") from e


def seal(key: DataKey, content: bytes, *, id: str, camera: str, kind: str) -> bytes:
    """The bytes to put on disk: magic, nonce, ciphertext with tag."""
    nonce = secrets.token_bytes(_NONCE)
    aad = _aad("edged object 1", id, camera, kind, key.id)
    return _OBJECT_MAGIC + nonce + key.cipher.encrypt(nonce, content, aad)


def unseal(key: DataKey, sealed: bytes, *, id: str, camera: str, kind: str) -> bytes:
    """What was sealed; raises Corrupt unless it was sealed with this key under this id, camera and kind."""
    start = len(_OBJECT_MAGIC)
    if len(sealed) < OVERHEAD or sealed[:start] != _OBJECT_MAGIC:
        raise Corrupt(f"object {id} is not a sealed object", code="bad_seal")
    nonce, body = sealed[start : start + _NONCE], sealed[start + _NONCE :]
    try:
        return key.cipher.decrypt(nonce, body, _aad("edged object 1", id, camera, kind, key.id))
    except InvalidTag as e:
        raise Corrupt(f"object {id} does not open: damaged, renamed or swapped", code="bad_seal") from e


def _aad(*words: str) -> bytes:
    """Unambiguous bytes of a list of words (a plain join would let 'a','bc' pass for 'ab','c')."""
    return json.dumps(words, separators=(",", ":")).encode()


def _checksum(key: bytes) -> str:
    return hashlib.sha256(b"edged key file\0" + key).hexdigest()[:16]
