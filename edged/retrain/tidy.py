"""What is left of jobs that are over: the last few cycles keep their words, older ones and all bulk go.

Guarantees: nothing of a running cycle is touched if it is not called during one; what it removes can be made again.
Does not guarantee anything about folders that are not a cycle's number.
"""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress
from pathlib import Path

KEEP = 5  # cycles whose job.json, result.json, log.txt ... are kept to be read
WORDS = (".json", ".txt")
MOST_LOG = 1 << 20

log = logging.getLogger(__name__)


def jobs(folder: Path, keep: int = KEEP) -> int:
    """Clear the jobs of cycles that have ended; returns the bytes that were freed. Errors of the disk are logged."""
    freed = 0
    cycles = sorted((p for p in folder.glob("*") if p.is_dir() and p.name.isdigit()), key=lambda p: int(p.name))
    try:
        for old in cycles[: max(0, len(cycles) - keep)]:
            freed += sum(_size(p) for p in old.rglob("*"))
            shutil.rmtree(old)
        for cycle in cycles[max(0, len(cycles) - keep) :]:
            for path in cycle.rglob("*"):
                if path.is_file() and (path.suffix not in WORDS or _size(path) > MOST_LOG):
                    freed += _size(path)
                    path.unlink()
            for path in sorted(cycle.rglob("*"), reverse=True):  # folders that are empty now
                with suppress(OSError):
                    path.rmdir()
    except OSError as e:
        log.warning("old jobs in %s cannot be cleared: %s", folder, e)
    return freed


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
