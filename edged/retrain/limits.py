"""What a child gives up before it begins, so that everything else on the box comes first.

    processor   nice 19 (a re-test: 10, its result is a speed), batch scheduling. Not SCHED_IDLE: where cameras keep every
                core busy it would get nothing at all, for days
    disk        the idle class, where the scheduler of the disk has classes
    memory      the kernel's first choice when memory runs out; RLIMIT_DATA: heap and private mappings, since RLIMIT_AS also
                counts torch's mapped libraries. Beyond it malloc fails, and the child says so

Guarantees: what could not be given up is no reason to stop (an old kernel, a sandbox). Does not guarantee that shared
memory and the page cache count: a cgroup's MemoryMax (systemd/edged.service) stands behind it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
from contextlib import suppress
from pathlib import Path

OOM_SCORE = 1000  # of -1000..1000: the first to go
_PR_SET_PDEATHSIG = 1
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "armv7l": 314}
_IOPRIO_IDLE = 3 << 13


def die_with(parent: int) -> bool:
    """Be killed when the thread that started this process ends; False if `parent` is gone already."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent  # it may have died before we asked to be told


def give_way(nice: int, memory_bytes: int = 0) -> None:
    """Lower this process; `nice` is the level to reach, `memory_bytes` 0 = no limit."""
    with suppress(OSError):
        os.nice(max(0, nice - os.getpriority(os.PRIO_PROCESS, 0)))
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    if (number := _IOPRIO_SET.get(platform.machine())) is not None:
        ctypes.CDLL(None, use_errno=True).syscall(number, 1, 0, _IOPRIO_IDLE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


def peak_bytes(pid: int) -> int:
    """The most memory (RSS) that a running process has had, 0 = it is gone."""
    return _status(pid, "VmHWM:") * 1024


def cpu_seconds(pid: int) -> float:
    """User and system seconds of a running process, 0 = it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0.0


def family(pid: int) -> tuple[float, int]:
    """CPU seconds of a process and its children, of those that ended too, and the sum of the most memory (RSS) that each of
    those alive has had.
    """
    living = [pid]
    for path in Path("/proc").glob(f"{pid}/task/*/children"):
        with suppress(OSError, ValueError):
            living += [int(child) for child in path.read_text().split()]
    return sum(map(cpu_seconds, living)) + _ended(pid), sum(map(peak_bytes, living))


def _ended(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0.0


def _status(pid: int, key: str) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1])
    except (OSError, IndexError, ValueError):
        pass
    return 0
