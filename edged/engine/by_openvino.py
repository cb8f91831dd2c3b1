"""OpenVINO behind the Engine Protocol. Its telemetry package is never imported: only the converter tools use it."""

from __future__ import annotations

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from edged.engine import feed
from edged.engine.onnx_file import Takes
from edged.errors import Refused


class OpenVinoEngine:
    """f32 on the CPU: bf16, OpenVINO's default where the processor has it, does not agree with an Atom."""

    runtime = "openvino"

    def __init__(self, data: bytes, *, threads: int, takes: Takes = "float32") -> None:
        self.takes = takes
        core = ov.Core()
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        try:
            model = core.read_model(model=data)
            self._compiled = core.compile_model(model, "CPU", config)
            self._request = self._compiled.create_infer_request()
        except RuntimeError as e:
            raise Refused(f"OpenVINO cannot load the model: {_sentence(e)}", code="bad_model") from e
        self._outputs = len(model.outputs)

    def kernels(self) -> dict[str, tuple[str, str]]:
        """Layer name -> (kind, kernel) as OpenVINO chose them for this processor, or for what its environment allows.

        Layers that it has joined go by the name of one of them.
        """
        found = {}
        for op in self._compiled.get_runtime_model().get_ops():
            info = op.get_rt_info()
            if "primitiveType" in info and "layerType" in info:
                found[op.get_friendly_name()] = (
                    str(info["layerType"].astype(str)),
                    str(info["primitiveType"].astype(str)),
                )
        return found

    def run(self, batch: NDArray[np.float32] | NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        fed = feed.fitting(batch, self.takes)
        try:
            # Shared memory needs contiguous rows; outputs are copied because the next run writes over them.
            self._request.infer({0: fed}, share_inputs=True)
        except RuntimeError as e:
            raise Refused(f"the model does not take {batch.shape}: {_sentence(e)}", code="bad_input") from e
        return tuple(
            np.array(self._request.get_output_tensor(i).data, dtype=np.float32, copy=True) for i in range(self._outputs)
        )


def _sentence(error: Exception) -> str:
    """OpenVINO's last line says what happened; the ones before say where in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
