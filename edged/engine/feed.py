"""What a model is fed: pictures as float32 RGB [n, 3, px, px] in 0..255, or, where the preparation is inside the graph, as
the camera holds them: uint8 BGR [n, px, px, 3].

Guarantees: `fitting` turns the first form into the second exactly, so that whoever holds a float batch may run either kind;
it never rounds: a batch with a number that is no whole one of 0..255 is refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.engine.onnx_file import Takes
from edged.errors import Refused


def fitting(batch: NDArray[Any], takes: Takes) -> NDArray[Any]:
    """The batch as a model that `takes` this wants it, contiguous. Raises Refused (code bad_input)."""
    if takes == "float32":
        if batch.dtype != np.float32:
            raise Refused(f"the model takes float32, not {batch.dtype}", code="bad_input")
        return np.ascontiguousarray(batch)
    if batch.dtype == np.uint8:
        return np.ascontiguousarray(batch)
    if batch.dtype != np.float32 or batch.ndim != 4 or batch.shape[1] != 3:
        raise Refused(
            f"the model takes uint8 [n, px, px, 3] (or float32 [n, 3, px, px] of whole numbers), not {batch.dtype} "
            f"{list(batch.shape)}",
            code="bad_input",
        )
    whole = batch.astype(np.uint8)
    if not np.array_equal(whole, batch):
        raise Refused("the model takes whole numbers of 0..255, and the batch holds others", code="bad_input")
    return np.ascontiguousarray(whole[:, ::-1].transpose(0, 2, 3, 1))
