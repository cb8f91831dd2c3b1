"""What the operating system refuses is one sentence and an exit code, never a traceback; a bug still shows one."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edged.cli.main import in_words
from edged.clock import SystemClock
from edged.errors import Refused, Unavailable
from edged.storage import Store, frames, sitekey
from edged.wire.messages import Frame, FrameHeader
from tests.web.conftest import JPEG, StandIn

ROOT = os.geteuid() == 0
PRIV = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if ROOT else []
pytestmark = pytest.mark.skipif(ROOT and not shutil.which("setpriv"), reason="root may do everything, and no setpriv")


def edged(*args):
    """As a user without root's power to pass over modes."""
    command = [*PRIV, sys.executable, "-m", "edged", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("denied") / "site"
    made = edged("init", "--data-dir", folder, "--site", "plant-a", "--classes", "free,busy", "--camera", "gate")
    assert made.returncode == 0, made.stderr
    clock = SystemClock()
    with Store.open(folder, clock=clock, site_key=sitekey.read_key(folder / "keys" / "storage.key")) as store:
        frames.add(store, Frame("gate", FrameHeader("a-0", clock.now(), 0, "a", 8, 8), JPEG, "frame", clock.now()),
                   StandIn(JPEG, 8, 8, ()))  # fmt: skip
    return folder


@pytest.fixture
def closed(site, request):
    """A path of the site that nobody may read."""
    path = next(site.glob(request.param))
    mode = path.stat().st_mode & 0o777
    path.chmod(0)
    yield path
    path.chmod(mode)


def told(done, code, *words):
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode == code, done.stdout + done.stderr
    for word in map(str, words):
        assert word in done.stdout + done.stderr


@pytest.mark.parametrize("closed", ["segments", "segments/*.seg", "edged.db"], indirect=True)
def test_the_daemon_names_what_it_may_not_read_and_is_not_started_again(site, closed):
    told(edged("-c", site / "config.toml", "run"), 78, closed)


@pytest.mark.parametrize("verb", [["check"], ["data", "verify"]])
@pytest.mark.parametrize("closed", ["segments/*.seg"], indirect=True)
def test_a_segment_that_may_not_be_read_is_named(site, closed, verb):
    done = edged("-c", site / "config.toml", *verb)
    assert done.returncode != 0
    told(done, done.returncode, closed.name)


@pytest.mark.parametrize("closed", ["keys", "edged.db"], indirect=True)
def test_the_doctor_goes_on_past_what_it_may_not_read(site, closed):
    done = edged("-c", site / "config.toml", "doctor")
    told(done, 3, closed, "faces", "broker")


def test_a_folder_that_may_not_be_written_keeps_a_site_out(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o555)
    told(edged("init", "--data-dir", tmp_path / "closed" / "x", "--site", "s", "--classes", "a,b"), 77, "Permission")
    told(edged("init", "--data-dir", "/proc/foo", "--site", "s", "--classes", "a,b"), 4, "/proc/foo")


def test_a_picture_is_not_written_where_one_may_not_write(site, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o555)
    done = edged("-c", site / "config.toml", "data", "show", "gate:a-0", "-o", tmp_path / "closed" / "x.jpg")
    told(done, 77, "Permission denied", "closed")


@pytest.mark.parametrize("verb", [["run"], ["key", "rotate"]])
def test_a_site_that_can_only_be_read_says_so(site, verb):
    lock = site / "daemon.lock"
    lock.unlink(missing_ok=True)
    site.chmod(0o555)
    try:
        told(edged("-c", site / "config.toml", *verb), 78, lock)
    finally:
        site.chmod(0o755)


def test_with_json_it_is_one_document(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o555)
    done = edged("--json", "init", "--data-dir", tmp_path / "closed" / "x", "--site", "s", "--classes", "a,b")
    assert json.loads(done.stderr)["error"]["code"] == "not_permitted"


def test_only_what_the_system_said_about_a_path_or_the_disk_is_put_in_words(tmp_path):
    assert in_words(OSError(errno.EBADF, "bad file descriptor"), None) is None
    full = in_words(OSError(errno.ENOSPC, "no space left"), tmp_path)
    assert isinstance(full, Unavailable)
    ours = in_words(PermissionError(errno.EACCES, "no", str(tmp_path / "x")), tmp_path)
    theirs = in_words(PermissionError(errno.EACCES, "no", "/elsewhere/x"), tmp_path)
    assert (ours.exit_code, theirs.exit_code, type(theirs)) == (78, 77, Refused)
    read_only = in_words(OSError(errno.EROFS, "Read-only file system", str(Path("/x"))), Path("/x"))
    assert (read_only.code, read_only.exit_code) == ("disk_failed", 75)
