"""A network as a processor of half precision computes it: weights and every operator's answer rounded to IEEE 754 binary16
(ties to even, overflow to infinity).

The ONNX graph gets a pair of casts (to float16 and back) behind each node and behind the input, and onnxruntime runs it with
its graph optimisations off. OpenVINO would drop the pairs (2026.3, measured).

Guarantees: every tensor between operators is a half-precision number. Does not guarantee: sums inside one operator, which
are held in single precision here; the device may round them too, or in another order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged import engine
from edged.engine import feed, onnx_file
from edged.errors import Misconfigured, Refused
from edged.retrain import source

LARGEST = 65_504.0


def rounded(model: bytes) -> bytes:
    """The same model with float weights rounded and a pair of casts behind each float answer.

    Raises Refused (code bad_numbers) where a weight is no number, or too large for half precision; bad_layer where a node
    holds a graph of its own.
    """
    from onnx import TensorProto, helper

    takes = onnx_file.check(model).takes
    parsed = source.parse(model)
    graph = parsed.graph
    for tensor in graph.initializer:
        _round(tensor, tensor.name)
    constants = {t.name for t in graph.initializer}
    entry = next(i.name for i in graph.input if i.name not in constants)
    floats = _floats(model)
    new: dict[str, str] = {}
    nodes: list[Any] = []

    def cast(name: str) -> None:
        half, back = f"{name}/half", f"{name}/rounded"
        nodes.append(helper.make_node("Cast", [name], [half], to=TensorProto.FLOAT16))
        nodes.append(helper.make_node("Cast", [half], [back], to=TensorProto.FLOAT))
        new[name] = back

    if takes == "float32":
        cast(entry)
    outputs = {o.name for o in graph.output}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise Refused(f"layer {node.name[:60]!r} ({node.op_type}) holds a graph of its own", code="bad_layer")
            if node.op_type == "Constant" and attribute.name == "value":
                _round(attribute.t, node.output[0])
        for i, name in enumerate(node.input):
            node.input[i] = new.get(name, name)
        made = [name for name in node.output if name in floats and node.op_type != "Constant"]
        for i, name in enumerate(node.output):
            if name in outputs:  # the last answer is rounded under its own name
                node.output[i] = f"{name}/exact"
        nodes.append(node)
        for name in made:
            if name in outputs:
                nodes.append(helper.make_node("Cast", [f"{name}/exact"], [f"{name}/half"], to=TensorProto.FLOAT16))
                nodes.append(helper.make_node("Cast", [f"{name}/half"], [name], to=TensorProto.FLOAT))
            else:
                cast(name)
    copies = [_copy(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    del graph.value_info[:]
    return bytes(parsed.SerializeToString(deterministic=True))


def _copy(node: Any) -> Any:
    from onnx import NodeProto

    out = NodeProto()
    out.CopyFrom(node)
    return out


def _floats(model: bytes) -> set[str]:
    """Names of the float tensors between nodes."""
    from onnx import TensorProto, shape_inference

    inferred = shape_inference.infer_shapes(source.parse(model), strict_mode=False).graph
    known = [*inferred.value_info, *inferred.output]
    found = {v.name for v in known if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    told = {v.name for v in known}
    return found | {name for node in inferred.node for name in node.output if name not in told}


def _round(tensor: Any, name: str) -> None:
    from onnx import TensorProto, numpy_helper

    if tensor.data_type != TensorProto.FLOAT:
        return
    values = numpy_helper.to_array(tensor)
    if not np.isfinite(values).all():
        raise Refused(f"the weights of {name[:60]!r} are no numbers", code="bad_numbers")
    with np.errstate(over="ignore"):
        half = values.astype(np.float16).astype(np.float32)
    if not np.isfinite(half).all():
        raise Refused(
            f"a weight of {name[:60]!r} is {np.abs(values).max():.3g}; half precision ends at {LARGEST:.0f}",
            code="bad_numbers",
        )
    tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))


class HalfEngine:
    """The engine's Protocol over a rounded model. Raises Misconfigured where onnxruntime is not installed."""

    runtime = "onnxruntime, rounded to half precision"

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        if "onnxruntime" not in engine.runtimes():
            raise Misconfigured("half precision is emulated by onnxruntime, which is not installed",
                                hint="pip install onnxruntime")  # fmt: skip
        import onnxruntime as ort

        self.takes = onnx_file.check(model).takes
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        data = rounded(model)
        try:
            self._session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as e:  # its exceptions have no common parent
            raise Refused(f"the model does not run in half precision: {str(e)[:200]}", code="bad_model") from e
        self._input = self._session.get_inputs()[0].name

    def run(self, batch: NDArray[np.float32] | NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        fed = feed.fitting(batch, self.takes)
        try:
            outputs = self._session.run(None, {self._input: fed})
        except Exception as e:
            raise Refused(f"the model does not take {batch.shape}: {str(e)[:200]}", code="bad_input") from e
        return tuple(np.asarray(out, dtype=np.float32) for out in outputs)
