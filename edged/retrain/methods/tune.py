"""`tune`: each convolution by the algorithm that is measured fastest with the device's instruction set (rewrite/tuner.py).

Guarantees: the answers are the same to float rounding; a model that comes back changed was measured faster than the one
that came. Quantised convolutions stay as they are. Weights stay in the file as they were: what Winograd and the FFT make
of them is computed when the file is loaded, and takes memory there.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from edged import engine
from edged.clock import cpu_seconds
from edged.errors import Refused
from edged.retrain import device, measure
from edged.retrain.jobs import Progress
from edged.retrain.methods import Facts, Lesson, Model, int8
from edged.retrain.rewrite import tuner

CACHE = "tuning.json"


def apply(model: Model, amount: float, lesson: Lesson) -> tuple[Model, Facts]:
    """An ONNX file -> one that computes the same faster, or itself. Raises Refused where there are no pictures."""
    began = cpu_seconds()
    pictures = lesson.train if len(lesson.train) else lesson.tune
    if len(pictures) == 0:
        raise Refused("no pictures to tune on", code="too_few")
    some = np.concatenate(list(int8.some(pictures, len(measure.REGIONS), lesson.seed).batches(16)))
    batch = np.resize(some, (len(measure.REGIONS), *some.shape[1:]))
    made, tuned = tuner.tune(
        model.onnx, batch, device.find(lesson.device), runtime=engine.runtimes()[0],
        cache=Path(lesson.folder, CACHE) if lesson.folder else None,
        tell=lambda fraction, text: lesson.progress(Progress(fraction, text=text)),
    )  # fmt: skip
    before = measure.accuracy(model.onnx, lesson.judged, threads=lesson.threads)
    after = measure.accuracy(made, lesson.judged, threads=lesson.threads) if tuned.kept else before
    count = int8.weights(model.onnx)
    facts = Facts(
        step="tune", accuracy_before=before, accuracy_after=after, parameters_before=count, parameters=count,
        nonzero=count, seconds=round(cpu_seconds() - began, 2), note=f"{tuned.note} ({tuned.on})",
        table=tuner.table(tuned),
    )  # fmt: skip
    return replace(model, onnx=made), facts
