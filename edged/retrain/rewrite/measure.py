"""Files side by side in a child that has the device's instruction set: `python -m edged.retrain.rewrite.measure FOLDER`.

FOLDER holds job.json (Job), 0.onnx, 1.onnx, ... and inputs 0.npy, 1.npy, ...; result.json ([Seen, ...]) is left in it.

Guarantees: the files run in turn, A B C A B C, so that what else the machine does meets all of them; times are CPU
seconds of this process on one thread; errors are against the first file. Does not guarantee: that onnxruntime keeps to
the caps, it has no switch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from edged import engine
from edged.clock import cpu_seconds
from edged.engine import Engine
from edged.errors import Corrupt, Refused
from edged.retrain import device
from edged.retrain.rewrite import kernels

HOPELESS = 8.0  # times the fastest: no more rounds
TIMEOUT_S = 900


class Job(Struct, frozen=True):
    """`seconds`: CPU time to spend at most, shared by all files; 0 = only look. Three rounds are made in any case."""

    models: int
    inputs: int
    runtime: str
    seconds: float


class Seen(Struct, frozen=True):
    """One file. `cpu_ms` of one run of the first input, 0 = not run; `error` the largest of any input relative to the
    largest output of the first file; `failed` says why it did not load.
    """

    cpu_ms: float = 0.0
    error: float = 0.0
    load_ms: float = 0.0
    references: tuple[str, ...] = ()
    rounds: int = 0
    failed: str = ""


class Measurer(Protocol):
    def __call__(
        self,
        models: Sequence[bytes],
        inputs: Sequence[NDArray[Any]],
        *,
        caps: Mapping[str, str],
        runtime: str,
        seconds: float,
    ) -> tuple[Seen, ...]: ...


def side_by_side(
    models: Sequence[bytes], inputs: Sequence[NDArray[Any]], *, caps: Mapping[str, str], runtime: str, seconds: float
) -> tuple[Seen, ...]:
    """Start the child and read what it found, in the order of the files. Raises Corrupt when it dies."""
    with tempfile.TemporaryDirectory(prefix="edged-measure-") as name:
        folder = Path(name)
        for i, model in enumerate(models):
            (folder / f"{i}.onnx").write_bytes(model)
        for i, values in enumerate(inputs):
            np.save(folder / f"{i}.npy", values)
        job = Job(len(models), len(inputs), runtime, seconds)
        (folder / "job.json").write_bytes(msgspec.json.encode(job))
        env = {k: v for k, v in os.environ.items() if k not in device.CAPS}
        env |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **caps}
        argv = [sys.executable, "-P", "-m", "edged.retrain.rewrite.measure", name]
        done = subprocess.run(
            argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False
        )
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise Corrupt(f"the measuring child ended with {done.returncode}: {last[0][:300]}", code="child_failed")
        return tuple(msgspec.json.decode((folder / "result.json").read_bytes(), type=list[Seen]))


def main(argv: list[str]) -> int:
    folder = Path(argv[0])
    job = msgspec.json.decode((folder / "job.json").read_bytes(), type=Job)
    inputs = [np.load(folder / f"{i}.npy") for i in range(job.inputs)]
    found = run([(folder / f"{i}.onnx").read_bytes() for i in range(job.models)], inputs, job.runtime, job.seconds)
    (folder / "result.json").write_bytes(msgspec.json.encode(found))
    return 0


def run(models: Sequence[bytes], inputs: Sequence[NDArray[Any]], runtime: str, seconds: float) -> list[Seen]:
    """In this process."""
    loaded: list[Engine | None] = []
    seen: list[Seen] = []
    for model in models:
        began = cpu_seconds()
        try:
            one = engine.load(model, runtime=runtime)
        except Refused as e:
            loaded.append(None)
            seen.append(Seen(failed=str(e)))
            continue
        loaded.append(one)
        references = kernels.references(kernels.of(one))
        seen.append(Seen(load_ms=round(1000 * (cpu_seconds() - began), 1), references=references))
    if not seconds:
        return seen
    times: list[list[float]] = [[] for _ in models]
    errors = [0.0] * len(models)
    for values in inputs:
        wanted: NDArray[np.float32] | None = None
        for i, engine_ in enumerate(loaded):
            if engine_ is None:
                continue
            began = cpu_seconds()
            made = engine_.run(values)[0]
            times[i].append(cpu_seconds() - began)
            wanted = made if wanted is None else wanted
            error = float(np.abs(made - wanted).max()) / (float(np.abs(wanted).max()) or 1.0)
            # JSON has no infinity.
            errors[i] = max(errors[i], error if np.isfinite(error) else sys.float_info.max)
    fastest = min((min(t) for t in times if t), default=0.0)
    racing = [i for i, t in enumerate(times) if t and min(t) <= HOPELESS * fastest]
    for i in racing:
        times[i] = []
    spent, rounds = 0.0, 0
    while racing and (rounds < 3 or spent < seconds):
        for i in racing:
            began = cpu_seconds()
            loaded[i].run(inputs[0])  # type: ignore[union-attr]
            times[i].append(cpu_seconds() - began)
            spent += times[i][-1]
        rounds += 1
    return [
        msgspec.structs.replace(s, cpu_ms=round(1000 * float(np.median(t)), 4), error=e, rounds=len(t)) if t else s
        for s, t, e in zip(seen, times, errors, strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
