"""A repository, a camera's view of it by python-tuf's own client, a store with rows in every table that publish reads."""

import hashlib
from types import SimpleNamespace

import pytest
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from edged.publish.trust import Repository, make_keys
from edged.storage import cameras, candidates, cycles, frames, labels, models, reports, snapshots, verdicts
from edged.storage.store import Store
from edged.wire.messages import Frame, FrameHeader, Region

NOW = 1_790_000_000.0


class FakeClock:
    """Time that moves only when told; sleeping moves it."""

    def __init__(self):
        self.time, self.slept = NOW, []

    def now(self):
        return self.time

    def monotonic(self):
        return self.time - NOW

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.time += seconds


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture(scope="session")
def key_dir(tmp_path_factory):
    """Keys are only read after they are made: one set serves all tests that do not change them."""
    folder = tmp_path_factory.mktemp("keys") / "tuf"
    make_keys(folder)
    return folder


@pytest.fixture
def repo(tmp_path, key_dir, clock):
    repository = Repository(tmp_path / "tuf", key_dir, clock)
    repository.init()
    return repository


class Wire(FetcherInterface):
    """What a camera can fetch: metadata files by name, targets by path; a test may put anything into it."""

    def __init__(self):
        self.files, self.targets = {}, {}

    def _fetch(self, url):
        base, _, name = url.partition("://")[2].partition("/")
        found = self.files.get(name) if base == "meta" else self.targets.get(name)
        if found is None:
            raise DownloadHTTPError(f"no {name}", 404)
        return iter([found])


class CameraSide:
    """A camera that was given the first root: it remembers what it trusted, as a real one does on its disk."""

    def __init__(self, folder, root, clock):
        self.folder, self.root, self.clock = folder, root, clock
        self.wire = Wire()
        folder.mkdir()

    def take(self, path):
        """Refresh, then download one target; returns its bytes, None if it is not signed."""
        from datetime import UTC, datetime

        updater = Updater(
            str(self.folder), "mem://meta/", str(self.folder), "mem://target/", self.wire, bootstrap=self.root
        )
        updater._trusted_set.reference_time = datetime.fromtimestamp(self.clock.now(), UTC)
        updater.refresh()
        info = updater.get_targetinfo(path)
        if info is None:
            return None
        with open(updater.download_target(info, str(self.folder / "download")), "rb") as file:
            return file.read()

    def sees(self, repository, *models):
        """Bring the wire up to date with a repository and model files as (path, bytes)."""
        self.wire.files = repository.files()
        for path, data in models:
            parent, name = path.rsplit("/", 1)
            self.wire.targets[f"{parent}/{hashlib.sha256(data).hexdigest()}.{name}"] = data


@pytest.fixture
def camera(tmp_path, repo, clock):
    side = CameraSide(tmp_path / "camera", (tmp_path / "tuf" / "1.root.json").read_bytes(), clock)
    side.sees(repo)
    return side


@pytest.fixture
def store(tmp_path, clock):
    with Store.open(tmp_path / "data", clock=clock, site_key=bytes(range(32))) as opened:
        yield opened


KNOWN_ANSWER = {"seeds": [1, 2], "px": 32, "logits": [[0.25, -1.5], [0.5, 3.0]], "tolerance": 0.01}


class Rows:
    """Puts rows into a store, in the domain's words."""

    def __init__(self, store):
        self.store = store
        self.frames = 0

    def candidate(self, content=b"model " * 10_000, passed=True, name="mobilenet-0.25"):
        store = self.store
        snapshot = snapshots.add(store, {"classes": ["a", "b"], "train": [], "tune": [], "holdout": []})
        running = cycles.running(store)
        cycle = running.id if running else cycles.start(store, "labels of the night shift at gate-north")
        sha256 = models.put_model(store, content)
        made = candidates.add(
            store, cycle, name=name, sha256=sha256, size=len(content), snapshot=snapshot, recipe={"seed": 1}
        )
        body = {
            "device": "atom-x5-e3940", "sha256": sha256, "size": len(content), "accuracy": {"value": 0.9, "n": 300},
            "per_camera": {"gate-north": {"value": 0.8}}, "fps_device": {"value": 40.0, "how": "estimated"},
        }  # fmt: skip
        report = reports.add(store, made, "atom-x5-e3940", body)
        verdicts.add(store, made, report, passed, ["accuracy 90.0 % is enough" if passed else "accuracy fell by 9.0 %"])
        return made

    def labelled_crop(self, jpeg, class_="car", camera="gate-north"):
        self.frames += 1
        cameras.seen(self.store, camera)
        header = FrameHeader(
            id=f"b1.{self.frames}", ts=NOW - 10, seq=self.frames, boot="b1", w=640, h=480,
            regions=(Region(1, 2, 30, 40, "van", 0.5, 0.1),),
        )  # fmt: skip
        scrubbed = SimpleNamespace(
            jpeg=b"whole picture", width=640, height=480, crops=(jpeg,), regions={"face": 1, "plate": 0}, ms={}
        )
        frames.add(self.store, Frame(camera, header, b"raw %d" % self.frames, "frame", NOW), scrubbed)
        sample = f"{camera}:{header.id}:0"
        labels.add(self.store, sample, class_, "human", "Ada Lovelace")
        return sample


@pytest.fixture
def rows(store):
    return Rows(store)


@pytest.fixture
def known_answer():
    return KNOWN_ANSWER
