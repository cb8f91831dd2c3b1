"""The update in a real process that ends by SIGKILL at one of its own calls, then a real process that goes on.

The torture of all calls that touch the disk is tests/torture/kill.py; these are the phases by name.
"""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CHILD = """
import os, signal, sys
from pathlib import Path
from agent import active, download
from agent.slots import Slots
from agent.active import Active
from edged.wire import messages
from edged.wire.messages import Desired
from tests.agent.conftest import Site, classifier
import hashlib
from edged import packed
from edged.publish import deliver

folder, at = Path(sys.argv[1]), sys.argv[2]
site = Site(folder)
model = classifier(2, padding=12_000)
way = packed.pack(model)
site.box.models |= {hashlib.sha256(data).hexdigest(): data for data in (model, way)}
if at == "prepare":
    site.start()
    site.install(1)
    ways = [{"form": "packed", "sha256": hashlib.sha256(way).hexdigest(), "bytes": len(way), "source": "",
             "chunks": deliver.digests(way)}]
    (folder / "desired.json").write_bytes(messages.encode(site.box.release(2, model, ways=ways)))
    site.agent.close()
    sys.exit()
where = {
    "rebuild": (download.ways, "rebuild"), "stage": (Slots, "stage"), "switch": (Slots, "switch"),
    "load": (active, "load"), "probation": (Active, "verdict"), "commit": (Slots, "commit"), "never": (Slots, "no"),
}[at]
if at != "never":
    real, left = getattr(*where), int(sys.argv[3])
    def deadly(*args, **more):
        global left
        if at == "load" and args[0] != model:
            return real(*args, **more)
        if at == "probation" and not args[0].slots.pointer.probation:
            return real(*args, **more)
        if sys.argv[4] == "after":
            real(*args, **more)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(*where, deadly)
agent = site.start()
print("boots", agent.active.slot.release, flush=True)
site.box.offer(messages.decode((folder / "desired.json").read_bytes(), Desired))
site.see(30)
site.until(lambda: site.box.over("job-2"))
print("ends", agent.active.slot.release, site.box.last.status, int(agent.active.slots.pointer.probation), flush=True)
agent.close()
"""


def life(folder, at, moment="before"):
    command = [sys.executable, "-c", CHILD, str(folder), at, "1", moment]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100, check=False)
    return done.returncode, done.stdout.split("\n")[:-1], done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["after"])
def test_killed_by_the_kernel_in_each_phase_it_goes_on_in_a_new_process(tmp_path, moment):
    """One camera, killed in one phase after the other, once each; each start has a working model."""
    code, _, err = life(tmp_path, "prepare")
    assert code == 0, err
    kills = 0
    for at in ("rebuild", "stage"):
        code, said, err = life(tmp_path, at, moment)
        if code == -signal.SIGKILL:
            kills += 1
            assert said == ["boots 1"]
    code, said, err = life(tmp_path, "never")
    assert code == 0, err
    print(f"{kills} kills, {said}")
    assert kills == 2
    assert said[-1] in ("ends 2 SUCCEEDED 0", "ends 1 FAILED 0")


@pytest.mark.slow
@pytest.mark.parametrize("at", ["load", "commit"])
def test_one_that_kills_every_time_is_left_after_two(tmp_path, at):
    code, _, err = life(tmp_path, "prepare")
    assert code == 0, err
    kills = 0
    for _ in range(5):
        code, said, err = life(tmp_path, at)
        if code == 0:
            break
        assert code == -signal.SIGKILL, err
        kills += 1
    print(f"killed in {at}: {kills} kills, then {said}")
    assert kills == 2
    assert said[-1] == "ends 1 FAILED 0"
