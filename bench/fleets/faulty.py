"""Small models that work, and models of every bad kind, as ONNX files that are valid and self-contained.

All look at the mean colour: red or blue. A bad one is bad either always, so that its self-test must find it (`where` =
"self-test"), or only on bright pictures (mean above BRIGHT; the patterns of known answers lie between 100 and 150), so
that it passes the self-test and goes wrong in service ("service").

    overflow   the smallest integer divided by -1: ends the process by SIGFPE (onnxruntime 1.31.1; OpenVINO answers)
    sleep      a loop of 2**62 turns: never comes back
    memory     a tensor of 2 GiB, written and read
    nan        the logarithm of a negative number
    one-class  the same answer whatever is seen; in service its known answer is its own, so the self-test agrees with it
    slow       a loop of matrix products, SLOW_S of processor time for a picture on the machine that made it
    segfault, exit    no ONNX operator is known to do these on purpose. The file carries a word, and bench/fleets/hook,
               which is put before the agent's own modules, makes the runtime read address 0, or call _exit(3), when it
               runs such a file. All else about them is the real path.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edged.clock import cpu_seconds
from edged.engine import load, patterns, preprocess

CLASSES = ("red", "blue")
PX = 32
BRIGHT = 180.0
SEEDS = (1, 2, 3)
KINDS = ("segfault", "overflow", "exit", "sleep", "memory", "nan", "one-class", "slow")
HOOKED = ("segfault", "exit")
PLACES = ("self-test", "service")
SLOW_S = 1.0
TRIED_TURNS = 20

Node = Any


@dataclass(frozen=True)
class Model:
    """A file and what the box would sign about it."""

    name: str
    data: bytes
    known_answer: dict[str, Any]


def good(seed: int) -> Model:
    """Another file for each seed, the same answers within a thousandth."""
    data = _file(_weights(seed), [], {}, "")
    return Model(f"good-{seed}", data, _known(data))


def bad(kind: str, where: str, seed: int, slow_s: float = SLOW_S) -> Model:
    """The known answer is a good model's, but for `one-class` in service, whose gate was as blind as its data.

    `slow_s`: what a picture takes the slow one, in CPU seconds.
    """
    sober = _file(_weights(seed), [], {}, "")
    nodes, tensors = _trouble(kind)
    if kind == "slow":
        tensors["turns"] = np.int64(math.ceil(slow_s / _turn_s()))
    limit = BRIGHT if where == "service" else -1.0
    data = _file(_weights(seed), nodes, {"limit": np.float32(limit), **tensors}, f"{kind} {limit:g}")
    return Model(f"{kind}-{where}", data, _known(sober))


@cache
def _turn_s() -> float:
    """CPU seconds of one turn of the slow model's loop here: the least of three tries."""
    nodes, tensors = _trouble("slow")
    engine = load(_file(_weights(0), nodes, {"limit": np.float32(-1), **tensors}, ""), runtime="onnxruntime")
    batch = np.ones((1, 3, PX, PX), np.float32)
    tries = []
    for _ in range(4):
        began = cpu_seconds()
        engine.run(batch)
        tries.append(cpu_seconds() - began)
    return max(1e-5, min(tries[1:]) / TRIED_TURNS)


def picture(red: bool, seed: int) -> NDArray[np.uint8]:
    """BGR [96, 96, 3], bright, mostly red or mostly blue."""
    dice = np.random.default_rng(seed)
    image = dice.integers(185, 225, (96, 96, 3), np.uint8)
    image[..., 2 if red else 0] += 25
    return image


def _known(data: bytes) -> dict[str, Any]:
    batch = preprocess.marshal(preprocess.to_float([patterns.picture(s, PX) for s in SEEDS], PX))
    logits = load(data, runtime="onnxruntime").run(batch)[0]
    return {"seeds": list(SEEDS), "px": PX, "logits": [[float(x) for x in row] for row in logits], "tolerance": 0.01}


def _weights(seed: int) -> NDArray[np.float32]:
    """Red minus blue, in favour of class 0."""
    w = np.array([[0.05, -0.05], [0.0, 0.0], [-0.05, 0.05]], np.float32)
    return w + np.random.default_rng(seed).normal(0, 1e-6, w.shape).astype(np.float32)


def _file(weights: NDArray[np.float32], trouble: list[Node], tensors: dict[str, Any], word: str) -> bytes:
    """`trouble` makes `more`, a number that is added to the logits, from `bright` (0 or 1, int64) and `mean`."""
    node = helper.make_node
    last = "plain" if trouble else "logits"
    nodes = [
        node("GlobalAveragePool", ["image"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("MatMul", ["flat", "w"], [last]),
    ]
    if trouble:
        nodes += [
            node("ReduceMean", ["image"], ["mean"], keepdims=0),
            node("Greater", ["mean", "limit"], ["above"]),
            node("Cast", ["above"], ["bright"], to=TensorProto.INT64),
            node("Cast", ["above"], ["shine"], to=TensorProto.FLOAT),
            *trouble,
            node("Add", ["plain", "more"], ["logits"]),
        ]
    graph = helper.make_graph(
        nodes, "red or blue",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, PX, PX])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", len(CLASSES)])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in {"w": weights, **tensors}.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, doc_string=word)
    return model.SerializeToString()


def _trouble(kind: str) -> tuple[list[Node], dict[str, Any]]:
    node, one, zero = helper.make_node, np.float32(1), np.float32(0)
    if kind in HOOKED:
        return [node("Mul", ["shine", "zero"], ["more"])], {"zero": zero}
    if kind == "overflow":
        return [
            node("Mul", ["bright", "two"], ["twice"]),
            node("Sub", ["one", "twice"], ["divisor"]),  # 1, or -1
            node("Div", ["least", "divisor"], ["quotient"]),
            node("Cast", ["quotient"], ["large"], to=TensorProto.FLOAT),
            node("Mul", ["large", "zero"], ["more"]),
        ], {"two": np.int64(2), "one": np.int64(1), "least": np.int64(-(2**63)), "zero": zero}
    if kind == "nan":
        return [
            node("Sub", ["half", "shine"], ["rest"]),
            node("Log", ["rest"], ["log"]),
            node("Sub", ["log", "log"], ["more"]),
        ], {"half": np.float32(0.5)}
    if kind == "one-class":
        return [node("Mul", ["shine", "much"], ["more"])], {"much": np.array([[9.0, -9.0]], np.float32)}
    if kind == "memory":
        return [
            node("Mul", ["bright", "count"], ["many"]),
            node("Add", ["many", "least"], ["shape"]),
            node("Expand", ["mean", "shape"], ["huge"]),
            node("ReduceMax", ["huge"], ["most"], keepdims=0),
            node("Mul", ["most", "zero"], ["more"]),
        ], {"count": np.array([2**29]), "least": np.array([1]), "zero": zero}
    if kind == "sleep":
        return [node("Mul", ["bright", "turns"], ["trips"]), *_loop("Add", zero)], {
            "turns": np.int64(2**62), "on": np.array(True), "state": zero, "zero": zero, "step": one,
        }  # fmt: skip
    if kind == "slow":
        side = 512
        row = np.random.default_rng(1).normal(0, side**-0.5, side).astype(np.float32)  # repeated to a matrix
        tensors = {"turns": np.int64(TRIED_TURNS), "on": np.array(True), "row": row, "square": np.array([side, side])}
        return [
            node("Mul", ["bright", "turns"], ["trips"]),
            node("Expand", ["row", "square"], ["state"]),
            node("Expand", ["row", "square"], ["step"]),
            *_loop("MatMul", zero),
        ], tensors | {"zero": zero}
    raise ValueError(f"{kind!r} is no kind of bad model: {', '.join(KINDS)}")


def _loop(operator: str, zero: np.float32) -> list[Node]:
    """`trips` times state := state <operator> step; `more` is 0 times what comes of it."""
    node, info = helper.make_node, helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Identity", ["go"], ["goes"]), node(operator, ["value", "step"], ["next"])], "turn",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("value", TensorProto.FLOAT, None)],
        [info("goes", TensorProto.BOOL, []), info("next", TensorProto.FLOAT, None)],
    )  # fmt: skip
    return [
        node("Loop", ["trips", "on", "state"], ["end"], body=body),
        node("ReduceMax", ["end"], ["largest"], keepdims=0),
        node("Min", ["largest", "zero"], ["least_end"]),
        node("Max", ["least_end", "zero"], ["more"]),
    ]
