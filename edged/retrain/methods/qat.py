"""`qat`: int8 with retraining that knows of it. The network is trained with the very values that its int8 file will have
(fakequant.py), and that file is written from the result (qdq.py), so nothing is lost on the way.

It learns from the float network's answers alone, on pictures in changed light too, and the epoch is kept whose answers are
nearest to those: int8 is to answer as the float network does, also on pictures that are unlike those it learns from. With
the labels in the loss it learned on, which went either way where the light was another (docs/compression.md).

Guarantees: the file's answers are those of the trained network in simulated int8, up to the order of sums; holds of the
steps before are kept (zeros stay zeros; values that are equal before batch norm is folded may differ after it); on the
judged pictures its answers are not farther from the float network's than the same without retraining. Where `int8`'s,
without retraining, are nearer, or more of them right (McNemar's test, p < WORSE), that file is given. Where there is a
version before, the inputs' grids are its own and training makes the best of them; the weights are brought near it
afterwards (near.py), and no more answers are lost by that than `lesson.max_loss` allows, nor more turned than
near.TURNED. Does not guarantee that a runtime is faster in int8.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import numpy as np
import torch
from torch import Tensor

from edged import engine
from edged.clock import cpu_seconds
from edged.retrain import export, fit, measure, report, source
from edged.retrain.methods import Facts, Lesson, Model, fakequant, int8, near, qdq, refine
from edged.retrain.pictures import Pictures

PLAN = refine.Plan(epochs=4.0, light=0.3, distil=1.0, text="retraining in int8")
RATE = 0.05  # of the usual learning rate: the weights are good already, and large steps only lead away from the answers
WORSE = 0.05


def apply(model: Model, amount: float, lesson: Lesson) -> tuple[Model, Facts]:
    """A network -> its int8 file. Raises Refused: no crops to calibrate on (too_few), training that diverged."""
    net = model.net
    assert net is not None
    began = cpu_seconds()
    before = refine.accuracy(net, lesson.judged)
    count = sum(p.numel() for p in net.parameters())
    calibration, plain = int8.some(lesson.train, lesson.calibration, lesson.seed), export.to_onnx(net, model.px)
    teacher = model.teacher or copy.deepcopy(net).requires_grad_(False).eval()
    fakequant.wrap(net)
    fakequant.calibrate(net, batches(calibration))
    version, note = near.begin(lesson.previous)
    if version is not None:
        fakequant.freeze(net, inputs(version))
    rate = RATE * refine.rate(net)
    wanted = refine.logits(teacher, lesson.judged)
    plan = replace(PLAN, lr=rate, judge=lambda net: -refine.apart(wanted, refine.logits(net, lesson.judged)))
    epochs = refine.run(replace(model, teacher=teacher), lesson, plan)
    data, exact = written(model)
    made, straight = (outputs(file, lesson) for file in (data, int8.int8(plain, calibration)))
    pair, away = against(made, straight, lesson), [refine.apart(wanted, found) for found in (made, straight)]
    # With a version before, its grids are what was trained for, and they make the update small.
    if version is None and (away[1] < away[0] or (pair.lost > pair.won and report.mcnemar(pair) < WORSE)):
        without, facts = int8.apply(Model(model.px, model.classes, onnx=plain), 0, lesson)
        told = (
            f"without retraining, which is {away[1]:.2g} nats a picture from the float network and gets {pair.baseline_right} of "
            f"{pair.n} right; with it {away[0]:.2g} and {pair.right}"
        )
        note, seconds = "; ".join(filter(None, (told, facts.note))), round(cpu_seconds() - began, 2)
        return without, msgspec.structs.replace(facts, step="qat", epochs=epochs, note=note, seconds=seconds)
    after, kept = pair.right / pair.n, None
    if version is not None:
        found = near.nearest(
            data, exact, version, before - lesson.max_loss,
            lambda d: measure.accuracy(d, lesson.judged, threads=lesson.threads), lambda d: int8.answers(d, lesson),
        )  # fmt: skip
        note, kept = found.note, found.near
        if kept is not None:
            data, after = found.data, found.accuracy
    return Model(model.px, model.classes, onnx=data), Facts(
        step="qat", accuracy_before=before, accuracy_after=after, parameters_before=count, parameters=int8.weights(data),
        nonzero=sum(int(p.count_nonzero()) for p in net.parameters()), seconds=round(cpu_seconds() - began, 2),
        epochs=epochs, note=note, near=kept,
    )  # fmt: skip


def outputs(file: bytes, lesson: Lesson) -> Tensor:
    """The delivered bytes' logits of the judged pictures, float32 [n, classes]."""
    loaded = engine.load(file, threads=lesson.threads)
    return torch.from_numpy(np.concatenate([loaded.run(batch)[0] for batch in lesson.judged.batches(16)]))


def against(made: Tensor, plain: Tensor, lesson: Lesson) -> report.Pair:
    """The answers of one file beside those of another."""
    right, before = (logits.argmax(1).numpy() == lesson.judged.labels for logits in (made, plain))
    lost, won = int((before & ~right).sum()), int((right & ~before).sum())
    return report.Pair(len(right), int(right.sum()), int(before.sum()), lost, won)


def delivered(model: Model) -> bytes:
    """The int8 file of a wrapped network, which is a plain one with folded weights afterwards."""
    return written(model)[0]


def written(model: Model) -> tuple[bytes, bytes]:
    """The same, and the float file that it is the int8 one of."""
    assert model.net is not None
    grids = fakequant.unwrap(model.net)
    exact = export.to_onnx(model.net, model.px)
    return source.with_metadata(qdq.write(exact, grids), {"edged.method": "qat"}), exact


def inputs(version: near.Version) -> dict[str, qdq.Grid]:
    """Grids of the inputs of the version before, by the names of the layers' weights (those that qdq.py gives)."""
    return {
        name.removesuffix("/int"): qdq.Grid(float(version.tensors[layer.given]), int(version.tensors[layer.zero]))
        for name, layer in version.layers.items()
    }


def batches(pics: Pictures) -> Iterator[Tensor]:
    for i in range(0, len(pics), 16):
        yield fit.to_input(torch.from_numpy(pics.pixels[i : i + 16]))
