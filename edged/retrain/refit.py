"""A short training from a good start: a network's tail (or all of it) on old and new samples, mixed as mix.py says.

Guarantees: with one thread the same inputs give the same weights to the bit, also when killed and resumed (randomness
from (seed, epoch), the rate from the step, a checkpoint after each epoch). The weights that are left are the running
average of the last steps (Polyak & Juditsky, 1992), which a short run needs more than a long one. Does not judge: what is
better is the ladder's matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edged.clock import Clock
from edged.errors import Refused
from edged.retrain import fit

Draw = Callable[[Tensor, torch.Generator, float], Tensor]  # indices, dice, strength of augmentation 0..1 -> inputs
Look = Callable[[nn.Module], tuple[float, float]]  # -> tune loss, tune accuracy
Tell = Callable[[fit.State, float], None]  # state, fraction 0..1


@dataclass(frozen=True)
class Recipe:
    """How one short training goes. `drawn` is samples an epoch, `lr` the highest rate of its one cycle."""

    epochs: int
    drawn: int
    lr: float
    batch: int = 32
    weight_decay: float = 0.02
    average: float = 0.97  # what the running average keeps at each step; 0 = the last weights are left
    fade: float = 1.5  # augmentation is gone after 1 / fade of the epochs
    patience: int = 1000  # epochs without a better tune loss
    seed: int = 1


def run(
    tail: nn.Module,
    draw: Draw,
    labels: Tensor,
    chances: Tensor,
    recipe: Recipe,
    checkpoint: Path,
    look: Look,
    *,
    limit_s: float,
    clock: Clock,
    tell: Tell,
    soft: Tensor | None = None,
) -> fit.State:
    """Train `tail` in place. `labels` int64 [n], `chances` float64 [n], `soft` float32 [n, classes] = another model's
    log-odds to stay near to, rows of NaN where there are none (Hinton et al., arXiv 1503.02531).

    Raises Refused when the loss stops being a number.
    """
    torch.manual_seed(recipe.seed)
    optimiser = torch.optim.AdamW(groups(tail, recipe.weight_decay), lr=recipe.lr)
    state, mean = fit.State(), copy(tail)
    if checkpoint.exists():
        state, mean = fit._resume(checkpoint, tail, optimiser) or (state, mean)
    steps = max(1, recipe.drawn // recipe.batch)
    began = clock.monotonic() - state.seconds
    while state.epoch < recipe.epochs and not state.stopped:
        dice = torch.Generator().manual_seed(recipe.seed * 100_003 + state.epoch)
        order = torch.multinomial(chances, steps * recipe.batch, replacement=True, generator=dice)
        strength = max(0.0, 1 - recipe.fade * state.epoch / recipe.epochs)
        tail.train()
        total = 0.0
        for i, chosen in enumerate(order.chunk(steps)):
            step = state.epoch * steps + i
            rate = recipe.lr * cycle(step / max(1, recipe.epochs * steps - 1))
            for group in optimiser.param_groups:
                group["lr"] = rate
            logits = tail(draw(chosen, dice, strength))
            loss = nn.functional.cross_entropy(logits, labels[chosen])
            if soft is not None:
                loss = loss + near(logits, soft[chosen])
            value = loss.item()
            if not math.isfinite(value):
                raise Refused(
                    f"training diverged: the loss became {value} in epoch {state.epoch + 1}, learning rate {rate:.2g}",
                    hint="look for wrong labels",
                    code="diverged",
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            average(mean, tail, min(recipe.average, (step + 1) / (step + 10)))
            total += value
            if i % 8 == 0:
                tell(state, (state.epoch + i / steps) / recipe.epochs)
        state.epoch += 1
        own = copy(tail)
        tail.load_state_dict(mean)
        loss_then, accuracy = look(tail)
        tail.load_state_dict(own)
        state.seconds = clock.monotonic() - began
        state.curve.append((state.epoch, round(total / steps, 5), round(loss_then, 5), round(accuracy, 5)))
        state.kept_epoch = state.epoch
        if accuracy > state.best_accuracy:
            state.best_epoch, state.best_accuracy = state.epoch, accuracy
        if state.epoch < recipe.epochs:
            if state.epoch - state.best_epoch >= recipe.patience:
                state.stopped = f"no better on the tune split for {recipe.patience} epochs"
            elif state.seconds * (1 + 1 / state.epoch) > limit_s:
                state.stopped = f"another epoch would not fit into {limit_s / 60:.3g} minutes"
        fit._save(checkpoint, tail, mean, optimiser, state)
        tell(state, state.epoch / recipe.epochs)
    tail.load_state_dict(mean)
    tail.eval()
    return state


def cycle(at: float) -> float:
    """Share of the highest rate at `at` 0..1 of the run: up over a tenth, then half a cosine
    to a hundredth (Smith & Topin, arXiv 1708.07120).
    """
    if at < 0.1:
        return 0.1 + 9 * at
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (at - 0.1) / 0.9))


def near(logits: Tensor, soft: Tensor) -> Tensor:
    """Cross entropy with another model's answers, 0 where there are none."""
    known = ~soft.isnan().any(1)
    if not bool(known.any()):
        return logits.sum() * 0
    odds = soft[known].softmax(1)
    return -(odds * logits[known].log_softmax(1)).sum(1).mean() * known.float().mean()


def groups(net: nn.Module, decay: float) -> list[dict[str, Any]]:
    return fit._groups(net, decay)


def copy(net: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in net.state_dict().items()}


def average(mean: dict[str, Tensor], net: nn.Module, keep: float) -> None:
    for key, value in net.state_dict().items():
        if value.is_floating_point():
            mean[key].lerp_(value, 1 - keep)
        else:
            mean[key].copy_(value)
