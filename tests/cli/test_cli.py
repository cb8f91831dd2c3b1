"""The command line as a person meets it: real processes, exit codes, one sentence per error, JSON where asked."""

import json
import shutil
import subprocess
import sys

import pytest

from edged.clock import SystemClock, iso
from edged.site import only_daemon
from edged.storage import Store, alarms, cameras, gaps, leaks
from edged.wire.messages import CameraInfo


def edged(*args, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "edged", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "site"
    made = edged(
        "--json", "init", "--data-dir", folder, "--site", "plant-a", "--classes", "free,busy", "--camera", "gate"
    )
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["config"] == str(folder / "config.toml")
    return folder


def test_init_makes_keys_that_only_the_owner_can_read(site):
    private = [*site.glob("keys/*.key"), *site.glob("keys/tuf/*")]
    assert {p.name for p in private} >= {"ca.key", "server.key", "storage.key", "cam-gate.key"}
    assert {oct(p.stat().st_mode & 0o777) for p in private} == {"0o600"}


def test_with_mosquitto_the_next_step_is_mosquittos_and_no_second_broker(tmp_path):
    made = edged("init", "--data-dir", tmp_path / "x", "--site", "p", "--classes", "a,b", "--mosquitto")
    assert made.returncode == 0, made.stderr
    [following] = [line for line in made.stdout.splitlines() if "next: " in line]
    assert "mosquitto.conf" in following
    assert "config.toml broker" not in made.stdout
    assert "config.toml run" in following


def test_init_never_replaces_a_site(site):
    again = edged("init", "--data-dir", site, "--site", "other", "--classes", "a,b")
    assert again.returncode == 78
    assert "is there already" in again.stderr


def test_init_refuses_a_name_that_could_not_be_a_topic(tmp_path):
    wrong = edged("init", "--data-dir", tmp_path / "x", "--site", "Plant/A", "--classes", "a,b")
    assert wrong.returncode == 2
    assert not (tmp_path / "x").exists()


def test_an_unknown_key_exits_78_with_the_nearest_name(site, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text((site / "config.toml").read_text() + "\n[storage]\nmax_byte = 3\n")
    wrong = edged("-c", config, "config", "check")
    assert (wrong.returncode, "did you mean `max_bytes`?" in wrong.stderr) == (78, True)
    as_json = edged("--json", "-c", config, "config", "check")
    error = json.loads(as_json.stderr)["error"]
    assert error["code"] == "misconfigured"
    assert error["hint"] == "did you mean `max_bytes`?"


def test_a_wrong_argument_exits_2():
    assert edged("rnu").returncode == 2


def test_status_says_that_the_daemon_is_away_and_exits_5(site):
    done = edged("--json", "-c", site / "config.toml", "status")
    assert done.returncode == 5
    document = json.loads(done.stdout)
    assert document["daemon"] is False
    assert document["health"]["verdict"] == "failed"
    assert [r["code"] for r in document["health"]["reasons"]] == ["daemon_down"]
    assert document["privacy"] == {"alarms": [], "last": None, "recall": [], "unjudged": {}}


def test_status_says_what_of_the_planted_pictures_was_hidden(site):
    with Store.open(site, clock=SystemClock(), site_key=None) as store:
        leaks.add(store, 1, [leaks.Observed("face", "large", 80.0, True, 0.1, False)])
        alarms.sound(store, "privacy_leak", "1 of the last 1 easy planted faces leaked")
    text = edged("-c", site / "config.toml", "status").stdout
    assert "Leaking. 1 of the last 1 easy planted faces leaked." in text
    assert "planted face, large    0 of 1 hidden, 0.0% (0.0% to 79.3%)" in text
    privacy = json.loads(edged("--json", "-c", site / "config.toml", "status").stdout)["privacy"]
    assert privacy["recall"][0]["n"] == 1
    assert privacy["alarms"][0]["code"] == "privacy_leak"


def test_status_says_which_frames_never_came(site):
    noticed = SystemClock().now() - 3600
    with Store.open(site, clock=SystemClock(), site_key=None) as store, store.transaction():
        cameras.seen(store, "gate", noticed)
        for n in (1, 3):
            gaps.note(store, "gate", "b", n, noticed)
    text = edged("-c", site / "config.toml", "status").stdout
    assert f"1 frame missing since {iso(noticed)}" in text
    (camera,) = json.loads(edged("--json", "-c", site / "config.toml", "status").stdout)["cameras"]
    assert camera["missing"] == {"frames": 1, "since": iso(noticed)}


def test_a_configured_camera_that_never_spoke_is_listed_and_counted(site, tmp_path):
    folder = tmp_path / "site"
    shutil.copytree(site, folder)
    config = folder / "config.toml"
    config.write_text(config.read_text().replace(str(site), str(folder)) + '\n[[camera]]\nid = "dock"\n')
    with Store.open(folder, clock=SystemClock(), site_key=None) as store:
        cameras.set_online(store, "gate", True)
    status = edged("-c", config, "status").stdout
    assert "1 of 2 cameras online" in status
    assert "dock: has not spoken yet\n" in status
    told = {
        c["id"]: (c["spoke"], c["last_seen"])
        for c in json.loads(edged("-c", config, "--json", "status").stdout)["cameras"]
    }
    assert told["dock"] == (False, None)
    assert told["gate"][0]
    assert "dock: has not spoken yet\n" in edged("-c", config, "camera", "list").stdout
    listed = json.loads(edged("-c", config, "--json", "camera", "list").stdout)["cameras"]
    assert [(c["id"], c["spoke"], c["online"]) for c in listed if c["id"] == "dock"] == [("dock", False, False)]


def test_two_daemons_never_run_on_one_site(site):
    with only_daemon(site):
        second = edged("-c", site / "config.toml", "run")
        assert edged("-c", site / "config.toml", "status").returncode == 0
    assert second.returncode == 75
    assert "another daemon runs" in second.stderr


@pytest.mark.parametrize("verb", ["model ls", "camera list", "label queue", "db check", "sync preview", "config show"])
def test_verbs_that_look_answer_on_an_empty_site(site, verb):
    done = edged("--json", "-c", site / "config.toml", *verb.split())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["schema_version"] == 1


def test_what_a_camera_says_of_its_process_is_listed(site):
    with Store.open(site, clock=SystemClock(), site_key=None) as store:
        told = CameraInfo(
            "b", "1", "generic", ("opencv",), 512 << 20, "a" * 64, "lots", 7, start_s=9.26, rss_bytes=83_000_000
        )
        cameras.set_info(store, "small", told)
    line = edged("-c", site / "config.toml", "camera", "list").stdout.splitlines()[-1]
    assert line.startswith("small ")
    assert line.endswith("  lots 7, 83 MB, started in 9.3 s")
    document = json.loads(edged("--json", "-c", site / "config.toml", "camera", "list").stdout)
    assert document["cameras"][-1]["info"]["rss_bytes"] == 83_000_000


def test_labels_of_an_unknown_sample_or_class_are_refused_whole(site, tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text("gate:nobody:0,free\n")
    wrong = edged("-c", site / "config.toml", "label", "import", file, "--author", "ann")
    assert wrong.returncode == 4
    file.write_text("gate:x:0,elephant\n")
    wrong = edged("-c", site / "config.toml", "label", "import", file, "--author", "ann")
    assert wrong.returncode == 1
    assert "labels.csv:1" in wrong.stderr
    assert edged("-c", site / "config.toml", "label", "import", tmp_path / "absent", "--author", "ann").returncode == 4


def test_doctor_finds_that_the_broker_is_away_and_exits_3(site):
    done = edged("--json", "-c", site / "config.toml", "doctor")
    assert done.returncode == 3
    findings = {f["what"]: f for f in json.loads(done.stdout)["findings"]}
    assert findings["broker"]["ok"] is False
    assert findings["faces"]["ok"] is True


def test_sync_without_a_target_exits_78_and_nothing_leaves(site):
    assert edged("-c", site / "config.toml", "sync", "push").returncode == 78


def test_replay_of_nothing_exits_4(site, tmp_path):
    assert edged("-c", site / "config.toml", "replay", tmp_path / "absent", "--camera", "gate").returncode == 4


def test_replay_of_what_is_no_picture_or_at_no_rate_is_no_fault_of_the_configuration(site, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no video")
    for path, fps, code in ((tmp_path / "empty", 2, 1), (tmp_path / "text", 2, 1), (tmp_path / "text", -1, 2)):
        done = edged("-c", site / "config.toml", "replay", path, "--camera", "gate", f"--fps={fps}")
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr


def test_replay_without_a_box_gives_up_and_leaves_no_raw_picture(site, tmp_path):
    import cv2
    import numpy as np

    (tmp_path / "pictures").mkdir()
    for n in range(3):
        cv2.imwrite(str(tmp_path / "pictures" / f"{n}.png"), np.full((64, 64, 3), 80 * n, np.uint8))
    done = edged("-c", site / "config.toml", "replay", tmp_path / "pictures", "--camera", "gate", "--fps=0", "--wait=1")
    assert done.returncode == 1
    assert "no receipt came for 3 frames" in done.stderr
    assert "3 pictures were not taken" in done.stderr
    assert not list((site / "cameras").rglob("*.frame"))


def test_a_replay_that_ended_well_says_so_in_text_and_json(site, tmp_path, monkeypatch):
    from click.testing import CliRunner

    import edged.site
    from edged.cli import main, serve

    # The camera's own program is tried in tests/agent; a broker would be needed for it to end well.
    monkeypatch.setattr(edged.site, "agent_command", lambda *_: [sys.executable, "-c", "pass"])
    monkeypatch.setattr(serve, "_pass_on_signals", lambda _pid: None)
    command = ["-c", str(site / "config.toml"), "replay", str(tmp_path), "--camera", "gate"]
    assert CliRunner().invoke(main, command).stdout.startswith(f"{tmp_path} was played as camera gate; ")
    told = CliRunner().invoke(main, ["--json", *command])
    assert told.exit_code == 0
    assert json.loads(told.stdout).items() >= {"camera": "gate", "source": str(tmp_path), "not_taken": 0}.items()


@pytest.mark.parametrize("heavy", ["torch", "openvino", "onnxruntime", "cv2", "sqlite_utils", "flask", "paho", "numpy"])
def test_help_imports_nothing_heavy(heavy):
    code = f"import sys; sys.argv = ['edged', '--help']; import edged.cli; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_daemon_imports_no_torch():
    code = "import sys, edged.daemon; sys.exit('torch' in sys.modules or 'openvino' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_json_may_stand_behind_the_verb_and_usage_errors_are_json_too(site):
    done = edged("-c", site / "config.toml", "model", "ls", "--json")
    assert json.loads(done.stdout)["models"] == []
    wrong = edged("--json", "model", "nosuch")
    assert wrong.returncode == 2
    assert json.loads(wrong.stderr)["error"]["code"] == "usage"


def test_replay_as_a_camera_without_keys_says_how_to_get_them(site, tmp_path):
    done = edged("-c", site / "config.toml", "replay", tmp_path, "--camera", "nobody")
    assert done.returncode == 78
    assert "edged camera add" in done.stderr
