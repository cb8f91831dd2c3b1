"""What a camera does with what a box delivers, on an emulated processor; every answer as on the machine that made it.

    probe_camera.py FOLDER [PYTHON]    FOLDER: given.py's; the self-test's child is started as PYTHON

Every packed file is unpacked and the delta rebuilt, bit by bit; each model answers pictures of a 720p frame through each
runtime that is installed here; the agent's self-test runs in its own child, and fails for a known answer that is wrong.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from agent import selftest
from edged import engine
from edged.clock import stopwatch
from edged.engine import onnx_file, patterns, preprocess
from edged.errors import Refused
from edged.packed import files

RUNTIMES = ("onnxruntime", "opencv")
FLOAT, INT8 = 1e-4, 0.1  # of the largest logit; int8: whole steps of the last layers, between x86 and ARM
PATIENCE_S = 240.0


def answers(model: bytes, px: int, n: int, runtime: str) -> np.ndarray:
    takes = onnx_file.check(model).takes
    batch = preprocess.stack(preprocess.prepare([patterns.picture(seed, px) for seed in range(n)], px, takes), takes)
    return engine.load(model, runtime=runtime).run(batch)[0]


def rebuilt(folder: Path, names: list[str], out: Path) -> None:
    begin = stopwatch()
    for name in names:
        files.unpack(folder / f"{name}.epk", out / f"{name}.onnx")
        assert (out / f"{name}.onnx").read_bytes() == (folder / f"{name}.onnx").read_bytes(), name
    files.unpack(folder / "new.epd", out / "new.onnx", old=out / f"{names[0]}.onnx")
    assert (out / "new.onnx").read_bytes() == (folder / "new.onnx").read_bytes()
    print(f"  {len(names)} files unpacked, a delta rebuilt, bit by bit; {stopwatch() - begin:.1f} s", flush=True)


def answered(model: bytes, name: str, known: dict[str, Any], runtime: str) -> str:
    """The sentence about it; AssertionError when it answers otherwise than the machine that made it."""
    wanted, px = known["answers"][runtime], known["known"]["px"]
    if isinstance(wanted, str):
        try:
            engine.load(model, runtime=runtime)
        except Refused as e:
            if str(e).startswith(wanted):
                return f"refused as there: {wanted}"
            raise
        raise AssertionError(f"{runtime} refuses {name} on x86 and not here")
    right = np.array(wanted, np.float32)
    got = answers(model, px, len(right), runtime)
    apart = float(np.abs(got - right).max() / np.abs(right).max())
    assert apart <= (INT8 if name.endswith("int8") else FLOAT), f"{runtime}, {name}: {apart:.2g} of the largest logit"
    return f"{runtime} within {apart:.1g}"


def tested(model: Path, known: selftest.KnownAnswer, runtime: str, folder: Path) -> selftest.Outcome:
    """The agent's own child, waited for."""
    file = folder / "known.json"
    file.write_bytes(msgspec.json.encode(selftest.Known(hashlib.sha256(model.read_bytes()).hexdigest(), known)))
    child = selftest.Child(model, file, runtime, time_limit_s=PATIENCE_S)
    while (outcome := child.poll()) is None:
        time.sleep(0.2)
    return outcome


def main(folder: Path, python: str = "") -> None:
    sys.executable = python or sys.executable
    runtimes = [name for name in RUNTIMES if name in (*engine.runtimes(), engine.SMALL)]
    known = json.loads((folder / "known.json").read_text())
    with tempfile.TemporaryDirectory() as place:
        out = Path(place)
        rebuilt(folder, list(known), out)
        for name, of_model in known.items():
            begin, model = stopwatch(), (out / f"{name}.onnx").read_bytes()
            said = [answered(model, name, of_model, runtime) for runtime in runtimes]
            print(f"  {name}: {', '.join(said)}; {stopwatch() - begin:.1f} s", flush=True)
        for name in [n for n in known if n.endswith("float32")][:1]:
            answer = msgspec.convert(known[name]["known"], selftest.KnownAnswer, strict=False)
            for runtime in runtimes:
                begin = stopwatch()
                outcome = tested(out / f"{name}.onnx", answer, runtime, out)
                assert outcome.ok, outcome.detail
                print(f"  self-test in a child: {outcome.detail}; {stopwatch() - begin:.1f} s", flush=True)
            shifted = tuple(tuple(logit + 4 * answer.tolerance for logit in row) for row in answer.logits)
            outcome = tested(out / f"{name}.onnx", msgspec.structs.replace(answer, logits=shifted), runtimes[-1], out)
            assert not outcome.ok, outcome.detail
            assert "differ" in outcome.detail, outcome.detail
            print(f"  control: {outcome.detail}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
