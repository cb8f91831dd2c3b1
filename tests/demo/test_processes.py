"""The demo's stand-in for systemd."""

import os
import signal
import subprocess
import sys
import time

import pytest

from edged.clock import SystemClock
from edged.demo.processes import Processes

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]


def until(done):
    for _ in range(200):
        if done():
            return
        time.sleep(0.05)
    raise AssertionError("it never came")


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def processes(tmp_path):
    made = Processes(tmp_path, SystemClock())
    yield made
    made.stop()


def test_a_process_that_is_killed_is_started_again_under_a_new_number(processes, tmp_path):
    processes.start("one", SLEEP)
    first = int((tmp_path / "run" / "one.pid").read_text())
    os.kill(first, signal.SIGKILL)
    until(lambda: processes.restarts() == {"one": 1})
    assert int((tmp_path / "run" / "one.pid").read_text()) != first


def test_a_process_of_the_same_name_takes_the_place_of_the_one_before(processes, tmp_path):
    processes.start("one", SLEEP)
    first = int((tmp_path / "run" / "one.pid").read_text())
    processes.start("one", SLEEP)
    assert not alive(first)
    assert processes.restarts() == {"one": 0}


def test_stop_leaves_nothing_behind(processes, tmp_path):
    processes.start("one", SLEEP)
    processes.start(
        "deaf", [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"]
    )
    until(lambda: "up" in processes.tail("one"))
    pids = [int(p.read_text()) for p in (tmp_path / "run").iterdir()]
    processes.stop()
    assert not any(alive(p) for p in pids)
    assert list((tmp_path / "run").iterdir()) == []


def test_an_impatient_second_sigterm_leaves_no_process_behind(tmp_path):
    demo = subprocess.Popen(
        [sys.executable, "-m", "edged", "demo", "--small", "--port", "0", "--dir", str(tmp_path / "site")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    run = tmp_path / "site" / "run"
    until(lambda: (run / "camera-south.pid").exists())
    pids = [int(p.read_text()) for p in run.iterdir()]
    demo.terminate()
    time.sleep(0.3)
    demo.terminate()
    assert demo.wait(timeout=60) == 130
    assert not any(alive(p) for p in pids)
