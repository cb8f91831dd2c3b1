"""Stage `train` in the processes that torchrun started: no child between, every process is one.

    torchrun --nproc-per-node 2 -m edged train --data DIR --model NAME -o OUT

The first process looks at the data, holds OUT and writes; the others do as it says. Guarantees: what the first one refuses
ends all with the same exit code, and is said once; the same job.json, checkpoint and result.json as without torchrun, so
either goes on with the other's run. A process that is killed takes the run with it: the same command goes on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NoReturn

import msgspec

from edged import durable
from edged.clock import SystemClock
from edged.errors import EdgedError, Unavailable
from edged.retrain import jobs, order, spread


def run(
    make: Callable[[], order.Order],
    *,
    fresh: bool,
    said: Callable[[str], None],
    progress: Callable[[jobs.Progress], None],
    finish: Callable[[order.Order, dict[str, Any]], None],
) -> bool:
    """`make`, `said`, `progress` and `finish` are called by the first process only. False in the others."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # children.py says why
    signal.signal(signal.SIGTERM, _stopped)
    with ExitStack() as held:
        group = held.enter_context(spread.joined())
        asked: order.Order | None = None
        try:
            if group.first:
                asked = make()
                said(held.enter_context(order.claimed(asked, fresh=fresh)))
        except EdgedError as e:
            group.told({"exit": e.exit_code})
            raise
        except OSError:
            group.told({"exit": 1})
            raise
        told = group.told({"job": asked.job, "dir": str(asked.job_dir)} if asked else None)
        if "exit" in told:
            raise SystemExit(told["exit"])
        result = _train(told, group, progress)
        if asked is not None:
            finish(asked, result)
        group.told(None)  # nobody leaves while the first one writes: torchrun would call it a failure
    return group.first


def _train(told: dict[str, Any], group: spread.Group, progress: Callable[[jobs.Progress], None]) -> dict[str, Any]:
    from pathlib import Path

    from edged.retrain import train

    job, job_dir = msgspec.convert(told["job"], jobs.TrainJob), Path(told["dir"])
    finished = group.told((job_dir / "result.json").exists() if group.first else None)
    if not finished:
        quiet: Callable[[jobs.Progress], None] = progress if group.first else lambda _: None
        trained = train.run(job, job_dir, clock=SystemClock(), progress=quiet, group=group)
        if group.first:
            durable.write(job_dir / "result.json", msgspec.json.format(msgspec.json.encode(trained)))
        return msgspec.to_builtins(trained)  # type: ignore[no-any-return]
    return msgspec.json.decode((job_dir / "result.json").read_bytes(), type=dict) if group.first else {}


def _stopped(signum: int, frame: object) -> NoReturn:
    raise Unavailable(
        "training was told to stop: another process of it ended, or somebody stopped it",
        hint="the same command goes on after the last finished epoch",
        code="stopped",
    )
