"""Runs one ONNX file on the CPU: OpenVINO, onnxruntime or OpenCV behind one Protocol, in f32 on `threads` threads.

Guarantees: importing this module loads no runtime; a model that is loaded is one self-contained ONNX document with
one input of float32 or uint8 (feed.py); what a runtime says about a bad file comes out as Refused. Does not guarantee:
that a model is trusted (signatures are publish's matter), nor that a hostile one cannot crash the process: load an unproven
model in a child.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edged.engine import onnx_file
from edged.engine.onnx_file import Takes
from edged.errors import Misconfigured, Refused

MAX_MODEL_BYTES = 1 << 30
RUNTIMES = ("openvino", "onnxruntime")  # in the order of "auto"
SMALL = "opencv"  # what reads pictures anyway; runs some models only, so it is chosen where there is no other


class Engine(Protocol):
    """A loaded model. Not thread-safe: one thread at a time."""

    runtime: str
    takes: Takes

    def run(self, batch: NDArray[np.float32] | NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        """Outputs in model order for one input tensor (any n where the model's batch is dynamic): float32, NCHW for
        pictures; a model that takes uint8 NHWC is given either that or the float form (feed.py).

        The arrays are the caller's to keep. Raises Refused (code bad_input) for a shape or dtype that the model does
        not take.
        """
        ...


def runtimes() -> tuple[str, ...]:
    """The installed runtimes in the order of preference, without importing them; OpenCV if there is none but that."""
    found = tuple(name for name in RUNTIMES if find_spec(name) is not None)
    return found or ((SMALL,) if find_spec("cv2") is not None else ())


def load(
    model: bytes | Path, *, runtime: str = "auto", threads: int = 1, input_shape: Sequence[int] | None = None
) -> Engine:
    """Compile an ONNX model for the CPU.

    `runtime` is "openvino", "onnxruntime", "opencv" or "auto" (whichever is installed, in this order). `input_shape` replaces
    the shape of the input that is written in the file, for networks exported with a fixed picture size.

    Raises Refused (codes bad_model, too_large) for anything but one self-contained ONNX document with one float32
    or uint8 input, Misconfigured when no such runtime is installed.
    """
    name = _choose(runtime)
    data = _read(model)
    facts = onnx_file.check(data)
    shape = None if input_shape is None else tuple(int(n) for n in input_shape)
    if shape is not None:
        data = onnx_file.with_input_shape(data, facts.input_name, shape)
    if name == "openvino":
        from edged.engine.by_openvino import OpenVinoEngine

        return OpenVinoEngine(data, threads=threads, takes=facts.takes)
    if name == SMALL:
        from edged.engine.by_opencv import OpenCvEngine

        return OpenCvEngine(data, threads=threads, facts=facts if shape is None else replace(facts, shape=shape))
    from edged.engine.by_onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(data, threads=threads, takes=facts.takes)


def _choose(runtime: str) -> str:
    installed = runtimes()
    if runtime == "auto" and installed:
        return installed[0]
    if runtime in installed or (runtime == SMALL and find_spec("cv2") is not None):
        return runtime
    if runtime not in ("auto", SMALL, *RUNTIMES):
        raise Misconfigured(
            f"there is no runtime {runtime!r}", hint=f"use one of: auto, {', '.join(RUNTIMES)}, {SMALL}"
        )
    wanted = " nor ".join(RUNTIMES) if runtime == "auto" else runtime
    raise Misconfigured(f"{wanted} is not installed, so no model can run", hint="pip install onnxruntime")


def _read(model: bytes | Path) -> bytes:
    if isinstance(model, Path):
        try:
            with model.open("rb") as f:
                data = f.read(MAX_MODEL_BYTES + 1)
        except OSError as e:
            raise Refused(f"model file {model}: {e.strerror}", code="bad_model") from e
    else:
        data = model
    if len(data) > MAX_MODEL_BYTES:
        raise Refused(f"a model of more than {MAX_MODEL_BYTES} bytes is too large", code="too_large")
    return data
