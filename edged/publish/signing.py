"""What the box's own keys sign, and what they never do: the policy of the signer. Runs where the keys can be read.

    add      a new path `<name>/<number>.onnx`, never one that is signed already for other bytes, or was once
    remove   a path
    refresh  what has less than half of its life left

Guarantees: nothing else is signed: no root, no delegation; versions only grow by one; expiries are reckoned from the
signer's own clock and lifetimes; what it signs on top of verifies from the first root on. A kill at any point leaves the
old state or the new one (folder.py). Does not guarantee that a model is good: whoever may ask can have a bad one signed;
that cameras refuse what they cannot use, and take it one canary first, is agent/offer.py and rollout.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api.metadata import MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp  # type: ignore[attr-defined]

from edged.clock import Clock
from edged.errors import Refused
from edged.publish import keyfiles
from edged.publish.folder import MAX_FILE, Current, Folder
from edged.publish.request import Add, Remove, Request

MAX_TARGETS = 256
GONE = "x-edged-gone"  # in the signed targets: name -> highest number that was signed once and is no more
_DAY = 86400.0
_HARDWARE = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_VERSION = re.compile(r"([0-9]{1,6}(\.[0-9]{1,6}){0,3})?")


@dataclass(frozen=True)
class Lifetimes:
    """How long a signature of each role is good for, in seconds from signing."""

    root: float = 365 * _DAY
    targets: float = 90 * _DAY
    snapshot: float = 90 * _DAY
    timestamp: float = 7 * _DAY

    def expiry(self, role: str, now: float) -> datetime:
        moment = datetime.fromtimestamp(now, UTC) + timedelta(seconds=getattr(self, role))
        return moment.replace(microsecond=0)

    def fades(self, role: str, expires: float, now: float) -> bool:
        """Whether less than half of its life is left."""
        return expires - now < float(getattr(self, role)) / 2


class Signer:
    """Signs for the online roles of one site, with the keys in `key_dir`. Lives as long as one request."""

    def __init__(self, folder: Folder, key_dir: Path, clock: Clock, lifetimes: Lifetimes) -> None:
        self._folder, self._keys, self._clock, self._lifetimes = folder, key_dir, clock, lifetimes

    def answer(self, request: Request) -> bool:
        """Do what is asked; False when nothing had to be signed. Raises Refused, Misconfigured, Corrupt, OSError."""
        with self._folder.locked():
            if isinstance(request, Add):
                return self._add(request)
            if isinstance(request, Remove):
                return self._remove(request.path)
            return self._refresh()

    def resign(self) -> None:
        """Sign all three online roles anew: after keys have come or gone. The caller holds the lock."""
        self.publish(self._folder.current())

    def publish(self, now: Current, *, roles: str = "targets", step: int = 1) -> None:
        """Raise the versions by `step`, sign and write `roles` (a role and what points to it), outermost last."""
        root, timestamp, snapshot, targets = now
        made: list[tuple[str, bytes]] = []
        if roles == "targets":
            targets.version += step
            data = self._sign(root, targets)
            if len(data) > MAX_FILE:
                raise Refused(
                    f"the signed list of {len(targets.targets)} models would have {len(data)} bytes; cameras take"
                    f" {MAX_FILE}", code="too_large",
                )  # fmt: skip
            made.append((f"{targets.version}.targets.json", data))
            snapshot.meta["targets.json"] = MetaFile.from_data(targets.version, data, ["sha256"])
        if roles in ("targets", "snapshot"):
            snapshot.version += step
            data = self._sign(root, snapshot)
            made.append((f"{snapshot.version}.snapshot.json", data))
            timestamp.snapshot_meta = MetaFile.from_data(snapshot.version, data, ["sha256"])
        timestamp.version += step
        made.append(("timestamp.json", self._sign(root, timestamp)))
        for name, data in made:  # all are signed before the first is written: a missing key leaves nothing half done
            self._folder.write(name, data)
        self._folder.sweep(now)

    def _sign(self, root: Root, content: Targets | Snapshot | Timestamp) -> bytes:
        content.expires = self._lifetimes.expiry(content.type, self._clock.now())
        return self._folder.signed(root, content, keyfiles.signers(self._keys, root, content.type))

    def _add(self, asked: Add) -> bool:
        check_custom(asked.path, asked.custom)
        target = TargetFile(asked.length, {"sha256": asked.sha256}, asked.path)
        target.unrecognized_fields["custom"] = json.loads(json.dumps(asked.custom))
        now = self._folder.current()
        signed = now.targets.targets
        present = signed.get(asked.path)
        if present is not None and present != target:
            raise Refused(f"target {asked.path} is signed already and differs: numbers are never reused", code="exists")
        dropped = (set(asked.remove) - {asked.path}) & set(signed)
        if present is not None and not dropped:
            return False
        _require_fresh_number(now.targets, asked.path)
        signed[asked.path] = target
        for path in dropped:
            _drop(now.targets, path)
        if len(signed) > MAX_TARGETS:
            raise Refused(f"{len(signed)} models at once; {MAX_TARGETS} are the most", code="too_many")
        self.publish(now)
        return True

    def _remove(self, path: str) -> bool:
        now = self._folder.current()
        if path not in now.targets.targets:
            return False
        _drop(now.targets, path)
        self.publish(now)
        return True

    def _refresh(self) -> bool:
        now, at = self._folder.current(), self._clock.now()
        for content in (now.targets, now.snapshot, now.timestamp):
            if self._lifetimes.fades(content.type, content.expires.timestamp(), at):
                self.publish(now, roles=content.type)
                return True
        return False


def _drop(targets: Targets, path: str) -> None:
    """Take a path out, and remember in the signed list the highest number of its name that went."""
    del targets.targets[path]
    name, number = _parts(path)
    gone = targets.unrecognized_fields.setdefault(GONE, {})
    gone[name] = max(number, gone.get(name, 0))


def _require_fresh_number(targets: Targets, path: str) -> None:
    """Raises Refused for a number that may have been signed before, for whatever bytes."""
    name, number = _parts(path)
    gone = targets.unrecognized_fields.get(GONE, {}).get(name, -1)
    if number <= gone and path not in targets.targets:
        raise Refused(
            f"{path} comes after {name}/{gone}.onnx, which is signed no more: numbers are never reused", code="exists"
        )


def _parts(path: str) -> tuple[str, int]:
    name, number = path.removesuffix(".onnx").split("/")
    return name, int(number)


def check_custom(path: str, custom: Mapping[str, Any]) -> None:
    """Raises Refused for what canonical JSON cannot hold, and for facts that no camera could go by."""
    check_canonical(custom, "custom")
    name, number = _parts(path)
    rules: dict[str, Callable[[Any], object]] = {
        "release": lambda v: v == number,
        "name": lambda v: v == name,
        "hardware": lambda v: _texts(v) and all(_HARDWARE.fullmatch(t) for t in v),
        "min_agent": lambda v: isinstance(v, str) and _VERSION.fullmatch(v),
        "classes": lambda v: _texts(v) and len(set(v)) == len(v) and all(v),
    }
    for key, holds in rules.items():
        if key in custom and not holds(custom[key]):
            raise Refused(f"{path} cannot be signed: its {key} is {str(custom[key])[:120]!r}", code="bad_custom")


def _texts(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(v, str) for v in value)


def check_canonical(value: object, where: str) -> None:
    """Canonical JSON has no floats: say where one is, rather than fail while signing."""
    if isinstance(value, float):
        raise Refused(
            f"{where} is a floating-point number, which cannot be signed; write it as text", code="bad_custom"
        )
    if isinstance(value, Mapping):
        for key, item in value.items():
            check_canonical(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            check_canonical(item, f"{where}[{i}]")
