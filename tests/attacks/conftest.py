"""A camera that runs release 1, a second release that is signed and not yet offered, and somebody between the two.

`accepted` is the one judge of all attacks: what the camera holds, runs, asked for or believed that it must not.
"""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from agent.active import Probation
from edged.publish import deliver
from edged.wire import topics
from edged.wire.link import Message
from edged.wire.messages import Desired, encode
from tests.agent.conftest import CAMERA, SITE, Site, classifier

MIB = 2**20


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Victim(Site):
    """See the module. `first` runs, `second` is signed as release 2 (eight chunks), `evil` nobody signed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.options = {"probation": Probation(frames=3, seconds=30.0, shadow=0.0)}
        self.first, self.second = classifier(1), classifier(2, padding=30_000)
        self.evil = classifier(66, padding=30_000)
        self.start()
        self.install(1, self.first)
        self.old_files = self.box.repository.files()  # the signed metadata of the time before release 2
        self.desired = self.box.release(2, self.second)
        self.honest = {sha(self.first), sha(self.second)}
        self.box.models[sha(self.evil)] = self.evil  # whoever asks for it gets it
        self.box.wants.clear()
        self.box.reports.clear()
        self.time = self.agent.updater.trust._time() - self.clock.now()
        self.files_before = self.outside()

    # --- what the somebody can do

    def wait_for_chunks(self) -> None:
        """Release 2 is offered; the camera asks for its chunks and gets none."""
        self.box.serve = False
        self.box.offer(self.desired)
        self.until(lambda: self.box.wants)

    def chunk(self, sha256: str, data: bytes, retain: bool = False) -> None:
        self.box.link.publish(topics.model(SITE, f"chunk/{sha256}"), data, retain=retain)

    def meta(self, name: str, data: bytes) -> None:
        self.box.link.publish(topics.model(SITE, f"meta/{name}"), data, retain=True)

    def metas(self, files: dict[str, bytes]) -> None:
        for name, data in files.items():
            self.meta(name, data)

    def says(self, leaf: str, payload: bytes, camera: str = CAMERA, retain: bool = False) -> None:
        self.box.link.publish(topics.cam(SITE, camera, leaf), payload, retain=retain)

    def delivered(self, topic: str, payload: bytes) -> None:
        """A broken broker hands the camera a message that is not for it."""
        self.agent._link.received.append(Message(topic, payload))

    def evil_wish(self, number: int = 66, data: bytes | None = None) -> Desired:
        return Desired(f"job-{number}", "parking", number, f"parking/{number}.onnx", sha(data or self.evil))

    @property
    def pieces(self) -> list[tuple[str, bytes]]:
        return [(sha(piece), piece) for piece in deliver.chunks(self.second)]

    @property
    def evil_pieces(self) -> list[tuple[str, bytes]]:
        return [(sha(piece), piece) for piece in deliver.chunks(self.evil)]

    @property
    def part(self):
        """What is here of the file that is being fetched, None when none is."""
        download = self.agent.updater._download
        return download.part if download else None

    # --- what came of it

    def outside(self) -> set[Path]:
        """Files outside the camera's state directory."""
        return {p for p in self.folder.rglob("*") if not {"state", "box"} & set(p.relative_to(self.folder).parts)}

    def accepted(self) -> list[str]:
        """What got in that must not."""
        found = []
        slots = self.agent.active.slots
        for name in "ab":
            path = slots.folder / name / "model.onnx"
            if path.exists() and sha(path.read_bytes()) not in self.honest:
                found.append(f"slot {name} holds bytes that nobody signed")
        if self.agent.active.slot is None or self.agent.active.slot.sha256 not in self.honest:
            found.append("it runs what nobody signed, or nothing")
        if strange := [w.sha256[:8] for w in self.box.wants if w.sha256 not in self.honest]:
            found.append(f"it asked for {strange}")
        if self.part is not None and self.part.total == len(self.pieces):
            content = deliver.chunks(self.part.path.read_bytes())
            here = set(range(self.part.total)) - set(self.part.missing())
            if wrong := [i for i in here if content[i] != self.pieces[i][1]]:
                found.append(f"it takes chunks {wrong} for good")
        record = self.agent.updater.record
        if record is not None and record.desired.sha256 not in self.honest and record.phase not in ("metadata", "done"):
            found.append(f"it goes on with {record.desired.target}")
        if any(r.job == "job-66" and r.status == "SUCCEEDED" for r in self.box.reports):
            found.append("it reports success")
        inbox = self.agent.updater.inbox.files
        if len(inbox) > 300 or sum(map(len, inbox.values())) > 16 * MIB:
            found.append(f"it keeps {len(inbox)} files of unverified metadata")
        if abs(self.agent.updater.trust._time() - self.clock.now() - self.time) > 1.0:
            found.append("it believes another time")
        if self.outside() != self.files_before:
            found.append(f"it wrote {self.outside() - self.files_before}")
        return found

    def heal(self) -> None:
        """The somebody has gone, and what was left of it on the broker: the next release arrives."""
        for name in set(self.agent.updater.inbox.files) - set(self.box.repository.files()):
            self.meta(name, b"")
        last = classifier(9)
        desired = self.box.release(9, last)
        self.honest.add(sha(last))
        self.box.serve = True
        self.box.offer(desired)
        self.see(6)
        self.until(lambda: self.box.over("job-9"))
        assert self.box.last.status == "SUCCEEDED", self.box.last
        assert self.agent.active.slot.release == 9


class Thief:
    """Signs metadata with the keys that were stolen, and with keys of its own where it has none."""

    def __init__(self, victim: Victim, *stolen: str) -> None:
        self.victim = victim
        keys = victim.folder / "box" / "keys"
        self.signers = {role: CryptoSigner.generate_ed25519() for role in ("root", "targets", "snapshot", "timestamp")}
        for role in stolen:
            private = load_pem_private_key((keys / f"{role}.key").read_bytes(), None)
            self.signers[role] = CryptoSigner(private)
        files = victim.box.repository.files()
        newest = lambda kind: max((n for n in files if n.endswith(f".{kind}.json")), key=lambda n: int(n.split(".")[0]))  # noqa: E731
        self.root = Metadata[Root].from_bytes(files[newest("root")]).signed
        self.targets = Metadata[Targets].from_bytes(files[newest("targets")]).signed
        self.snapshot = Metadata[Snapshot].from_bytes(files[newest("snapshot")]).signed
        self.timestamp = Metadata[Timestamp].from_bytes(files["timestamp.json"]).signed

    def signed(self, content, *roles: str) -> bytes:
        """`content` signed by the thief's keys for `roles` (its own role's when none are named)."""
        metadata = Metadata(content)
        for role in roles or (content.type,):
            metadata.sign(self.signers[role], append=True)
        return metadata.to_bytes()

    def add(self, path: str, data: bytes, like: str = "parking/2.onnx", **custom) -> None:
        """Describe `data` as the target `path`, the way that `like` is described."""
        target = TargetFile.from_data(path, data, ["sha256"])
        described = json.loads(json.dumps(self.targets.targets[like].unrecognized_fields["custom"]))
        number = int(path.split("/")[1].split(".")[0])
        described |= {"release": number, "chunks": deliver.digests(data)} | custom
        target.unrecognized_fields["custom"] = described
        self.targets.targets[path] = target

    def publish(self, step: int = 1) -> dict[str, bytes]:
        """Files of the next versions of all three roles."""
        self.targets.version += step
        targets = self.signed(self.targets)
        self.snapshot.version += step
        self.snapshot.meta["targets.json"] = MetaFile.from_data(self.targets.version, targets, ["sha256"])
        snapshot = self.signed(self.snapshot)
        self.timestamp.version += step
        self.timestamp.snapshot_meta = MetaFile.from_data(self.snapshot.version, snapshot, ["sha256"])
        return {
            f"{self.targets.version}.targets.json": targets, f"{self.snapshot.version}.snapshot.json": snapshot,
            "timestamp.json": self.signed(self.timestamp),
        }  # fmt: skip

    def until(self, seconds: float) -> None:
        """All that is signed from now on lasts so long from the camera's time."""
        at = datetime.fromtimestamp(int(self.victim.clock.now() + seconds), UTC)
        for content in (self.targets, self.snapshot, self.timestamp):
            content.expires = at

    def wish(self, number: int = 66, data: bytes | None = None) -> None:
        """Tell the camera to run it."""
        self.victim.says("model/desired", encode(self.victim.evil_wish(number, data)), retain=True)


@pytest.fixture
def victim(tmp_path):
    return Victim(tmp_path)


@pytest.fixture
def thief(victim):
    """thief("timestamp", ...) holds those keys."""
    return lambda *stolen: Thief(victim, *stolen)
