"""`prune`: small weights become zero and stay so, for the packed form; the file keeps its size and speed.

The share of zeros rises over the first half of the retraining (Zhu & Gupta, arXiv 1710.01878: cubic, fast first). Which
weights go is one threshold over all layers on LAMP's score (Lee et al., arXiv 2010.07611): a weight's square over the sum
of the squares of its layer's weights that are at least as large. It levels layers of other scale, and the largest weight
of a layer has score 1, so that no layer is emptied. Scores in the first and the last layer count four times: what is lost
there nothing behind or before can replace. Weights that are out do not come back: trained on behind their zeros until the
share stands (Lin et al., arXiv 2006.07253), they did harm under AdamW (87.2 % on Fashion-MNIST's tune split where one way
had 89.3 %: LeNet-300-100, 0.95, after more passes), perhaps since its steps are as large for a weight that does nothing.

Guarantees: zeros stay zero through every later retraining (`Zeros` clears them after each step, so neither momentum nor
decay revives one); `amount` of the kernels' weights is zero in the end, rounded down; every kernel keeps at least one
weight per output where it can. Norms, biases and depthwise kernels are left alone (`kernels`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from edged.clock import cpu_seconds
from edged.retrain.methods import Facts, Lesson, Model, refine
from edged.retrain.methods.kernels import counted, kernels

RAMP = 0.5  # share of the retraining over which zeros become more
ROUNDS = 40  # thresholds on the way
ENDS = 4.0
PLAN = refine.Plan(epochs=8.0, settled=RAMP, text="pruning")


@dataclass(frozen=True)
class Zeros:
    """A `Hold`: what `kept` says is zero stays zero. `kept` are bool tensors by name; they may be narrowed in place."""

    kept: Mapping[str, Tensor]

    def after_backward(self, net: nn.Module) -> None:
        for name, mask in self.kept.items():
            gradient = net.get_parameter(name).grad
            if gradient is not None:
                gradient.mul_(mask)

    def after_step(self, net: nn.Module) -> None:
        with torch.no_grad():
            for name, mask in self.kept.items():
                net.get_parameter(name).masked_fill_(~mask, 0.0)


def apply(model: Model, amount: float, lesson: Lesson) -> tuple[Model, Facts]:
    """`amount` 0..0.999: the share of the weights of all kernels that becomes zero."""
    net = model.net
    assert net is not None
    began, before, (count, _) = cpu_seconds(), refine.accuracy(net, lesson.judged), counted(net)
    zeros = Zeros({name: w.detach() != 0 for name, w in kernels(net).items()})
    told = 0

    def schedule(net: nn.Module, done: float, _: torch.optim.Optimizer) -> None:
        nonlocal told
        at = min(1.0, done / RAMP)
        if int(at * ROUNDS) > told:
            told = int(at * ROUNDS)
            narrow(net, zeros, share_at(told / ROUNDS, amount))

    made = replace(model, holds=(*model.holds, zeros))
    epochs = refine.run(made, lesson, replace(PLAN, schedule=schedule))
    if told < ROUNDS:  # no retraining, or no time for it
        narrow(net, zeros, amount)
    zeros.after_step(net)
    _, nonzero = counted(net)
    return made, Facts(
        step="prune", accuracy_before=before, accuracy_after=refine.accuracy(net, lesson.judged),
        parameters_before=count, parameters=count, nonzero=nonzero, seconds=round(cpu_seconds() - began, 2),
        epochs=epochs, note="" if told == ROUNDS else "there was no time to prune step by step",
    )  # fmt: skip


def share_at(done: float, amount: float) -> float:
    """The share of zeros at `done` 0..1 of the ramp: 1 - (1 - done) ** 3 of the whole."""
    return amount * (1 - (1 - done) ** 3)


def narrow(net: nn.Module, zeros: Zeros, share: float) -> None:
    """Clear bits of the masks until `share` of all weights is out; the lowest scores first."""
    found = [(zeros.kept[name], scores(w.detach())) for name, w in kernels(net).items()]
    for at, (mask, score) in enumerate(found):
        if at in (0, len(found) - 1):
            score.mul_(ENDS)
        least = min(mask.shape[0], int(mask.sum()))
        if least:
            score.view(-1)[score.flatten().topk(least).indices] = torch.inf
        score.masked_fill_(~mask, -1.0)
    flat = torch.cat([score.flatten() for _, score in found])
    out = min(int(share * flat.numel()), int((flat < torch.inf).sum()))
    if out:
        gone = torch.zeros_like(flat, dtype=torch.bool)
        gone[flat.argsort(stable=True)[:out]] = True
        start = 0
        for mask, _ in found:
            mask &= ~gone[start : start + mask.numel()].view_as(mask)
            start += mask.numel()


def scores(weights: Tensor) -> Tensor:
    """LAMP: w ** 2 over the sum of w ** 2 of the weights that are at least as large; of the same shape."""
    squares = weights.flatten().double().square()
    order = squares.argsort(descending=True, stable=True)
    sums = squares[order].cumsum(0)
    found = torch.empty_like(squares)
    found[order] = squares[order] / sums.clamp(min=1e-30)
    return found.float().view_as(weights)
