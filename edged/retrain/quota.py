"""A slower processor and less memory for this process: by control groups where that is allowed, else by means of its own.

    processor   cgroup v2 cpu.max, or v1 cpu.cfs_quota_us, with a period of 10 ms (longer below a tenth of a core: the kernel
                gives no less than 1 ms); else a governor: a process of its own that stops and continues this one (SIGSTOP,
                SIGCONT) so that it gets its share of a core, looking every millisecond
    memory      cgroup v2 memory.max, or v1 memory.limit_in_bytes; else RLIMIT_AS, and below 2 GiB, where address space is
                mostly mapped libraries, RLIMIT_DATA

Guarantees: what is returned is the sentence that is true. A period of 100 ms would give frames of a few and of a hundred
milliseconds (measured); at 10 ms the wall's time of a frame is near what a slower clock makes of it. Does not guarantee a
slower memory or smaller caches.
"""

from __future__ import annotations

import atexit
import math
import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from edged.clock import SystemClock, cpu_seconds_of

PERIOD_S = 0.01
LOOK_S = 0.001
SMALL = 2 << 30
_NAME = "edged-trial-"
_LEAST_US = 1000  # of a quota, as the kernel has it


def processor(share: float) -> str:
    """Give this process `share` (0..1) of one core from now on."""
    if not 0 < share < 1:
        return "its whole core"
    period = max(round(PERIOD_S * 1e6), math.ceil(_LEAST_US / share))
    quota, told = str(max(_LEAST_US, round(share * period))), f"{share:.0%} of one core by its control group"
    if _in_group("cpu", {"cpu.max": f"{quota} {period}"}, 2):
        return f"{told} (cgroup v2, period {period / 1000:.0f} ms)"
    if _in_group("cpu", {"cpu.cfs_period_us": str(period), "cpu.cfs_quota_us": quota}, 1):
        return f"{told} (cgroup v1, period {period / 1000:.0f} ms)"
    govern(os.getpid(), share)
    return f"{share:.0%} of one core by stopping and continuing it (no control group is allowed here)"


def memory(limit: int) -> str:
    """Let this process have `limit` bytes from now on; 0 = as many as there are."""
    if not limit:
        return ""
    told = f"memory limited to {limit / (1 << 20):.0f} MiB"
    if _in_group("memory", {"memory.max": str(limit)}, 2):
        return f"{told} by its control group (cgroup v2)"
    if _in_group("memory", {"memory.limit_in_bytes": str(limit)}, 1):
        return f"{told} by its control group (cgroup v1)"
    kind, name = (resource.RLIMIT_DATA, "heap and private mappings") if limit < SMALL else (resource.RLIMIT_AS, "")
    hard = resource.getrlimit(kind)[1]
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(kind, (limit, limit))
    return f"{told}: {name or 'address space'} ({'RLIMIT_DATA' if name else 'RLIMIT_AS'})"


def tidy() -> None:
    """Remove the groups of processes that are gone."""
    for controller in ("cpu", "memory"):
        for version in (1, 2):
            base = _base(controller, version)
            for old in base.glob(f"{_NAME}*") if base is not None else ():
                with suppress(OSError):
                    old.rmdir()  # fails while somebody is in it


def govern(pid: int, share: float) -> subprocess.Popen[bytes]:
    """Start the governor of a process; it ends with the process that called this."""
    argv = [sys.executable, "-P", "-m", "edged.retrain.quota", str(pid), str(share), str(os.getpid())]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL)


def _in_group(controller: str, limits: dict[str, str], version: int) -> bool:
    """Move this process into a group of its own under the one that it is in; False = that is not allowed here."""
    base = _base(controller, version)
    if base is None:
        return False
    own = base if base.name.startswith(_NAME) else base / f"{_NAME}{os.getpid()}"
    try:
        if own is not base:
            for name in ("cpu", "memory") if version == 2 else ():
                with suppress(OSError):
                    (base / "cgroup.subtree_control").write_text(f"+{name}")
            own.mkdir()
        for file, value in limits.items():
            (own / file).write_text(value)
        (own / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:
        if own is not base:
            with suppress(OSError):
                own.rmdir()
        return False
    if own is not base:
        atexit.register(_leave, base, own)
    return True


def _leave(base: Path, own: Path) -> None:
    """At the end: out of the group, and away with it. What cannot be removed (v2, a kill) is `tidy`'s, the next time."""
    with suppress(OSError):
        (base / "cgroup.procs").write_text(str(os.getpid()))
        own.rmdir()


def _base(controller: str, version: int) -> Path | None:
    """The directory of this process's group where the controller is mounted."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
        groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return None
    for fields in mounts:
        if version == 2 and fields[2] == "cgroup2":
            path = next((g[2] for g in groups if g[0] == "0"), None)
        elif version == 1 and fields[2] == "cgroup" and controller in fields[3].split(","):
            path = next((g[2] for g in groups if controller in g[1].split(",")), None)
        else:
            continue
        base = Path(fields[1]) / (path or "/").lstrip("/")
        base = base if base.is_dir() else Path(fields[1])  # in a container the mount is the group itself
        if version == 2 and controller not in _words(base / "cgroup.controllers"):
            continue
        return base
    return None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def hold(pid: int, share: float) -> None:
    """Until the process is gone: it runs until it has used its share of the period (or a little more, which makes its next
    pause longer), then stands still until that share is what it has had.
    """
    clock = SystemClock()
    with suppress(OSError):  # it is gone
        while True:
            began, used = clock.monotonic(), cpu_seconds_of(pid)
            while (spent := cpu_seconds_of(pid) - used) < share * PERIOD_S:
                clock.sleep(min(LOOK_S, max(1e-4, share * PERIOD_S - spent)))
                if clock.monotonic() - began > PERIOD_S:  # it waits for something: what it did not use is gone
                    began, used = clock.monotonic(), cpu_seconds_of(pid)
            os.kill(pid, signal.SIGSTOP)
            try:
                spent = cpu_seconds_of(pid) - used
                clock.sleep(max(0.0, spent / share - (clock.monotonic() - began)))
            finally:
                os.kill(pid, signal.SIGCONT)


def main(argv: list[str]) -> int:
    from edged.retrain import limits

    pid, share, parent = int(argv[0]), float(argv[1]), int(argv[2])
    if not limits.die_with(parent):
        return 0
    hold(pid, share)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
