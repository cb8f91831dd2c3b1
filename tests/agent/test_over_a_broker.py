"""The agent as a process of its own, over the embedded broker: killed in the middle of a download, it ends well."""

import os
import signal
import subprocess
import sys

import pytest

from agent.pipeline import encode
from edged.broker.acl import Acl
from edged.broker.server import BrokerThread
from edged.clock import SystemClock
from edged.engine import patterns
from edged.wire.link import Endpoint
from edged.wire.paho import PahoLink


@pytest.fixture
def box(tmp_path, make):
    clock = SystemClock()
    with BrokerThread(Acl(make.SITE)) as broker:
        link = PahoLink(Endpoint("127.0.0.1", broker.port, "server"))
        assert link.wait_connected(10)
        box = make.Box(tmp_path / "box", link, clock)
        box.port = broker.port
        yield box
        link.close()


@pytest.fixture
def start(tmp_path, box, make):
    """start() -> a fresh agent process on the one state directory; killed at the end if it still runs."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(4):
        (pictures / f"{i}.jpg").write_bytes(encode(patterns.picture(i, 96)))
    root = tmp_path / "root.json"
    root.write_bytes(box.root)
    started = []

    def run():
        command = [
            sys.executable, "-m", "agent", "run", "--site", make.SITE, "--camera", make.CAMERA,
            "--broker", f"127.0.0.1:{box.port}", "--root", str(root), "--state", str(tmp_path / "state"),
            "--source", f"folder:{pictures}?kind=roi&loop=1", "--fps", "40", "--hardware", make.HARDWARE,
            "--runtime", "onnxruntime", "--resend-after-s", "2",
        ]  # fmt: skip
        child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        started.append(child)
        return child

    yield run
    for child in started:
        if child.poll() is None:
            child.kill()
        child.communicate()


def until(box, condition, child, seconds=60):
    end = box.clock.monotonic() + seconds
    while not condition():
        assert child.poll() is None, child.stderr.read()
        assert box.clock.monotonic() < end, (box.reports[-3:], len(box.frames))
        box.step()
        box.clock.sleep(0.02)


def test_killed_in_the_middle_of_a_download_the_camera_ends_with_the_new_model_and_all_frames(box, start, make):
    model = make.classifier(1, padding=100_000)  # 400 kB: 25 chunks
    child = start()
    until(box, lambda: len(box.frames) > 3, child)
    assert box.frames[0].header.regions[0].label == ""
    box.serve = False
    box.offer(box.release(1, model))
    until(box, lambda: box.wants, child)
    box.answer(box.wants[-1], limit=10)
    until(box, lambda: any(r.progress > 0.3 for r in box.reports), child)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()

    box.wants.clear()
    box.serve = True
    child = start()
    until(box, lambda: box.over("job-1"), child)
    assert box.last.status == "SUCCEEDED", box.last
    assert box.wants[0].chunks[0] >= 5  # what had arrived was not asked for again
    until(box, lambda: box.frames[-1].header.model == box.last.sha256, child)
    assert box.frames[-1].header.regions[0].label in make.CLASSES

    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 0, errors
    box.step()
    ids = [f.header.id for f in box.frames]
    boots = sorted({f.header.boot for f in box.frames})
    assert len(boots) == 2
    for boot in boots:  # within one boot no number is missing up to the last one seen
        seqs = sorted({f.header.seq for f in box.frames if f.header.boot == boot})
        assert seqs == list(range(seqs[0], seqs[-1] + 1))
    assert len(set(ids)) > 10
