"""`int8`: static quantization in ONNX's QDQ form by onnxruntime's quantizer: weights per channel and symmetric,
activations per tensor, scales from crops of the train split. Both runtimes of the engine execute it. Weights use 7 of
8 bits: without VNNI (an Atom) the products of 8-bit weights are summed in pairs in 16 bits and saturate, so that
answers would depend on the processor (measured: 1.3 % of them under OpenVINO); with 7 they do not.

Does not guarantee that it is faster on every runtime (it is on OpenVINO; onnxruntime's int8 is slower than its float on
MobileNets: docs/decisions).
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged import engine
from edged.clock import cpu_seconds
from edged.engine import onnx_file
from edged.errors import Refused
from edged.retrain import measure, source
from edged.retrain.jobs import Progress
from edged.retrain.methods import Facts, Lesson, Model, Near, near
from edged.retrain.pictures import Pictures

TRIES = 6  # sets of layers that are tried in float
RANKING = 0.5  # share of the time left that may go into ranking the layers
LOOKED = 1000  # pictures of the lesson on which two files' answers are compared
_RANKED_ON = 48  # crops
_LARGE = 64 << 20  # bytes


def apply(model: Model, amount: float, lesson: Lesson) -> tuple[Model, Facts]:
    """An ONNX file of a float model -> its quantized one. Loses it more than `lesson.max_loss` on the judged pictures,
    layers are left in float (`controlled`).
    """
    began = cpu_seconds()
    _require(model.onnx)
    before, count = measure.accuracy(model.onnx, lesson.judged, threads=lesson.threads), weights(model.onnx)
    calibration = some(lesson.train, lesson.calibration, lesson.seed)
    made = controlled(model.onnx, calibration, before - lesson.max_loss, lesson)
    facts = Facts(
        step="int8", accuracy_before=before, accuracy_after=made.accuracy, parameters_before=count, parameters=count,
        nonzero=count, seconds=round(cpu_seconds() - began, 2), note=made.note, near=made.near,
    )  # fmt: skip
    return replace(model, onnx=made.data), facts


@dataclass(frozen=True)
class Made:
    """A file, its accuracy on the judged pictures, and a sentence about what was done ("" = all is int8)."""

    data: bytes
    accuracy: float
    note: str = ""
    near: Near | None = None


def controlled(model: bytes, calibration: Pictures, enough: float, lesson: Lesson) -> Made:
    """Int8 with an accuracy of `enough` on the judged pictures, or as near to it as TRIES tries come.

    Where there is a version before, a file near it is tried first (near.py), with the layers in float that are so there.
    Then ranges that lone extremes do not widen are tried (the mean over batches instead of the largest), which costs no
    speed. Then layers are ranked by what each alone in int8 does to the answers on calibration crops, and the dearest 1,
    2, 4, ... are left in float. No try begins after `lesson.until`; the sentence says if there was no time for more.
    """

    def tell(fraction: float, text: str) -> None:
        lesson.progress(Progress(fraction, text=text))

    def late() -> bool:
        return lesson.clock.monotonic() >= lesson.until

    def judge(data: bytes) -> float:
        return measure.accuracy(data, lesson.judged, threads=lesson.threads)

    def told(data: bytes) -> bytes:
        return source.with_metadata(data, source.metadata(model) | {"edged.method": "int8"})

    before, against = near.begin(lesson.previous)
    against += "; " if against else ""
    with _Quantizer(model, calibration) as quantizer:
        if before is not None:
            tell(0.02, "near the version before")
            floats = [name for name in quantizer.layers if name in before.floats]
            made = told(quantizer.quantized(floats=floats))
            found = near.nearest(made, quantizer.exact, before, enough, judge, lambda d: answers(d, lesson))
            if found.near is not None:
                return Made(found.data, found.accuracy, found.note, found.near)
            against = f"{found.note}; "
        tell(0.05, "all layers")
        made = told(quantizer.quantized())
        first = accuracy = judge(made)
        if accuracy >= enough:
            return Made(made, accuracy, against.removesuffix("; "))
        mild = False
        if not late():
            tell(0.15, f"{first:.1%} right where {enough:.1%} are wanted: milder ranges")
            milder = told(quantizer.quantized(mild=True))
            if mild := (now := judge(milder)) > accuracy:
                made, accuracy = milder, now
        if accuracy >= enough:
            return Made(made, accuracy, f"{against}ranges are means over batches, which lone extremes do not widen")
        begun = lesson.clock.monotonic()
        half = begun + RANKING * (lesson.until - begun)

        def going(i: int, of: int) -> bool:
            tell(0.25 + 0.45 * i / of, f"what layer {i + 1} of {of} costs")
            return lesson.clock.monotonic() < half

        order, best = quantizer.dearest(mild=mild, going=going), (accuracy, made, 0)
        short = len(order) < len(quantizer.layers)
        for i, n in enumerate(_growing(len(order))):
            if late():
                short = True
                break
            tell(0.7 + 0.3 * i / TRIES, f"{best[0]:.1%} right so far; {n} of {len(order)} layers in float")
            data = told(quantizer.quantized(floats=order[:n], mild=mild))
            if (now := judge(data)) > best[0]:
                best = (now, data, n)
            if now >= enough:
                break
    accuracy, made, n = best
    lost = (
        f"{against}all in int8 gets {first:.1%} right; "
        f"with {n} of {len(quantizer.layers)} layers in float it is {accuracy:.1%}"
    )
    if accuracy < enough:
        lost += f", less than the {enough:.1%} that were asked for" + ("; there was no time for more" if short else "")
    return Made(made, accuracy, f"{lost} ({', '.join(order[:n][:4])}{', ...' if n > 4 else ''})" if n else lost)


def answers(data: bytes, lesson: Lesson) -> NDArray[np.int64]:
    """Class indices that a file gives LOOKED pictures of the lesson and all that judge."""
    looked_at = (some(lesson.train, LOOKED, lesson.seed), lesson.judged)
    return np.concatenate([measure.answers(data, pics, threads=lesson.threads) for pics in looked_at])


def _growing(most: int) -> Iterator[int]:
    """1, 2, 4, ... up to `most`, TRIES of them at most."""
    n = 1
    for _ in range(TRIES if most else 0):
        yield min(n, most)
        if n >= most:
            return
        n *= 2


def weights(model: bytes) -> int:
    """Numbers in its initialisers."""
    return sum(math.prod(t.dims) for t in source.parse(model).graph.initializer)


def some(train: Pictures, n: int, seed: int) -> Pictures:
    """At most `n` of them, drawn evenly; Refused when there are none."""
    if len(train) == 0:
        raise Refused("no crops to calibrate on", code="too_few")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(train))[:n])
    return Pictures(train.pixels[chosen], train.labels[chosen], tuple(train.cameras[i] for i in chosen))


def int8(model: bytes, calibration: Pictures) -> bytes:
    """ONNX bytes -> quantized ONNX bytes with the same input, output and metadata. Raises Refused for what is no
    ONNX, has tensors in other files, or has operators that onnxruntime does not know.
    """
    with _Quantizer(model, calibration) as quantizer:
        data = quantizer.quantized()
    return source.with_metadata(data, source.metadata(model) | {"edged.method": "int8"})


def _around(nodes: Sequence[Any], name: str, layers: set[str]) -> set[str]:
    """The layer and what lies between it and the layers before and behind it: as long as any of that is int8, so is what
    the layer is given.
    """
    found, ends = {name}, [n for n in nodes if n.name == name]
    for side in ("input", "output"):
        other = "output" if side == "input" else "input"
        front = ends
        while front:
            tensors = {tensor for n in front for tensor in getattr(n, side)}
            front = [n for n in nodes if n.name not in found | layers and tensors & set(getattr(n, other))]
            found |= {n.name for n in front}
    return found


def _require(model: bytes) -> None:
    """Refused, in onnxruntime's words, for what its quantizer would stumble over."""
    engine.load(model, runtime="onnxruntime")


class _Quantizer:
    """onnxruntime's static quantizer on one model; ranges are measured once for each way of taking them."""

    def __init__(self, model: bytes, calibration: Pictures) -> None:
        _require(model)
        self._parsed, self._calibration = source.parse(model), calibration
        self._name = onnx_file.check(model).input_name
        self._place = tempfile.TemporaryDirectory(prefix="edged-int8-")
        self._folder = Path(self._place.name)

    def __enter__(self) -> _Quantizer:
        import onnx
        from onnxruntime.quantization.shape_inference import quant_pre_process

        path = self._folder / "prepared.onnx"
        with _quiet():
            # Above this onnxruntime's optimiser puts weights into a file beside, and then stumbles over that (1.31).
            large = self._parsed.ByteSize() > _LARGE
            quant_pre_process(self._parsed, path, skip_symbolic_shape=True, skip_optimization=large)
        prepared = onnx.load(path)
        constants = {t.name for t in prepared.graph.initializer}
        for i, node in enumerate(prepared.graph.node):
            node.name = node.name or f"{node.op_type}_{i}"  # layers are left in float by their names
        onnx.save(prepared, path)
        self.exact = prepared.SerializeToString(deterministic=True)
        self.layers = tuple(
            n.name for n in prepared.graph.node
            if n.op_type in ("Conv", "Gemm", "MatMul") and constants & set(n.input[1:])
        )  # fmt: skip
        self._around = {name: _around(prepared.graph.node, name, set(self.layers)) for name in self.layers}
        return self

    def __exit__(self, *_: object) -> None:
        self._place.cleanup()

    def quantized(self, *, floats: Sequence[str] = (), only: str = "", mild: bool = False) -> bytes:
        """All in int8 but the layers `floats` and what lies between them and the next ones; or `only` one. `mild`: ranges
        are means over batches of 16.
        """
        import onnx
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        made = self._folder / "int8.onnx"
        with _quiet():
            quantize_static(
                self._folder / "prepared.onnx",
                made,
                _Reader(self._calibration, self._name),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=True,
                calibrate_method=CalibrationMethod.MinMax,
                nodes_to_exclude=sorted({name for layer in floats for name in self._around[layer]}),
                nodes_to_quantize=[only] if only else None,
                extra_options={"CalibMovingAverage": True, "CalibMovingAverageConstant": 0.1} if mild else None,
                calibration_cache_path=self._folder / ("mild.json" if mild else "ranges.json"),
            )
        data = made.read_bytes()
        onnx.checker.check_model(source.parse(data), full_check=True)
        return data

    def dearest(self, *, mild: bool, going: Callable[[int, int], bool] = lambda *_: True) -> list[str]:
        """The layers by what each alone in int8 changes of the answers (mean square) on calibration crops, dearest first.
        `going` (number, of) is asked before each; once it says no, those that were not looked at are left out.
        """
        batches = list(some(self._calibration, _RANKED_ON, 1).batches(16))

        def answers(data: bytes) -> NDArray[np.float64]:
            loaded = engine.load(data)
            return np.concatenate([loaded.run(batch)[0] for batch in batches]).astype(np.float64)

        wanted = answers(self.exact)
        costs = []
        for i, name in enumerate(self.layers):
            if not going(i, len(self.layers)):
                break
            costs.append(float(np.square(answers(self.quantized(only=name, mild=mild)) - wanted).mean()))
        return [self.layers[i] for i in np.argsort(costs, kind="stable")[::-1]]


@contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime advises on its own defaults at each call, through the root logger."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)


class _Reader:
    """onnxruntime's CalibrationDataReader by shape: one batch at a time, then None."""

    def __init__(self, pics: Pictures, name: str) -> None:
        self._name = name
        self._batches: Iterator[NDArray[np.float32]] = iter(pics.batches(16))

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}
