"""`rate`: the size of the packed file in the loss, so that weights are zero where they are not worth their bits.

    loss + amount * (bits of the packed network) / (its parameters)

Retraining in two parts. First the zeros: at ROUNDS moments a weight goes whose loss is less than its price. What the loss
would rise by is F * w ** 2 / 2, where F is the diagonal of the Fisher information, the batch size times Adam's running
mean of squared gradients (LeCun, Optimal Brain Damage, 1989; Fisher in its place: Theis et al., arXiv 1801.05787). Its
price is what the packed form pays: -log2 of how probable a weight is in its row and column, which makes the last weights
of an input, a unit or a channel the dearest, so that whole rows and columns die, and VALUE bits for its value. The weight
of size rises over the part by RISE to `amount`. Then the values: codebooks as `share` makes them, assigned by
F * (w - q) ** 2 / 2 + price of q's entry (DeepCABAC, Wiedemann et al., arXiv 1907.11900, equation 11, with k-means in place
of a grid), and centroids trained.

Guarantees: zeros and codebooks are held as by `prune` and `share`; no kernel is emptied. The bits are an estimate of an
adaptive coder's, not the codec's own count. Does not guarantee an accuracy or a size: `amount` trades one for the other. Nor
that it beats `prune` with `share`: on Fashion-MNIST's tune split it did not (LeNet-300-100: packed 75 times smaller with 89.30 %,
against 85 times with 89.42 % by `prune=0.95 share=16`, after nine and eight passes).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from edged.clock import cpu_seconds
from edged.retrain.methods import Facts, Lesson, Model, refine, share
from edged.retrain.methods.kernels import counted, fold, shareable
from edged.retrain.methods.prune import Zeros

VALUE = 4.0  # bits of a value and its sign, about
LEVELS = 16  # a layer's values at most; prices make them fewer
ROUNDS, RAMP, RISE = 60, 0.7, 1e3
ZEROS = refine.Plan(epochs=10.0, settled=RAMP, time=0.75, text="zeros by rate")
MOVING = replace(share.MOVING, epochs=2.0)


def apply(model: Model, amount: float, lesson: Lesson) -> tuple[Model, Facts]:
    """`amount` 0..1: nats of loss that one bit per parameter is worth."""
    assert model.net is not None
    began, before = cpu_seconds(), refine.accuracy(model.net, lesson.judged)
    count, _ = counted(model.net)
    net = fold(model.net)
    zeros = Zeros({name: w.detach() != 0 for name, w in shareable(net).items()})
    price, told, fisher = amount / count, 0, dict[str, Tensor]()

    def schedule(net: nn.Module, done: float, optimiser: torch.optim.Optimizer) -> None:
        nonlocal told, fisher
        at = min(1.0, done / RAMP)
        if int(at * ROUNDS) > told or done >= 1:
            told = int(at * ROUNDS)
            fisher = information(net, optimiser, ZEROS.batch)
            narrow(net, zeros, fisher, price * RISE ** (told / ROUNDS - 1))

    made = replace(model, net=net, holds=(*model.holds, zeros))
    epochs = refine.run(made, lesson, replace(ZEROS, schedule=schedule))
    zeros.after_step(net)
    weigh = {name: _weigh(net.get_parameter(name), f, price) for name, f in fisher.items()}
    made, more = share.shared(made, LEVELS, lesson, moving=MOVING, bits_weigh=weigh)
    parameters, nonzero = counted(net)
    return made, Facts(
        step="rate", accuracy_before=before, accuracy_after=refine.accuracy(net, lesson.judged),
        parameters_before=count, parameters=parameters, nonzero=nonzero, seconds=round(cpu_seconds() - began, 2),
        epochs=epochs + more, note="" if fisher else "there was no time to retrain: only values were shared",
    )  # fmt: skip


def information(net: nn.Module, optimiser: torch.optim.Optimizer, batch: int) -> dict[str, Tensor]:
    """Fisher's diagonal of the mean loss by name, from Adam's second moments: E[g ** 2] of a batch is F / batch."""
    found = {}
    for name, weights in shareable(net).items():
        state = optimiser.state.get(weights)
        if state:
            decay = optimiser.param_groups[0]["betas"][1]
            found[name] = state["exp_avg_sq"] * (batch / (1 - decay ** float(state["step"])))
    return found


def narrow(net: nn.Module, zeros: Zeros, fisher: dict[str, Tensor], price: float) -> None:
    """Clear the bits of weights whose loss is less than their bits' price (nats a bit); the last of a kernel stays."""
    for name, information in fisher.items():
        mask, weights = zeros.kept[name], net.get_parameter(name).detach()
        loss = (0.5 * information * weights.square()).masked_fill_(~mask, -1.0)
        keep = (loss > price * bits(mask)).flatten()
        if weights.ndim > 1:
            keep[loss.argmax()] = True
        mask &= keep.view(mask.shape)


def bits(mask: Tensor) -> Tensor:
    """What each weight costs more than its zero, in bits, by the density of its row and column; of the mask's shape."""
    rows = mask.reshape(mask.shape[0], -1).float() if mask.ndim > 1 else mask.reshape(1, -1).float()
    height, width = rows.shape
    density = (rows.sum() + 0.5) / (rows.numel() + 1)
    across = (rows.sum(1, keepdim=True) + 0.5 * density) / (width + 0.5)
    down = (rows.sum(0, keepdim=True) + 0.5 * density) / (height + 0.5)
    p = (across * down / density).clamp(1e-6, 0.9)
    return (((1 - p) / p).log2() + VALUE).clamp(min=1.0).view_as(mask)


def _weigh(weights: Tensor, information: Tensor, price: float) -> float:
    """Squared distance that one bit is worth in a layer: 2 * price / F, by the mean F of what is left."""
    left = weights.detach() != 0
    mean = float(information[left].mean()) if bool(left.any()) else 0.0
    return 2 * price / mean if mean > 0 and math.isfinite(mean) else 0.0
