"""A smaller share of a core and less memory, imposed on a child and measured there."""

import json
import resource
import subprocess
import sys

import pytest

from edged.retrain import device, quota

BUSY = """
import json, os, sys, time
from edged.retrain import quota
{before}
began, used = time.monotonic(), time.process_time()
while time.monotonic() - began < 2.0:
    sum(range(1000))
print(json.dumps([said, (time.process_time() - used) / (time.monotonic() - began)]))
"""


def child(before):
    done = subprocess.run(
        [sys.executable, "-c", BUSY.format(before=before)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    said, share = json.loads(done.stdout)
    print(said, f"measured {share:.3f}")
    return said, share


def test_the_governor_holds_a_busy_process_to_its_share():
    _, share = child("said = 'governor'; quota.govern(os.getpid(), 0.05); time.sleep(1)")
    assert share < 0.12
    assert share > 0.005  # it is not simply stopped


def test_whatever_is_allowed_here_holds_it_and_is_named():
    said, share = child("said = quota.processor(0.05)")
    assert said.startswith("5% of one core by ")
    assert share < 0.12


def test_without_a_quota_nothing_is_held():
    """The negative control: what the two above measure is the quota, not a busy machine."""
    said, share = child("said = quota.processor(0)")
    assert said == "its whole core"
    assert share > 0.12  # also on a busy machine


def test_the_governor_leaves_when_its_process_does():
    code = (
        "import os, time; from edged.retrain import quota; p = quota.govern(os.getpid(), 0.5); print(p.pid, flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    pid = int(done.stdout)
    for _ in range(100):
        try:
            with open(f"/proc/{pid}/stat") as f:
                gone = f.read().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            gone = True
        if gone:
            break
        subprocess.run(["sleep", "0.1"], check=True)
    assert gone


@pytest.mark.parametrize(
    ("limit", "kind", "words"),
    [(1 << 30, resource.RLIMIT_DATA, "RLIMIT_DATA"), (3 << 30, resource.RLIMIT_AS, "address space")],
)
def test_memory_is_limited_by_own_means_where_no_group_is_allowed(monkeypatch, limit, kind, words):
    asked = []
    monkeypatch.setattr(quota, "_in_group", lambda *_: False)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", lambda *a: asked.append(a))
    said = quota.memory(limit)
    assert asked == [(kind, (limit, limit))]
    assert words in said
    assert f"{limit >> 20} MiB" in said


def test_a_device_without_a_limit_gets_none(monkeypatch):
    monkeypatch.setattr(resource, "setrlimit", lambda *a: pytest.fail("a limit was set"))
    assert quota.memory(0) == ""


def test_a_group_that_may_not_be_made_is_told_from_one_that_was(monkeypatch, tmp_path):
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory")
    monkeypatch.setattr(quota, "_base", lambda controller, version: tmp_path if version == 2 else None)
    assert quota._in_group("memory", {"memory.max": "1"}, 2)  # plain files: whatever is written is accepted
    assert [p.name.startswith("edged-trial-") for p in tmp_path.iterdir() if p.is_dir()] == [True]
    monkeypatch.setattr(quota, "_base", lambda controller, version: tmp_path / "absent")
    assert not quota._in_group("memory", {"memory.max": "1"}, 2)
    assert not quota._in_group("cpu", {"cpu.cfs_quota_us": "1"}, 1)


def test_what_is_imposed_on_a_child_is_what_it_says():
    code = (
        "import json, os; from edged.retrain import device;"
        "said = device.find('raspberry-pi-zero').enforce(0.3);"
        "print(json.dumps([said, len(os.sched_getaffinity(0)), os.getpid()]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said, cores, pid = json.loads(done.stdout)
    assert cores == 1
    assert said[0] == device.ONE_CORE
    assert said[1].startswith("memory limited to 512 MiB")
    assert said[2].startswith("30% of one core")
    for controller in ("cpu", "memory"):  # groups that it made are gone with it
        for version in (1, 2):
            base = quota._base(controller, version)
            assert base is None or not (base / f"edged-trial-{pid}").exists()
