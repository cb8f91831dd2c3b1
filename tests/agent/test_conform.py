"""The command line that the conformance suite drives: what it promises, against a small repository over real HTTP."""

import contextlib
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

from agent import conform

TOP = ("root", "targets", "snapshot", "timestamp")


class Mirror:
    """A repository in memory: `roles` are targets roles by name, `files` what is served, `asked` what was fetched."""

    def __init__(self):
        self.keys = {name: CryptoSigner.generate_ed25519() for name in TOP}
        expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=7)
        self.root = Root(expires=expires, consistent_snapshot=True)
        for name in TOP:
            self.root.add_key(self.keys[name].public_key, name)
        self.roles = {"targets": Targets(expires=expires)}
        self.snapshot, self.timestamp = Snapshot(expires=expires), Timestamp(expires=expires)
        self.files, self.asked, self.version, self.expires = {}, [], 0, expires
        self.first = self._signed(self.root, self.keys["root"])

    def delegate(self, parent, name, paths, signer):
        """`parent` lets whoever holds `signer` speak for `paths` as `name`."""
        targets = self.roles[parent]
        targets.delegations = targets.delegations or Delegations({}, roles={})
        targets.delegations.roles[name] = DelegatedRole(name, [], 1, False, paths)
        targets.add_key(signer.public_key, name)
        self.roles.setdefault(name, Targets(expires=self.expires))
        self.keys.setdefault(name, signer)

    def add(self, role, path, data):
        target = TargetFile.from_data(path, data, ["sha256"])
        self.roles[role].targets[path] = target
        folder, _, name = path.rpartition("/")
        self.files[f"/targets/{folder}{'/' if folder else ''}{target.hashes['sha256']}.{name}"] = data

    def publish(self):
        self.version += 1
        v = self.version
        for name, targets in self.roles.items():
            targets.version = v
            self.snapshot.meta[f"{name}.json"] = MetaFile(v)
            self.files[f"/metadata/{v}.{name}.json"] = self._signed(targets, self.keys[name])
        self.snapshot.version = self.timestamp.version = v
        self.timestamp.snapshot_meta = MetaFile(v)
        self.files[f"/metadata/{v}.snapshot.json"] = self._signed(self.snapshot, self.keys["snapshot"])
        self.files["/metadata/timestamp.json"] = self._signed(self.timestamp, self.keys["timestamp"])

    def _signed(self, content, signer):
        metadata = Metadata(content)
        metadata.sign(signer)
        return metadata.to_bytes()


@pytest.fixture
def mirror():
    made = Mirror()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            made.asked.append(self.path)
            data = made.files.get(self.path, made.files.get(unquote(self.path)))
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *_args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def client(mirror, tmp_path):
    root = tmp_path / "first-root.json"
    root.write_bytes(mirror.first)
    side = SimpleNamespace(metadata=tmp_path / "metadata", targets=tmp_path / "targets", root=root)
    side.metadata.mkdir()
    side.targets.mkdir()

    def run(*verb, names=()):
        given = ["--metadata-dir", str(side.metadata), "--metadata-url", f"{mirror.url}/metadata"]
        if names:
            given += ["--target-dir", str(side.targets), "--target-base-url", f"{mirror.url}/targets"]
        return conform.main([*given, *(word for name in names for word in ("--target-name", name)), *verb])

    side.run = run
    side.download = lambda *names: run("download", names=names)
    side.have = lambda: sorted(p.read_bytes() for p in side.targets.iterdir())
    return side


def test_init_asks_for_nothing_refresh_trusts_under_unversioned_names_and_a_target_comes(mirror, client):
    mirror.add("targets", "cars/7.onnx", b"model")
    mirror.publish()
    assert client.run("init", str(client.root)) == 0
    assert mirror.asked == []
    assert client.run("refresh") == 0
    names = {p.name for p in client.metadata.iterdir() if p.name.endswith(".json")}
    assert names == {"root.json", "timestamp.json", "snapshot.json", "targets.json"}
    assert client.download("cars/7.onnx") == 0
    assert client.have() == [b"model"]


def test_what_is_there_with_the_right_hash_is_not_fetched_again_and_what_changed_takes_its_place(mirror, client):
    mirror.add("targets", "a", b"one")
    mirror.publish()
    client.run("init", str(client.root))
    assert client.download("a") == client.download("a") == 0
    assert sum(path.startswith("/targets/") for path in mirror.asked) == 1
    mirror.add("targets", "a", b"two")
    mirror.publish()
    assert client.download("a") == 0
    assert client.have() == [b"two"]


@pytest.mark.parametrize(
    "path", ["../x", "../../metadata/root.json", "/x", "a/../../x", "a?b#c", "%2e%2e/x", "x\\..\\y"]
)
def test_whatever_its_path_a_target_stays_in_its_folder(mirror, client, tmp_path, path):
    mirror.add("targets", path, b"model")
    mirror.publish()
    client.run("init", str(client.root))
    client.run("refresh")
    before = {p for p in tmp_path.rglob("*") if client.targets not in p.parents}
    client.download(path)  # a path that HTTP cannot carry may fail
    assert {p for p in tmp_path.rglob("*") if client.targets not in p.parents} == before
    assert client.have() in ([b"model"], [])
    assert (client.metadata / "root.json").read_bytes() == mirror.first


@pytest.mark.parametrize("path", [".", ".."])
def test_a_path_that_is_a_folder_fails_and_nothing_is_written(mirror, client, path):
    mirror.add("targets", path, b"model")
    mirror.publish()
    client.run("init", str(client.root))
    assert client.download(path) == 1
    assert client.have() == []


def test_failures_leave_with_1_and_a_sentence(mirror, client, capsys):
    mirror.publish()
    assert client.run("refresh") == 1  # not initialised
    (bad := client.root.with_name("bad.json")).write_bytes(b"{}")
    assert client.run("init", str(bad)) == 1
    assert client.run("init", str(client.root.with_name("none.json"))) == 1
    assert client.run("init", str(client.root)) == 0
    assert client.download("nobody/knows.onnx") == 1
    assert client.run("download") == 1
    mirror.files["/metadata/timestamp.json"] = b"{}"
    assert client.run("refresh") == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("edged-agent-conform: ")]
    assert len(said) == 6
    assert said[0].endswith(" trusts no root yet: init comes first")
    assert (
        said[2] == f"edged-agent-conform: cannot read {client.root.with_name('none.json')}: No such file or directory"
    )
    assert "nobody vouches for nobody/knows.onnx" in said[3]
    assert "--target-name, --target-base-url, --target-dir" in said[4]


@contextlib.contextmanager
def cached_by_name(broken, monkeypatch):
    """`broken`: python-tuf as it was before 7.0.1, which asked only whether a role was loaded, not on whose word."""
    with monkeypatch.context() as patch:
        if broken:
            patch.setattr(TrustedMetadataSet, "contains", lambda self, role, _delegator: role in self._trusted_set)
        yield


@pytest.mark.parametrize("broken", [False, True], ids=["", "control"])
def test_a_cached_role_is_verified_against_the_delegator_of_this_look_up(mirror, client, monkeypatch, broken):
    ours, theirs = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
    for team in "ab":
        mirror.delegate("targets", f"parent-{team}", [f"team-{team}/*"], CryptoSigner.generate_ed25519())
    mirror.delegate("parent-a", "release", ["team-a/*"], ours)  # what is published is signed by this one only
    mirror.delegate("parent-b", "release", ["team-b/*"], theirs)
    mirror.add("release", "team-a/root", b"right")
    mirror.add("release", "team-b/root", b"malicious")
    mirror.publish()
    client.run("init", str(client.root))
    with cached_by_name(broken, monkeypatch):
        came = client.download("team-a/root", "team-b/root")
    assert (came, client.have()) == ((0, [b"malicious", b"right"]) if broken else (1, [b"right"]))
