"""The signed metadata of a site on the disk: read and verified from the first root on, written in the order that a crash
forgives.

    <n>.root.json  <n>.targets.json  <n>.snapshot.json  timestamp.json  .lock

Guarantees: nothing is returned that the keys of the newest root did not sign to their threshold; new files appear before
what points to them, `timestamp.json` last, each by temp + fsync + rename + fsync of the folder; what a crash leaves behind
is swept. Delegations are neither written nor read. Expiry is not looked at: what is ours may be renewed.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]
from tuf.api.exceptions import LengthOrHashMismatchError, UnsignedMetadataError
from tuf.api.metadata import (  # type: ignore[attr-defined]
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from edged import durable
from edged.errors import Corrupt, Misconfigured

MAX_FILE = 1024 * 1024  # a camera takes no larger one
_JSON = JSONSerializer(compact=True)

S = TypeVar("S", Root, Targets, Snapshot, Timestamp)


class Current(NamedTuple):
    """What is in force."""

    root: Root
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets

    def pointed_to(self) -> tuple[str, str]:
        """The names of the snapshot and the targets file."""
        targets = self.snapshot.meta["targets.json"].version
        return f"{self.timestamp.snapshot_meta.version}.snapshot.json", f"{targets}.targets.json"


class Folder:
    """One site's metadata. One writer at a time (a lock file keeps processes apart)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def exists(self) -> bool:
        """Whether the site was founded to its end."""
        return (self.path / "timestamp.json").exists()

    def root_versions(self) -> list[int]:
        names = (path.name for path in self.path.glob("*.root.json"))
        return sorted(int(name.split(".")[0]) for name in names if name.split(".")[0].isdigit())

    def root(self) -> Root:
        """The newest root; each must be signed by the one before it and by itself (TUF specification, 5.3)."""
        return self.roots()[-1].signed

    def roots(self) -> list[Metadata[Root]]:
        """Every root, verified. Raises Misconfigured where none is, Corrupt."""
        versions = self.root_versions()
        if versions != list(range(1, len(versions) + 1)) or not versions:
            raise Misconfigured(
                f"{self.path} is no signed repository (roots there: {versions or 'none'})",
                hint="`edged init` makes one",
            )
        chain: list[Metadata[Root]] = []
        for version in versions:
            name = f"{version}.root.json"
            metadata = self._read(name, Root)
            if metadata.signed.version != version:
                raise Corrupt(f"signed metadata {self.path / name} is root {metadata.signed.version}")
            for signer in (*(chain[-1:]), metadata):
                with self._checked(name):
                    signer.signed.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
            chain.append(metadata)
        return chain

    def current(self, root: Root | None = None) -> Current:
        """What the timestamp points to, verified by the newest root, or by `root`."""
        root = root or self.root()
        timestamp = self._verified(root, "timestamp.json", Timestamp)
        snapshot_meta = timestamp.snapshot_meta
        snapshot = self._verified(root, f"{snapshot_meta.version}.snapshot.json", Snapshot, snapshot_meta)
        if set(snapshot.meta) != {"targets.json"}:
            raise Corrupt(
                f"the signed snapshot names {', '.join(sorted(snapshot.meta))}: only targets.json may be there"
            )
        targets_meta = snapshot.meta["targets.json"]
        targets = self._verified(root, f"{targets_meta.version}.targets.json", Targets, targets_meta)
        if targets.delegations is not None:
            raise Corrupt("the signed targets delegate, which no site of ours does", code="delegations")
        return Current(root, timestamp, snapshot, targets)

    def signed(self, root: Root, content: Any, by: list[CryptoSigner]) -> bytes:
        """Signed by each of `by`; raises Misconfigured when that is below what `root` asks for, Corrupt when too large."""
        assert getattr(content, "delegations", None) is None
        metadata: Metadata[Any] = Metadata(content)
        for signer in by:
            metadata.sign(signer, append=True)
        try:
            root.verify_delegate(content.type, metadata.signed_bytes, metadata.signatures)
        except UnsignedMetadataError as e:
            raise Misconfigured(f"not enough keys for {content.type}: {e}; nothing was published") from e
        return metadata.to_bytes(_JSON)

    def write(self, name: str, data: bytes) -> None:
        durable.write(self.path / name, data)

    def sweep(self, kept: Current) -> None:
        """Remove versions that nothing points to (also what a crash left)."""
        keep = kept.pointed_to()
        for path in self.path.iterdir():
            if path.name.endswith((".snapshot.json", ".targets.json", ".tmp")) and path.name not in keep:
                path.unlink(missing_ok=True)

    @contextmanager
    def locked(self, *, shared: bool = False) -> Iterator[None]:
        """Keep other processes' writes away; readers too (shared), since a write removes old versions."""
        try:
            # not for writing: who may only read the folder, as the daemon beside a signer of its own, locks as well
            handle = os.open(self.path / ".lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as e:
            raise Misconfigured(f"cannot use {self.path}: {e.strerror}", hint="`edged init` makes it") from e
        try:
            fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _verified(self, root: Root, name: str, kind: type[S], meta: MetaFile | None = None) -> S:
        metadata = self._read(name, kind, meta)
        with self._checked(name):
            root.verify_delegate(kind.type, metadata.signed_bytes, metadata.signatures)
        return metadata.signed

    def _read(self, name: str, kind: type[S], meta: MetaFile | None = None) -> Metadata[S]:
        path = self.path / name
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
                f"signed metadata {self.path / name} was changed by something else: {e}",
                hint="nothing is signed on top of it; restore the directory from a backup",
            ) from e
