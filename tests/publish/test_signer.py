"""The process that reads the keys: what it signs, what it does not, and what is left when it dies."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from tuf.api.metadata import Metadata

from edged.clock import SystemClock
from edged.errors import Corrupt, EdgedError, Misconfigured, Refused, Unavailable
from edged.publish import keyfiles, request, signer, signing
from edged.publish.folder import Folder
from edged.publish.freshness import AGAIN_S, Freshness
from edged.publish.signer import Child, Socket
from edged.publish.signing import MAX_TARGETS
from edged.publish.trust import Lifetimes, Repository
from edged.storage import alarms

MODEL = b"a model" * 1000
NEWER = b"a newer model" * 1000
ROOT = Path(__file__).parents[2]
# Python 3.12 and later warn of a fork beside threads; what is forked here touches none of them
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
SOMEBODY, DAEMON = 54_321, 54_322  # users that own nothing


@pytest.fixture(scope="module")
def founded(tmp_path_factory, key_dir):
    folder = tmp_path_factory.mktemp("founded")
    shutil.copytree(key_dir, folder / "keys")
    Repository(folder / "tuf", folder / "keys", SystemClock()).init()
    return folder


@pytest.fixture
def home(tmp_path, founded):
    shutil.copytree(founded, tmp_path / "home")
    return tmp_path / "home"


def repository(home, asked=None):
    return Repository(home / "tuf", home / "keys", SystemClock(), signer=asked)


def as_user(user, do):
    """A forked process, of another user if one is given: the interpreter of a developer is often root's alone to read."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if user is not None:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
            do()
            code = 0
        finally:
            os._exit(code)
    return pid


def serve(line, home):
    """The signer's process, its stdin and stdout one socket."""
    os.dup2(line.fileno(), 0)
    os.dup2(line.fileno(), 1)
    sys.stdin, sys.stdout = os.fdopen(0, "r"), os.fdopen(1, "w")
    signer.serve(home / "tuf", home / "keys")


class Inetd:
    """What systemd does with a socket of Accept=yes: a process for each connection, its stdin and stdout the socket."""

    def __init__(self, path, home, user=None):
        self.path, self._home, self._user = path, home, user
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        path.chmod(0o666)
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        while True:
            try:
                line, _ = self._listening.accept()
            except OSError:
                return
            with line:
                pid = as_user(self._user, lambda line=line: serve(line, self._home))
            os.waitpid(pid, 0)

    def close(self):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(20)


@pytest.fixture(params=["here", "child", "socket"])
def repo(request, home, tmp_path):
    """The same behaviour whoever has the keys."""
    if request.param == "here":
        yield repository(home)
    elif request.param == "child":
        yield repository(home, Child(home / "tuf", home / "keys"))
    else:
        serving = Inetd(tmp_path / "signer.sock", home)
        yield repository(home, Socket(serving.path))
        serving.close()


def test_whoever_has_the_keys_the_same_is_signed_and_refused(repo, home):
    repo.add_target("vehicle/1.onnx", MODEL, {"release": 1, "classes": ["a", "b"], "hardware": ["generic"]})
    before = repo.files()
    assert repo.add_target("vehicle/1.onnx", MODEL, repo.targets()["vehicle/1.onnx"].custom).length == len(MODEL)
    assert not repo.refresh_timestamp()
    assert repo.files() == before
    with pytest.raises(Refused, match="never reused") as e:
        repo.add_target("vehicle/1.onnx", NEWER, {"release": 1})
    assert e.value.code == "exists"
    repo.add_target("vehicle/2.onnx", NEWER, {"release": 2}, remove=["vehicle/1.onnx"])
    assert set(repo.targets()) == {"vehicle/2.onnx"}
    assert repo.remove_target("vehicle/2.onnx")
    assert not repo.remove_target("vehicle/2.onnx")
    (home / "keys" / "snapshot.key").unlink()
    before = repo.files()
    with pytest.raises(Misconfigured, match=r"snapshot\.key"):
        repo.add_target("vehicle/3.onnx", MODEL, {})
    assert repo.files() == before
    (home / "tuf" / "timestamp.json").write_bytes(b"{}")
    with pytest.raises(Corrupt):
        repo.add_target("vehicle/3.onnx", MODEL, {})


# what a daemon in somebody else's hands may ask for


def here(home):
    return signing.Signer(Folder(home / "tuf"), home / "keys", SystemClock(), Lifetimes())


def raw(home, document):
    """What the signer answers to bytes on its stdin."""
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    child = Child(home / "tuf", home / "keys")
    done = subprocess.run(
        child._command, input=data, capture_output=True, env=signer.environment(), timeout=60, check=True
    )
    return msgspec.json.decode(done.stdout, type=request.Reply)


ADD = {"type": "add", "path": "vehicle/1.onnx", "length": 3, "sha256": "0" * 64, "custom": {}}


@pytest.mark.parametrize(
    "asked",
    [
        b"", b"{", b"[" * 100_000, b"\xff\xfe", {"type": "root"}, {"type": "take", "root": {}}, {"type": "sign", "bytes": ""},
        ADD | {"version": 1}, ADD | {"expires": "2099-01-01T00:00:00Z"}, ADD | {"type": "delegate"},
        ADD | {"path": "../../keys/targets.key"}, ADD | {"path": "vehicle/1.onnx\n"}, ADD | {"path": "root.json"},
        ADD | {"sha256": "0" * 63}, ADD | {"length": -1}, ADD | {"custom": {"x": 1.5}}, ADD | {"custom": {"release": 2}},
        ADD | {"custom": {"name": "other"}}, ADD | {"custom": {"hardware": []}}, ADD | {"custom": {"hardware": ["Ü"]}},
        ADD | {"custom": {"min_agent": "latest"}}, ADD | {"custom": {"classes": ["a", "a"]}},
        ADD | {"custom": {"pad": "x" * 2**20}}, {"type": "remove", "path": "timestamp.json"},
    ],
)  # fmt: skip
def test_what_is_not_allowed_is_refused_and_nothing_is_signed(home, asked):
    before = {p.name: p.read_bytes() for p in (home / "tuf").iterdir()}
    data = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    with pytest.raises(Refused, match=r"\w"):
        here(home).answer(request.read(data))
    assert {p.name: p.read_bytes() for p in (home / "tuf").iterdir()} == before


@pytest.mark.parametrize("asked", [b"", {"type": "root"}, ADD | {"version": 9}, b"x" * (request.MAX_BYTES + 9)])
def test_the_process_answers_what_it_does_not_do(home, asked):
    assert raw(home, asked).family == "refused"


def test_a_change_that_is_allowed_raises_each_version_by_one_and_leaves_the_root(home):
    before = {n: Metadata.from_bytes(d).signed.version for n, d in repository(home).files().items()}
    assert raw(home, ADD).changed
    after = {n: Metadata.from_bytes(d).signed.version for n, d in repository(home).files().items()}
    assert sorted(before.values()) == [1, 1, 1, 1]
    assert after == {"1.root.json": 1, "timestamp.json": 2, "2.snapshot.json": 2, "2.targets.json": 2}
    (home / "keys" / "targets.key").unlink()  # the control: the request alone signs nothing
    assert raw(home, ADD | {"path": "vehicle/2.onnx"}).family == "misconfigured"


def test_an_expiry_is_the_signer_s_own_whatever_time_the_daemon_believes(home):
    class Late(SystemClock):
        def now(self):
            return super().now() + 5 * 86400

    repo = Repository(home / "tuf", home / "keys", Late(), signer=Child(home / "tuf", home / "keys"))
    assert not repo.refresh_timestamp()  # the daemon wants it, the signer sees no need
    repo.add_target("vehicle/1.onnx", MODEL, {})
    ends = Metadata.from_bytes(repo.files()["timestamp.json"]).signed.expires
    assert abs((ends - datetime.now(UTC)).total_seconds() - Lifetimes().timestamp) < 120


def test_an_older_state_put_back_by_the_daemon_is_not_blessed_in_parts(home):
    repo = repository(home)
    old = {p.name: p.read_bytes() for p in (home / "tuf").glob("*.json")}
    repo.add_target("vehicle/1.onnx", MODEL, {})
    for name in ("1.snapshot.json", "1.targets.json"):
        (home / "tuf" / name).write_bytes(old[name])
    for name in ("2.snapshot.json", "2.targets.json"):
        (home / "tuf" / name).unlink()
    assert raw(home, ADD).family == "corrupt"


def test_a_number_that_was_withdrawn_is_never_signed_again(home):
    """A daemon that takes a release away and signs other bytes under its number, or under one before it."""
    repo = repository(home)
    for n in (3, 5):
        repo.add_target(f"vehicle/{n}.onnx", MODEL, {})
    repo.remove_target("vehicle/5.onnx")
    for n in (1, 4, 5):
        with pytest.raises(Refused, match="never reused"):
            repo.add_target(f"vehicle/{n}.onnx", NEWER, {})
    repo.add_target("vehicle/3.onnx", MODEL, {})
    repo.add_target("other/1.onnx", NEWER, {})
    repo.add_target("vehicle/6.onnx", NEWER, {}, remove=["vehicle/3.onnx"])
    assert set(repo.targets()) == {"vehicle/6.onnx", "other/1.onnx"}
    assert repository(home, Child(home / "tuf", home / "keys")).remove_target("vehicle/6.onnx")
    with pytest.raises(Refused, match="never reused"):
        repo.add_target("vehicle/6.onnx", NEWER, {})


def test_a_list_that_no_camera_would_take_is_not_published(home):
    repo = repository(home)
    many = {"pad": ["x" * 1000] * 600}
    repo.add_target("vehicle/1.onnx", MODEL, many)
    before = repo.files()
    with pytest.raises(Refused, match="cameras take") as e:
        repo.add_target("vehicle/2.onnx", MODEL, many)
    assert e.value.code == "too_large"
    assert repo.files() == before


def test_the_number_of_models_has_an_end(home, monkeypatch):
    monkeypatch.setattr("edged.publish.signing.MAX_TARGETS", 2)
    repo = repository(home)
    for n in (1, 2):
        repo.add_target(f"vehicle/{n}.onnx", MODEL, {})
    with pytest.raises(Refused, match="2 are the most"):
        repo.add_target("vehicle/3.onnx", MODEL, {})
    repo.add_target("vehicle/3.onnx", MODEL, {}, remove=["vehicle/1.onnx"])
    assert MAX_TARGETS >= 100


# a signer that dies, hangs, lies


def wrapped(tmp_path, home, before):
    """A child that runs `before` and then is the signer."""
    script = tmp_path / "child.py"
    script.write_text(
        textwrap.dedent(before) + "\nimport sys\nfrom edged.publish import signer\nsigner.main(sys.argv[1:])\n"
    )
    child = Child(home / "tuf", home / "keys")
    child._command = [sys.executable, str(script), *child._command[-4:]]
    return child


KILLED = """
import os, signal
from edged import durable
left = [{survived}]
def step(real):
    def act(*a, **k):
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return real(*a, **k)
    return act
for name in ("open", "fsync", "replace", "unlink"):
    setattr(os, name, step(getattr(os, name)))
durable.os = os
"""


def test_a_signer_killed_at_any_call_leaves_the_old_state_or_the_new_one(tmp_path, founded):
    """Before each open, fsync, rename, unlink of a signature."""
    kills = old = 0
    for survived in range(0, 60, 2):
        home = tmp_path / f"home-{survived}"
        shutil.copytree(founded, home)
        before = repository(home).files()
        dying, why = repository(home, wrapped(tmp_path, home, KILLED.format(survived=survived))), ""
        try:
            dying.add_target("m/1.onnx", MODEL, {})
        except Unavailable as e:
            why = str(e)
        ended = not why
        assert ended or "signal 9" in why
        kills += not ended
        after = repository(home)
        assert (after.files() == before) == ("m/1.onnx" not in after.targets())
        old += after.files() == before
        after.add_target("m/1.onnx", MODEL, {})
        after.add_target("m/2.onnx", NEWER, {})
        assert {p.name for p in (home / "tuf").iterdir()} == {*after.files(), ".lock"}
        if ended:
            break
    print(f"{kills} kills, {old} left the old state")
    assert ended
    assert 0 < old < kills


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("raise SystemExit(3)", "exit code 3"), ("raise ValueError('a bug')", "ValueError: a bug"),
        ("print('{')", "cannot be read"), ("import time; time.sleep(60)", "did not answer"),
    ],
)  # fmt: skip
def test_a_signer_that_fails_is_unavailable_and_the_next_one_is_asked(tmp_path, home, monkeypatch, what, said):
    monkeypatch.setattr(signer, "SECONDS", 2.0 if "sleep" in what else 20.0)
    with pytest.raises(Unavailable, match=said) as e:
        repository(home, wrapped(tmp_path, home, what)).add_target("m/1.onnx", MODEL, {})
    assert e.value.code == "signer_down"
    monkeypatch.undo()
    repository(home, Child(home / "tuf", home / "keys")).add_target("m/1.onnx", MODEL, {})


def test_a_full_disk_is_told_as_what_it_is(tmp_path, home):
    full = "import errno\nfrom edged import durable\n"
    full += (
        "def write(p, d, **k): raise OSError(errno.ENOSPC, 'No space left on device', str(p))\ndurable.write = write\n"
    )
    with pytest.raises(OSError, match="No space left") as e:
        repository(home, wrapped(tmp_path, home, full)).add_target("m/1.onnx", MODEL, {})
    assert e.value.filename.endswith("targets.json")


def test_nobody_behind_the_socket_is_unavailable(home, tmp_path):
    with pytest.raises(Unavailable, match="does not answer") as e:
        repository(home, Socket(tmp_path / "nobody")).add_target("m/1.onnx", MODEL, {})
    assert "edged-signer.socket" in e.value.hint


# what it can reach

WALLS = """
import json, os, socket, subprocess, sys
from pathlib import Path
from edged.publish import signing
def probe(self, asked):
    found = {}
    def tries(name, do):
        try:
            do()
            found[name] = "allowed"
        except OSError as e:
            found[name] = e.strerror
    tries("socket", lambda: socket.socket())
    tries("program", lambda: subprocess.run(["/bin/true"]))
    tries("large file", lambda: (self._keys.parent / "large").write_bytes(bytes(2 << 20)))
    tries("own file", lambda: (self._keys.parent / "own").write_bytes(b"x"))
    found["environment"] = sorted(os.environ)
    (self._keys.parent / "found.json").write_text(json.dumps(found))
    return True
signing.Signer.answer = probe
"""


def test_the_signer_has_no_network_no_programs_and_no_secrets_of_the_daemon(tmp_path, home, monkeypatch):
    monkeypatch.setenv("EDGED_SECRET", "x")
    repository(home, wrapped(tmp_path, home, WALLS)).add_target("m/1.onnx", MODEL, {})
    found = json.loads((home / "found.json").read_text())
    assert found["own file"] == "allowed"  # the control
    assert found["large file"] == "File too large"
    assert found["socket"] == found["program"] == "Operation not permitted"
    assert "EDGED_SECRET" not in found["environment"]


DAEMON_LIFE = """
import sys
from pathlib import Path
opened = []
def hook(event, args):
    if event == "open" and "/keys/tuf/" in str(args[0]):
        opened.append(str(args[0]))
from edged import config, site
from edged.clock import SystemClock
folder, signs_here = Path(sys.argv[1]), sys.argv[2] == "here"
cfg = config.load(site.create(folder, site.NewSite("plant-a", ("a", "b"), ("gate",)), SystemClock()))
sys.addaudithook(hook)
class Late(SystemClock):
    def now(self):
        return super().now() + 5 * 86400
from edged.publish import release, standing
from edged.publish.freshness import Freshness
from edged.publish.trust import Repository
repo = site.open_repository(cfg, Late())
if signs_here:
    repo = Repository(cfg.data_dir / "tuf", cfg.keys_dir / "tuf", Late())
with site.open_store(cfg, key=True) as store:
    release.withdraw(store, repo)
    Freshness(store, repo, SystemClock()).step()
    repo.refresh_timestamp()
    repo.add_target("vehicle/1.onnx", b"model", {"release": 1})
    assert repo.targets() and repo.files()
    assert repo.remove_target("vehicle/1.onnx")
    standing.look(cfg.data_dir / "tuf", cfg.keys_dir / "tuf", SystemClock().now())
print(*sorted(set(Path(p).name for p in opened)))
"""


@pytest.mark.parametrize(
    ("how", "opened"), [("child", ""), ("here", "snapshot.key targets.key timestamp.key")], ids=["daemon", "control"]
)
def test_the_daemon_s_process_never_opens_a_signing_key(tmp_path, how, opened):
    """An audit hook over all that the daemon does with the repository; the control signs in its own process."""
    done = subprocess.run(
        [sys.executable, "-c", DAEMON_LIFE, str(tmp_path / "site"), how], capture_output=True, text=True, timeout=100,
        cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == opened


@pytest.fixture
def open_folder():
    """Where other users may look; pytest's own folders are closed to them."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def give(home, user):
    for path in (home, *home.rglob("*")):
        os.chown(path, user, user)
    (home / "keys").chmod(0o700)


@AS_ROOT
def test_a_daemon_of_another_user_gets_signatures_and_cannot_read_a_key(open_folder, founded):
    home = open_folder / "signer"
    shutil.copytree(founded, home)
    home.chmod(0o755)
    give(home, SOMEBODY)
    (home / "tuf" / ".lock").chmod(0o644)
    told = open_folder / "told"
    told.touch()
    told.chmod(0o666)
    serving = Inetd(open_folder / "sock", home, SOMEBODY)
    repo = repository(home, Socket(serving.path))

    def daemon():
        repo.add_target("m/1.onnx", MODEL, {})
        found = [sorted(repo.targets())]
        for what in ("keys/targets.key", "keys"):
            with pytest.raises(PermissionError) as e:
                (home / what).read_bytes()
            found.append(e.value.strerror)
        with pytest.raises(PermissionError):
            (home / "tuf" / "timestamp.json").write_bytes(b"")
        told.write_text(json.dumps(found))

    _, code = os.waitpid(as_user(DAEMON, daemon), 0)
    serving.close()
    assert code == 0
    assert json.loads(told.read_text())[:2] == [["m/1.onnx"], "Permission denied"]
    assert {p.stat().st_uid for p in (home / "tuf").iterdir()} == {SOMEBODY}


@AS_ROOT
def test_root_signs_for_the_owner_of_the_keys_as_that_owner(open_folder, founded):
    home = open_folder / "site"
    shutil.copytree(founded, home)
    give(home, SOMEBODY)
    repository(founded).targets()  # what python-tuf imports late is there before the interpreter is out of reach
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(json.dumps(ADD).encode())
        ours.shutdown(socket.SHUT_WR)
        _, code = os.waitpid(as_user(None, lambda: serve(theirs, home)), 0)
        theirs.close()
        assert code == 0
        assert msgspec.json.decode(ours.recv(65536), type=request.Reply).changed
    assert {p.stat().st_uid for p in (home / "tuf").iterdir()} == {SOMEBODY}


# the daemon goes on


class Failing:
    def __init__(self, error):
        self.error, self.asked = error, 0

    def ask(self, asked):
        self.asked += 1
        if self.error is None:
            return request.Reply()
        if isinstance(self.error, OSError):
            return request.failed(self.error)
        raise self.error


@pytest.mark.parametrize(
    "error", [Unavailable("the signer sleeps"), Misconfigured("no key"), Refused("no"), OSError(28, "No space left")]
)
def test_a_signer_that_fails_raises_an_alarm_and_is_not_asked_every_turn(tmp_path, store, clock, key_dir, error):
    asked = Failing(error)
    Repository(tmp_path / "tuf", key_dir, clock).init()
    repo = Repository(tmp_path / "tuf", key_dir, clock, signer=asked)
    keeping = Freshness(store, repo, clock)
    keeping.step()
    assert (asked.asked, alarms.standing(store)) == (0, [])
    clock.time += 4 * 86400
    for _ in range(20):
        keeping.step()
        clock.time += 0.5
    assert asked.asked == 1
    assert [a.code for a in alarms.standing(store)] == ["signer_down"]
    clock.time += AGAIN_S
    keeping.step()
    assert asked.asked == 2
    asked.error = None
    clock.time += AGAIN_S
    keeping.step()
    assert alarms.standing(store) == []
    clock.time += 2 * 86400
    keeping.step()
    assert [a.code for a in alarms.standing(store)] == ["trust_expires"]
    Repository(tmp_path / "tuf", key_dir, clock).refresh_timestamp()
    keeping.step()
    assert alarms.standing(store) == []


def test_on_a_full_disk_a_release_waits_to_be_withdrawn(tmp_path, clock, key_dir):
    Repository(tmp_path / "tuf", key_dir, clock).init()
    repo = Repository(tmp_path / "tuf", key_dir, clock, signer=Failing(OSError(28, "No space left on device")))
    with pytest.raises(Unavailable, match="disk full"):
        repo.remove_target("vehicle/1.onnx")


def test_metadata_that_was_changed_does_end_the_daemon(tmp_path, store, clock, key_dir):
    Repository(tmp_path / "tuf", key_dir, clock).init()
    repo = Repository(tmp_path / "tuf", key_dir, clock)
    (tmp_path / "tuf" / "timestamp.json").write_bytes(b"{}")
    with pytest.raises(Corrupt):
        Freshness(store, repo, clock).step()


def test_every_family_of_errors_comes_through_as_itself():
    for kind in (Refused, Unavailable, Corrupt, Misconfigured):
        with pytest.raises(kind, match="said") as e:
            request.outcome(request.failed(kind("said", hint="do", code="c")))
        assert (e.value.hint, e.value.code) == ("do", "c")
    assert issubclass(kind, EdgedError)
    assert keyfiles.ONLINE == ("targets", "snapshot", "timestamp")
