"""How a job's child is run: what it gives up, when it is ended, and that there is one at a time. A stand-in is the child."""

import ctypes
import errno
import json
import os
import platform
import subprocess
import sys
import textwrap
import threading

import psutil
import pytest

from edged.clock import SystemClock
from edged.errors import Corrupt, Unavailable
from edged.retrain import __main__ as child
from edged.retrain import children, limits


@pytest.fixture
def job(tmp_path):
    return {"data_dir": str(tmp_path / "site"), "classes": ["disc", "box"]}


@pytest.fixture
def run(tmp_path, monkeypatch, job):
    """children.run with a program of ours as the child; JOB is its directory."""
    real = subprocess.Popen

    def go(code, **more):
        program = f"import json, os, pathlib, signal, sys, time\nJOB = pathlib.Path({str(tmp_path / 't')!r})\n"
        program += "def done(**r): (JOB / 'result.json').write_text(json.dumps(r))\n" + textwrap.dedent(code)
        monkeypatch.setattr(
            children.subprocess, "Popen", lambda argv, **o: real([sys.executable, "-c", program, *argv[3:]], **o)
        )
        return children.run("train", job, tmp_path / "t", **more)

    return go


def test_a_child_that_stands_still_is_ended_and_said_so(run, tmp_path):
    code = """
    (JOB / 'pid').write_text(str(os.getpid()))
    (JOB / 'progress.json').write_text('{"fraction": 0.4, "text": "epoch 3 of 8"}')
    signal.pause()
    """
    with pytest.raises(Unavailable, match=r"train was stopped: it stood still at 40% \(epoch 3 of 8\)") as e:
        run(code, stuck_minutes=0.5 / 60)
    assert e.value.code == "stuck"
    assert not psutil.pid_exists(int((tmp_path / "t/pid").read_text()))


def test_a_child_that_goes_on_is_not_stuck_however_long_it_takes(run):
    code = """
    for i in range(8):
        (JOB / 'new').write_text(json.dumps({"fraction": i / 10}))
        os.replace(JOB / 'new', JOB / 'progress.json')
        time.sleep(0.3)
    done(ok=1)
    """
    assert run(code, stuck_minutes=1.5 / 60) == {"ok": 1}


def test_whoever_looks_may_end_it(run, tmp_path):
    def look():
        if (tmp_path / "t/pid").exists():
            raise Unavailable("somebody wants it to end", code="cancelled")

    with pytest.raises(Unavailable, match="wants it to end"):
        run("(JOB / 'pid').write_text(str(os.getpid())); signal.pause()", look=look)
    assert not psutil.pid_exists(int((tmp_path / "t/pid").read_text() or 1 << 22))


def test_one_job_of_a_site_at_a_time(run, job, tmp_path):
    tried = []

    def look():
        if not tried:
            with pytest.raises(Unavailable, match="another job of this site runs") as e:
                children.run("train", job, tmp_path / "other")
            tried.append(e.value.code)
            (tmp_path / "t/go").touch()

    code = """
    while not (JOB / 'go').exists(): time.sleep(0.02)
    done(ok=1)
    """
    assert run(code, look=look) == {"ok": 1}
    assert tried == ["busy"]
    assert run("done(ok=2)") == {"ok": 1}  # the lock is free again; a finished job is not run again


def test_the_lock_is_held_until_the_child_of_a_killed_daemon_is_gone(tmp_path, job):
    """The daemon dies without a word: its child holds the lock for as long as it lives."""
    folder = tmp_path / "t"
    program = f"""
import subprocess, sys
from edged.retrain import children
real = subprocess.Popen
code = "import os, pathlib, signal; pathlib.Path({str(folder / "pid")!r}).write_text(str(os.getpid())); signal.pause()"
children.subprocess.Popen = lambda argv, **o: real([sys.executable, "-c", code], **o)
children.run("train", {job!r}, __import__("pathlib").Path({str(folder)!r}))
"""
    daemon = subprocess.Popen([sys.executable, "-c", program])
    while not (folder / "pid").exists() or not (folder / "pid").read_text():
        assert daemon.poll() is None
        SystemClock().sleep(0.05)
    daemon.kill()
    daemon.wait()
    with pytest.raises(Unavailable, match="another job"):
        children.run("train", job, tmp_path / "other")
    os.kill(int((folder / "pid").read_text()), 9)


def test_what_it_took_is_known_over_all_tries(run, tmp_path):
    burn = """
    keep = bytearray(80_000_000)
    while time.process_time() < 1.0: sum(range(10000))
    """
    with pytest.raises(Corrupt):
        run(burn + "sys.exit(1)")
    first = children.used(tmp_path / "t")
    assert first.cpu_seconds > 0.5
    assert first.peak_bytes > 80_000_000
    run("while time.process_time() < 0.8: sum(range(10000))\ndone(ok=1)")
    both = children.used(tmp_path / "t")
    assert both.cpu_seconds > first.cpu_seconds + 0.3
    assert both.peak_bytes == first.peak_bytes
    assert children.used(tmp_path / "nothing") == children.Used()


def test_a_child_gives_way_to_everything_else():
    code = (
        "import ctypes, os, resource; from edged.retrain import limits; limits.give_way(19, 1 << 31)\n"
        "print(os.getpriority(os.PRIO_PROCESS, 0), open('/proc/self/oom_score_adj').read().strip(),"
        " os.sched_getscheduler(0), resource.getrlimit(resource.RLIMIT_DATA)[0], os.getpid(), flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
        nice, oom, policy, data, pid = map(int, p.stdout.readline().split())
        assert (nice, oom, policy, data) == (19, limits.OOM_SCORE, os.SCHED_BATCH, 1 << 31)
        if platform.machine() == "x86_64":
            assert ctypes.CDLL(None).syscall(252, 1, pid) >> 13 == 3  # ioprio_get: the idle class
        assert limits.peak_bytes(pid) > 1_000_000
        p.communicate("\n")
    assert (limits.peak_bytes(p.pid), limits.cpu_seconds(p.pid)) == (0, 0.0)


def test_a_level_that_is_reached_already_is_left_alone():
    code = "import os; from edged.retrain import limits; os.nice(15); limits.give_way(10); print(os.getpriority(0, 0))"
    assert int(subprocess.check_output([sys.executable, "-c", code])) >= 15


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/site/models/x"), "disk_full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk_full"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "disk_full"),
        (MemoryError(), "no_memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "no_memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), "no_memory"),
        (RuntimeError("std::bad_alloc"), "no_memory"),
        (RuntimeError("can't start new thread"), "no_memory"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (OSError(errno.EIO, "Input/output error"), None),
    ],
)
def test_a_shortage_is_said_in_words_and_a_bug_is_not_taken_for_one(error, code, tmp_path):
    named = child._named(error, tmp_path)
    assert (named.code if named else None) == code
    assert named is None or isinstance(named, Unavailable)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_in_the_child_is_said_here(run, tmp_path):
    """The child's own edge, with a stage that writes where there is no room."""
    code = """
    from edged.retrain import __main__ as main
    def stage(*_):
        with open('/dev/full', 'wb', 0) as f: f.write(b'x' * 10)
    main._stage = stage
    sys.argv = ['x', 'train', str(JOB)]
    sys.exit(main.main())
    """
    with pytest.raises(Unavailable, match="disk full") as e:
        run(code)
    assert e.value.code == "disk_full"
    assert json.loads((tmp_path / "t/error.json").read_text())["family"] == "Unavailable"


def test_a_child_that_may_not_have_the_memory_says_so(run):
    code = """
    from edged.retrain import __main__ as main
    main._stage = lambda *_: bytearray(1 << 33)
    sys.argv = ['x', 'train', str(JOB), '--memory', str(1 << 30)]
    sys.exit(main.main())
    """
    with pytest.raises(Unavailable, match="not enough memory") as e:
        run(code)
    assert e.value.code == "no_memory"


@pytest.mark.parametrize(
    ("code", "family", "known"),
    [
        ("print('terminate called: std::bad_alloc', flush=True); os.abort()", Unavailable, "no_memory"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", Corrupt, "child_failed"),
        ("os.kill(os.getpid(), signal.SIGILL)", Corrupt, "child_failed"),
        ("os.kill(os.getpid(), signal.SIGTERM)", Unavailable, "child_killed"),
    ],
)  # fmt: skip
def test_a_crash_is_told_from_a_kill_and_from_a_want_of_memory(run, tmp_path, code, family, known):
    with pytest.raises(family) as e:
        run(code)
    assert e.value.code == known
    with pytest.raises(Corrupt) as later:  # what an earlier try wrote is not taken for this one's
        run("sys.exit(1)")
    assert later.value.code == "child_failed"


def test_a_disk_without_room_for_the_job_itself_is_said(job, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "t/job.json"))

    monkeypatch.setattr(children.durable, "write", full)
    with pytest.raises(Unavailable, match="disk full"):
        children.run("train", job, tmp_path / "t")


def test_the_thread_that_looks_is_not_needed_for_the_child_to_end(run):
    """A negative control of the tests above: without limits a quiet child is waited for."""
    ended = threading.Event()
    assert run("time.sleep(1.0); done(ok=1)", look=ended.is_set) == {"ok": 1}
