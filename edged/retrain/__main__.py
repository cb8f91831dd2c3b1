"""The child: `python -m edged.retrain STAGE JOBDIR`. Reads job.json, leaves result.json or error.json.

Exit codes: 0 result.json is there; 3 refused; 75 unavailable; 1 corrupt; 78 misconfigured; anything else is a bug,
told by a traceback in log.txt. Dies with its parent, gives way to all else (limits.py), opens no network connection.
"""

from __future__ import annotations

import argparse
import errno
import sys
from pathlib import Path

import msgspec
import safetensors

from edged import durable
from edged.clock import SystemClock
from edged.errors import EXIT_FOUND_BAD, EdgedError, Refused, Unavailable
from edged.retrain import children, device, jobs, limits
from edged.storage import disk


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m edged.retrain", description="Run one stage of a cycle; edged starts this by itself."
    )
    parser.add_argument("stage", choices=sorted(jobs.KINDS))
    parser.add_argument("job_dir", type=Path)
    parser.add_argument("--nice", type=int, default=children.NICE)
    parser.add_argument("--parent", type=int, default=0, help="die with this process")
    parser.add_argument("--memory", type=int, default=0, help="RLIMIT_DATA in bytes; 0 = no limit")
    args = parser.parse_args(argv)
    if args.parent and not limits.die_with(args.parent):
        return Unavailable.exit_code
    limits.give_way(args.nice, args.memory)
    try:
        _write(args.job_dir / "result.json", _stage(args.stage, args.job_dir))
    except EdgedError as e:
        return _say(args.job_dir, e)
    except (MemoryError, OSError, RuntimeError, safetensors.SafetensorError) as e:
        named = _named(e, args.job_dir)
        if named is None:
            raise
        return _say(args.job_dir, named)
    return 0


_NO_ROOM = ("No space left on device", "Disk quota exceeded")  # safetensors and onnx do not raise OSError


def _named(e: Exception, job_dir: Path) -> EdgedError | None:
    """A shortage in the words of edged's families; None for what only a bug explains."""
    if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk.renamed(e, Path(e.filename) if isinstance(e.filename, str) else job_dir)
    if any(word in str(e) for word in _NO_ROOM):
        return Unavailable(f"disk full: {e}", code="disk_full", hint="free space on the disk")
    short = isinstance(e, MemoryError) or (isinstance(e, OSError) and e.errno == errno.ENOMEM)
    if short or any(word in str(e) for word in children.NO_MEMORY):
        return Unavailable("not enough memory for this stage", code="no_memory", hint="raise [train] max_memory")
    return None


def _stage(stage: str, job_dir: Path) -> msgspec.Struct:
    raw = msgspec.json.decode((job_dir / "job.json").read_bytes())
    job, clock = jobs.check(stage, raw), SystemClock()

    def progress(now: jobs.Progress) -> None:
        durable.write(job_dir / "progress.json", msgspec.json.encode(now), fsync=False)

    if isinstance(job, jobs.TrialJob):
        imposed = device.find(job.device).enforce(job.quota)
        from edged.retrain import trial

        return trial.run(job, progress=progress, imposed=imposed)
    if isinstance(job, jobs.RetestJob):
        from edged.retrain import retest

        return retest.run(job, job_dir, clock=clock, progress=progress)
    if isinstance(job, jobs.CompressJob):
        from edged.retrain import compress

        return compress.run(job, job_dir, clock=clock, progress=progress)
    if isinstance(job, jobs.SearchJob):
        from edged.retrain import search

        return search.run(job, job_dir, clock=clock, progress=progress)
    if isinstance(job, jobs.LearnJob):
        from edged.retrain import learn

        return learn.run(job, job_dir, clock=clock, progress=progress)
    if isinstance(job, jobs.SurveyJob):
        from edged.retrain import survey

        return survey.run(job, job_dir, clock=clock, progress=progress)
    if isinstance(job, jobs.ReuseJob):
        from edged.retrain import reuse

        return reuse.run(job, progress=progress)
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
