"""The short form of the full disk; `make torture` runs the long one."""

import subprocess
import sys

import pytest

from tests.torture import full

pytestmark = [
    pytest.mark.torture,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(full.unable()), reason=full.unable() or "a file system of its own can be had"),
]
SEED = 13


def test_on_a_full_disk_the_daemon_stays_and_says_later_rollback_and_audit_work_and_frames_come_again(capsys):
    command = [sys.executable, "-m", "tests.torture.full", "--points", "2", "--seed", str(SEED), "--stop-s", "60"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    with capsys.disabled():
        print(f"\n{done.stdout.splitlines()[0] if done.stdout else done.stderr}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 faults" in done.stdout
