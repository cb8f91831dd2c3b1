"""The jobs of the stages and how one is run: a niced child process per stage, watched through files in its
directory.

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
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from edged import durable
from edged.clock import Clock, SystemClock
from edged.errors import Corrupt, EdgedError, Misconfigured, Refused, Unavailable
from edged.retrain import device, limits
from edged.storage import disk

Stage = Literal["train", "learn", "survey", "reuse", "compress", "search", "trial", "retest"]
MINUTES_OF_GRACE = 2.0  # a stage ends by itself at max_minutes; after this much more it is killed
NICE, TRIAL_NICE = 19, 10
LOCK = ".lock"  # in jobs/
_POLL_S = 0.2

Unit = Annotated[float, Meta(ge=0, le=1)]


class Arch(Struct, frozen=True, forbid_unknown_fields=True):
    """Which network, by its name in `zoo` (the width is part of it), and the side of its square input."""

    name: str = "mobilenet-0.25"
    input_px: Annotated[int, Meta(ge=16, le=224)] = 64


class Job(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every stage is told: where the store is, which snapshot, and how much machine it may use."""

    data_dir: str
    key_file: str = ""
    snapshot: str = ""
    folder: str = ""  # plain pictures instead of a snapshot (folder.py); data_dir is then where models are
    threads: Annotated[int, Meta(ge=1, le=64)] = 1  # more than one pays for large networks on an idle box only
    max_minutes: Annotated[float, Meta(gt=0)] = 120


class TrainJob(Job, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Train `arch` on the snapshot's train split, from scratch or from `start`.

    The defaults are what reached 97 % on one camera of CNRPark and 94 % on the second (with a tenth of its crops) in the
    fewest CPU seconds. What mattered: augmentation that fades out, no label smoothing, the latest good epoch instead of the
    luckiest; 96 pixels cost twice as much as 64 and won nothing there.
    """

    classes: Annotated[tuple[str, ...], Meta(min_length=1)]
    arch: Arch = Arch()
    start: str = ""  # sha256 of the ONNX or the weights to begin from, "" = from scratch
    seed: Annotated[int, Meta(ge=0, le=2**31)] = 1
    epochs: Annotated[int, Meta(ge=1, le=1000)] = 14
    batch: Annotated[int, Meta(ge=2, le=1024)] = 32
    lr: Annotated[float, Meta(gt=0, le=1)] = 4e-3
    weight_decay: Annotated[float, Meta(ge=0, le=1)] = 0.02
    smoothing: Unit = 0.0  # of labels
    balance: Unit = 0.5  # 0: every crop is drawn as often; 1: every (class, camera) group is
    camera_cap: Annotated[float, Meta(gt=0, le=1)] = (
        1.0  # no camera is more than this share of what is drawn (three or more)
    )
    mirror: Unit = 0.5  # augmentation: share of crops mirrored left to right
    shift: Unit = 0.08  # augmentation: share of a side
    light: Unit = 0.3  # augmentation: contrast and brightness
    fill: Unit = 0.5  # augmentation that never fades: share of crops with a patch of the scrubber's grey; decision 0007
    fade: Annotated[float, Meta(ge=0, le=4)] = 1.5  # augmentation is gone after 1 / fade of the epochs; 0: it stays
    patience: Annotated[int, Meta(ge=1)] = 10  # epochs without a better tune split before it stops
    epoch_least: Annotated[int, Meta(ge=1)] = 1000  # crops drawn per epoch (again and again when there are fewer)
    epoch_most: Annotated[int, Meta(ge=1)] = 4000  # and at most
    min_samples: Annotated[int, Meta(ge=1)] = 40  # fewer crops in the train split are refused
    draw: Literal["chance", "turns"] = (
        "chance"  # "turns": every crop as often as its chance says, none by luck (fit.drawn)
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # accelerator.py
    test: str = ""  # with `folder`: another folder of pictures that are only tested on
    data: str = ""  # with `folder`: sha256 of what is in it, so that other data are another job


class CompressJob(Job, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make a smaller or faster file of the model `sha256`."""

    classes: tuple[str, ...]
    sha256: str
    method: str = "int8"  # a chain of steps (chain.py)
    previous: str = ""  # sha256 of the delivered version before, which int8 weights stay near; "" = there is none
    max_loss: Unit = 0.01  # accuracy that a step with accuracy control may lose on the tune split
    device: str = "atom-x5-e3940"  # what `tune` tunes for
    seed: int = 1
    calibration: Annotated[int, Meta(ge=8)] = 200  # crops of the train split that set the scales
    test: str = ""  # with `folder`: as TrainJob's


class SearchJob(Job, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Look for chains of compression that make good models of `sha256`, for as long as `max_minutes` say (search.py)."""

    classes: tuple[str, ...]
    sha256: str
    device: str = "atom-x5-e3940"
    methods: tuple[str, ...] = ()  # chains that are tried in any case
    max_loss: Unit = 0.02  # accuracy that a candidate may lose on the tune split
    min_fps: Annotated[float, Meta(ge=0)] = 30.0
    keep: Annotated[int, Meta(ge=1, le=16)] = 3  # candidates that are handed on
    test: str = ""  # with `folder`: as TrainJob's
    seed: int = 1
    calibration: Annotated[int, Meta(ge=8)] = 200
    latency: str = ""  # JSON of latency.Calibration for the device, "" = none


class Judged(Job, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a re-test is told: the frozen hold-out is run under one device's limits."""

    classes: tuple[str, ...]
    device: str = "atom-x5-e3940"
    baseline: str = ""  # sha256 of the model to compare with, "" = there is none yet
    runtime: str = "auto"
    seconds: Annotated[float, Meta(gt=0)] = 5.0  # for measuring speed
    latency: str = ""  # JSON of latency.Calibration for the device, "" = none: the profile's own factor
    pinned: tuple[tuple[str, str], ...] = ()  # (sample, class): past failures that a model must get right
    test: str = ""  # with `folder`: as TrainJob's
    pins_left_out: tuple[str, ...] = ()  # sentences: which of them cannot be tested on
    quota: Unit = (
        0  # of one core that the child may use (quota.py), so that the wall's time is the device's; 0 = all of it
    )
    verify_isa: bool = False  # run a few pictures under an emulator of the device's processor too (verified.py)


class TrialJob(Judged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Re-test the model `sha256`, all in one process."""

    sha256: str


class RetestJob(Judged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Re-test several models, spread over processes (retest.py)."""

    candidates: Annotated[tuple[str, ...], Meta(min_length=1, max_length=64)]  # sha256
    workers: Annotated[int, Meta(ge=0, le=256)] = 0  # processes at a time, each on a core of its own; 0 = every core
    scheduler: str = ""  # of Dask: other hosts do the work (cluster.py); "" = this one


Rung = Literal["norms", "head", "tail", "all"]
RUNGS: tuple[Rung, ...] = ("norms", "head", "tail", "all")


class LearnJob(Job, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bring the model `start` up to date with the snapshot's train split at the least cost (learn.py).

    Rungs from cheap to dear: batch norm's statistics from unlabelled pictures, the last layer, the last blocks, all of it.
    What is new are the samples of the train split that `before`, the snapshot `start` was made from, did not have.
    """

    classes: Annotated[tuple[str, ...], Meta(min_length=1)]
    start: str  # sha256 of an ONNX made here or of weights
    arch: Arch = Arch()
    before: str = ""  # snapshot id; "" = all is new
    unlabelled: tuple[str, ...] = ()  # sample ids of new pictures, labelled or not, for the first rung
    kin: tuple[tuple[str, str], ...] = ()  # (sample id, class) of pictures that show what a new labelled one shows
    rungs: tuple[Rung, ...] = RUNGS  # those that may be climbed, in this order
    replay: Unit = 0.3  # share of old samples among those that are drawn
    camera_cap: Annotated[float, Meta(gt=0, le=1)] = 0.6  # no camera is more than this share (three cameras or more)
    teacher: str = ""  # sha256 of an ONNX whose answers are learned from as well (distillation); "" = none
    seed: Annotated[int, Meta(ge=0, le=2**31)] = 1
    min_samples: Annotated[int, Meta(ge=1)] = 20  # fewer new crops are refused, unless "norms" is the only rung
    memory_bytes: Annotated[int, Meta(ge=0)] = 0  # what the stage may use: rungs that need more are left out; 0 = any


class SurveyJob(Job, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Look at `samples` with the model `sha256` ("" = none yet) and the teacher ("" = none): hashes, features, answers."""

    classes: tuple[str, ...]
    samples: tuple[str, ...]
    sha256: str = ""
    teacher: str = ""
    teacher_classes: tuple[str, ...] = ()  # for a file that does not name its own
    told: tuple[str, ...] = ()  # samples the teacher has spoken of already: it is not asked again


class ReuseJob(Job, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Score past models on the human labels of the snapshot's train and tune parts, by camera."""

    classes: tuple[str, ...]
    models: Annotated[tuple[str, ...], Meta(max_length=32)]  # sha256 of ONNX files, newest first
    before: str = ""  # snapshot id the present model was made from: what is new is scored by itself


KINDS: dict[str, type[Job]] = {
    "train": TrainJob, "learn": LearnJob, "survey": SurveyJob, "reuse": ReuseJob, "compress": CompressJob,
    "search": SearchJob, "trial": TrialJob, "retest": RetestJob,
}  # fmt: skip


class Progress(Struct, frozen=True):
    """How far a child is. `eta_s` None = unknown yet."""

    fraction: Unit = 0.0
    eta_s: float | None = None
    text: str = ""
    epoch: int = 0
    loss: float | None = None
    accuracy: float | None = None


def check(stage: str, job: Mapping[str, Any]) -> Job:
    """Raises Refused with the field at fault."""
    if stage not in KINDS:
        raise Refused(f"no stage is called {stage!r}; known: {', '.join(KINDS)}")
    try:
        return msgspec.convert(dict(job), KINDS[stage])
    except msgspec.ValidationError as e:
        raise Refused(f"{stage} job: {e}", code="bad_job") from e


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
    argv = [sys.executable, "-m", "edged.retrain", stage, str(job_dir), "--nice", str(level)]
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
