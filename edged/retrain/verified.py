"""Whether a model runs, and answers the same, on a device's own instruction set: a few pictures under qemu-user.

The caps that a re-test sets by environment variables do not reach every kernel (device.py). Here the processor is emulated:
an instruction that it does not have ends the child by SIGILL. 120 to 400 times slower, so it is done for few pictures, when
asked for.

An Atom runs this very program. For an ARM device it takes another build of what a camera needs: the folder that EDGED_ARM_ROOT
names, made by `.ci/arm root` (docs/devices.md); without it the sentence says that nothing was verified.

Guarantees: "verified" is said only of answers that were computed under the emulator by every runtime installed here (for ARM: in
that folder, too) and that name the same classes as the capped run, with logits within TOLERANCE. Does not guarantee timing,
nor other pictures.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

import edged
from edged import engine
from edged.engine import onnx_file, patterns, preprocess
from edged.retrain.device import CAPS, Profile

EMULATOR = "qemu-x86_64"
ARM_EMULATOR = "qemu-aarch64"
ROOT = "EDGED_ARM_ROOT"
_ARM = "cortex-"
_PYTHON, _SITE = "usr/bin/python3.11", "usr/local/lib/python3.11/dist-packages"
TOLERANCE = 0.02  # of the largest logit: int8 sums are rounded differently with and without VNNI
SECONDS = 600


@dataclass(frozen=True)
class Isa:
    """`verified` None = not tried; `said` is the sentence for the report."""

    verified: bool | None
    said: str


def run(profile: Profile, model: bytes, px: int, n: int = 3, *, seconds: float = SECONDS) -> Isa:
    """The model on `n` pictures, emulated and here."""
    if not profile.emulator:
        return Isa(None, f"instruction set not verified: no emulator here runs this program as {profile.isa}")
    emulator, root = EMULATOR, None
    if profile.emulator.startswith(_ARM):
        emulator, root = ARM_EMULATOR, _root()
        if root is None:
            return Isa(None, f"instruction set not verified: {ROOT} names no folder made by .ci/arm root")
    if shutil.which(emulator) is None:
        return Isa(None, f"instruction set not verified: {emulator} is not installed (Debian package qemu-user)")
    runtimes = [name for name in engine.runtimes() if root is None or Path(root, _SITE, name).is_dir()]
    if not runtimes:
        return Isa(None, f"instruction set not verified: {ROOT} has none of {', '.join(engine.runtimes())}")
    agreed = []
    for runtime in runtimes:
        here = answers(model, px, n, runtime)
        found = _emulated(profile, model, px, n, runtime, seconds)
        if isinstance(found, str):
            return Isa(False, f"instruction set: under {emulator} -cpu {profile.emulator}, {runtime} {found}")
        apart = float(np.abs(found - here).max()) / max(1.0, float(np.abs(here).max()))
        same = int((found.argmax(1) == here.argmax(1)).sum())
        if same < n or not apart <= TOLERANCE:
            return Isa(
                False,
                f"instruction set: under {emulator} -cpu {profile.emulator}, {runtime} names the same class for {same} of "
                f"{n} pictures; logits differ by {apart:.2g} of the largest",
            )
        agreed.append(f"{runtime} (logits within {apart:.1g})")
    return Isa(
        True,
        f"instruction set verified: {n} pictures under {emulator} -cpu {profile.emulator} get the same answers by "
        f"{' and '.join(agreed)}",
    )


def answers(model: bytes, px: int, n: int, runtime: str) -> NDArray[np.float32]:
    """Logits [n, classes] of pictures drawn from seeds."""
    takes = onnx_file.check(model).takes
    batch = preprocess.stack(preprocess.prepare([patterns.picture(seed, px) for seed in range(n)], px, takes), takes)
    return engine.load(model, runtime=runtime).run(batch)[0]


def _root() -> Path | None:
    """The folder with an aarch64 Python and the camera's libraries; None where there is none."""
    named = Path(os.environ.get(ROOT) or "/nonexistent").absolute()
    return named if (named / _PYTHON).exists() else None


def _emulated(
    profile: Profile, model: bytes, px: int, n: int, runtime: str, seconds: float
) -> NDArray[np.float32] | str:
    """The same under the emulator; or why there are none."""
    start = [EMULATOR, "-cpu", profile.emulator, sys.executable]
    # Nothing is capped by variables there: the emulated processor says by itself what it has.
    env = {k: v for k, v in os.environ.items() if k not in CAPS} | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    arm = profile.emulator.startswith(_ARM)
    if arm:
        root = _root()
        start = [ARM_EMULATOR, "-cpu", profile.emulator, "-L", str(root), f"{root}/{_PYTHON}"]
    with tempfile.TemporaryDirectory(prefix="edged-isa-") as folder:
        given, out = Path(folder, "model.onnx"), Path(folder, "logits.json")
        given.write_bytes(model)
        if arm:  # this program's source, and no library of this machine, which may lie beside it
            Path(folder, "edged").symlink_to(Path(edged.__file__).parent)
            env["PYTHONPATH"] = folder
        argv = [
            *start,
            "-P",
            "-W",
            "ignore",
            "-m",
            "edged.retrain.verified",
            str(given),
            str(out),
            str(px),
            str(n),
            runtime,
        ]
        try:
            done = subprocess.run(
                argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"was not done after {seconds:.0f} s"
        if done.returncode in (-signal.SIGILL, 128 + signal.SIGILL):
            return "used an instruction that this processor does not have"
        if done.returncode or not out.exists():
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            return f"failed: {lines[-1][:200] if lines else f'exit code {done.returncode}'}"
        rows = msgspec.json.decode(out.read_bytes(), type=list[list[float | None]])
        return np.array([[np.nan if v is None else v for v in row] for row in rows], np.float32)


def main(argv: list[str]) -> int:
    model, out, px, n, runtime = argv
    Path(out).write_bytes(msgspec.json.encode(answers(Path(model).read_bytes(), int(px), int(n), runtime).tolist()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
