"""How the trust of a site stands: roles, keys, expiries, and what is wrong with them, in words. Opens no private key.

Guarantees: looks only. `warnings` is pure. Does not guarantee that a key file holds the key that its name says: a
signature would tell (`edged trust renew` and each release do).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edged.clock import day
from edged.publish.folder import Folder
from edged.publish.keyfiles import ONLINE, ROLES
from edged.publish.signing import Lifetimes

_DAY = 86400.0
ROOT_SOON_S = 60 * _DAY  # a ceremony needs people: they get two months
LEFT = 1 / 3  # of an online signature's life; at half of it it is signed again


@dataclass(frozen=True)
class Role:
    """`files`: key files of its that lie in the folder of the keys, whatever is in them."""

    role: str
    version: int
    expires: float
    threshold: int
    keys: tuple[str, ...]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Warned:
    """A sentence without its full stop. `bad`: something does not work, or will soon not."""

    code: str
    bad: bool
    text: str
    hint: str = ""


@dataclass(frozen=True)
class Standing:
    roles: tuple[Role, ...]
    warnings: tuple[Warned, ...]
    fingerprint: str  # SHA-256 of 1.root.json, to compare with a camera's


def look(tuf_dir: Path, key_dir: Path, now: float) -> Standing:
    """Raises Misconfigured where there is no site, Corrupt when its metadata does not verify."""
    folder = Folder(tuf_dir)
    with folder.locked(shared=True):
        current = folder.current()
        first = (tuf_dir / "1.root.json").read_bytes()
    files = key_files(key_dir)
    roles = tuple(
        Role(
            content.type, content.version, content.expires.timestamp(), current.root.roles[content.type].threshold,
            tuple(current.root.roles[content.type].keyids), tuple(files.get(content.type, ())),
        )
        for content in sorted(current, key=lambda c: ROLES.index(c.type))
    )  # fmt: skip
    told = [*expiring({r.role: r.expires for r in roles}, now), *_of_keys(key_dir, files, roles[0])]
    return Standing(roles, tuple(told), hashlib.sha256(first).hexdigest())


def expiring(expires: Mapping[str, float], now: float, lifetimes: Lifetimes | None = None) -> list[Warned]:
    """What has ended or ends soon; `expires` by role, seconds since 1970."""
    lifetimes = lifetimes or Lifetimes()
    told = []
    for role in ROLES:
        left = expires[role] - now
        soon = ROOT_SOON_S if role == "root" else LEFT * float(getattr(lifetimes, role))
        if left > soon:
            continue
        how = (
            f"ended on {day(expires[role])}: cameras take no new model"
            if left <= 0
            else f"ends on {day(expires[role])}"
        )
        hint = "edged trust renew" if role == "root" else "the log says why it was not signed again; edged trust show"
        told.append(Warned(f"{role}_expires", left <= 0 or role != "root", f"the signature of {role} {how}", hint))
    return told


def key_files(key_dir: Path) -> dict[str, list[Path]]:
    """Role -> its key files, by their names; {} where the folder may not be looked at."""
    try:
        there = sorted(key_dir.glob("*.key"))
    except OSError:
        return {}
    found: dict[str, list[Path]] = {}
    for path in there:
        role = path.name.split(".")[0].split("-")[0]
        if role in ROLES:
            found.setdefault(role, []).append(path)
    return found


def _of_keys(key_dir: Path, files: Mapping[str, Sequence[Path]], root: Role) -> list[Warned]:
    told = []
    for role in ONLINE:
        names = [p.name for p in files.get(role, ())]
        if files and f"{role}.key" not in names:
            text = f"{key_dir / f'{role}.key'} is not there: nothing new can be signed"
            told.append(Warned("key_missing", True, text, f"bring it back, or `edged trust rotate {role}`"))
        if f"{role}.next.key" in names:
            text = f"a new key for {role} waits for the root that names it"
            told.append(Warned("rotation", False, text, "edged trust take FILE, or edged trust cancel"))
    if not files:
        text = f"the signing keys are not to be seen in {key_dir}"
        told.append(Warned("keys_elsewhere", False, text, "right if a signer of another user has them (docs/trust.md)"))
    for path in (p for paths in files.values() for p in paths):
        if path.stat().st_mode & 0o077:
            told.append(Warned("key_open", True, f"{path} can be read by others", f"chmod 600 {path}"))
    if here := files.get("root"):
        text = f"{', '.join(p.name for p in here)} lies on this box: whoever takes the box can replace every key"
        told.append(Warned("root_here", False, text, "carry it away (docs/trust.md)"))
    if len(root.keys) == root.threshold:
        text = f"all {root.threshold} root keys must sign" if root.threshold > 1 else "there is one root key"
        text += " and no spare: when one is lost, each camera must be given a new root by hand"
        told.append(Warned("no_spare", False, text, "edged trust new-key, edged trust renew --add-root"))
    return told
