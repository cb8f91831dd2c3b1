"""The command as an operator meets it: exit codes, sentences, SIGTERM, what it imports."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from agent import arguments as options
from agent import cli, settings
from edged.clock import SystemClock
from edged.errors import Misconfigured
from edged.publish import trust


@pytest.fixture
def closed_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def arguments(tmp_path, closed_port):
    """All that `run` and `test` need, with a broker that is not there and a folder of two pictures."""
    from agent.pipeline import encode
    from edged.engine import patterns

    trust.make_keys(tmp_path / "keys")
    trust.Repository(tmp_path / "tuf", tmp_path / "keys", SystemClock()).init()
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(2):
        (pictures / f"{i}.jpg").write_bytes(encode(patterns.picture(i, 96)))
    return [
        "--site", "plant-a", "--camera", "gate", "--broker", f"127.0.0.1:{closed_port}",
        "--root", str(tmp_path / "tuf" / "1.root.json"), "--state", str(tmp_path / "state"),
        "--source", f"folder:{pictures}?kind=roi", "--fps", "0",
    ]  # fmt: skip


@pytest.fixture
def broker_away(monkeypatch):
    monkeypatch.setattr(cli, "CONNECT_S", 0.3)


def test_run_without_a_broker_fills_the_spool_and_sigterm_ends_it_well(arguments, tmp_path, capsys):
    child = subprocess.Popen([sys.executable, "-m", "agent", "run", *arguments], stderr=subprocess.PIPE, text=True)
    try:
        clock = SystemClock()
        while len(list((tmp_path / "state/spool").glob("*.frame"))) < 2:
            assert child.poll() is None, child.stderr.read()
            clock.sleep(0.05)
        assert cli.main(["run", *arguments]) == 75  # a second agent on the same state
        assert "another agent" in capsys.readouterr().err
    finally:
        child.send_signal(signal.SIGTERM)
        _, errors = child.communicate(timeout=30)
    assert child.returncode == 0, errors
    assert "Traceback" not in errors
    assert cli.main(["status", "--state", str(tmp_path / "state"), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["spool"]["frames"] == 2
    assert (status["model"], status["job"]) == (None, None)


def test_test_says_what_works_and_exits_5_without_a_broker(arguments, broker_away, capsys):
    assert cli.main(["test", *arguments, "--json"]) == 5
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert {k: v["ok"] for k, v in checks.items()} == {"root": True, "broker": False, "source": True, "model": True}
    assert "96x96" in checks["source"]["detail"]
    assert cli.main(["test", *arguments]) == 5
    assert "FAIL broker" in capsys.readouterr().out


def test_status_of_a_camera_with_a_model(site, capsys):
    site.start()
    site.install(3)
    site.agent.close()
    state = str(site.folder / "state")
    assert cli.main(["status", "--state", state]) == 0
    words = capsys.readouterr().out
    assert "parking release 3" in words
    assert "job-3: SUCCEEDED" in words
    assert cli.main(["status", "--state", state, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema_version"] == 1
    assert document["model"]["release"] == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--broker", "192.0.2.1:1883"], "in the clear"),
        (["--broker", "nowhere"], "HOST:PORT"),
        (["--camera", "Gate!"], "camera"),
        (["--ca", "x.pem"], "all of ca, cert and key"),
        (["--root", "/nonexistent"], "/nonexistent"),
        (["--source", "folder:/nonexistent"], "/nonexistent"),
        (["--source", "cctv:1"], "cctv"),
    ],
)
def test_settings_that_cannot_work_exit_78_with_a_sentence(arguments, change, words, capsys):
    assert cli.main(["run", *arguments, *change]) == 78
    assert words in capsys.readouterr().err


def test_a_root_that_is_none_is_found_before_anything_starts(arguments, tmp_path, capsys):
    (tmp_path / "tuf" / "1.root.json").write_text("{}")
    assert cli.main(["run", *arguments, "--json"]) == 78
    error = json.loads(capsys.readouterr().err.splitlines()[-1])["error"]
    assert error["code"] == "misconfigured"
    assert "root of trust" in error["message"]


def test_a_root_whose_signature_is_broken_is_found(arguments, tmp_path, capsys):
    path = tmp_path / "tuf" / "1.root.json"
    document = json.loads(path.read_text())
    document["signed"]["expires"] = "2099-01-01T00:00:00Z"
    path.write_text(json.dumps(document))
    assert cli.main(["run", *arguments]) == 78
    assert "root of trust" in capsys.readouterr().err


def test_status_where_no_agent_ever_was_exits_78(tmp_path):
    assert cli.main(["status", "--state", str(tmp_path)]) == 78
    assert cli.main(["status"]) == 78


def test_unknown_options_exit_2():
    with pytest.raises(SystemExit) as e:
        cli.main(["run", "--sight", "x"])
    assert e.value.code == 2


FILE = """
site = "plant-a"
camera = "gate"
broker = "127.0.0.1:1883"
root = "root.json"
state = "/var/lib/edged-agent"
fps = 2.5
"""


def test_the_command_line_wins_over_the_file(tmp_path):
    file = tmp_path / "agent.toml"
    file.write_text(FILE)
    s = settings.read(file, {"fps": 4.0, "camera": None})
    assert (s.fps, s.camera, s.window) == (4.0, "gate", 8)


@pytest.mark.parametrize(
    ("line", "words", "hint"),
    [
        ('brocker = "x:1"', "brocker", "broker"),
        ("threads = 0", "threads", ""),
        ("fsync = 3", "fsync", ""),
        ("= broken", "not TOML", ""),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path, line, words, hint):
    file = tmp_path / "agent.toml"
    file.write_text(FILE + line + "\n")
    with pytest.raises(Misconfigured, match=words) as e:
        settings.read(file, {})
    assert hint in e.value.hint


def test_light_verbs_import_nothing_heavy_and_the_loop_never_torch():
    code = """
import sys
import agent.cli
heavy = {"cv2", "tuf", "openvino", "onnxruntime", "torch", "onnx", "flask", "sqlite_utils"}
print(sorted(heavy & set(sys.modules)))
import agent.run, agent.source
print(sorted({"torch", "onnx", "flask", "sqlite_utils", "openvino", "onnxruntime", "edged.publish"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


class Camera:
    """A source that gives two pictures and then goes away; or is not there at all."""

    plugged = True

    def __init__(self, *_args, **_options):
        from agent.source import Tally

        if not Camera.plugged:
            raise Misconfigured("there is no camera at /dev/video9")
        self.tally, self.left = Tally(), 2

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __iter__(self):
        return self

    def __next__(self):
        if not self.left:
            raise StopIteration
        self.left -= 1
        return "picture"


@pytest.fixture
def shots(monkeypatch, make, tmp_path):
    """shots(source) -> the agent's iterator over a Camera, on a clock that moves half a second a look."""
    import agent.source

    monkeypatch.setattr(agent.source, "open_source", Camera)
    monkeypatch.setattr(Camera, "plugged", True)
    clock = make.clock()

    def run(source):
        s = settings.read(
            None, {"site": "a", "camera": "b", "broker": "x:1", "root": "r", "state": "s", "source": source}
        )
        for shot in cli._shots(s, clock):
            clock.sleep(0.5)
            yield shot

    return run


def test_a_live_camera_that_went_away_is_opened_again_even_when_it_is_gone_for_a_while(shots):
    live = shots("v4l2:/dev/video9")
    assert [next(live) for _ in range(2)] == ["picture"] * 2
    Camera.plugged = False
    assert [next(live) for _ in range(50)] == [None] * 50
    Camera.plugged = True
    assert "picture" in [next(live) for _ in range(12)]


def test_a_live_camera_that_is_not_there_at_the_start_is_a_mistake_in_the_settings(shots):
    Camera.plugged = False
    with pytest.raises(Misconfigured):
        next(shots("v4l2:/dev/video9"))


def test_a_folder_ends(shots):
    assert list(shots("folder:x")) == ["picture"] * 2


def test_what_a_camera_takes_can_be_said_on_the_command_line():
    given = vars(options.parser().parse_args(["run", "--model", "parking", "--classes", "free, busy"]))
    assert (given["model"], given["classes"]) == ("parking", ("free", "busy"))
    names = {"site": "s", "camera": "c", "broker": "127.0.0.1:1883", "root": "r", "state": "x"}
    read = settings.read(None, names | {key: given[key] for key in ("model", "classes")})
    assert (read.model, read.classes) == ("parking", ("free", "busy"))
    with pytest.raises(Misconfigured):
        settings.read(None, names | {"classes": ("",)})
