"""What a classifier sees just before it decides: the tensor that feeds its last layer, as a second output, projected to a
few numbers.

The projection is Gaussian and fixed: distances between pictures are kept to within a factor that depends on the number of
dimensions alone (Johnson and Lindenstrauss 1984; Dasgupta and Gupta 2003). It is the same on every box for ever, and the
matrix for a narrow network is the beginning of that for a wide one.

Guarantees: the answers are those of the file as it was. Does not guarantee that features of two models compare, nor that
a file whose graph is unlike a classifier's has any.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.errors import Refused
from edged.retrain import source

DIMENSIONS = 32
_SEED = 20130121
_CLASSIFIERS = {"Gemm", "MatMul", "Conv"}
_MOST = 65504.0  # float16


def with_features(model: bytes) -> tuple[bytes, int]:
    """The same model with the tensor that feeds its last weighted layer among its outputs, and its place there; float
    and QDQ files. Raises Refused("no_features") when nothing but the picture feeds it, or there is none.
    """
    import onnx

    parsed = source.parse(model)
    graph = parsed.graph
    if not graph.output:
        raise Refused("the model has no output", code="no_features")
    producers = {out: node for node in graph.node for out in node.output}
    fixed = _constants(graph)
    last = _weighted(graph.output[0].name, producers, fixed)
    if last is None:
        raise Refused("the model has no last layer with weights, so it has no features", code="no_features")
    name = _moving(last, fixed)[0]
    if _weighted(name, producers, fixed) is None:
        raise Refused("the model's only layer reads the picture itself, so it has no features", code="no_features")
    outputs = [o.name for o in graph.output]
    if name in outputs:
        return model, outputs.index(name)
    graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return bytes(parsed.SerializeToString(deterministic=True)), len(outputs)


def pooled(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n, c] as it is, [n, c, h, w] as the mean over its places."""
    return features if features.ndim <= 2 else features.mean(axis=tuple(range(2, features.ndim)), dtype=np.float32)


def project(features: NDArray[np.float32], dimensions: int = DIMENSIONS) -> NDArray[np.float16]:
    """[n, c] -> float16 [n, min(c, dimensions)]; what is no number is 0."""
    flat = features.reshape(len(features), -1)
    if flat.shape[1] > dimensions:
        # RandomState: its stream never changes between versions of numpy (NEP 19); a Generator's may.
        matrix = np.random.RandomState(_SEED).standard_normal((flat.shape[1], dimensions)).astype(np.float32)
        with np.errstate(invalid="ignore", over="ignore"):
            flat = flat @ (matrix / np.float32(np.sqrt(dimensions)))
    return np.nan_to_num(flat, nan=0.0, posinf=_MOST, neginf=-_MOST).clip(-_MOST, _MOST).astype(np.float16)


def _constants(graph: Any) -> set[str]:
    """Names of tensors that do not depend on the picture."""
    fixed = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer} | {""}
    for node in graph.node:  # in topological order, as ONNX demands
        if all(name in fixed for name in node.input):
            fixed |= set(node.output)
    return fixed


def _weighted(name: str, producers: dict[str, Any], fixed: set[str]) -> Any | None:
    """The nearest layer behind a tensor that multiplies what moves with weights that do not."""
    waiting, seen = deque([name]), {name}
    while waiting:
        node = producers.get(waiting.popleft())
        if node is None:
            continue
        moving = _moving(node, fixed)
        if node.op_type in _CLASSIFIERS and len(moving) == 1:
            return node
        waiting.extend(n for n in moving if n not in seen)
        seen.update(moving)
    return None


def _moving(node: Any, fixed: set[str]) -> list[str]:
    return [name for name in node.input if name not in fixed]
