"""The child: `python -m edged.retrain STAGE JOBDIR`. Reads job.json, leaves result.json or error.json.

Exit codes: 0 result.json is there; 3 refused; 75 unavailable; 1 corrupt; 78 misconfigured; anything else is a bug,
told by a traceback in log.txt. Dies with its parent (PR_SET_PDEATHSIG), runs niced, opens no network connection.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

import msgspec

from edged import durable
from edged.clock import SystemClock
from edged.errors import EXIT_FOUND_BAD, EdgedError, Refused, Unavailable
from edged.retrain import device, jobs

_PR_SET_PDEATHSIG = 1


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m edged.retrain", description="Run one stage of a cycle; edged starts this by itself."
    )
    parser.add_argument("stage", choices=sorted(jobs.KINDS))
    parser.add_argument("job_dir", type=Path)
    parser.add_argument("--nice", type=int, default=10)
    parser.add_argument("--parent", type=int, default=0, help="die with this process")
    parser.add_argument("--memory", type=int, default=0, help="RLIMIT_DATA in bytes; 0 = no limit")
    args = parser.parse_args(argv)
    if args.parent:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != args.parent:  # it died before we asked to be told
            return Unavailable.exit_code
    os.nice(args.nice)
    if args.memory:
        resource.setrlimit(resource.RLIMIT_DATA, (args.memory, args.memory))
    try:
        _write(args.job_dir / "result.json", _stage(args.stage, args.job_dir))
    except EdgedError as e:
        return _say(args.job_dir, e)
    except MemoryError:
        return _say(args.job_dir, Unavailable("not enough memory for this stage", code="no_memory"))
    except RuntimeError as e:
        if "DefaultCPUAllocator" not in str(e):  # torch's word for malloc returning null
            raise
        return _say(args.job_dir, Unavailable("not enough memory for this stage", code="no_memory"))
    return 0


def _stage(stage: str, job_dir: Path) -> msgspec.Struct:
    raw = msgspec.json.decode((job_dir / "job.json").read_bytes())
    job, clock = jobs.check(stage, raw), SystemClock()

    def progress(now: jobs.Progress) -> None:
        durable.write(job_dir / "progress.json", msgspec.json.encode(now))

    if isinstance(job, jobs.TrialJob):
        device.find(job.device).enforce()
        from edged.retrain import trial

        return trial.run(job, progress=progress)
    if isinstance(job, jobs.CompressJob):
        from edged.retrain import compress

        return compress.run(job, job_dir, progress=progress)
    from edged.retrain import train

    assert isinstance(job, jobs.TrainJob)
    return train.run(job, job_dir, clock=clock, progress=progress)


def _say(job_dir: Path, error: EdgedError) -> int:
    family = next(c.__name__ for c in type(error).__mro__ if c.__module__ == "edged.errors")
    _write(job_dir / "error.json", {"family": family, "code": error.code, "message": str(error), "hint": error.hint})
    return EXIT_FOUND_BAD if isinstance(error, Refused) else error.exit_code


def _write(path: Path, value: object) -> None:
    durable.write(path, msgspec.json.format(msgspec.json.encode(value)))


if __name__ == "__main__":
    sys.exit(main())
