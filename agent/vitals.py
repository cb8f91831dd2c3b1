"""What the camera's own hardware says about itself, read from /proc and /sys; None or 0 where it says nothing."""

from __future__ import annotations

import os
from pathlib import Path


def memory_bytes() -> int:
    """Resident memory of this process."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def data_bytes() -> int:
    """Private memory of this process that may be written to, touched or not (what RLIMIT_DATA counts); 0 = unknown."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return 0


def memory_total() -> int:
    """Memory of the machine."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def memory_available() -> int:
    """What the machine can still give without swapping, 0 = unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return 0


def running_s() -> float:
    """Seconds since this process was started, by the kernel's own count (proc(5): starttime, field 22); 0 = unknown."""
    try:
        stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        up = float(Path("/proc/uptime").read_text().split()[0])
        return max(0.0, up - int(stat[19]) / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return 0.0


def temperature_c(zones: Path = Path("/sys/class/thermal")) -> float | None:
    """The hottest thermal zone in degrees Celsius."""
    found = []
    for zone in zones.glob("thermal_zone*/temp"):
        try:
            found.append(int(zone.read_text()) / 1000)
        except (OSError, ValueError):
            continue
    return max(found, default=None)
