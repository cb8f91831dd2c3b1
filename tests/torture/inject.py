"""strace as a hand on the operating system: at the K-th system call of a kind, a running process is killed or told "no".

Guarantees: nothing is injected before `attached` gives way to its body, nor after it. Does not guarantee the order of
system calls of several threads: strace counts each thread by itself, and kinds of calls one by one.
"""

from __future__ import annotations

import functools
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

WRITES = ("write", "writev", "pwrite64", "pwritev", "pwritev2")
SYNCS = ("fsync", "fdatasync")
NAMES = ("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "mkdir", "ftruncate", "openat")
KINDS = (*WRITES, *SYNCS, *NAMES)

_CALL = re.compile(r"^(?P<tid>\d+) +(?P<kind>\w+)\((?P<args>.*?)\)? += (?P<result>-?\d+|\?)")
AT = ("pwrite64", "pwritev", "pwritev2")  # writes that name their place
_AT = {kind: re.compile(rf", (?P<at>\d+){', [^,]+' * (kind == 'pwritev2')}\) += (?P<n>\d+)") for kind in AT}
_FD = re.compile(r"^(?P<fd>\d+)<(?P<path>[^>]*)>")


@functools.cache
def unable() -> str:
    """Why strace cannot work here, "" if it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    probe = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return "" if probe.returncode == 0 else f"strace may not trace: {probe.stderr.strip()[:200]}"


@dataclass(frozen=True)
class Call:
    """One traced system call. `path` is what its descriptor names; `failed` the name of the error, "" if none."""

    tid: int
    kind: str
    fd: int
    path: str
    failed: str
    injected: bool
    line: str

    def wrote(self) -> tuple[int, int] | None:
        """[start, end) of the file that a call with an offset wrote; None for any other call."""
        if self.kind not in AT or self.failed or (found := _AT[self.kind].search(self.line)) is None:
            return None
        return int(found["at"]), int(found["at"]) + int(found["n"])


@contextmanager
def attached(
    pid: int, log: Path, *, trace: Sequence[str], inject: str = "", paths: Sequence[Path] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Trace a process and all its threads. `inject` in strace's words; `paths`: only calls that touch one of them."""
    command = ["strace", "-f", "-y", "-s", "0", "-o", str(log), "-p", str(pid), "-e", f"trace={','.join(trace)}"]
    if inject:
        command += ["-e", f"inject={inject}"]
    for path in paths:
        command += ["-P", str(path)]
    with tempfile.TemporaryFile() as words, subprocess.Popen(command, stdout=words, stderr=words) as strace:
        try:
            while not _traced(pid):
                if strace.poll() is not None:
                    words.seek(0)
                    raise RuntimeError(
                        f"strace ended with {strace.returncode}: {words.read(500).decode(errors='replace')}"
                    )
                time.sleep(0.001)
            yield strace
        finally:
            if strace.poll() is None:
                strace.send_signal(signal.SIGINT)  # lets go of the process, which runs on
                strace.wait(30)


def _traced(pid: int) -> bool:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return all("\nTracerPid:\t0\n" not in (t / "status").read_text() for t in threads)
    except OSError:  # a thread ended meanwhile
        return False


def calls(log: Path) -> list[Call]:
    """What was traced, in order; calls that another thread interrupted are put together first."""
    return list(_calls(log.read_text(errors="replace").splitlines()))


def _calls(lines: Sequence[str]) -> Iterator[Call]:
    unfinished: dict[str, str] = {}
    for line in lines:
        tid, _, rest = line.partition(" ")
        if rest.endswith(" <unfinished ...>"):
            unfinished[tid] = rest.removesuffix(" <unfinished ...>")
            continue
        if (resumed := re.match(r" *<\.\.\. \w+ resumed>(.*)", rest)) is not None:
            line = f"{tid} {unfinished.pop(tid, '').lstrip()}{resumed[1]}"
        if (call := _CALL.match(line)) is None:
            continue
        fd = _FD.match(call["args"])
        failed = re.search(r" = -1 (\w+)", line)
        yield Call(
            int(call["tid"]), call["kind"], int(fd["fd"]) if fd else -1, fd["path"] if fd else "",
            failed[1] if failed else "", "(INJECTED)" in line, line,
        )  # fmt: skip


def points(log: Path, within: Path) -> set[tuple[str, int]]:
    """Every (kind, K) that injects into a call about something in the folder `within`, counted in each thread."""
    seen: Counter[tuple[str, int]] = Counter()
    found = set()
    for call in calls(log):
        seen[call.kind, call.tid] += 1
        if str(within) in call.line:
            found.add((call.kind, seen[call.kind, call.tid]))
    return found


def synced_again(traced: Sequence[Call]) -> list[str]:
    """Paths whose sync failed and that were synced again on the same descriptor before all was written again that the
    failed one was to flush: after a failure the kernel may have dropped the pages and then reports success (Rebello et
    al., USENIX ATC 2020). Writing again and then syncing is sound: SQLite keeps the descriptor of a closed connection
    for the next one while another holds the file's locks, and its checkpoint, which counts what it has moved only after
    the sync, writes every page once more.
    """
    failed: dict[int, str] = {}
    dirty: dict[str, list[tuple[int, int]]] = {}  # written since the last sync that went well
    lost: dict[str, list[tuple[int, int]]] = {}  # of which that failed, and that was not written again
    again = []
    for call in traced:
        if (span := call.wrote()) is not None:
            dirty.setdefault(call.path, []).append(span)
            if call.path in lost:
                lost[call.path] = _without(lost[call.path], span)
        elif call.kind == "close":
            failed.pop(call.fd, None)
        elif call.kind in SYNCS and call.failed:
            failed[call.fd] = call.path
            if gone := [*lost.get(call.path, ()), *dirty.pop(call.path, ())]:
                lost[call.path] = gone
        elif call.kind in SYNCS:
            written_again = lost.get(call.path) == []
            if failed.get(call.fd) == call.path and not written_again:
                again.append(call.path)
            if failed.get(call.fd) == call.path or written_again:
                failed = {fd: path for fd, path in failed.items() if path != call.path}
                lost.pop(call.path, None)
            dirty.pop(call.path, None)
    return again


def _without(spans: Sequence[tuple[int, int]], cut: tuple[int, int]) -> list[tuple[int, int]]:
    low, high = cut
    left = [(a, min(b, low)) for a, b in spans] + [(max(a, high), b) for a, b in spans]
    return [(a, b) for a, b in left if a < b]
