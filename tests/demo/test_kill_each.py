"""The demo with real processes, each of them killed once in the middle; the loop must still end well.

Short pictures and few epochs (`--small`), the generated street, mutual TLS, the embedded broker. Exit code 0 of the demo means:
every camera runs the new model, and it is better on the changed world while the old one is kept.
"""

import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def children(pid):
    """Ids of processes whose parent is `pid`, with their command lines."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found[int(stat.parent.name)] = (stat.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, IndexError):
            continue
    return found


class Play:
    """The demo as a child process whose lines arrive in a queue."""

    def __init__(self, folder):
        self.folder = folder
        command = [sys.executable, "-m", "edged", "demo", "--small", "--port", "0", "--dir", str(folder)]
        environment = os.environ | {"DEMO_EXIT": "1", "PYTHONUNBUFFERED": "1"}
        self.popen = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        self.lines, self.said = queue.Queue(), []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.popen.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def until(self, text):
        """Wait for a line with `text`."""
        while True:
            line = self.lines.get(timeout=1200)
            assert line is not None, "the demo ended early:\n" + "".join(self.said)
            self.said.append(line)
            if text in line:
                return

    def rest(self):
        while (line := self.lines.get(timeout=1800)) is not None:
            self.said.append(line)
        return self.popen.wait(timeout=60)

    def pid(self, name):
        return int((self.folder / "run" / f"{name}.pid").read_text())

    def kill(self, name):
        os.kill(self.pid(name), signal.SIGKILL)

    def kill_child_of_daemon(self, words):
        """Kill a child of the daemon whose command line has `words`; waits until there is one."""
        for _ in range(600):
            for pid, command in children(self.pid("daemon")).items():
                if words in command:
                    os.kill(pid, signal.SIGKILL)
                    return
            threading.Event().wait(0.1)
        raise AssertionError(f"no child of the daemon has {words!r} in its command line")

    def close(self):
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        self.popen.stdout.close()


@pytest.fixture
def play(tmp_path):
    made = Play(tmp_path / "site")
    yield made
    made.close()


def test_each_process_killed_once_in_the_middle_and_the_loop_still_ends_well(play):
    play.until("the cameras send what they see")
    play.until("regions received")
    play.kill("broker")
    play.kill_child_of_daemon("edged.privacy.child")
    play.until("the first model")
    play.kill_child_of_daemon("edged.retrain train")
    play.kill("page")
    play.until("the cameras answer for themselves")
    play.kill("camera-north")
    play.until("the next model")
    play.kill_child_of_daemon("edged.retrain learn")
    play.kill("daemon")
    assert play.rest() == 0, "".join(play.said)
    said = "".join(play.said)
    assert "ok  better by night" in said
    assert "NO " not in said
    check = subprocess.run(
        [sys.executable, "-m", "edged", "-c", str(play.folder / "config.toml"), "db", "check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert check.returncode == 0, check.stdout
