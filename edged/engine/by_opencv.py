"""OpenCV's dnn module behind the Engine Protocol: no package beyond the one that reads pictures.

For a camera without room for another runtime. It does not know every operator that the other two know (of int8 files it runs some
only): what it cannot run it refuses when it is loaded, since the first run is made there. Its number of threads is one for the
whole process; loading a model sets it.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.engine import feed
from edged.engine.onnx_file import Facts
from edged.errors import Refused


class OpenCvEngine:
    """f32 on the CPU."""

    runtime = "opencv"

    def __init__(self, data: bytes, *, threads: int, facts: Facts) -> None:
        self.takes = facts.takes
        self._facts = facts
        cv2.setNumThreads(threads)
        level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what matters comes as an exception
        try:
            self._net = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8))
            self._net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
            self._net.setPreferableTarget(cv2.dnn.DNN_TARGET_CPU)
            nothing = np.zeros([n or 1 for n in facts.shape], np.float32)
            self._forward(nothing if facts.takes == "float32" else nothing.astype(np.uint8))
        except (cv2.error, ValueError) as e:
            raise Refused(
                f"OpenCV cannot run the model: {_sentence(e)}",
                code="bad_model",
                hint="onnxruntime may: pip install onnxruntime",
            ) from e
        finally:
            cv2.utils.logging.setLogLevel(level)

    def run(self, batch: NDArray[np.float32] | NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        fed = feed.fitting(batch, self.takes)
        want = self._facts.shape
        if fed.ndim != len(want) or any(n and n != have for n, have in zip(want, fed.shape, strict=True)):
            raise Refused(f"the model does not take {batch.shape}: it takes {list(want)}, 0 = any", code="bad_input")
        try:
            return self._forward(fed)
        except (cv2.error, ValueError) as e:
            raise Refused(f"the model does not take {batch.shape}: {_sentence(e)}", code="bad_input") from e

    def _forward(self, fed: NDArray[np.float32] | NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        self._net.setInput(fed)
        outputs = self._net.forward(list(self._facts.outputs))
        return tuple(np.array(out, dtype=np.float32, copy=True) for out in outputs)


def _sentence(error: Exception) -> str:
    """What OpenCV says is wrong, without where in its source."""
    line = " ".join(str(error).split())
    return line.partition("error: ")[2][:300] or line[:300]
