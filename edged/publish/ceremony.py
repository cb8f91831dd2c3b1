"""The operator's part: root keys, the next root, keys that are replaced. The Update Framework, sections 5.3 and 6.1.

    prepare   the next root, unsigned: a file to carry to where the root keys are (and new online keys, if some rotate)
    sign      one signature more on it; needs that file and a root key, no site
    take      enough signatures of the old root's keys and of its own: it is in force, and its online keys sign

Guarantees: a root is published only when both thresholds are met and this box can sign for its online roles; online
metadata verifies by the newest root at every moment, since keys that come and keys that go sign both until then. Killed
anywhere, `take` can be repeated. One exception: where an online key is lost, the new root must come first, and until
`take` is through nothing verifies. Does not guarantee that a root key is kept well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp  # type: ignore[attr-defined]
from tuf.api.serialization.json import JSONSerializer

from edged import durable
from edged.clock import Clock, iso
from edged.errors import Corrupt, Misconfigured, Refused
from edged.publish import keyfiles
from edged.publish.folder import MAX_FILE, Current, Folder
from edged.publish.keyfiles import ONLINE, ROLES, Ask, NewRoot
from edged.publish.signing import Lifetimes, Signer

_JSON = JSONSerializer(compact=True)
SHORT = 12  # hex digits of a key's id that are shown, and are enough to name it


@dataclass(frozen=True)
class Change:
    """What the next root has that the present one has not; nothing = a new expiry."""

    threshold: int | None = None
    add: tuple[SSlibKey, ...] = ()  # root keys
    drop: tuple[str, ...] = ()  # ids of root keys, or how they begin
    rotate: tuple[str, ...] = ()  # online roles
    days: float | None = None


@dataclass(frozen=True)
class Missing:
    """Whose signatures a root lacks: `of` is "the root in force" or "the new root"; `keys` are ids that could sign."""

    of: str
    have: int
    need: int
    keys: tuple[str, ...]

    def __str__(self) -> str:
        named = ", ".join(k[:SHORT] for k in self.keys) or "none left"
        return f"{self.have} of {self.need} signatures that {self.of} asks for; sign with another of its keys: {named}"


class Ceremony:
    """Root ceremonies of the site whose metadata is in `tuf_dir` and whose online keys are in `key_dir`."""

    def __init__(self, tuf_dir: Path, key_dir: Path, clock: Clock, lifetimes: Lifetimes | None = None) -> None:
        self._folder, self._keys, self._clock = Folder(tuf_dir), key_dir, clock
        self._lifetimes = lifetimes or Lifetimes()
        self._signer = Signer(self._folder, key_dir, clock, self._lifetimes)

    def found(self, new: NewRoot) -> None:
        """Sign the first root with every root key, and empty online metadata. Raises Refused if that was done."""
        folder = self._folder
        folder.path.mkdir(mode=0o755, parents=True, exist_ok=True)
        with folder.locked():
            if folder.exists():
                raise Refused(f"{folder.path} is already a signed repository", code="exists")
            keys = [keyfiles.read(path, lambda _: new.passphrase) for path in new.files]
            root = Root(version=1, expires=self._expiry(), consistent_snapshot=True)
            for key in keys:
                root.add_key(key.public_key, "root")
            root.roles["root"].threshold = new.threshold
            for role in ONLINE:
                root.add_key(keyfiles.read(self._keys / f"{role}.key").public_key, role)
            folder.write("1.root.json", folder.signed(root, root, keys))
            first = Current(root, Timestamp(version=1), Snapshot(version=1), Targets(version=1))
            self._signer.publish(first, step=0)

    def prepare(self, change: Change) -> Metadata[Root]:
        """The next root, unsigned. Keys of roles that rotate are made, and sign beside the old ones from now on.

        Raises Refused for a root that could never be in force.
        """
        with self._folder.locked():
            root = self._folder.root()
            root.version += 1
            root.expires = self._expiry(change.days)
            self._change_root_keys(root, change)
            lost = False
            for role in change.rotate:
                path = self._keys / f"{role}.next.key"
                key = keyfiles.read(path).public_key if path.exists() else keyfiles.make(path)
                for old in list(root.roles[role].keyids):
                    if old != key.keyid:
                        root.revoke_key(old, role)
                root.add_key(key, role)
                lost = lost or not self._can_sign(self._folder.root(), role)
            lawful(root)
            if change.rotate and not lost:
                self._signer.resign()
            return Metadata(root)

    def renew(self, ask: Ask | None = None) -> int:
        """A new expiry, signed with the root keys that lie in the folder of the keys. Returns the version."""
        prepared = self.prepare(Change())
        here = self.root_keys_here() or [self._keys / "root.key"]
        for path in here:
            add_signature(prepared, keyfiles.read(path, ask), self._folder.root())
        self.take([prepared])
        return prepared.signed.version

    def take(self, signed: Sequence[Metadata[Root]]) -> list[str]:
        """Put a root in force of which `signed` are the copies that came back; returns the roles that were rotated.

        Raises Refused while signatures are missing (code below_threshold), for copies of different roots, for a root
        that does not follow the one in force, or whose online keys this box has not.
        """
        merged = merge(signed)
        new = merged.signed
        lawful(new)
        with self._folder.locked():
            chain = self._folder.roots()
            old = chain[-1].signed
            if new.version == old.version and merged.signed_bytes == chain[-1].signed_bytes:
                old = chain[-2].signed if len(chain) > 1 else old  # a take that was killed is ended
            else:
                self._require_follows(old, merged)
                for role in ONLINE:
                    keyfiles.signers(self._keys, new, role)
                known = {*old.roles["root"].keyids, *new.roles["root"].keyids}
                for keyid in set(merged.signatures) - known:
                    del merged.signatures[keyid]
                data = merged.to_bytes(_JSON)
                if len(data) > MAX_FILE:
                    raise Refused(f"this root has {len(data)} bytes; cameras take {MAX_FILE}", code="too_large")
                self._folder.write(f"{new.version}.root.json", data)
            return self._settle(old, new)

    def root(self) -> Metadata[Root]:
        """The root in force."""
        return self._folder.roots()[-1]

    def root_keys_here(self) -> list[Path]:
        """Root keys that have not been carried away."""
        return sorted(p for p in self._keys.glob("root*.key"))

    def missing(self, prepared: Metadata[Root]) -> list[Missing]:
        """What a prepared root lacks to follow the one in force."""
        return missing(self._folder.root(), prepared)

    def cancel(self) -> list[Path]:
        """Destroy keys that a rotation has prepared and no root names. Returns their paths."""
        with self._folder.locked():
            root, gone = self._folder.root(), []
            for role in ONLINE:
                path = self._keys / f"{role}.next.key"
                if path.exists() and not keyfiles.is_named(root, role, keyfiles.read(path)):
                    keyfiles.destroy(path)
                    gone.append(path)
            return gone

    def _settle(self, old: Root, new: Root) -> list[str]:
        """After the root: online metadata by its keys, then the files of keys that are gone."""
        rotated = [role for role in ONLINE if set(old.roles[role].keyids) != set(new.roles[role].keyids)]
        try:
            current = self._folder.current(new)
        except Corrupt:
            if not rotated:
                raise
            before = self._folder.current(old)  # an old key was lost, so that both could not sign
            current = Current(new, before.timestamp, before.snapshot, before.targets)
        if rotated or any(self._keys.glob("*.next.key")):
            self._signer.publish(current)
        keyfiles.promote(self._keys, new)
        return rotated

    def _change_root_keys(self, root: Root, change: Change) -> None:
        asked = root.roles["root"]
        for begin in change.drop:
            found = [keyid for keyid in asked.keyids if begin and keyid.startswith(begin.lower())]
            if len(found) != 1:
                there = ", ".join(k[:SHORT] for k in asked.keyids)
                raise Refused(f"{begin!r} names {len(found)} root keys; there are {there}", code="bad_key")
            root.revoke_key(found[0], "root")
        for key in change.add:
            if key.keyid in asked.keyids:
                raise Refused(f"{key.keyid[:SHORT]} is a root key already", code="exists")
            root.add_key(key, "root")
        if change.threshold is not None:
            asked.threshold = change.threshold

    def _require_follows(self, old: Root, new: Metadata[Root]) -> None:
        if new.signed.version != old.version + 1:
            raise Refused(
                f"root {new.signed.version} does not follow root {old.version}, which is in force", code="wrong_version"
            )
        now = self._clock.now()
        if new.signed.expires.timestamp() <= now:
            raise Refused(
                f"root {new.signed.version} ends {iso(new.signed.expires.timestamp())}, which is past", code="expired"
            )
        if lacks := missing(old, new):
            raise Refused(
                f"root {new.signed.version} has " + "; and ".join(str(m) for m in lacks), code="below_threshold",
                hint="edged trust sign FILE --key KEYFILE, then edged trust take FILE",
            )  # fmt: skip

    def _can_sign(self, root: Root, role: str) -> bool:
        try:
            keyfiles.signers(self._keys, root, role)
        except Misconfigured:
            return False
        return True

    def _expiry(self, days: float | None = None) -> datetime:
        lifetimes = self._lifetimes if days is None else Lifetimes(root=days * 86400)
        return lifetimes.expiry("root", self._clock.now())


def lawful(root: Root) -> None:
    """Raises Refused for a root that no site should have."""
    if not root.consistent_snapshot or set(root.roles) != set(ROLES):
        raise Refused("this is no root of an edged site: four roles and consistent snapshots", code="bad_root")
    for role in ROLES:
        asked = root.roles[role]
        if not 1 <= asked.threshold <= len(asked.keyids):
            raise Refused(
                f"{asked.threshold} of {len(asked.keyids)} {role} keys must sign: at least 1, at most all of them",
                code="threshold",
            )
    online = {root.keys[keyid].keyval["public"] for role in ONLINE for keyid in root.roles[role].keyids}
    values = [root.keys[keyid].keyval["public"] for keyid in root.roles["root"].keyids]
    if len(set(values)) < len(values):
        raise Refused("one root key stands there twice under two names: it would count as two", code="bad_root")
    if online & set(values):
        raise Refused("a root key signs online as well: whoever takes the box would have it", code="bad_root")


def missing(old: Root, new: Metadata[Root]) -> list[Missing]:
    """What `new` lacks of the threshold of `old` and of its own; [] = it may follow."""
    told = []
    for of, root in (("the root in force", old), ("the new root", new.signed)):
        found = root.get_verification_result("root", new.signed_bytes, new.signatures)
        if not found:
            told.append(Missing(of, len(found.signed), found.threshold, tuple(sorted(found.unsigned))))
    same = set(old.roles["root"].keyids) == set(new.signed.roles["root"].keyids)
    return told[:1] if same and len({m.need for m in told}) == 1 else told


def parse(data: bytes, name: str) -> Metadata[Root]:
    """A root file, prepared or signed; raises Refused."""
    try:
        metadata = Metadata[Root].from_bytes(data)
    except RepositoryError as e:
        raise Refused(f"{name} is not a root file: {e}", code="bad_root") from e
    if not isinstance(metadata.signed, Root):
        raise Refused(f"{name} is a {metadata.signed.type}, not a root", code="bad_root")
    return metadata


def read_root(path: Path) -> Metadata[Root]:
    """Raises Refused for a file that cannot be read or is no root."""
    try:
        if path.stat().st_size > MAX_FILE:
            raise Refused(f"{path} is too large for a root", code="bad_root")
        return parse(path.read_bytes(), str(path))
    except OSError as e:
        raise keyfiles.unreadable(path, e) from e


def write_root(path: Path, root: Metadata[Root]) -> None:
    """Whole or not at all, also on a stick."""
    durable.write(path, root.to_bytes(_JSON))


def merge(copies: Sequence[Metadata[Root]]) -> Metadata[Root]:
    """One root with the signatures of all its copies; raises Refused when they are not copies of one."""
    first = copies[0]
    merged = Metadata(first.signed, dict(first.signatures))
    for copy in copies[1:]:
        if copy.signed_bytes != first.signed_bytes:
            raise Refused("these are different roots, not copies of one", code="different")
        for keyid, signature in copy.signatures.items():
            key = merged.signed.keys.get(keyid)
            if keyid not in merged.signatures or (key is not None and not _verifies(key, merged, keyid)):
                merged.signatures[keyid] = signature
    return merged


def _verifies(key: object, root: Metadata[Root], keyid: str) -> bool:
    result = root.signed.get_verification_result("root", root.signed_bytes, root.signatures)
    return keyid in result.signed


def add_signature(prepared: Metadata[Root], signer: CryptoSigner, old: Root | None = None) -> str:
    """Sign a prepared root; returns the key's id. Raises Refused for a key that is no root key of the old or new root.

    Without the old root at hand only keys of the new one are known; a key that leaves needs `old`.
    """
    keyid: str = signer.public_key.keyid
    roots = [prepared.signed, *([old] if old is not None else [])]
    if not any(keyfiles.is_named(root, "root", signer) for root in roots):
        hint = "" if old is not None else "a key that leaves: put the root in force beside the file, as <n>.root.json"
        raise Refused(
            f"{keyid[:SHORT]} is no root key of root {prepared.signed.version}"
            + (f" nor of root {old.version}" if old is not None else "") + ": its signature would not count",
            code="wrong_key", hint=hint,
        )  # fmt: skip
    prepared.sign(signer, append=True)
    return keyid


def differences(old: Root, new: Root) -> list[str]:
    """What a root changes, in sentences, for whoever is to sign it."""
    told = [f"root {old.version} -> {new.version}, expires {iso(new.expires.timestamp())}"]
    for role in ROLES:
        before, after = old.roles[role], new.roles[role]
        gone, come = set(before.keyids) - set(after.keyids), set(after.keyids) - set(before.keyids)
        told += [f"{role}: without key {k[:SHORT]}" for k in sorted(gone)]
        told += [f"{role}: with new key {k[:SHORT]}" for k in sorted(come)]
        if before.threshold != after.threshold:
            told.append(f"{role}: {after.threshold} signatures needed instead of {before.threshold}")
    return told


def described(root: Root) -> list[str]:
    """What a root says, in sentences, for whoever has nothing to compare it with."""
    told = [f"root {root.version}, expires {iso(root.expires.timestamp())}"]
    for role in ROLES:
        asked = root.roles[role]
        ids = ", ".join(k[:SHORT] for k in asked.keyids)
        told.append(f"{role}: {asked.threshold} of {len(asked.keyids)} keys must sign ({ids})")
    return told
