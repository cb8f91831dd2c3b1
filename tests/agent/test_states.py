"""Every phase of an update x every fault: afterwards the camera runs the new model, healthy, or the old one; never none.

Ten phases, six faults. `error`: what the phase does when it says no. `kill before`, `kill after`: the process is gone
at that call. `hang`: before the model has a part in it, whoever should speak is silent; from then on the call ends the
process every time (a model that hangs is ended by its limit, see watch.bounded). `no room`: from that call on the disk
refuses for forty steps. `read-only`: it refuses, the camera is started anew, and refuses on; then it takes again.
"""

import errno
import hashlib
import os
import subprocess
import sys
from collections import Counter
from contextlib import suppress

import pytest

from agent import active, chunks, download, selftest
from agent.active import Active
from agent.metadata import Trust
from agent.pipeline import Pipeline
from agent.slots import Slots
from edged import durable, packed
from edged.errors import Corrupt, Refused

PHASES = ("metadata", "chunks", "rebuild", "stage", "self_test", "switch", "load", "probation", "commit", "roll_back")
FAULTS = ("error", "kill before", "kill after", "hang", "no room", "read-only")
MOST_DEATHS = 2  # loops are broken after two tries

# What the camera ends up with. A disk that refuses while a model is being tried may cost that model its chance.
ENDS = (
    dict.fromkeys(((p, f) for p in PHASES for f in FAULTS), "new")
    | {
        ("metadata", "error"): "old",
        ("metadata", "hang"): "old",
        ("chunks", "hang"): "old",
        ("stage", "error"): "old",
        ("stage", "hang"): "old",
        ("self_test", "error"): "old",
        ("self_test", "hang"): "old",
        ("switch", "error"): "old",
        ("switch", "hang"): "old",
        ("load", "error"): "old",
        ("load", "hang"): "old",
        ("probation", "error"): "old",
        ("probation", "hang"): "old",
        ("commit", "hang"): "old",
        ("load", "read-only"): "old",
        ("probation", "read-only"): "old",
        ("commit", "read-only"): "old",
    }
    | {("roll_back", f): "old" for f in FAULTS}
)

done = Counter()


class Killed(BaseException):
    """The process is gone."""


class Torture:
    """A camera that runs release 1 and is told of release 2; one fault waits for it."""

    def __init__(self, site, make, monkeypatch, phase, fault):
        self.site, self.patch, self.phase, self.fault = site, monkeypatch, phase, fault
        self.deaths, self.steps, self.unlabelled = 0, 0, 0
        self.disk = 0  # the disk refuses
        self.left = {"kill before": 1, "kill after": 1, "error": 3}.get(fault, 10**6)
        if (phase, fault) == ("roll_back", "hang"):
            self.left = 2  # what hangs for ever in going back cannot be survived by anything
        site.start()
        site.install(1)
        self.old = site.agent.active.slot.sha256
        model = make.classifier(2, padding=12_000)
        way = packed.pack(model)
        self.new = hashlib.sha256(model).hexdigest()
        site.box.models[hashlib.sha256(way).hexdigest()] = way
        ways = [{
            "form": "packed", "sha256": hashlib.sha256(way).hexdigest(), "bytes": len(way), "source": "",
            "chunks": [hashlib.sha256(way[i : i + 16384]).hexdigest() for i in range(0, len(way), 16384)],
        }]  # fmt: skip
        self.model = model
        self.desired = site.box.release(2, model, ways=ways, self_test_s=1)
        self._arm()

    # --- the fault

    def _arm(self):
        if self.phase == "roll_back":
            real = Active.verdict

            def verdict(this, now):
                return (False, "it answers rubbish") if self._is_new() else real(this, now)

            self.patch.setattr(Active, "verdict", verdict)
        where = {
            "metadata": (Trust, "verify"), "chunks": (chunks.Part, "put"), "rebuild": (download.ways, "rebuild"),
            "stage": (Slots, "stage"), "self_test": (self.site, "self_test"), "switch": (Slots, "switch"),
            "load": (active, "load"), "probation": (Pipeline, "run"), "commit": (Slots, "commit"),
            "roll_back": (Slots, "roll_back"),
        }[self.phase]  # fmt: skip
        real = getattr(*where)

        def hooked(*args, **more):
            if not self._concerned(args):
                return real(*args, **more)
            return self._strike(lambda: real(*args, **more), args)

        if self.phase == "self_test" and self.fault == "hang":
            return  # a real child, see `run`
        self.patch.setattr(*where, hooked)
        if self.phase == "self_test":
            self.site.agent.updater._self_test = hooked

    def _concerned(self, args):
        if self.phase == "load":
            return args[0] == self.model
        if self.phase == "probation":
            agent = self.site.agent
            return agent is not None and agent.active.slots.pointer.probation and args[0] is agent.active.pipeline
        if self.phase in ("commit", "roll_back"):
            return args[0].pointer.probation
        return True

    def _is_new(self):
        agent = self.site.agent
        return agent is not None and agent.active.slot is not None and agent.active.slot.sha256 == self.new

    def _strike(self, go, args):
        if self.left <= 0:
            return go()
        self.left -= 1
        match self.fault:
            case "error":
                return self._error(go, args)
            case "kill before":
                raise Killed
            case "kill after":
                go()
                raise Killed
            case "hang":
                if self.phase in ("metadata", "chunks"):
                    return go()  # silence is the box's part
                raise Killed
            case _:
                self.left = 0
                self.disk = 40
                return go()

    def _error(self, go, args):
        match self.phase:
            case "metadata":
                raise Refused("the signed metadata cannot be used")
            case "chunks":
                raise Refused("a chunk arrived damaged", code="bad_chunk")
            case "rebuild" | "switch":
                raise Corrupt("not what was signed")
            case "self_test":
                return Said(selftest.Outcome(False, "its answers differ"))
            case "commit" | "roll_back":
                self.disk = 2
                return go()
            case _:
                raise Refused("it cannot be used")

    def refuse(self, path):
        if self.disk > 0 and ("slots" in str(path) or "update" in str(path) or "tuf" in str(path)):
            number = errno.EROFS if self.fault == "read-only" else errno.ENOSPC
            raise OSError(number, os.strerror(number), str(path))

    # --- the story

    def run(self):
        site, real_write, real_part = self.site, durable.write, chunks.Part.__init__

        def write(path, data, **more):
            if "box" not in path.parts:
                self.refuse(path)
            real_write(path, data, **more)

        def part(this, folder, *more):
            self.refuse(folder)
            real_part(this, folder, *more)

        self.patch.setattr(durable, "write", write)
        self.patch.setattr(chunks.Part, "__init__", part)
        if self.fault == "hang" and self.phase == "chunks":
            site.box.serve = False
        if self.fault == "hang" and self.phase == "self_test":
            python = site.folder / "python"
            python.write_text("#!/bin/sh\nexec sleep 1000\n")
            python.chmod(0o700)
            self.patch.setattr(sys, "executable", str(python))
            site.agent.updater._self_test = selftest.Child
        if not (self.fault == "hang" and self.phase == "metadata"):
            site.box.publish_metadata()
        site.box.desire(self.desired)
        refused = 0
        for self.steps in range(4000):
            if site.agent is not None and site.box.over("job-2") and self.disk == 0:
                break
            self._live()
            if self.disk > 0:
                self.disk -= 1
                refused += 1
                if self.fault == "read-only" and refused == 20:
                    site.kill()  # somebody pulls the plug
            child = getattr(site.agent and site.agent.updater._running, "_process", None)
            if child is not None:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(0.02)
        return self

    def _live(self):
        site = self.site
        long = self.fault == "hang" and self.phase in ("metadata", "chunks")
        if len(site.shots) < 2:
            site.see(1)
        try:
            if site.agent is None:
                site.start()
            site.run(1, 5.0 if long else 0.25)
        except Killed:
            self.deaths += 1
            if self.deaths > 12:
                raise AssertionError("the camera dies again and again") from None
            if site.agent is not None and site.agent._link.connected():
                site.kill()
            site.agent = None
        frames = site.box.frames
        if frames and not all(r.label for r in frames[-1].header.regions):
            self.unlabelled += 1

    def judge(self):
        """What is wrong, "" = nothing."""
        site, found = self.site, []
        now = site.agent.active.slot
        ends = "new" if now and now.sha256 == self.new else "old" if now and now.sha256 == self.old else "none"
        last = site.box.last
        if ends == "none":
            found.append("no model runs")
        if (ends == "new") != (last.status == "SUCCEEDED"):
            found.append(f"{ends} runs, and it says {last.status} ({last.detail})")
        if ends == "old" and not last.detail:
            found.append("it does not say why")
        if self.deaths > MOST_DEATHS:
            found.append(f"{self.deaths} deaths")
        if site.agent.active.slots.pointer.probation:
            found.append("still on probation")
        for start in range(2):  # nothing more happens, also not after a start
            before = (self.deaths, len(site.box.reports))
            for _ in range(6):
                self._live()
            running = site.agent and site.agent.active.slot
            if not running or running.sha256 != now.sha256 or self.deaths != before[0]:
                found.append("it goes on changing")
            if not all(r.label for r in site.box.frames[-1].header.regions):
                found.append("it does not label")
            if start == 0:
                site.kill()
                site.agent = None
        return ends, "; ".join(found)


class Said:
    """A self-test that has its answer."""

    def __init__(self, outcome):
        self.outcome = outcome

    def poll(self):
        return self.outcome

    def stop(self):
        pass


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("phase", PHASES)
def test_whatever_happens_the_camera_runs_the_new_model_or_the_old_one(site, make, monkeypatch, phase, fault):
    torture = Torture(site, make, monkeypatch, phase, fault).run()
    ends, wrong = torture.judge()
    assert not wrong, wrong
    assert ends == ENDS[phase, fault], site.box.last
    struck = torture.left < 10**6 or fault == "hang"
    assert struck, "the fault never came"
    done[ends] += 1
    done["deaths"] += torture.deaths


def test_that_was_all_of_them():
    print(f"{done['new'] + done['old']} cases: {done['new']} new, {done['old']} old, {done['deaths']} deaths")
    assert len(ENDS) == len(PHASES) * len(FAULTS) == 60


def test_the_control_a_build_that_counts_loads_afterwards_never_comes_up_again(site, make, monkeypatch):
    """The boot counter must be on disk before the load: peers mark the version when it has loaded."""
    real, counting = Active._load, Slots.loading

    def late(this, now):
        with monkeypatch.context() as patched:
            patched.setattr(Slots, "loading", lambda slots: None)
            why = real(this, now)
        counting(this.slots)
        return why

    monkeypatch.setattr(Active, "_load", late)
    with pytest.raises(AssertionError, match="again and again"):
        Torture(site, make, monkeypatch, "load", "hang").run()


def test_the_control_a_build_that_stages_over_the_running_model_is_caught(site, make, monkeypatch):
    monkeypatch.setattr(Slots, "_other", lambda this: this.pointer.active or "a")
    torture = Torture(site, make, monkeypatch, "self_test", "error").run()
    torture.site.kill()
    torture.site.agent = None
    torture._live()
    _ends, wrong = torture.judge()
    assert wrong
