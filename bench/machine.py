"""What machine a figure comes from."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from edged.clock import SystemClock, day


def describe() -> dict[str, str | int]:
    """Processor, cores, memory, kernel, day: enough to know whether two results may be compared."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu, "cores": os.cpu_count() or 0, "memory_gb": round(memory / 1e9), "kernel": platform.release(),
        "python": platform.python_version(), "date": day(SystemClock().now()),
    }  # fmt: skip
