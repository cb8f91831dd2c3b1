"""What processes take: memory and CPU time by role, and a limit that they live in.

Guarantees: the peak of a process is the kernel's own (VmHWM), read again and again while it lives; a limit is one that the
kernel enforces, or none and said so. Does not guarantee that a process which lives for less than a reading is seen, nor the
CPU time between the last reading and its end (EVERY_S at most).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from edged.clock import SystemClock

EVERY_S = 0.5
PSS_EVERY = 8  # readings between two sums of PSS, which is dear to read


def role(command: list[str]) -> str:
    """A short name of one of our processes by its command line; "" for what is none of ours."""
    words = " ".join(command)
    if "edged.retrain" in command:
        return f"stage {command[command.index('edged.retrain') + 1]}"
    if "edged.privacy.child" in words:
        return "scrub child"
    if "-m agent" in words or "edged-agent" in words or "agent.cli" in words:
        return "camera"
    if "edged" in command:
        for word, name in (("run", "daemon"), ("web", "page"), ("broker", "broker")):
            if word in command[command.index("edged") + 1 :]:
                return name
    return ""


@dataclass
class Footprint:
    """Peaks in bytes and CPU seconds (user + system) by role; `box_*` without the cameras."""

    peak_rss: dict[str, int] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)
    box_peak_pss: int = 0
    box_peak_rss: int = 0  # sum over processes: shared pages count once for each
    readings: int = 0
    _mark: dict[str, float] = field(default_factory=dict)
    _lap: dict[str, int] = field(default_factory=dict)

    def note(self, name: str, peak: int) -> None:
        self.peak_rss[name] = max(self.peak_rss.get(name, 0), peak)
        self._lap[name] = max(self._lap.get(name, 0), peak)

    def lap(self) -> dict[str, Any]:
        """CPU seconds and peak RSS by role since the last lap."""
        spent, peaks = dict(self.cpu_s), dict(self._lap)
        told = {
            "cpu_s": {k: round(v - self._mark.get(k, 0.0), 1) for k, v in sorted(spent.items())},
            "peak_rss_mb": {k: round(v / 1e6, 1) for k, v in sorted(peaks.items())},
        }
        self._mark, self._lap = spent, {}
        return told

    def facts(self) -> dict[str, Any]:
        return {
            "peak_rss_mb": {k: round(v / 1e6, 1) for k, v in sorted(self.peak_rss.items())},
            "cpu_s": {k: round(v, 1) for k, v in sorted(self.cpu_s.items())},
            "box_peak_pss_mb": round(self.box_peak_pss / 1e6, 1), "box_peak_rss_sum_mb": round(self.box_peak_rss / 1e6, 1),
            "readings": self.readings, "every_s": EVERY_S,
        }  # fmt: skip


@contextmanager
def watched(pid: int | None = None) -> Iterator[Footprint]:
    """Reads all descendants of a process (this one) until the block ends."""
    found, stop = Footprint(), threading.Event()
    thread = threading.Thread(target=_watch, args=(pid or os.getpid(), found, stop), name="footprint", daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def _watch(pid: int, found: Footprint, stop: threading.Event) -> None:
    root, spent = psutil.Process(pid), dict[tuple[int, float], tuple[str, float]]()
    while not stop.is_set():
        rss = pss = 0
        for process in root.children(recursive=True):
            with suppress(psutil.Error, OSError, ValueError):
                name = role(process.cmdline())
                if not name:
                    continue
                status = _status(process.pid)
                found.note(name, status["VmHWM"])
                times = process.cpu_times()
                spent[process.pid, process.create_time()] = (name, times.user + times.system)
                if name != "camera":
                    rss += status["VmRSS"]
                    if found.readings % PSS_EVERY == 0:
                        pss += _pss(process.pid)
        found.box_peak_rss, found.box_peak_pss = max(found.box_peak_rss, rss), max(found.box_peak_pss, pss)
        found.readings += 1
        found.cpu_s = {n: sum(s for other, s in spent.values() if other == n) for n, _ in spent.values()}
        stop.wait(EVERY_S)


def _status(pid: int) -> dict[str, int]:
    """VmHWM and VmRSS in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    named = dict(line.split(":", 1) for line in lines if line.startswith(("VmHWM", "VmRSS")))
    return {k: int(v.split()[0]) * 1024 for k, v in named.items()}


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


# the limit


@dataclass(frozen=True)
class Confines:
    """`prefix`: words before a command that is to live inside. `how` in words; `group` "" when nothing enforces it."""

    how: str
    prefix: tuple[str, ...] = ()
    group: str = ""

    def facts(self) -> dict[str, Any]:
        """What the kernel counted inside: its own peak (page cache included), refusals, kills."""
        if not self.group:
            return {"how": self.how}
        names = ("memory.max_usage_in_bytes", "memory.failcnt", "memory.peak", "memory.events", "memory.oom_control")
        told: dict[str, Any] = {"how": self.how}
        for name in names:
            with suppress(OSError):
                told[name] = Path(self.group, name).read_text().split()
        return told


@contextmanager
def confined(limit: int) -> Iterator[Confines]:
    """A group of processes that together may not have more than `limit` bytes; what MemoryMax= of a unit does.

    A control group below the caller's own, version 2 or 1. Where neither can be made, nothing is enforced and `how` says so.
    """
    group = _group(limit)
    if group is None:
        yield Confines("no control group can be made here: memory is only summed, not limited")
        return
    enter = ("sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group))
    kind = "v2" if (group / "memory.max").exists() else "v1"
    try:
        yield Confines(f"control group {kind} of {limit / 2**30:g} GiB, page cache included", enter, str(group))
    finally:
        for _ in range(50):
            try:
                group.rmdir()
                break
            except OSError:  # its last process is still going
                SystemClock().sleep(0.1)


def _group(limit: int) -> Path | None:
    own = dict(
        (line.split(":", 2)[1], line.split(":", 2)[2]) for line in Path("/proc/self/cgroup").read_text().splitlines()
    )
    for base, name in (
        (Path("/sys/fs/cgroup") / own.get("", "/").lstrip("/"), "memory.max"),
        (Path("/sys/fs/cgroup/memory") / own.get("memory", "/").lstrip("/"), "memory.limit_in_bytes"),
    ):
        group = base / f"edged-bench-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if not (group / name).exists():
                raise OSError
            (group / name).write_text(str(limit))
            return group
        except OSError:
            group.rmdir()
    return None
