"""The bytes of one copy of the keyring. Pure: no file is touched.

    magic 16 | generation 8 | number of slots 1 | slots | nonce 12 | length 4 | body | SHA-256 of all before 32
    slot: mark 8 (which site key) | nonce 12 | wrapped body key 48

The body is JSON, sealed by AES-256-GCM under a random body key with all that stands before it as AAD; each slot wraps the
body key by a key that HKDF-SHA256 (RFC 5869) derives from a site key. One slot, or two while the site key is rotated.

Guarantees: any changed byte is noticed, by the checksum without a key and by the seal with it; the parts of two sheets
cannot be mixed. Does not guarantee that a sheet is the newest: `keyring.py` compares generations.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from dataclasses import dataclass

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edged.errors import Misconfigured
from edged.storage.sitekey import KEY_BYTES

MAX_BYTES = 64 * 2**20

_MAGIC = b"edged keyring 1\n"
_HEAD = struct.Struct(">16sQB")
_SLOT = struct.Struct(">8s12s48s")
_BODY = struct.Struct(">12sI")
_SUM = 32


class Key(msgspec.Struct, frozen=True):
    """A data key: 32 bytes for what one camera sent on one UTC day of receipt; `epoch` 1.. counts that day's keys."""

    id: str
    camera: str
    day: str
    epoch: int
    created: float
    key: bytes

    def __repr__(self) -> str:
        return f"Key({self.id}, {self.camera}, {self.day}, {self.epoch})"


class Ring(msgspec.Struct, frozen=True):
    """What a keyring holds. `generation` grows by one at each write, `catalogue` is `Seal.note_start`'s number.

    `owed`: keys destroyed since both copies were last known to be the same.
    """

    generation: int = 0
    catalogue: int = 0
    keys: tuple[Key, ...] = ()
    owed: tuple[str, ...] = ()

    def get(self, key_id: str) -> Key | None:
        return next((k for k in self.keys if k.id == key_id), None)

    def of(self, camera: str, day: str) -> list[Key]:
        """The keys of a camera and day, the newest last."""
        return sorted((k for k in self.keys if (k.camera, k.day) == (camera, day)), key=lambda k: k.epoch)


@dataclass(frozen=True, repr=False)
class Slot:
    """The body key, wrapped by one site key."""

    mark: bytes
    nonce: bytes
    wrapped: bytes


@dataclass(frozen=True, repr=False)
class Sheet:
    """A copy whose checksum is right. `generation` is to be believed only once `unlock` has passed."""

    generation: int
    slots: tuple[Slot, ...]
    head: bytes
    nonce: bytes
    body: bytes


@dataclass(frozen=True, repr=False)
class Unlocked:
    """An opened sheet: what to write the next one with."""

    ring: Ring
    slots: tuple[Slot, ...]
    body_key: bytes


class SiteKey:
    """What is derived from a site key. Raises Misconfigured("bad_key") for a wrong length."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise Misconfigured(f"a site key has {KEY_BYTES} bytes, not {len(key)}", code="bad_key")
        self.mark = _derived(key, b"edged keyring mark 1", 8)
        self._wrapping = AESGCM(_derived(key, b"edged keyring slot 1", 32))

    def slot(self, body_key: bytes) -> Slot:
        nonce = secrets.token_bytes(12)
        return Slot(self.mark, nonce, self._wrapping.encrypt(nonce, body_key, self.mark))

    def body_key(self, slot: Slot) -> bytes:
        """Raises InvalidTag."""
        return self._wrapping.decrypt(slot.nonce, slot.wrapped, self.mark)


def parse(data: bytes) -> Sheet:
    """Raises ValueError for what is no whole sheet."""
    if len(data) < _HEAD.size + _BODY.size + _SUM or hashlib.sha256(data[:-_SUM]).digest() != data[-_SUM:]:
        raise ValueError("damaged")
    magic, generation, count = _HEAD.unpack_from(data)
    at = _HEAD.size + count * _SLOT.size
    if magic != _MAGIC or len(data) < at + _BODY.size + _SUM:
        raise ValueError("not a keyring of this version")
    slots = tuple(Slot(*s) for s in _SLOT.iter_unpack(data[_HEAD.size : at]))
    nonce, length = _BODY.unpack_from(data, at)
    at += _BODY.size
    if len(data) != at + length + _SUM:
        raise ValueError("damaged")
    return Sheet(generation, slots, data[:at], nonce, data[at:-_SUM])


def unlock(sheet: Sheet, site: SiteKey) -> Unlocked:
    """Raises Misconfigured("wrong_key") for a sheet of another site key, ValueError for one that was tampered with."""
    slot = next((s for s in sheet.slots if s.mark == site.mark), None)
    if slot is None:
        raise Misconfigured(
            "this store was sealed with another site key", code="wrong_key",
            hint="check storage.key_file; after a rotation of the key restart every process that had the old one",
        )  # fmt: skip
    try:
        body_key = site.body_key(slot)
        ring = msgspec.json.decode(AESGCM(body_key).decrypt(sheet.nonce, sheet.body, sheet.head), type=Ring)
    except (InvalidTag, msgspec.DecodeError) as e:
        raise ValueError("changed by somebody without the site key") from e
    if ring.generation != sheet.generation:
        raise ValueError("of two generations")
    return Unlocked(ring, sheet.slots, body_key)


def pack(unlocked: Unlocked) -> bytes:
    """The bytes of a copy."""
    ring, nonce = unlocked.ring, secrets.token_bytes(12)
    plain = msgspec.json.encode(ring)
    head = _HEAD.pack(_MAGIC, ring.generation, len(unlocked.slots))
    head += b"".join(_SLOT.pack(s.mark, s.nonce, s.wrapped) for s in unlocked.slots)
    head += _BODY.pack(nonce, len(plain) + 16)
    data = head + AESGCM(unlocked.body_key).encrypt(nonce, plain, head)
    return data + hashlib.sha256(data).digest()


def _derived(key: bytes, purpose: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=purpose).derive(key)
