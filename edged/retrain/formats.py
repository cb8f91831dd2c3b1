"""The delivered file of a device, run here in that device's numbers, behind the engine's Protocol.

Guarantees: integers run from the very bytes that would be delivered, read back; half precision is the ONNX file rounded,
after the file for the device was written and compared with it where anything here can run it. Does not guarantee speed: an
emulated number format says nothing about time; the ONNX file under `engine.load` is what is timed.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from edged import engine
from edged.retrain import deliver
from edged.retrain.device import Profile


def load(
    profile: Profile,
    model: bytes,
    *,
    runtime: str = "auto",
    threads: int = 1,
    calibration: Iterable[NDArray[np.float32]] = (),
) -> engine.Engine:
    """An ONNX model as the device would compute it. `calibration`: input batches [n, 3, px, px] that set the scales of
    integer networks (unused by the other formats, and where the file is quantized already).

    Raises Refused: a layer or a class of network that the device does not take; no calibration where it is needed.
    """
    if profile.numbers == "float32":
        return engine.load(model, runtime=runtime, threads=threads)
    if profile.numbers == "float16":
        from edged.retrain.fp16 import HalfEngine

        deliver.check(profile, model)
        if profile.file == "openvino-fp16":
            deliver.write(profile, model)
        return HalfEngine(model, threads=threads)
    from edged.retrain import integer

    made = deliver.write(profile, model, calibration)
    return integer.IntegerEngine(integer.read(made.files[deliver.INTEGERS]))
