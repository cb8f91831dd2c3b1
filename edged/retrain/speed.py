"""How fast a file would run on a device, asked in a child that has the device's instruction set: whoever asks may hold torch
and all of this processor's instructions.

    python -m edged.retrain.speed JSON < model      (`of` starts it)

Guarantees: the same measurement as the re-test's (`trial.measure_speed`), shorter. Does not guarantee the device's limits of
memory: the re-test imposes them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import msgspec
from msgspec import Struct

from edged.errors import Corrupt, Refused
from edged.retrain import device


class Asked(Struct, frozen=True):
    device: str
    seconds: float = 1.0
    latency: str = ""
    parent: int = 0


class Speed(Struct, frozen=True):
    """Frames/s with four regions (estimated or measured: `how`), and bytes of memory."""

    fps: float
    lower: float
    upper: float
    how: str
    memory_bytes: float
    regions: dict[str, tuple[float, float, float]] = {}  # frames/s with so many: likely, lower, upper
    basis: str = ""


def of(model: bytes, asked: Asked) -> Speed:
    """Raises Refused: the runtime does not take the file; Corrupt: the child died of something else."""
    env = {k: v for k, v in os.environ.items() if k not in device.CAPS} | device.find(asked.device).environment()
    env |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    text = msgspec.json.encode(msgspec.structs.replace(asked, parent=os.getpid())).decode()
    argv = [sys.executable, "-P", "-m", "edged.retrain.speed", text]
    done = subprocess.run(argv, input=model, env=env, capture_output=True, check=False)
    said = done.stdout.splitlines()[-1:] or [b""]
    if done.returncode == 0:
        return msgspec.json.decode(said[0], type=Speed)
    if done.returncode == Refused.exit_code:
        raise Refused(json.loads(said[0])["refused"], code="bad_model")
    last = (done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
    raise Corrupt(f"the child that measures speed ended with {done.returncode}: {last[:200]}", code="child_failed")


def main(argv: list[str]) -> int:
    asked = msgspec.json.decode(argv[0], type=Asked)
    from edged.retrain import limits

    if not limits.die_with(asked.parent):
        return 1
    from edged.retrain import jobs, measure, trial

    data = sys.stdin.buffer.read()
    try:
        job = jobs.TrialJob(
            data_dir="", classes=(), sha256="", device=asked.device, seconds=asked.seconds, latency=asked.latency
        )
        found = trial.measure_speed(data, measure.input_px(data), job)
    except Refused as e:
        print(json.dumps({"refused": str(e)}))
        return Refused.exit_code
    there, memory = msgspec.to_builtins(found["fps_device"]), msgspec.to_builtins(found["memory_bytes"])
    if there is None:
        there = {"value": 0.0, "lower": 0.0, "upper": 0.0, "how": "unknown"}
    regions = {n: (r.value, r.lower or 0.0, r.upper or 0.0) for n, r in found["fps_regions"].items()}
    speed = Speed(
        there["value"], there["lower"] or 0.0, there["upper"] or 0.0, there["how"], memory["value"], regions,
        there.get("basis", ""),
    )  # fmt: skip
    print(msgspec.json.encode(speed).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
