"""Who may say what the cameras run: The Update Framework's four top-level roles, signed on the box. No delegations.

Guarantees: every change is one call that signs and writes; a crash at any point leaves a timestamp that points to a
whole set of files (new versioned files first, `timestamp.json` last, each by temp + fsync + rename + fsync of the
directory). Metadata read back from disk is checked against the root's keys before anything is signed on top of it, so
that a file planted on the disk is never blessed. Private keys are read only while signing, one file per role, and only
the roles that are needed: once `init` has run, `root.key` can be carried away until the root has to be renewed.
Does not guarantee: that the box's clock is right (expiry is reckoned from it); that who reads the disk finds no keys.

The metadata is canonical JSON, which has no floating-point numbers: `custom` may hold text, integers, lists, mappings.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.exceptions import KeyMismatchError
from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]
from tuf.api.exceptions import LengthOrHashMismatchError, UnsignedMetadataError
from tuf.api.metadata import (  # type: ignore[attr-defined]
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from edged import durable
from edged.clock import Clock
from edged.errors import Corrupt, Misconfigured, Refused

ROLES = ("root", "targets", "snapshot", "timestamp")
_PATH = re.compile(r"[a-z0-9][a-z0-9-]{0,62}/[0-9]{1,15}\.onnx")
_JSON = JSONSerializer(compact=True)
_DAY = 86400.0

S = TypeVar("S", Root, Targets, Snapshot, Timestamp)


@dataclass(frozen=True)
class Lifetimes:
    """How long a signature of each role is good for, in seconds from signing."""

    root: float = 365 * _DAY
    targets: float = 90 * _DAY
    snapshot: float = 90 * _DAY
    timestamp: float = 7 * _DAY


@dataclass(frozen=True)
class Target:
    """One signed file: path in the repository, length and SHA-256 of its bytes, and what is said about it."""

    path: str
    length: int
    sha256: str
    custom: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Wire:
    """Files that were verified, and when their roles expire; `mark` tells whether the disk has others by now."""

    mark: tuple[bytes, tuple[str, ...]]
    files: Mapping[str, bytes]
    expires: Mapping[str, float]


def make_keys(key_dir: Path) -> dict[str, Path]:
    """Make an Ed25519 key per role as `<role>.key` (PEM, PKCS#8, mode 0600); raises Refused if any is there already."""
    key_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    paths = {role: key_dir / f"{role}.key" for role in ROLES}
    present = [path.name for path in paths.values() if path.exists()]
    if present:
        raise Refused(
            f"{key_dir} already holds {', '.join(present)}; keys are never overwritten",
            hint="cameras trust these keys: move them away by hand if a new site really starts here",
            code="exists",
        )
    for path in paths.values():
        durable.write(path, CryptoSigner.generate_ed25519().private_bytes, mode=0o600, replace=False)
    return paths


class Repository:
    """The signed metadata of one site in `tuf_dir`. One writer at a time (a lock file keeps processes apart)."""

    def __init__(self, tuf_dir: Path, key_dir: Path, clock: Clock, lifetimes: Lifetimes | None = None) -> None:
        self._dir, self._keys, self._clock = tuf_dir, key_dir, clock
        self._lifetimes = lifetimes or Lifetimes()
        self._known: _Wire | None = None

    def exists(self) -> bool:
        """Whether `init` has run to its end."""
        return (self._dir / "timestamp.json").exists()

    def init(self) -> None:
        """Sign the first root, and empty targets, snapshot and timestamp. Needs all four keys; raises Refused if done.

        After a crash in the middle the call can be repeated: without a timestamp nothing was ever published.
        """
        self._dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        with self._locked():
            if self.exists():
                raise Refused(f"{self._dir} is already a signed repository", code="exists")
            root = Root(version=1, expires=self._expiry("root"), consistent_snapshot=True)
            for role in ROLES:
                root.add_key(self._public(role), role)
            self._write("1.root.json", self._signed(root, root, "root"))
            self._publish(root, Targets(version=1), Snapshot(version=1), Timestamp(version=1), step=0)

    def add_target(self, path: str, data: bytes, custom: Mapping[str, Any], *, remove: Iterable[str] = ()) -> Target:
        """Sign a file under `path` and drop the paths in `remove`, in one change; the bytes are kept elsewhere.

        Raises Refused for a path that is no `<name>/<number>.onnx`, or that is signed already for something else.
        """
        if not _PATH.fullmatch(path):
            raise Refused(f"target path {path[:120]!r} is not <name>/<number>.onnx", code="bad_name")
        _check_canonical(custom, "custom")
        target = TargetFile.from_data(path, data, ["sha256"])
        target.unrecognized_fields["custom"] = json.loads(json.dumps(custom))
        dropped = set(remove) - {path}
        with self._locked():
            root, timestamp, snapshot, targets = self._current()
            present = targets.targets.get(path)
            if present is not None and present != target:
                raise Refused(f"target {path} is signed already and differs: numbers are never reused", code="exists")
            if present is None or dropped & set(targets.targets):
                targets.targets[path] = target
                for old in dropped:
                    targets.targets.pop(old, None)
                self._publish(root, targets, snapshot, timestamp)
        return _target(target)

    def remove_target(self, path: str) -> bool:
        """Stop vouching for a file; False if it was not signed."""
        with self._locked():
            root, timestamp, snapshot, targets = self._current()
            if targets.targets.pop(path, None) is None:
                return False
            self._publish(root, targets, snapshot, timestamp)
            return True

    def refresh_timestamp(self) -> bool:
        """Sign again whatever has less than half of its life left (targets and snapshot too); False if nothing had."""
        if not any(self._fades(expires, role) for role, expires in self._wire().expires.items()):
            return False
        with self._locked():
            root, timestamp, snapshot, targets = self._current()
            if self._fades(targets.expires.timestamp(), "targets"):
                self._publish(root, targets, snapshot, timestamp)
            elif self._fades(snapshot.expires.timestamp(), "snapshot"):
                self._publish(root, None, snapshot, timestamp)
            elif self._fades(timestamp.expires.timestamp(), "timestamp"):
                self._publish(root, None, None, timestamp)
            else:
                return False
            return True

    def renew_root(self) -> int:
        """Sign the next root, same keys, new expiry; needs `root.key`. Returns its version."""
        with self._locked():
            root = self._root()
            root.version += 1
            root.expires = self._expiry("root")
            self._write(f"{root.version}.root.json", self._signed(root, root, "root"))
            return root.version

    def root_expires(self) -> float:
        """When the newest root ends, seconds since 1970: after that no camera takes a new model."""
        return self._root().expires.timestamp()

    def targets(self) -> dict[str, Target]:
        """What is signed now, by path; raises Corrupt if the metadata does not verify."""
        return {path: _target(target) for path, target in self._current()[3].targets.items()}

    def files(self) -> dict[str, bytes]:
        """What cameras must be able to fetch now, by file name: all roots, the timestamp, its snapshot, its targets."""
        return dict(self._wire().files)

    def _wire(self) -> _Wire:
        """What is on the wire, verified; verified again only when the timestamp or the roots have changed."""
        with self._locked():
            roots = [f"{n}.root.json" for n in self._root_versions()]
            path = self._dir / "timestamp.json"
            mark = (path.read_bytes() if path.exists() else b"", tuple(roots))
            if self._known is None or self._known.mark != mark:
                _, timestamp, snapshot, targets = self._current()
                names = (*roots, *_pointed_to(timestamp, snapshot), path.name)
                files = {name: (self._dir / name).read_bytes() for name in names}
                expires = {c.type: c.expires.timestamp() for c in (targets, snapshot, timestamp)}
                self._known = _Wire(mark, files, expires)
            return self._known

    def _publish(
        self, root: Root, targets: Targets | None, snapshot: Snapshot | None, timestamp: Timestamp, step: int = 1
    ) -> None:
        """Raise the versions by `step`, sign and write what is given (new targets need a snapshot), outermost last."""
        if targets is not None:
            assert snapshot is not None
            targets.version += step
            targets.expires = self._expiry("targets")
            data = self._signed(root, targets, "targets")
            self._write(f"{targets.version}.targets.json", data)
            snapshot.meta["targets.json"] = MetaFile.from_data(targets.version, data, ["sha256"])
        if snapshot is not None:
            snapshot.version += step
            snapshot.expires = self._expiry("snapshot")
            data = self._signed(root, snapshot, "snapshot")
            self._write(f"{snapshot.version}.snapshot.json", data)
            timestamp.snapshot_meta = MetaFile.from_data(snapshot.version, data, ["sha256"])
        timestamp.version += step
        timestamp.expires = self._expiry("timestamp")
        self._write("timestamp.json", self._signed(root, timestamp, "timestamp"))
        self._sweep()

    def _sweep(self) -> None:
        """Remove versions that nothing points to (also what a crash left)."""
        _, timestamp, snapshot, _ = self._current()
        keep = _pointed_to(timestamp, snapshot)
        for path in self._dir.iterdir():
            if path.name.endswith((".snapshot.json", ".targets.json", ".tmp")) and path.name not in keep:
                path.unlink(missing_ok=True)

    def _current(self) -> tuple[Root, Timestamp, Snapshot, Targets]:
        """Read and verify what the timestamp points to; expiry is not looked at, since our own may be renewed."""
        root = self._root()
        timestamp = self._verified(root, "timestamp.json", Timestamp)
        snapshot_meta = timestamp.snapshot_meta
        snapshot = self._verified(root, f"{snapshot_meta.version}.snapshot.json", Snapshot, snapshot_meta)
        targets_meta = snapshot.meta["targets.json"]
        targets = self._verified(root, f"{targets_meta.version}.targets.json", Targets, targets_meta)
        return root, timestamp, snapshot, targets

    def _root(self) -> Root:
        """The newest root; each must be signed by the one before it, the first by itself."""
        versions = self._root_versions()
        if versions != list(range(1, len(versions) + 1)) or not versions:
            raise Misconfigured(
                f"{self._dir} is no signed repository (roots there: {versions or 'none'})",
                hint="`edged init` makes one",
            )
        before: Root | None = None
        for version in versions:
            name = f"{version}.root.json"
            metadata = self._read(name, Root)
            for signer in (before, metadata.signed):
                if signer is not None:
                    with self._checked(name):
                        signer.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
            before = metadata.signed
        assert before is not None
        return before

    def _root_versions(self) -> list[int]:
        names = (path.name for path in self._dir.glob("*.root.json"))
        return sorted(int(name.split(".")[0]) for name in names if name.split(".")[0].isdigit())

    def _verified(self, root: Root, name: str, kind: type[S], meta: MetaFile | None = None) -> S:
        metadata = self._read(name, kind, meta)
        with self._checked(name):
            root.verify_delegate(kind.type, metadata.signed_bytes, metadata.signatures)
        return metadata.signed

    def _read(self, name: str, kind: type[S], meta: MetaFile | None = None) -> Metadata[S]:
        path = self._dir / name
        try:
            data = path.read_bytes()
        except FileNotFoundError as e:
            raise Corrupt(f"signed metadata {path} is missing") from e
        if meta is not None:
            with self._checked(name):
                meta.verify_length_and_hashes(data)
        try:
            metadata: Metadata[S] = Metadata.from_bytes(data)
        except DeserializationError as e:
            raise Corrupt(f"signed metadata {path} cannot be read: {e}") from e
        if not isinstance(metadata.signed, kind):
            raise Corrupt(f"signed metadata {path} is a {metadata.signed.type}")
        return metadata

    @contextmanager
    def _checked(self, name: str) -> Iterator[None]:
        try:
            yield
        except (UnsignedMetadataError, LengthOrHashMismatchError) as e:
            raise Corrupt(
                f"signed metadata {self._dir / name} was changed by something else: {e}",
                hint="nothing is signed on top of it; restore the directory from a backup",
            ) from e

    def _signed(self, root: Root, content: Root | Targets | Snapshot | Timestamp, role: str) -> bytes:
        """Sign with the role's key file, which must be the key that the root names."""
        private = self._private(role)
        key = root.get_key(root.get_delegated_role(role).keyids[0])
        assert isinstance(key, SSlibKey)
        try:
            signer = CryptoSigner(private, key)
        except (KeyMismatchError, ValueError) as e:
            raise Misconfigured(
                f"{self._keys / role}.key is not the key that the cameras trust for {role}",
                hint="put back the key that was made together with 1.root.json",
            ) from e
        metadata: Metadata[Any] = Metadata(content)
        metadata.sign(signer)
        return metadata.to_bytes(_JSON)

    def _public(self, role: str) -> SSlibKey:
        return SSlibKey.from_crypto(self._private(role).public_key())

    def _private(self, role: str) -> Any:
        path = self._keys / f"{role}.key"
        try:
            return load_pem_private_key(path.read_bytes(), None)
        except OSError as e:
            raise Misconfigured(f"cannot read the signing key {path}: {e.strerror}") from e
        except (ValueError, UnsupportedAlgorithm) as e:
            raise Misconfigured(f"{path} is not a private key: {e}") from e

    def _expiry(self, role: str) -> datetime:
        moment = datetime.fromtimestamp(self._clock.now(), UTC) + timedelta(seconds=getattr(self._lifetimes, role))
        return moment.replace(microsecond=0)

    def _fades(self, expires: float, role: str) -> bool:
        return expires - self._clock.now() < float(getattr(self._lifetimes, role)) / 2

    def _write(self, name: str, data: bytes) -> None:
        durable.write(self._dir / name, data)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes' writes away; also taken for reading, since a write removes old versions."""
        try:
            handle = os.open(self._dir / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise Misconfigured(f"cannot use {self._dir}: {e.strerror}", hint="`edged init` makes it") from e
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _pointed_to(timestamp: Timestamp, snapshot: Snapshot) -> tuple[str, str]:
    return (
        f"{timestamp.snapshot_meta.version}.snapshot.json",
        f"{snapshot.meta['targets.json'].version}.targets.json",
    )


def _target(target: TargetFile) -> Target:
    return Target(target.path, target.length, target.hashes["sha256"], target.custom or {})


def _check_canonical(value: object, where: str) -> None:
    """Canonical JSON has no floats: say where one is, rather than fail while signing."""
    if isinstance(value, float):
        raise Refused(
            f"{where} is a floating-point number, which cannot be signed; write it as text", code="bad_custom"
        )
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_canonical(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check_canonical(item, f"{where}[{i}]")
