"""Retraining after a step: a short training of a changed network that keeps every hold.

Learns from the labels and, half and half, from the softened answers of the network before the first step (`Model.teacher`;
distillation, Hinton et al., arXiv 1503.02531), which is worth more than anything else where few weights are left. Dropout
gets weaker with the weights that are gone (Han et al., arXiv 1506.02626, section 3.2: by the root of what is left).

Guarantees: seeded; with one thread the same to the bit, unless time runs out; the holds are true of the result; it ends
before `lesson.until`: where the steps would not fit, fewer are made and the schedule is shortened with them, and lengthened
again where the box was busy only at first. The weights that are left are those of the epoch that did best on the judged
pictures (by accuracy, or by the plan's own `judge`), the network as it came included, the first part of a schedule
(`settled`) excluded. Does not guarantee that accuracy comes back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edged.errors import Refused
from edged.retrain import fit, refit
from edged.retrain.jobs import Progress, TrainJob
from edged.retrain.methods import Lesson, Model
from edged.retrain.pictures import Pictures

LOOK = 16  # steps between looks at the clock
# For 300,000 weights; falls with the root of their number, about as the recipes' do. As high as in the first training: that
# brings back more than a small one (Renda et al., arXiv 2003.02389).
RATE, RATE_AT = 2e-3, 3e5
FADE = 1.5  # augmentation is gone after 1 / FADE of the steps, as in training


@dataclass(frozen=True)
class Plan:
    """`epochs` passes over the training pictures at most; `lr` the highest rate of its one cycle (AdamW), 0 = by the
    number of weights. `seen` makes the network what the loss shall see for one step and puts it back; `schedule` is called
    after each step with the share of the run that is done (0..1, at the end 1) and the optimiser.
    """

    epochs: float = 3.0
    lr: float = 0.0
    batch: int = 64
    weight_decay: float = 1e-4
    light: float = 0.1  # augmentation, as TrainJob's
    shift: float = 0.08
    mirror: float = 0.0
    penalty: Callable[[nn.Module], Tensor] | None = None  # added to the loss
    distil: float = 0.5  # share of the teacher's answers in the loss; 0 where the model has no teacher
    temperature: float = 2.0
    seen: Callable[[nn.Module], AbstractContextManager[None]] | None = None
    schedule: Callable[[nn.Module, float, torch.optim.Optimizer], None] | None = None
    judge: Callable[[nn.Module], float] | None = None  # what an epoch is kept by, higher = better; None = accuracy
    settled: float = 0.0  # states before this share of the run are not kept
    time: float = 1.0  # share of what is left until `lesson.until` that this run may take
    text: str = "retraining"


def run(model: Model, lesson: Lesson, plan: Plan) -> float:
    """Train `model.net` in place; returns the passes over the pictures that were made.

    Raises Refused (diverged) when the loss stops being a number.
    """
    net, pics = model.net, lesson.train
    assert net is not None
    steps = wanted = round(max(0.0, plan.epochs * lesson.effort) * len(pics) / plan.batch)
    for hold in model.holds:
        hold.after_step(net)
    if not steps or lesson.clock.monotonic() > lesson.until:
        return 0.0
    torch.set_num_threads(lesson.threads)
    torch.manual_seed(lesson.seed)
    job = TrainJob(data_dir="", classes=model.classes, mirror=plan.mirror, shift=plan.shift, light=plan.light, fill=0.0)
    highest = plan.lr or rate(net)
    for one in filter(None, (net, model.teacher)):  # a max pool is several times as fast so
        one.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(fit._groups(net, plan.weight_decay), lr=highest, fused=True)
    dice = torch.Generator().manual_seed(lesson.seed)
    pixels, labels = torch.from_numpy(pics.pixels), torch.from_numpy(pics.labels)
    seen = plan.seen or (lambda _: nullcontext())
    judge = plan.judge or (lambda net: accuracy(net, lesson.judged))
    best, kept = -math.inf, refit.copy(net)
    if not plan.settled:
        with seen(net):
            best = judge(net)
    epoch, done, order = max(1, len(pics) // plan.batch), 0, torch.empty(0, dtype=torch.int64)
    began = lesson.clock.monotonic()
    until = began + (lesson.until - began) * plan.time
    with _weaker_dropout(net):
        while done < steps:
            if done % LOOK == LOOK - 1 and math.isfinite(until):
                fitting = (until - began) / max(1e-9, (lesson.clock.monotonic() - began) / done)
                steps = max(done + 1, min(wanted, int(fitting)))  # the last one ends the schedule and is looked at
            if len(order) < plan.batch:
                order = torch.randperm(len(pics), generator=dice)
            chosen, order = order[: plan.batch], order[plan.batch :]
            net.train()
            for group in optimiser.param_groups:
                group["lr"] = highest * refit.cycle(done / max(1, steps - 1))
            strength = max(0.0, 1 - FADE * done / steps)
            images = fit.augment(pixels[chosen], dice, job, strength) if strength else fit.to_input(pixels[chosen])
            with seen(net):
                loss = _loss(net, images, labels[chosen], model.teacher, plan)
                if plan.penalty is not None:
                    loss = loss + plan.penalty(net)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
            for hold in model.holds:
                hold.after_backward(net)
            optimiser.step()
            done += 1
            if plan.schedule is not None:
                plan.schedule(net, done / steps, optimiser)
            for hold in model.holds:
                hold.after_step(net)
            if done % epoch == 0 or done >= steps:
                if not math.isfinite(loss.item()):
                    raise Refused(f"retraining diverged: the loss became {loss.item()}", code="diverged")
                with seen(net):
                    now = judge(net)
                    right = now if plan.judge is None else accuracy(net, lesson.judged)
                text = f"{plan.text}, step {done} of {steps}: {right:.2%}"
                lesson.progress(Progress(done / steps, text=text, accuracy=right))
                if done / steps >= plan.settled and now >= best:
                    best, kept = now, refit.copy(net)
    if best > -math.inf:
        net.load_state_dict(kept)
    net.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    return done * plan.batch / len(pics)


def rate(net: nn.Module) -> float:
    """A learning rate by the number of weights."""
    weights = sum(p.numel() for p in net.parameters())
    return RATE * min(1.0, math.sqrt(RATE_AT / max(1, weights)))


def accuracy(net: nn.Module, pics: Pictures) -> float:
    """Share of right answers by torch; 0 of no pictures."""
    if not len(pics):
        return 0.0
    return int((logits(net, pics).argmax(1) == torch.from_numpy(pics.labels)).sum()) / len(pics)


def apart(wanted: Tensor, found: Tensor) -> float:
    """Kullback-Leibler divergence of the answers to logits `found` from those to `wanted` [n, classes], nats a picture."""
    odds = wanted.double().log_softmax(1)
    return float(nn.functional.kl_div(found.double().log_softmax(1), odds, reduction="batchmean", log_target=True))


def logits(net: nn.Module, pics: Pictures) -> Tensor:
    """The network's own, float32 [n, classes]; n >= 1."""
    net.eval()
    with torch.inference_mode():
        return torch.cat(
            [net(fit.to_input(torch.from_numpy(pics.pixels[i : i + 256]))) for i in range(0, len(pics), 256)]
        )


def _loss(net: nn.Module, images: Tensor, labels: Tensor, teacher: nn.Module | None, plan: Plan) -> Tensor:
    logits = net(images)
    loss = nn.functional.cross_entropy(logits, labels)
    if teacher is None or not plan.distil:
        return loss
    with torch.no_grad():
        wanted = (teacher(images) / plan.temperature).softmax(1)
    # The square keeps the gradients' size where the temperature is another (Hinton et al., section 2).
    near = nn.functional.kl_div((logits / plan.temperature).log_softmax(1), wanted, reduction="batchmean")
    return (1 - plan.distil) * loss + plan.distil * plan.temperature**2 * near


@contextmanager
def _weaker_dropout(net: nn.Module) -> Iterator[None]:
    """Dropout before or behind full connections, by the root of the share of weights that are left."""
    found = [m for m in net.modules() if isinstance(m, nn.Dropout)]
    usual = [m.p for m in found]
    full = [m.weight for m in net.modules() if isinstance(m, nn.Linear)]
    left = sum(int(torch.count_nonzero(w)) for w in full) / max(1, sum(w.numel() for w in full))
    for module in found:
        module.p *= math.sqrt(left)
    try:
        yield
    finally:
        for module, p in zip(found, usual, strict=True):
            module.p = p
