"""What `edged train` was asked for, as one training job; and the place where it works. Light (no torch).

    OUT/job/      job.json, checkpoint, log, result.json: a killed run goes on with the same command
        models/   every model that was made here, by its hash
        model.onnx, model.safetensors, facts.json, curve.svg      the latest

Guarantees: another process does not work in OUT at the same time; nothing in OUT that is not ours is removed or written
over; data that changed are noticed by their content. Threads, minutes and where the data lie are no part of what a run is:
it goes on with others. Does not guarantee that the data stay as they are while it runs.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edged import durable
from edged.errors import Misconfigured, Refused, Unavailable
from edged.retrain import folder, jobs, nets

_NOT_THE_RUN = ("threads", "max_minutes", "folder", "test", "data_dir")
LOCK = ".edged-train.lock"


@dataclass(frozen=True)
class Order:
    """`counts`: pictures per part and class; `overlap`: test pictures that are in the training data too."""

    job: jobs.TrainJob
    out: Path
    counts: dict[str, dict[str, int]]
    overlap: int

    @property
    def job_dir(self) -> Path:
        return self.out / "job"


def make(
    data: Path,
    out: Path,
    settings: dict[str, Any],
    *,
    test: Path | None = None,
    classes: Sequence[str] = (),
    **more: Any,
) -> Order:
    """`settings` from recipes.settings, `more` further fields of the job. Reads the data once, to know them.

    Raises Misconfigured (exit 4): no such data; Refused: see `folder.look`, an unknown network, a place that does not do.
    """
    data, out = data.resolve(), out.resolve()
    test = test.resolve() if test else None
    for path in filter(None, (data, test)):
        if not folder.exists(path):
            raise Misconfigured(f"there is no folder or zip file {path}", exit_code=4, code="not_found")
        _check_place(path, out)
    parts = folder.look(data, test, classes)
    names = tuple(classes) or tuple(parts["train"])
    nets.layers(settings["arch"]["name"], len(names), settings["arch"]["input_px"])
    known = folder.digest(parts)
    counts: dict[str, dict[str, int]] = {
        part: {name: len(files) for name, files in sets.items()} for part, sets in parts.items()
    }
    job = jobs.check(
        "train",
        {
            **settings, **more, "folder": str(data), "test": str(test or ""), "data_dir": str(out), "classes": names,
            "data": known.sha256,
        },
    )  # fmt: skip
    assert isinstance(job, jobs.TrainJob)
    return Order(job, out, counts, known.overlap)


def _check_place(data: Path, out: Path) -> None:
    own = (out / "job", out / "models")
    if out == data or out.is_relative_to(data) or any(data == o or data.is_relative_to(o) for o in own):
        raise Refused(
            f"the data are in {data}, the model would be written to {out}: they would get into each other's way",
            hint="choose a folder outside the data for -o",
            code="in_the_way",
        )


@contextmanager
def claimed(order: Order, *, fresh: bool = False) -> Iterator[str]:
    """Hold OUT, with job.json in it; yields a sentence about what was there ("" = nothing).

    Raises Refused (in_the_way): files of somebody else's; Unavailable (busy): another `edged train` is at it.
    """
    out, job_dir = order.out, order.job_dir
    if (out / "model.onnx").exists() and not (out / "facts.json").exists():
        raise Refused(f"{out / 'model.onnx'} is not of `edged train`", hint="choose another -o", code="in_the_way")
    if job_dir.is_dir() and any(job_dir.iterdir()) and not (job_dir / "job.json").exists():
        raise Refused(
            f"{job_dir} holds files that are not of `edged train`", hint="choose another -o", code="in_the_way"
        )
    job_dir.mkdir(parents=True, exist_ok=True)
    with open(out / LOCK, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise Unavailable(f"another `edged train` works in {out}", hint="wait for it", code="busy") from e
        said, keep = _compared(order, fresh)
        if not keep:
            for path in job_dir.iterdir():
                if path.is_file():
                    path.unlink()
        durable.write(job_dir / "job.json", msgspec.json.format(msgspec.json.encode(order.job)))
        yield said


def _compared(order: Order, fresh: bool) -> tuple[str, bool]:
    """What to say about the run that was there, and whether to go on with it."""
    job_dir = order.job_dir
    if fresh or not (job_dir / "job.json").exists():
        return "", False
    new = msgspec.json.decode(msgspec.json.encode(order.job), type=dict)  # as job.json reads back
    try:
        old = msgspec.json.decode((job_dir / "job.json").read_bytes(), type=dict)
    except msgspec.MsgspecError:
        old = {}
    if old.get("data") != new["data"]:
        return "the data changed since the last run here: training starts afresh", False
    other = sorted(k for k in {*old, *new} if k not in _NOT_THE_RUN and old.get(k) != new.get(k))
    if other:
        return f"the last run here had other settings ({', '.join(other)}): training starts afresh", False
    if (job_dir / "result.json").exists():
        result = msgspec.json.decode((job_dir / "result.json").read_bytes())
        if all((order.out / "models" / f"{result[k]}{s}").exists() for k, s in FILES.items()):
            return "this very run is finished already; --fresh trains anew", True
        (job_dir / "result.json").unlink()
    if (job_dir / "checkpoint.safetensors").exists():
        return "the same run was begun here: it goes on after its last finished epoch", True
    return "", True


FILES = {"sha256": ".onnx", "weights_sha256": ".safetensors"}  # of a result: file endings in models/


def threads(asked: int) -> int:
    """For one process: what was asked for, else its part of this machine's cores."""
    cores = len(os.sched_getaffinity(0))
    return asked or max(1, min(64, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
