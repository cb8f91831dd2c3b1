"""Stage `compress`: a smaller, faster file that answers almost the same.

`int8` = static quantization in ONNX's QDQ form by onnxruntime's quantizer: weights per channel and symmetric,
activations per tensor, scales from crops of the train split. Both runtimes of the engine execute it. Weights use 7 of
8 bits: without VNNI (an Atom) the products of 8-bit weights are summed in pairs in 16 bits and saturate, so that
answers would depend on the processor (measured: 1.3 % of them under OpenVINO); with 7 they do not.

Guarantees: what is measured before and after is the delivered bytes under the engine, on the tune split; the hold-out
is not read. Does not guarantee that the loss is small (the gate decides) or that it is faster on every runtime (it is
on OpenVINO; onnxruntime's int8 is slower than its float on MobileNets: docs/decisions).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from edged.errors import Refused
from edged.retrain import measure, pictures, source
from edged.retrain.jobs import CompressJob, Progress
from edged.retrain.pictures import Pictures


class Compressed(Struct, frozen=True):
    """The result. Accuracies by the engine on the tune split (or, when that is empty, the train split)."""

    sha256: str
    size: int
    size_before: int
    accuracy_before: float
    accuracy_after: float
    samples: int
    method: str


def run(job: CompressJob, job_dir: Path, *, progress: Callable[[Progress], None]) -> Compressed:
    """The whole stage. Raises Refused: no such model, no crops to calibrate on."""
    progress(Progress(text="reading the crops"))
    with source.open_source(job) as store:
        original = store.model(job.sha256)
        px = measure.input_px(original)
        train = pictures.load(store.crops("train"), job.classes, px)
        tune = pictures.load(store.crops("tune"), job.classes, px)
        progress(Progress(0.3, text=f"{job.method}: measuring what each layer sees"))
        delivered = int8(original, some(train, job.calibration, job.seed))
        judged = tune if len(tune) else train
        progress(Progress(0.8, text="measuring accuracy before and after"))
        return Compressed(
            sha256=store.put(delivered),
            size=len(delivered),
            size_before=len(original),
            accuracy_before=measure.accuracy(original, judged, threads=job.threads),
            accuracy_after=measure.accuracy(delivered, judged, threads=job.threads),
            samples=len(judged),
            method=job.method,
        )


def some(train: Pictures, n: int, seed: int) -> Pictures:
    """At most `n` of them, drawn evenly; Refused when there are none."""
    if len(train) == 0:
        raise Refused("no crops to calibrate on", code="too_few")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(train))[:n])
    return Pictures(train.pixels[chosen], train.labels[chosen], tuple(train.cameras[i] for i in chosen))


def int8(model: bytes, calibration: Pictures) -> bytes:
    """ONNX bytes -> quantized ONNX bytes with the same input, output and metadata. Raises Refused for what is no
    ONNX.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    parsed = source.parse(model)
    with _quiet(), tempfile.TemporaryDirectory(prefix="edged-int8-") as folder:
        prepared, made = Path(folder, "prepared.onnx"), Path(folder, "int8.onnx")
        quant_pre_process(parsed, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            made,
            _Reader(calibration, parsed.graph.input[0].name),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            calibrate_method=CalibrationMethod.MinMax,
        )
        data = made.read_bytes()
    onnx.checker.check_model(source.parse(data), full_check=True)
    return source.with_metadata(data, source.metadata(model) | {"edged.method": "int8"})


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
