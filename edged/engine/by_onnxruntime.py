"""onnxruntime behind the Engine Protocol."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from edged.engine import feed
from edged.engine.onnx_file import Takes
from edged.errors import Refused

# onnxruntime's exceptions have no common parent of their own.
_LOAD_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    RuntimeError,
    ValueError,
)


class OnnxRuntimeEngine:
    """f32 on the CPU provider, operators one after another."""

    runtime = "onnxruntime"

    def __init__(self, data: bytes, *, threads: int, takes: Takes = "float32") -> None:
        self.takes = takes
        ort.disable_telemetry_events()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4  # fatal only: what matters comes as an exception
        try:
            self._session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except _LOAD_ERRORS as e:
            raise Refused(f"onnxruntime cannot load the model: {_sentence(e)}", code="bad_model") from e
        self._input = self._session.get_inputs()[0].name

    def run(self, batch: NDArray[np.float32] | NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        fed = feed.fitting(batch, self.takes)
        try:
            outputs = self._session.run(None, {self._input: fed})
        except _LOAD_ERRORS as e:
            raise Refused(f"the model does not take {batch.shape}: {_sentence(e)}", code="bad_input") from e
        return tuple(np.asarray(out, dtype=np.float32) for out in outputs)


def _sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
