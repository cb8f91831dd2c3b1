"""A model on a person's word alone, on real processes from end to end: broker, daemon, re-test, signer, page, a camera."""

import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from edged.clock import SystemClock
from tests.site import PX, classifier
from tests.torture.live import AGENT, FREE, LiveSite

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

WHY = "it was tested in the lab"
SAID = f"not tested on this site's pictures; released so by ann: {WHY}"
WAIT = 180
CLOCK = SystemClock()
SETTINGS = f"""
[train]
input_px = {PX}
[retest]
seconds = 0.5
[rollout]
wait_s = 0.5
steps = [1.0]
"""


@pytest.fixture
def live(tmp_path):
    site = LiveSite(tmp_path / "site", tmp_path, extra=FREE + SETTINGS)
    with site:
        site.start_agent()
        yield site


def edged(live, *words):
    """What a command prints; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "edged", "-c", str(live.config), *words], capture_output=True, text=True, timeout=WAIT
    )
    assert done.returncode == 0, (words, done.stdout, done.stderr, live.said())
    return done.stdout


def until(live, condition):
    ends = CLOCK.monotonic() + WAIT
    while not (found := condition()):
        assert live.up(), live.said()
        assert CLOCK.monotonic() < ends, live.said()
        CLOCK.sleep(0.3)
    return found


def page(live):
    """The Fleet page, as `edged web` serves it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    live.config.write_text(live.config.read_text().replace("127.0.0.1:8480", f"127.0.0.1:{port}"))
    web = live._process("web")
    try:

        def read():
            assert web.poll() is None, live.said()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/fleet", timeout=10) as answer:
                    return answer.read().decode()
            except urllib.error.URLError:
                return ""

        return until(live, read)
    finally:
        web.terminate()
        web.wait(30)


def test_a_camera_takes_what_nobody_tested_here_and_everything_says_so(live):
    model = live.aside / "lab.onnx"
    model.write_bytes(classifier())
    edged(live, "model", "import", str(model), "--name", "lab", "--classes", "a,b", "--px", str(PX))
    edged(live, "model", "release", "lab", "--untested", "--reason", WHY, "--author", "ann", "--yes", "--wait")

    def done():
        [rollout] = json.loads(edged(live, "--json", "rollout", "status"))["rollouts"]
        assert rollout["status"] != "CANCELED", rollout
        return rollout if rollout["status"] == "COMPLETED" else None

    rollout = until(live, done)
    [delivery] = [c for c in rollout["cameras"] if c["camera"] == AGENT]
    assert (delivery["status"], delivery["canary"], delivery["signed"]) == ("SUCCEEDED", True, True), delivery
    assert "pictures" in delivery["detail"] or "60 s" in delivery["detail"], (
        "it ended its probation, after its self-test"
    )
    assert rollout["untested"] == SAID

    state = live.folder / "cameras" / AGENT
    said = subprocess.run(
        [sys.executable, "-m", "agent", "status", "--state", str(state)], capture_output=True, text=True, check=True
    ).stdout
    assert f"release 1 ({rollout['sha256'][:12]})" in said
    assert "SUCCEEDED" in said

    assert SAID in edged(live, "rollout", "status")
    assert "not tested here" in edged(live, "model", "ls")
    card = edged(live, "model", "card", "lab").replace("\\", "")
    assert f"tested: {SAID}" in card
    assert "The gate: could not judge it" in card
    assert SAID[:1].upper() + SAID[1:] in page(live).replace("&#39;", "'")
    [signed] = [
        t for p in (live.folder / "tuf").glob("*.targets.json")
        for t in json.loads(p.read_bytes())["signed"]["targets"].values()
    ]  # fmt: skip
    assert signed["custom"]["untested"] == SAID, "and the camera can read it in what is signed"
