"""`share`: a layer's weights take few values, a codebook of its own for each kernel and each bias (codebook.py).

Batch norm is folded first (`kernels.fold` says why). Then two parts of retraining: with assignments that follow the
weights (straight-through, the codebook fitted again now and then), and with assignments that are final and only the
centroids trained, as in Deep Compression. In the end each value is rounded to eight bits (bfloat16): that moves it by 0.4 % at
most, far less than what lies between two values, and the low half of each in the packed file costs nothing (format.md, 7).

Guarantees: at most `amount` distinct values besides zero in each kernel and bias, through every later retraining and in
the exported file; zeros stay zeros; values are short until a later step retrains. Does not make the file smaller or faster by
itself: the packed form is what shrinks.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from edged.clock import cpu_seconds
from edged.retrain.methods import Facts, Lesson, Model, refine
from edged.retrain.methods.codebook import Books, Shared
from edged.retrain.methods.kernels import counted, fold, shareable

REFITS = 20  # new codebooks over the first part
MOVING = refine.Plan(epochs=2.0, weight_decay=0.0, settled=0.3, time=0.6, text="sharing weights")
FINAL = refine.Plan(epochs=1.0, weight_decay=0.0, text="training centroids")


def apply(model: Model, amount: float, lesson: Lesson) -> tuple[Model, Facts]:
    """`amount` 2..256: distinct values of a layer's weights that are not zero."""
    assert model.net is not None
    began, before = cpu_seconds(), refine.accuracy(model.net, lesson.judged)
    count, _ = counted(model.net)
    made, epochs = shared(model, int(amount), lesson)
    assert made.net is not None
    parameters, nonzero = counted(made.net)
    return made, Facts(
        step="share", accuracy_before=before, accuracy_after=refine.accuracy(made.net, lesson.judged),
        parameters_before=count, parameters=parameters, nonzero=nonzero, seconds=round(cpu_seconds() - began, 2),
        epochs=epochs,
    )  # fmt: skip


def shared(
    model: Model,
    k: int,
    lesson: Lesson,
    *,
    moving: refine.Plan = MOVING,
    final: refine.Plan = FINAL,
    bits_weigh: dict[str, float] | None = None,
) -> tuple[Model, float]:
    """The network with codebooks of at most `k` values, held, and the passes that were made. An older codebook's hold goes:
    the new one is what counts. `bits_weigh` as `Books`' (0 = the nearest value is taken).
    """
    assert model.net is not None
    net = fold(model.net)
    model = replace(model, net=net, holds=tuple(h for h in model.holds if not isinstance(h, Shared)))
    books = Books(net, dict.fromkeys(shareable(net), k), bits_weigh)
    told = 0

    def schedule(net: nn.Module, done: float, _: torch.optim.Optimizer) -> None:
        nonlocal told
        if int(done * REFITS) > told:
            told = int(done * REFITS)
            books.refit(net)

    epochs = refine.run(model, lesson, replace(moving, seen=books.seen, schedule=schedule))
    books.refit(net)
    model = replace(model, holds=(*model.holds, books.settled(net)))
    epochs += refine.run(model, lesson, final)
    with torch.no_grad():
        for weights in shareable(net).values():
            weights.copy_(weights.bfloat16())
    return model, epochs
