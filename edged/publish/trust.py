"""Who may say what the cameras run: The Update Framework's four top-level roles. No delegations. The box's view of them.

Guarantees: what is read back from disk is checked against the root's keys. With a signer in its own process (what
`site.open_repository` gives) no private key is read here: signer.py has them for the time of one signature, and signs by
its own policy (signing.py). Roots are the operator's (ceremony.py): once `init` has run, the root keys can be carried away.
Does not guarantee: that the box's clock is right (expiry is reckoned from it); that who reads the disk finds no keys.

The metadata is canonical JSON, which has no floating-point numbers: `custom` may hold text, integers, lists, mappings.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]

from edged.clock import Clock
from edged.errors import Refused
from edged.publish import signing
from edged.publish.folder import Folder
from edged.publish.keyfiles import ROLES, Ask, NewRoot, make_keys
from edged.publish.request import Add, Refresh, Remove, Request, outcome
from edged.publish.signer import Ask as Asked
from edged.publish.signing import Lifetimes
from edged.storage import disk

if TYPE_CHECKING:
    from edged.publish.ceremony import Ceremony

__all__ = ["ROLES", "Lifetimes", "NewRoot", "Repository", "Target", "make_keys"]

_PATH = re.compile(r"[a-z0-9][a-z0-9-]{0,62}/[0-9]{1,15}\.onnx")


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


class Repository:
    """The signed metadata of one site in `tuf_dir`. `signer` None: signatures are made in this process (tests, tools)."""

    def __init__(
        self, tuf_dir: Path, key_dir: Path, clock: Clock, lifetimes: Lifetimes | None = None,
        signer: Asked | None = None,
    ) -> None:  # fmt: skip
        self._folder, self._keys, self._clock = Folder(tuf_dir), key_dir, clock
        self._lifetimes = lifetimes or Lifetimes()
        self._signer = signer
        self._known: _Wire | None = None

    def exists(self) -> bool:
        """Whether `init` has run to its end."""
        return self._folder.exists()

    def init(self, root: NewRoot | None = None) -> None:
        """Sign the first root, and empty targets, snapshot and timestamp. Needs all keys; raises Refused if done.

        After a crash in the middle the call can be repeated: without a timestamp nothing was ever published.
        """
        self._ceremony().found(root or NewRoot((self._keys / "root.key",)))

    def add_target(self, path: str, data: bytes, custom: Mapping[str, Any], *, remove: Iterable[str] = ()) -> Target:
        """Sign a file under `path` and drop the paths in `remove`, in one change; the bytes are kept elsewhere.

        Raises Refused for a path that is no `<name>/<number>.onnx`, or that is signed already for something else;
        Unavailable when the signer cannot be asked; OSError of a full disk as it is (storage/reserve.py helps out).
        """
        if not _PATH.fullmatch(path):
            raise Refused(f"target path {path[:120]!r} is not <name>/<number>.onnx", code="bad_name")
        signing.check_custom(path, custom)
        sha256 = hashlib.sha256(data).hexdigest()
        said = json.loads(json.dumps(custom))  # as it reads back
        self._ask(Add(path, len(data), sha256, said, tuple(sorted(set(remove) - {path}))))
        return Target(path, len(data), sha256, said)

    def remove_target(self, path: str) -> bool:
        """Stop vouching for a file; False if it was not signed. Raises Unavailable, also for a full disk."""
        with disk.explained(self._folder.path):
            return self._ask(Remove(path))

    def refresh_timestamp(self) -> bool:
        """Sign again whatever has less than half of its life left (targets and snapshot too); False if nothing had."""
        now, expires = self._clock.now(), self.expires()
        if not any(self._lifetimes.fades(role, expires[role], now) for role in ROLES[1:]):
            return False
        return self._ask(Refresh())

    def renew_root(self, ask: Ask | None = None) -> int:
        """Sign the next root, same keys, new expiry; needs the root keys in the folder of the keys. Returns its version."""
        return self._ceremony().renew(ask)

    def root_expires(self) -> float:
        """When the newest root ends, seconds since 1970: after that no camera takes a new model."""
        return self._wire().expires["root"]

    def expires(self) -> Mapping[str, float]:
        """When each role ends, seconds since 1970."""
        return self._wire().expires

    def targets(self) -> dict[str, Target]:
        """What is signed now, by path; raises Corrupt if the metadata does not verify."""
        with self._folder.locked(shared=True):
            return {path: _target(target) for path, target in self._folder.current().targets.targets.items()}

    def files(self) -> dict[str, bytes]:
        """What cameras must be able to fetch now, by file name: all roots, the timestamp, its snapshot, its targets."""
        return dict(self._wire().files)

    def _ask(self, request: Request) -> bool:
        if self._signer is None:
            return signing.Signer(self._folder, self._keys, self._clock, self._lifetimes).answer(request)
        return outcome(self._signer.ask(request))

    def _ceremony(self) -> Ceremony:
        from edged.publish.ceremony import Ceremony

        return Ceremony(self._folder.path, self._keys, self._clock, self._lifetimes)

    def _wire(self) -> _Wire:
        """What is on the wire, verified; verified again only when the timestamp or the roots have changed."""
        folder = self._folder
        with folder.locked(shared=True):
            roots = [f"{n}.root.json" for n in folder.root_versions()]
            path = folder.path / "timestamp.json"
            mark = (path.read_bytes() if path.exists() else b"", tuple(roots))
            if self._known is None or self._known.mark != mark:
                now = folder.current()
                names = (*roots, *now.pointed_to(), path.name)
                files = {name: (folder.path / name).read_bytes() for name in names}
                expires = {content.type: content.expires.timestamp() for content in now}
                self._known = _Wire(mark, files, expires)
            return self._known


def _target(target: TargetFile) -> Target:
    return Target(target.path, target.length, target.hashes["sha256"], target.custom or {})
