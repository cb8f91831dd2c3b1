"""The jobs of the three stages and how one is run: a niced child process per stage, watched through files in its
directory.

    <job_dir>/job.json       what to do (written here)            progress.json  fraction, eta_s, text (replaced often)
              result.json    what came of it (atomic)             error.json     why nothing came of it
              log.txt        the child's stdout and stderr        checkpoint.safetensors, ... the stage's own

Guarantees: a finished job is never run again (same job: its result is returned; another job in the same directory:
the old files go first); the child dies with the thread that called `run`, and at its time limit; the caller imports
no torch. Does not guarantee: a memory limit, unless `memory_bytes` is given. That one is RLIMIT_DATA (what the child
writes to: heap and private mappings), since RLIMIT_AS also counts torch's mapped libraries. The unit's MemoryMax
stands behind it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from edged import durable
from edged.clock import Clock, SystemClock
from edged.errors import Corrupt, EdgedError, Misconfigured, Refused, Unavailable
from edged.retrain import device

Stage = Literal["train", "compress", "trial"]
MINUTES_OF_GRACE = 2.0  # a stage ends by itself at max_minutes; after this much more it is killed
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
    folder: str = ""  # train only: plain pictures instead of a snapshot (folder.py); data_dir is then where models go
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
    mirror: Unit = 0.5  # augmentation: share of crops mirrored left to right
    shift: Unit = 0.08  # augmentation: share of a side
    light: Unit = 0.3  # augmentation: contrast and brightness
    fill: Unit = 0.5  # augmentation that never fades: share of crops with a patch of the scrubber's grey; decision 0007
    fade: Annotated[float, Meta(ge=0, le=4)] = 1.5  # augmentation is gone after 1 / fade of the epochs; 0: it stays
    patience: Annotated[int, Meta(ge=1)] = 10  # epochs without a better tune split before it stops
    epoch_least: Annotated[int, Meta(ge=1)] = 1000  # crops drawn per epoch (again and again when there are fewer)
    epoch_most: Annotated[int, Meta(ge=1)] = 4000  # and at most
    min_samples: Annotated[int, Meta(ge=1)] = 40  # fewer crops in the train split are refused


class CompressJob(Job, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make a smaller or faster file of the model `sha256`."""

    classes: tuple[str, ...]
    sha256: str
    method: Literal["int8"] = "int8"
    seed: int = 1
    calibration: Annotated[int, Meta(ge=8)] = 200  # crops of the train split that set the scales


class TrialJob(Job, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Run the model `sha256` on the frozen hold-out under one device's limits."""

    classes: tuple[str, ...]
    sha256: str
    device: str = "atom-x5-e3940"
    baseline: str = ""  # sha256 of the model to compare with, "" = there is none yet
    runtime: str = "auto"
    seconds: Annotated[float, Meta(gt=0)] = 5.0  # for measuring speed


KINDS: dict[str, type[Job]] = {"train": TrainJob, "compress": CompressJob, "trial": TrialJob}


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
    max_minutes: float | None = None,
    memory_bytes: int | None = None,
    clock: Clock | None = None,
    nice: int = 10,
) -> dict[str, Any]:
    """Run one stage to its end and return its result; a finished one is returned at once.

    Raises what the child raised (Refused, Unavailable, Corrupt, Misconfigured); Unavailable when it ran out of time
    or was killed; Corrupt when it died of a bug (the log's last line is in the message).
    """
    clock = clock or SystemClock()
    checked = check(stage, {**job, "max_minutes": max_minutes} if max_minutes else job)
    result, error, log = job_dir / "result.json", job_dir / "error.json", job_dir / "log.txt"
    _prepare(job_dir, msgspec.json.format(msgspec.json.encode(checked)))
    if result.exists():
        return _read(result)
    error.unlink(missing_ok=True)
    limit = clock.monotonic() + (checked.max_minutes + MINUTES_OF_GRACE) * 60
    with open(log, "ab") as out:
        child = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "edged.retrain",
                stage,
                str(job_dir),
                "--nice",
                str(nice),
                "--parent",
                str(os.getpid()),
            ]
            + (["--memory", str(memory_bytes)] if memory_bytes else []),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=_environment(checked),
        )
    try:
        last: Progress | None = None
        while True:
            with suppress(subprocess.TimeoutExpired):
                child.wait(_POLL_S)
            now = _progress(job_dir)
            if now is not None and now != last:
                last = now
                progress(now)
            if child.returncode is not None:
                break
            if clock.monotonic() > limit:
                raise Unavailable(
                    f"{stage} was stopped after {checked.max_minutes:g} minutes and {MINUTES_OF_GRACE:g} of grace"
                )
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    if result.exists():
        return _read(result)
    raise _failure(stage, child.returncode, error, log)


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
    if isinstance(job, TrialJob):
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


_FAMILIES: dict[str, type[EdgedError]] = {
    "Refused": Refused, "Unavailable": Unavailable, "Corrupt": Corrupt, "Misconfigured": Misconfigured,
}  # fmt: skip


def _failure(stage: str, code: int, error: Path, log: Path) -> EdgedError:
    """The child's own words if it left some, else what its end says."""
    if error.exists():
        said = _read(error)
        family = _FAMILIES.get(said.get("family", ""), Corrupt)
        return family(str(said.get("message", "")), hint=str(said.get("hint", "")), code=said.get("code"))
    if code < 0:
        name = signal.Signals(-code).name
        return Unavailable(
            f"the {stage} child was killed by {name}",
            hint="if nobody stopped it, the machine was out of memory: `journalctl -k` says so",
            code="child_killed",
        )
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return Corrupt(
        f"the {stage} child ended with exit code {code}: {lines[-1][:300] if lines else 'it said nothing'}",
        hint=f"the whole story is in {log}",
        code="child_failed",
    )
