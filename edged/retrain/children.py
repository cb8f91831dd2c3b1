"""How a stage's job is run: a niced child process per stage, watched through files in its directory.

    <job_dir>/job.json       what to do (written here)            progress.json  fraction, eta_s, text (replaced often)
              result.json    what came of it (atomic)             error.json     why nothing came of it
              log.txt        the child's stdout and stderr        checkpoint.safetensors, ... the stage's own

              used.json      CPU seconds and memory that it took

Guarantees: a finished job is never run again (same job: its result is returned; another job in the same directory:
the old files go first); one job of a site at a time, whoever starts it; the child dies with the thread that called
`run`, at its time limit, and when it stands still; the caller imports no torch. Does not guarantee: a memory limit,
unless `memory_bytes` is given (limits.py).
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from edged import durable
from edged.clock import Clock, SystemClock
from edged.errors import Corrupt, EdgedError, Misconfigured, Refused, Unavailable
from edged.retrain import device, limits
from edged.retrain.jobs import KINDS, Job, Judged, Progress, check
from edged.storage import disk

MINUTES_OF_GRACE = 2.0  # a stage ends by itself at max_minutes; after this much more it is killed
NICE, TRIAL_NICE = 19, 10
LOCK = ".lock"  # in jobs/
_POLL_S = 0.2


def run(
    stage: str,
    job: Mapping[str, Any],
    job_dir: Path,
    *,
    progress: Callable[[Progress], None] = lambda _: None,
    look: Callable[[], None] = lambda: None,
    max_minutes: float | None = None,
    stuck_minutes: float | None = None,
    memory_bytes: int | None = None,
    clock: Clock | None = None,
    nice: int | None = None,
) -> dict[str, Any]:
    """Run one stage to its end and return its result; a finished one is returned at once.

    `progress` is called when there is some, `look` a few times a second; what they raise ends the child. `nice` None: a
    re-test 10, all else 19. Raises what the child raised (Refused, Unavailable, Corrupt, Misconfigured); Unavailable when
    it ran out of time or was killed, "stuck" when its progress stood still for `stuck_minutes`, "busy" while another job
    of the same site runs; Corrupt("child_failed") when it died of a bug (the log's last line is in the message).
    """
    clock = clock or SystemClock()
    checked = check(stage, {**job, "max_minutes": max_minutes} if max_minutes else job)
    result, error, log = job_dir / "result.json", job_dir / "error.json", job_dir / "log.txt"
    with disk.explained(job_dir):
        _prepare(job_dir, msgspec.json.format(msgspec.json.encode(checked)))
    if result.exists():
        return _read(result)
    level = nice if nice is not None else TRIAL_NICE if isinstance(checked, Judged) else NICE
    argv = [sys.executable, "-P", "-m", "edged.retrain", stage, str(job_dir), "--nice", str(level)]
    argv += ["--parent", str(os.getpid())] + (["--memory", str(memory_bytes)] if memory_bytes else [])
    with disk.explained(job_dir), alone("" if checked.folder else checked.data_dir) as lock, open(log, "ab") as out:
        error.unlink(missing_ok=True)
        since = out.tell()
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=_environment(checked), pass_fds=lock
        )
        try:
            _attend(child, checked, job_dir, progress, look, stuck_minutes, clock)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    if result.exists():
        return _read(result)
    raise _failure(stage, child.returncode, error, log, since)


def _attend(
    child: subprocess.Popen[bytes], job: Job, job_dir: Path, progress: Callable[[Progress], None],
    look: Callable[[], None], stuck_minutes: float | None, clock: Clock,
) -> None:  # fmt: skip
    """Until the child has ended; raises Unavailable at its limits."""
    stage = next(name for name, kind in KINDS.items() if type(job) is kind)
    limit = clock.monotonic() + (job.max_minutes + MINUTES_OF_GRACE) * 60
    last, moved = _progress(job_dir), clock.monotonic()
    before, spent = used(job_dir), Used()
    while True:
        with suppress(subprocess.TimeoutExpired):
            child.wait(_POLL_S)
        if child.returncode is None:
            cpu_seconds, peak = limits.family(child.pid)
            spent = Used(max(spent.cpu_seconds, cpu_seconds), max(spent.peak_bytes, peak))
        now = _progress(job_dir)
        if now is not None and now != last:
            last, moved = now, clock.monotonic()
            _note(job_dir, before, spent)
            progress(now)
        if child.returncode is not None:
            _note(job_dir, before, spent)
            return
        look()
        if clock.monotonic() > limit:
            raise Unavailable(
                f"{stage} was stopped after {job.max_minutes:g} minutes and {MINUTES_OF_GRACE:g} of grace",
                hint="raise [train] max_minutes, or train a smaller network",
                code="too_long",
            )
        if stuck_minutes and clock.monotonic() - moved > stuck_minutes * 60:
            at = f" at {last.fraction:.0%} ({last.text})" if last else ""
            raise Unavailable(
                f"{stage} was stopped: it stood still{at} for {stuck_minutes:g} minutes",
                hint=f"[train] stuck_minutes sets how long; {job_dir / 'log.txt'} may say more",
                code="stuck",
            )


class Used(Struct, frozen=True):
    """What a job's children have taken, all tries together: CPU seconds, and the most memory (RSS), with their own children."""

    cpu_seconds: float = 0.0
    peak_bytes: int = 0


def used(job_dir: Path) -> Used:
    """As it was seen a few times a second; zeros if nothing was."""
    try:
        return msgspec.json.decode((job_dir / "used.json").read_bytes(), type=Used)
    except (OSError, msgspec.MsgspecError):
        return Used()


def _note(job_dir: Path, before: Used, spent: Used) -> None:
    total = Used(round(before.cpu_seconds + spent.cpu_seconds, 2), max(before.peak_bytes, spent.peak_bytes))
    with suppress(OSError):  # a full disk; it is only said on the page
        durable.write(job_dir / "used.json", msgspec.json.encode(total), fsync=False)


@contextmanager
def alone(data_dir: str) -> Iterator[tuple[int, ...]]:
    """Hold the lock of a site ("" = none); a child inherits it, so that it is free when both are gone. Raises
    Unavailable("busy").
    """
    if not data_dir:
        yield ()
        return
    path = Path(data_dir) / "jobs" / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise Unavailable(
                "another job of this site runs", hint="one at a time: `edged cycle show` tells of it", code="busy"
            ) from e
        yield (file.fileno(),)


def _prepare(job_dir: Path, job: bytes) -> None:
    """job.json; when another job stood there, everything that came of it goes first."""
    job_dir.mkdir(parents=True, exist_ok=True)
    there = job_dir / "job.json"
    if there.exists() and there.read_bytes() == job:
        return
    for path in job_dir.iterdir():
        if path.is_file():
            path.unlink()
    durable.write(there, job)


def _environment(job: Job) -> dict[str, str]:
    """The child's environment: threads, and for a trial the device's caps (they must be set before numpy and cv2
    load).
    """
    env = {k: v for k, v in os.environ.items() if k not in device.CAPS}
    threads = str(job.threads)
    env |= {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    # OpenMP threads that wait must not spin: on a busy box two spinning threads took six times as long as one (measured).
    env["OMP_WAIT_POLICY"] = "PASSIVE"
    if isinstance(job, Judged):
        env |= device.find(job.device).environment()
    return env


def _read(path: Path) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as e:
        raise Corrupt(f"{path} does not read back: {e}") from e
    if not isinstance(value, dict):
        raise Corrupt(f"{path} is not a JSON object")
    return value


def _progress(job_dir: Path) -> Progress | None:
    try:
        return msgspec.json.decode((job_dir / "progress.json").read_bytes(), type=Progress)
    except (OSError, msgspec.MsgspecError):
        return None


FAMILIES: dict[str, type[EdgedError]] = {
    "Refused": Refused, "Unavailable": Unavailable, "Corrupt": Corrupt, "Misconfigured": Misconfigured,
}  # fmt: skip


# What says that malloc returned null: torch, OpenVINO and onnxruntime, a thread that found no room for its stack.
NO_MEMORY = ("DefaultCPUAllocator", "bad_alloc", "Cannot allocate memory", "can't start new thread", "MemoryError")


def _failure(stage: str, code: int, error: Path, log: Path, since: int) -> EdgedError:
    """The child's own words if it left some, else what its end says; `since`: where its part of the log begins."""
    if error.exists():
        said = _read(error)
        family = FAMILIES.get(said.get("family", ""), Corrupt)
        return family(str(said.get("message", "")), hint=str(said.get("hint", "")), code=said.get("code"))
    lines = [line for line in log.read_bytes()[since:].decode(errors="replace").splitlines() if line.strip()]
    if any(word in line for line in lines[-20:] for word in NO_MEMORY):  # a native library's exception ends the process
        return Unavailable("not enough memory for this stage", code="no_memory", hint="raise [train] max_memory")
    if -code in (signal.SIGKILL, signal.SIGTERM):
        return Unavailable(
            f"the {stage} child was killed by {signal.Signals(-code).name}",
            hint="if nobody stopped it, the machine was out of memory: `journalctl -k` says so",
            code="child_killed",
        )
    how = f"crashed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return Corrupt(
        f"the {stage} child {how}: {lines[-1][:300] if lines else 'it said nothing'}",
        hint=f"the whole story is in {log}",
        code="child_failed",
    )
