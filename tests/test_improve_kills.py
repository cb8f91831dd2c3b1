"""Two rounds by the real children, the process that drives them killed with SIGKILL in the middle of every stage."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

import psutil
import pytest

from edged.clock import SystemClock
from edged.retrain import jobs
from edged.storage import candidates, cycles, releases
from edged.storage.store import Store
from tests.test_improve import Rows

DRIVER = """
import sys
from pathlib import Path
from edged import site
from edged.clock import SystemClock
from edged.config import load
from edged.daemon import loop_rules
from edged.improve import Loop
config, clock = load(Path(sys.argv[1]) / "config.toml"), SystemClock()
with site.open_store(config, key=True) as store:
    loop = Loop(store, loop_rules(config), site.open_repository(config, clock), clock)
    print(loop.run_once(loop.why() or sys.exit("nothing is due")), flush=True)
"""
SECTIONS = """
[train]
architecture = "lenet-5"
input_px = 32
epochs = 3
new_labels = 60
[compress]
methods = ["int8", "none"]
[retest.gate]
min_holdout = 4
max_loss = 0.2
max_class_loss = 0.5
"""


@pytest.fixture
def site(tmp_path):
    rows = Rows(tmp_path / "site")
    rows.see(160)
    rows.see(40, "yard")
    rows.store.close()
    path = rows.folder / "config.toml"
    path.write_text(path.read_text().replace("block_s = 900", "block_s = 100") + SECTIONS)
    return rows


def drive(site):
    return subprocess.Popen([sys.executable, "-c", DRIVER, str(site.folder)], stdout=subprocess.PIPE, text=True)


def opened(site):
    return Store.open(site.folder, clock=SystemClock(), site_key=None, readonly=True)


def killed_in(site, stage, cycle):
    """Run until the child of a stage works, kill the driver; returns the stages that were finished by then."""
    driver = drive(site)
    clock = SystemClock()
    while True:
        assert driver.poll() is None, f"it ended before {stage}"
        with opened(site) as store:
            found = {s.name: s for s in cycles.stages(store, cycle)}
        children = psutil.Process(driver.pid).children(recursive=True)  # a re-test's child has others do the work
        with suppress(psutil.NoSuchProcess):  # a zombie is one of these
            worked = sum(child.cpu_times().user for child in children)
            if stage in found and not found[stage].ended and worked > 0.5:
                break
        clock.sleep(0.05)
    driver.kill()
    driver.communicate()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE], "the child outlived the driver"
    return {name: s.ended for name, s in found.items() if s.ended}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_rounds_that_are_killed_in_every_stage_come_to_their_releases(site):
    finished: dict[str, float] = {}
    for stage in ("train", "compress", "retest"):
        finished |= killed_in(site, stage, 1)
    assert drive(site).communicate(timeout=300)[0].strip() == "released"
    with opened(site) as store:
        assert {s.name: s.ended for s in cycles.stages(store, 1)}.items() >= finished.items()
        assert [r.number for r in releases.all(store)] == [1]
        assert len(candidates.all(store)) == 2
        first = cycles.outcome(store, 1, "train")
    assert first["cpu_seconds"] > 0
    assert first["peak_bytes"] > 50_000_000
    site.start()
    site.clock.t += 10**7  # the rows of this test carry a time of their own
    site.see(60, "yard", night=True)
    site.store.execute("update label set ts = ts + 1")
    site.store.close()
    killed_in(site, "train", 2)
    ended = drive(site).communicate(timeout=300)[0].strip()
    with opened(site) as store:
        second = cycles.get(store, 2)
        assert (second.state, ended) == (second.state, second.state)
        assert second.state in ("released", "refused"), second.detail
        learned = cycles.outcome(store, 2, "train")
        if learned is not None:  # else nothing was learned, said in words
            assert learned["rung"].partition("-")[0] in (*jobs.RUNGS, "full")
            assert [t["name"] for t in learned["rungs_tried"]]
    left = {p.suffix for p in (site.folder / "jobs").rglob("*") if p.is_file() and not p.name.startswith(".")}
    assert left <= {".json", ".txt"}
