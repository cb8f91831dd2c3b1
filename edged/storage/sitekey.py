"""The site key: 32 random bytes that open the keyring. A file of mode 0600, and a second copy of it.

Guarantees: a key file is never replaced by one with another key but by `rotate.py`; a file that is damaged in any byte
is noticed and its copy is used, loudly; with a passphrase the file alone opens nothing. Does not guarantee: secrecy
against root, or against whoever has the file of a box without passphrase. Losing both files and the 24 words loses
every picture.

Passphrase: scrypt (RFC 7914) with n = 2^17, r = 8, p = 1, the strength OWASP's password storage sheet names first; it
takes 128 MiB and half a second (measured on a 2-core x86-64 virtual machine) at each opening of the file.
Words: BIP-39, English list, 24 words = 256 bits and a checksum of 8 bits.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edged import durable
from edged.errors import Misconfigured, Refused
from edged.storage import disk, supersede

KEY_BYTES = 32
PASSPHRASE_CREDENTIAL = "storage-passphrase"  # systemd LoadCredential= name
PASSPHRASE_VARIABLE = "EDGED_STORAGE_PASSPHRASE_FILE"
MIN_PASSPHRASE = 8

Ask = Callable[[], str]

_GONE = "bring it back from its copy, or `edged key recover`: a new key would not open what the old one sealed"
_PLAIN = "edged-key-1"
_WRAPPED = "edged-key-2"
_N, _R, _P = 2**17, 8, 1
_MAX_BYTES = 2**30  # a file that asks for more memory is not one of ours
_NONCE = 12

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where the key of a site is kept. `copy` None: there is no second one (a credential of systemd)."""

    path: Path
    copy: Path | None

    @classmethod
    def of(cls, path: Path) -> Place:
        """A key file with its copy beside it."""
        return cls(path, path.with_name(f"{path.name}.copy"))

    @property
    def staged(self) -> Path:
        """Where a rotation keeps the new key until it is in its place."""
        return self.path.with_name(f"{self.path.name}.new")

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,) if self.copy is None else (self.path, self.copy)


def make_key(path: Path, copy: Path | None = None) -> bytes:
    """Make a key file and its copy and return the key; raises Misconfigured rather than replace a file."""
    place = Place(path, copy or Place.of(path).copy)
    for file in place.files:
        if os.path.lexists(file):
            raise _exists(file)
    key = secrets.token_bytes(KEY_BYTES)
    put_new(place, key)
    return key


def put_new(place: Place, key: bytes, passphrase: str = "") -> None:
    """Write a key where no file is; raises Misconfigured("key_exists") where one is."""
    content = pack(key, passphrase)
    for file in place.files:
        try:
            durable.write(file, content, mode=0o600, replace=False)
            supersede.give(file)
        except FileExistsError as e:
            raise _exists(file) from e
        except OSError as e:
            raise disk.renamed(e, file) from e


def read_key(path: Path, copy: Path | None = None, ask: Ask | None = None) -> bytes:
    """The 32 bytes of a key file, or of its copy (default: beside it) when the file is damaged or gone.

    Raises Misconfigured when both are, when others can read it ("key_mode"), or for want of the passphrase. It is read
    from the credential "storage-passphrase", from the file that EDGED_STORAGE_PASSPHRASE_FILE names, or asked for.
    """
    return read(Place(path, copy or Place.of(path).copy), ask)


def read(place: Place, ask: Ask | None = None) -> bytes:
    """As `read_key`."""
    try:
        return unpack(_content(place.path), place.path, ask)
    except Misconfigured as e:
        if place.copy is None or e.code not in ("no_key", "bad_key") or not os.path.lexists(place.copy):
            raise
        try:
            key = unpack(_content(place.copy), place.copy, ask)
        except Misconfigured as worse:
            if worse.code not in ("no_key", "bad_key"):
                raise
            raise Misconfigured(
                f"{e}, and so is its copy {place.copy}", code="bad_key",
                hint="restore one of them from a backup, or `edged key recover` with the 24 words",
            ) from worse  # fmt: skip
        log.warning("%s; its copy %s is used", e, place.copy)
        return key


def trouble(place: Place) -> list[Misconfigured]:
    """What is wrong with the files; needs no passphrase."""
    found = []
    contents: list[bytes] = []
    for file in place.files:
        try:
            content = _content(file)
            _words(content, file)
            contents.append(content)
        except Misconfigured as e:
            found.append(e)
    if len(contents) == 2 and contents[0] != contents[1]:
        found.append(
            Misconfigured(
                f"{place.copy} is not the same as {place.path}", code="key_copies_differ",
                hint="`edged key rotate` or `edged key passphrase` was cut off: run it again",
            )
        )  # fmt: skip
    return found


def mend(place: Place) -> list[Path]:
    """Write again, from the other, what of the two files is damaged or gone; returns what was written. Old keys that a
    crash kept from being overwritten go, too.

    Call it only when the key has opened the keyring, holding the keyring's lock. Two good files that differ are left to
    `edged key`: which of them is right cannot be seen from here. Raises OSError.
    """
    if place.copy is None:
        return []
    for file in (*place.files, place.staged):
        supersede.sweep(file)
    good: dict[Path, bytes] = {}
    for file in place.files:
        try:
            content = _content(file)
            _words(content, file)
            good[file] = content
        except Misconfigured as e:
            if e.code not in ("no_key", "bad_key"):
                return []
    mended = [f for f in place.files if f not in good] if good else []
    for file in mended:
        supersede.write(file, next(iter(good.values())))
        log.warning("%s was damaged or gone; written again from %s", file, next(iter(good)))
    return mended


def rewrite(place: Place, key: bytes, passphrase: str) -> None:
    """Wrap the same key by another passphrase, "" = none, in both files. Hold the keyring's lock."""
    if place.copy is None:
        raise Refused(f"{place.path} is a credential of systemd: it cannot be written from here", code="credential")
    content = pack(key, passphrase)
    for file in place.files:
        try:
            supersede.sweep(file)
            supersede.write(file, content)
        except OSError as e:
            raise disk.renamed(e, file) from e


def is_damaged(file: Path) -> bool:
    """Whether a file that is there holds no whole key. Raises Misconfigured("key_mode")."""
    try:
        _words(_content(file), file)
    except Misconfigured as e:
        if e.code not in ("no_key", "bad_key"):
            raise
        return True
    return False


def put_aside(place: Place) -> list[Path]:
    """Rename what stands in the way of `put_new` and holds no whole key to <name>.damaged."""
    aside = [f for f in place.files if f.exists() and is_damaged(f)]
    for file in aside:
        try:
            file.rename(file.with_name(f"{file.name}.damaged"))
        except OSError as e:
            raise disk.renamed(e, file) from e
    return aside


def is_wrapped(place: Place) -> bool:
    """Whether the file needs a passphrase. Raises Misconfigured."""
    for file in place.files[:-1]:
        try:
            return _words(_content(file), file)[0] == _WRAPPED
        except Misconfigured as e:
            if e.code not in ("no_key", "bad_key"):
                raise
    return _words(_content(place.files[-1]), place.files[-1])[0] == _WRAPPED


def fingerprint(key: bytes) -> str:
    """16 hex digits that name a site key and tell nothing of it."""
    digest = hashlib.sha256(b"edged site key fingerprint\0" + key).hexdigest()
    return "-".join(digest[i : i + 4] for i in range(0, 16, 4))


def phrase(key: bytes) -> str:
    """The key as 24 words."""
    return str(_language().to_mnemonic(key))


def from_phrase(words: str) -> bytes:
    """The key that 24 words say; raises Misconfigured("bad_phrase") naming the words that are none."""
    said = words.lower().split()
    language = _language()
    unknown = [str(n) for n, w in enumerate(said, 1) if w not in language.wordlist]
    if unknown:
        raise Misconfigured(f"not on the list: word {', '.join(unknown)} of {len(said)}", code="bad_phrase")
    if len(said) != 24:
        raise Misconfigured(f"a recovery phrase has 24 words, not {len(said)}", code="bad_phrase")
    try:
        return bytes(language.to_entropy(said))
    except (ValueError, LookupError) as e:
        raise Misconfigured(
            "the words do not fit together", code="bad_phrase", hint="one is wrong or two are swapped"
        ) from e


def pack(key: bytes, passphrase: str = "") -> bytes:
    """The one line of a key file."""
    if not passphrase:
        return f"{_PLAIN} {key.hex()} {_checksum(key)}\n".encode()
    if len(passphrase) < MIN_PASSPHRASE:
        raise Misconfigured(f"a passphrase has {MIN_PASSPHRASE} characters at least", code="short_passphrase")
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(_NONCE)
    head = f"{_WRAPPED} {_N} {_R} {_P} {salt.hex()} {nonce.hex()}"
    sealed = AESGCM(_stretch(passphrase, salt, _N, _R, _P)).encrypt(nonce, key, head.encode())
    line = f"{head} {sealed.hex()}"
    return f"{line} {_checksum(line.encode())}\n".encode()


def unpack(content: bytes, path: Path, ask: Ask | None = None) -> bytes:
    """The key in a key file's line. Raises Misconfigured: "bad_key", "no_passphrase", "wrong_passphrase"."""
    words = _words(content, path)
    if words[0] == _PLAIN:
        return bytes.fromhex(words[1])
    n, r, p = map(int, words[1:4])
    salt, nonce, sealed = map(bytes.fromhex, words[4:7])
    try:
        wrapping = AESGCM(_stretch(passphrase_of(path, ask), salt, n, r, p))
        return wrapping.decrypt(nonce, sealed, " ".join(words[:6]).encode())
    except (InvalidTag, ValueError) as e:
        raise Misconfigured(f"that is not the passphrase of {path}", code="wrong_passphrase") from e


def _content(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as f:
            mode = stat.S_IMODE(os.fstat(fd).st_mode)
            content = f.read(4096)
    except OSError as e:
        raise Misconfigured(f"key file {path}: {e.strerror}", code="no_key", hint=_GONE) from e
    if mode & 0o077:
        raise Misconfigured(
            f"key file {path} can be read by others (mode {mode:04o})", code="key_mode", hint=f"chmod 600 {path}"
        )
    return content


def _words(content: bytes, path: Path) -> list[str]:
    """The checked words of a key file; raises Misconfigured("bad_key")."""
    damaged = Misconfigured(f"key file {path} is damaged", code="bad_key", hint="restore it from its copy")
    try:
        text = content.decode("ascii")
        words = text.removesuffix("\n").split(" ")
        if words[0] == _PLAIN and len(words) == 3:
            key = bytes.fromhex(words[1])
            whole = len(key) == KEY_BYTES and key.hex() == words[1] and _checksum(key) == words[2]
        elif words[0] == _WRAPPED and len(words) == 8:
            whole = _checksum(text.removesuffix("\n").rpartition(" ")[0].encode()) == words[7]
            n, r, p = map(int, words[1:4])
            whole = whole and n >= 2 and r >= 1 and 1 <= p <= 16 and 128 * n * r <= _MAX_BYTES
        else:
            raise damaged
    except ValueError as e:
        raise damaged from e
    if not whole or not text.endswith("\n"):
        raise damaged
    return words


def passphrase_of(path: Path, ask: Ask | None) -> str:
    """The passphrase of a key file, from where `read_key` says. Raises Misconfigured("no_passphrase")."""
    credential = Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent")) / PASSPHRASE_CREDENTIAL
    named = os.environ.get(PASSPHRASE_VARIABLE, "")
    file = credential if credential.exists() else Path(named) if named else None
    if file is not None:
        try:
            return file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as e:
            raise Misconfigured(f"the passphrase file {file} cannot be read", code="no_passphrase") from e
    if ask is not None:
        return ask()
    raise Misconfigured(
        f"{path} needs a passphrase", code="no_passphrase",
        hint=f"give it as systemd's credential {PASSPHRASE_CREDENTIAL}, or name a file with it in {PASSPHRASE_VARIABLE}",
    )  # fmt: skip


def _stretch(passphrase: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(
        passphrase.encode(), salt=salt, n=n, r=r, p=p, maxmem=2 * 128 * r * max(n, p), dklen=KEY_BYTES
    )


def _checksum(key: bytes) -> str:
    return hashlib.sha256(b"edged key file\0" + key).hexdigest()[:16]


def _exists(path: Path) -> Misconfigured:
    return Misconfigured(
        f"{path} exists: a new key would make everything sealed with it unreadable",
        code="key_exists", hint="keep it, or move it away by hand if you are sure",
    )  # fmt: skip


def _language() -> Any:
    try:
        from mnemonic import Mnemonic
    except ImportError as e:
        raise Misconfigured("recovery phrases need the package mnemonic", hint="pip install mnemonic") from e
    return Mnemonic("english")
