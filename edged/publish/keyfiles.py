"""Private keys as files: made, read, put away. The only module that opens one; the daemon never calls it.

    <role>.key         the key of an online role; `root.key` while it has not been carried away
    <role>.next.key    made by a rotation, until the root that names it is in force; both sign meanwhile

Guarantees: a key file is 0600 from its first byte and never overwritten; what is put away is overwritten with zeros before
it is unlinked. Does not guarantee that flash forgets, nor that a stick (FAT) knows modes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]
from tuf.api.metadata import Root  # type: ignore[attr-defined]

from edged import durable
from edged.errors import EXIT_NOT_FOUND, EXIT_NOT_PERMITTED, Misconfigured, Refused

_SALT = re.compile(rb"edged-scrypt-salt: ([0-9a-f]{32})\n")

ROLES = ("root", "targets", "snapshot", "timestamp")
ONLINE = ROLES[1:]

Ask = Callable[[Path], str]  # the passphrase of a key file


@dataclass(frozen=True)
class NewRoot:
    """The root keys of a new site: where each is written, how many must sign, and a passphrase for all ("" = none)."""

    files: tuple[Path, ...]
    threshold: int = 1
    passphrase: str = field(default="", repr=False)

    @classmethod
    def of(cls, keys: int, threshold: int, folders: Sequence[Path], passphrase: str = "") -> NewRoot:
        """One key is `root.key`, several are `root-1.key` ...; in one folder, or each in its own.

        Raises Refused when a threshold cannot be met, or folders and keys do not fit.
        """
        if not 1 <= threshold <= keys:
            raise Refused(
                f"{threshold} of {keys} root keys cannot be: at least 1, at most all of them", code="threshold"
            )
        if len(folders) not in (1, keys):
            raise Refused(f"{keys} root keys go to 1 folder or to {keys}, not to {len(folders)}", code="folders")
        names = ["root.key"] if keys == 1 else [f"root-{n}.key" for n in range(1, keys + 1)]
        places = list(folders) * keys if len(folders) == 1 else folders
        files = tuple(folder / name for folder, name in zip(places, names, strict=True))
        return cls(files, threshold, passphrase)


def make(path: Path, passphrase: str = "") -> SSlibKey:
    """A new Ed25519 key at `path` (PEM, PKCS#8, encrypted if a passphrase is given); returns its public half.

    Raises Refused when a file is there. No hard link is used: a stick with FAT has none.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    signer = CryptoSigner.generate_ed25519()
    pem = signer.private_bytes
    if passphrase:
        salt = os.urandom(16)
        private = load_pem_private_key(pem, None)
        wrapped = BestAvailableEncryption(_stretched(passphrase, salt))
        pem = b"edged-scrypt-salt: %s\n" % salt.hex().encode()
        pem += private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, wrapped)
    _create(path, pem, 0o600)
    return signer.public_key


def make_keys(key_dir: Path, root: NewRoot | None = None) -> dict[str, Path]:
    """A key per role as `<role>.key`; the root's where `root` says. Returns the paths by name.

    Raises Refused if any is there already.
    """
    key_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    root = root or NewRoot((key_dir / "root.key",))
    paths = {path.name.removesuffix(".key"): path for path in root.files}
    paths |= {role: key_dir / f"{role}.key" for role in ONLINE}
    present = [path for path in paths.values() if os.path.lexists(path)]
    if present:
        raise Refused(
            f"{present[0].parent} already holds {', '.join(p.name for p in present)}; keys are never overwritten",
            hint="cameras trust these keys: move them away by hand if a new site really starts here",
            code="exists",
        )
    made: list[Path] = []
    try:
        for path in paths.values():
            make(path, root.passphrase if path in root.files else "")
            made.append(path)
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise
    return paths


def read(path: Path, ask: Ask | None = None) -> CryptoSigner:
    """The key in a file; `ask` is asked for its passphrase. Raises Misconfigured, Refused for a wrong passphrase."""
    try:
        pem = path.read_bytes()
    except OSError as e:
        raise Misconfigured(f"cannot read the signing key {path}: {e.strerror}", code="key_missing") from e
    try:
        private = load_pem_private_key(pem, None)
    except TypeError as e:  # what cryptography says of an encrypted one
        if ask is None:
            raise Misconfigured(f"{path} wants a passphrase, and nobody is there to ask", code="passphrase") from e
        try:
            salt = _SALT.match(pem)
            said = ask(path)
            private = load_pem_private_key(
                pem, _stretched(said, bytes.fromhex(salt[1].decode())) if salt else said.encode()
            )
        except ValueError as wrong:
            raise Refused(f"the passphrase does not open {path}", code="passphrase") from wrong
    except (ValueError, UnsupportedAlgorithm) as e:
        raise Misconfigured(f"{path} is not a private key: {_why(e, pem)}", code="bad_key") from e
    try:
        return CryptoSigner(private)
    except ValueError as e:
        raise Misconfigured(f"{path} is a key of a kind that cannot sign here: {e}", code="bad_key") from e


def given(path: Path, ask: Ask) -> CryptoSigner:
    """The key in a file that somebody named. Raises Refused: not there, no key, a wrong passphrase."""
    try:
        path.open("rb").close()
    except OSError as e:
        raise unreadable(path, e) from e
    try:
        return read(path, ask)
    except Misconfigured as e:
        raise Refused(str(e), hint=e.hint, code=e.code) from e


def unreadable(path: Path, e: OSError) -> Refused:
    """For a file that somebody named."""
    gone = isinstance(e, FileNotFoundError)
    code, exit_code = ("not_found", EXIT_NOT_FOUND) if gone else ("unreadable", EXIT_NOT_PERMITTED)
    return Refused(f"cannot read {path}: {e.strerror}", code=code, exit_code=exit_code)


def _why(e: Exception, pem: bytes) -> str:
    """What the library says of a file that is no PEM is an address of its own handbook."""
    return "it is no PEM file" if b"-----BEGIN " not in pem else str(e).partition(" See http")[0].rstrip(".")


def _stretched(passphrase: str, salt: bytes) -> bytes:
    """PEM's own derivation is quick to try (PBKDF2, 2,048 rounds): scrypt, as the site key has it, comes before (RFC 7914)."""
    return Scrypt(salt, length=32, n=2**17, r=8, p=1).derive(passphrase.encode()).hex().encode()


def public_of(path: Path) -> SSlibKey:
    """A public key of a PEM file, as `write_public` leaves it. Raises Refused, also for a private one."""
    try:
        pem = path.read_bytes()
    except OSError as e:
        raise unreadable(path, e) from e
    if b"PRIVATE KEY" in pem:
        raise Refused(
            f"{path} is a private key, which is not to come here",
            code="bad_key",
            hint=f"give {path.with_suffix('.pub')}",
        )
    try:
        return SSlibKey.from_crypto(load_pem_public_key(pem))
    except (ValueError, UnsupportedAlgorithm) as e:
        raise Refused(f"{path} is not a public key: {_why(e, pem)}", code="bad_key") from e


def write_public(private: Path, key: SSlibKey) -> Path:
    """The public half beside a private key, as `<name>.pub`, to be carried to the box."""
    path = private.with_suffix(".pub")
    crypto = key._crypto_key()
    _create(path, crypto.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
    return path


def signers(key_dir: Path, root: Root, role: str) -> list[CryptoSigner]:
    """Who signs for an online role: at least as many keys of `root` as it asks for, and the next one if there is one.

    Raises Misconfigured when keys are missing or are not those of the root.
    """
    asked = root.get_delegated_role(role)
    found: list[CryptoSigner] = []
    missing: Misconfigured | None = None
    paths = [key_dir / f"{role}.key", key_dir / f"{role}.next.key"]
    for path in paths:
        if path is paths[0] or path.exists():
            try:
                found.append(read(path))
            except Misconfigured as e:
                missing = e
    named = [signer for signer in found if is_named(root, role, signer)]
    if len(named) >= asked.threshold:
        return found
    if missing is not None:
        raise missing
    raise Misconfigured(
        f"{paths[0]} is not the key that the cameras trust for {role}",
        hint="put back the key that was made together with the root, or rotate it (docs/trust.md)",
        code="wrong_key",
    )


def is_named(root: Root, role: str, signer: CryptoSigner) -> bool:
    """Whether a root names this very key for a role (compared by its value, not only by its id)."""
    key = signer.public_key
    return key.keyid in root.roles[role].keyids and root.keys[key.keyid].keyval == key.keyval


def promote(key_dir: Path, root: Root) -> list[str]:
    """Where the root in force names the next key of a role and no longer the present one: put it in its place.

    The old file is overwritten and gone. Returns the roles; can be repeated after a kill.
    """
    done = []
    for role in ONLINE:
        present, following = key_dir / f"{role}.key", key_dir / f"{role}.next.key"
        if not following.exists() or not is_named(root, role, read(following)):
            continue
        with suppress(Misconfigured):  # a file that cannot be read is no key in use
            if is_named(root, role, read(present)):
                continue
        destroy(present)
        os.rename(following, present)
        durable.sync_folder(key_dir)
        done.append(role)
    return done


def destroy(path: Path) -> None:
    """Overwrite with zeros, flush, unlink; nothing if it is not there."""
    try:
        with path.open("r+b", buffering=0) as file:
            file.write(bytes(os.fstat(file.fileno()).st_size))
            os.fsync(file.fileno())
    except FileNotFoundError:
        return
    path.unlink()
    durable.sync_folder(path.parent)


def _create(path: Path, data: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError as e:
        raise Refused(f"{path} is there already; keys are never overwritten", code="exists") from e
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        durable.sync_folder(path.parent)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
