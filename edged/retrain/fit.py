"""The training loop: seeded, resumable after a kill, over one process or several, and nothing else (no files but its
checkpoint, no store, no export).

Guarantees: with one thread on one CPU the same pictures, job and start give the same weights to the bit, also when killed
and resumed (all randomness comes from (seed, epoch), the learning rate from the step). The checkpoint is one safetensors
file whose header carries the state; it is replaced atomically after each epoch, is the same on every device, and may be
resumed by another number of processes. Pickle is never used. Does not guarantee sameness over thread counts, processes or
machines (sums are taken in another order).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from edged import durable
from edged.clock import Clock
from edged.errors import Misconfigured, Refused
from edged.retrain import mix
from edged.retrain.accelerator import CPU, Accelerator
from edged.retrain.spread import ALONE, Group, gone, lost

if TYPE_CHECKING:
    from edged.retrain.jobs import TrainJob
    from edged.retrain.pictures import Pictures


class State(msgspec.Struct):
    """What a resumed run must know besides tensors."""

    epoch: int = 0  # finished epochs
    seconds: float = 0.0
    best_epoch: int = 0
    best_accuracy: float = -1.0
    kept_epoch: int = 0  # whose weights are kept
    curve: list[tuple[int, float, float, float]] = []  # epoch, training loss, tune loss, tune accuracy
    stopped: str = ""  # why it ended before its last epoch, a sentence
    scale: float = 0.0  # of the loss in float16, 0 = none
    scaled: int = 0  # steps since it changed


Progress = Callable[[State, float], None]  # state, fraction 0..1


LOOK = 8  # steps between looks at loss and clock: each look waits for the device, and for the other processes


def fit(
    net: nn.Module,
    train: Pictures,
    tune: Pictures,
    job: TrainJob,
    checkpoint: Path,
    *,
    clock: Clock,
    progress: Progress,
    group: Group = ALONE,
    accelerator: Accelerator = CPU,
) -> State:
    """Train `net` in place and leave the weights of the kept epoch in it, on the CPU (the latest that is about as good as
    the best).

    Every process of a `group` has the same pictures and calls this; the first one writes the checkpoint. Raises Refused
    when the loss stops being a number, Unavailable when another process is gone.
    """
    torch.manual_seed(job.seed)
    trained = accelerator.place(group.normalised(net, accelerator.device))
    optimiser = torch.optim.AdamW(_groups(trained, job.weight_decay), lr=job.lr)
    scaler = accelerator.scaler()
    state, kept = State(), _copy(trained)
    if checkpoint.exists():
        state, kept = _resume(checkpoint, trained, optimiser) or (state, kept)
    if group.told(state.epoch) != state.epoch:
        raise Misconfigured(
            f"the processes see different files in {checkpoint.parent}", hint="put OUT on a shared disk"
        )
    if state.scale:
        scaler.load_state_dict(scaler.state_dict() | {"scale": state.scale, "_growth_tracker": state.scaled})
    wrapped = group.wrap(trained, accelerator.device)
    weights = chances(train, job.balance, job.camera_cap)
    steps = max(1, min(max(len(train), job.epoch_least), job.epoch_most) // job.batch)
    started = clock.monotonic() - state.seconds
    while state.epoch < job.epochs and not state.stopped:
        total, done = 0.0, 0
        wrapped.train()
        for done, loss in _epoch(wrapped, train, weights, optimiser, scaler, job, steps, state, group, accelerator):
            total += loss
            (seconds,) = group.sums(clock.monotonic() - started if group.first else 0.0)
            progress(state, (state.epoch + done / steps) / job.epochs)
            if seconds > job.max_minutes * 60 and done < steps:
                state.stopped = f"{job.max_minutes:g} minutes were over within epoch {state.epoch + 1}"
                break
        group.level(trained)
        tune_loss, accuracy = score(trained, tune, accelerator=accelerator, group=group)
        state.epoch += 1
        state.seconds = group.told(clock.monotonic() - started)
        state.curve.append((state.epoch, round(total / done, 5), round(tune_loss, 5), round(accuracy, 5)))
        # Breiman's rule: the latest epoch within one standard error of the best is kept. The single best of a small
        # tune split is mostly luck, and the rate's last, smallest steps are what generalises.
        if accuracy > state.best_accuracy:
            state.best_epoch, state.best_accuracy = state.epoch, accuracy
        if accuracy >= state.best_accuracy - _standard_error(state.best_accuracy, len(tune)):
            state.kept_epoch, kept = state.epoch, _copy(trained)
        if state.epoch - state.best_epoch >= job.patience:
            state.stopped = f"no better on the tune split for {job.patience} epochs"
        elif state.epoch < job.epochs and state.seconds * (1 + 1 / state.epoch) > job.max_minutes * 60:
            state.stopped = state.stopped or f"another epoch would not fit into {job.max_minutes:g} minutes"
        if told := scaler.state_dict():
            state.scale, state.scaled = told["scale"], told["_growth_tracker"]
        if group.first:
            _save(checkpoint, trained, kept, optimiser, state)
        progress(state, state.epoch / job.epochs)
    net.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    net.load_state_dict(kept)
    net.eval()
    return state


def _epoch(
    net: nn.Module,
    train: Pictures,
    weights: Tensor,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    job: TrainJob,
    steps: int,
    state: State,
    group: Group,
    accelerator: Accelerator,
) -> Iterator[tuple[int, float]]:
    """One epoch of `steps`; yields (steps done, sum of the losses since the last yield, mean of all processes) at every LOOK."""
    pixels, labels = torch.from_numpy(train.pixels), torch.from_numpy(train.labels)
    seed = job.seed * 100_003 + state.epoch
    dice = torch.Generator().manual_seed(seed)
    order = drawn(weights, steps * job.batch, dice, job.draw)
    if not group.first:  # the order is everybody's, what happens to a picture is not
        dice.manual_seed(seed + 7_919 * group.rank)
    torch.manual_seed(seed + 7_919 * group.rank)  # dropout's, so that it goes on as it would have after a kill
    strength = max(0.0, 1 - job.fade * state.epoch / job.epochs)
    loss_of = nn.CrossEntropyLoss(label_smoothing=job.smoothing)
    losses: list[Tensor] = []
    for i, batch in enumerate(order.chunk(steps)):
        rate = _rate(state.epoch * steps + i, job.epochs * steps, job)
        for parameters in optimiser.param_groups:
            parameters["lr"] = rate
        chosen = group.share(batch)
        images = augment(accelerator.put(pixels[chosen]), dice, job, strength)
        try:
            with accelerator.cast():
                loss = loss_of(net(images), accelerator.put(labels[chosen]))
            optimiser.zero_grad(set_to_none=True)
            # Gradients are averaged over processes: a share's loss weighs as many pictures as it has.
            scaler.scale(loss * (len(chosen) * group.size / len(batch))).backward()
        except RuntimeError as e:
            if group.size > 1 and lost(e):
                raise gone(e) from e
            raise
        scaler.step(optimiser)
        scaler.update()
        losses.append(loss.detach())
        if i % LOOK == LOOK - 1 or i == steps - 1:
            yield i + 1, _looked(losses, rate, scaler, state, group)
            losses.clear()


def _looked(losses: list[Tensor], rate: float, scaler: torch.amp.GradScaler, state: State, group: Group) -> float:
    values = torch.stack(losses).tolist()
    finite = [v for v in values if math.isfinite(v)]
    # In float16 a step that overflows is left out and the scale halved: that happens now and then.
    broken = scaler.get_scale() < 1 if scaler.is_enabled() else len(finite) < len(values)
    total, n, over = group.sums(sum(finite), len(finite), broken)
    if over:
        raise Refused(
            f"training diverged: the loss became {next((v for v in values if not math.isfinite(v)), math.inf)} in epoch"
            f" {state.epoch + 1}, learning rate {rate:.2g}",
            hint="lower `lr`, or look for wrong labels",
            code="diverged",
        )
    return total / max(1, n) * len(losses)


def drawn(weights: Tensor, count: int, dice: torch.Generator, draw: str) -> Tensor:
    """`count` indices. "chance": each by itself, with the chances `weights`. "turns": every picture comes as often as its
    chance says, rounded down or up (systematic sampling, Madow & Madow 1944), so with equal weights and as many draws as
    pictures each comes once; in random order.
    """
    if draw == "chance":
        return torch.multinomial(weights, count, replacement=True, generator=dice)
    line = torch.randperm(len(weights), generator=dice)
    ends = weights[line].cumsum(0)
    points = (torch.arange(count, dtype=torch.float64) + torch.rand(1, generator=dice)) * (ends[-1] / count)
    found = torch.searchsorted(ends, points, right=True).clamp(max=len(weights) - 1)
    return line[found[torch.randperm(count, generator=dice)]]


def score(
    net: nn.Module, pictures: Pictures, batch: int = 64, *, accelerator: Accelerator = CPU, group: Group = ALONE
) -> tuple[float, float]:
    """Mean cross entropy and accuracy 0..1, by torch in float32; (0, 0) of no pictures. A group divides the work."""
    net.eval()
    ours = pictures.share(group.rank, group.size)
    loss = right = torch.zeros((), device=accelerator.device)
    with torch.inference_mode():
        for i in range(0, len(ours), batch):
            logits = net(to_input(accelerator.put(torch.from_numpy(ours.pixels[i : i + batch]))))
            labels = accelerator.put(torch.from_numpy(ours.labels[i : i + batch]))
            loss = loss + nn.functional.cross_entropy(logits, labels, reduction="sum").double()
            right = right + (logits.argmax(1) == labels).sum()
    summed, hits = group.sums(loss.item(), right.item())
    n = max(1, len(pictures))
    return summed / n, hits / n


def to_input(pixels: Tensor) -> Tensor:
    """uint8 [n, px, px, 3] -> float32 NCHW 0..255 as a view in channels-last order."""
    return pixels.permute(0, 3, 1, 2).float()


FILL = 128.0  # what privacy/picture.py paints


def augment(pixels: Tensor, dice: torch.Generator, job: TrainJob, strength: float) -> Tensor:
    """uint8 [n, px, px, 3] -> float32 NCHW 0..255, changed at random; `strength` 0..1 scales everything.

    A share of `mirror` is mirrored; each is shifted by up to `shift` of its side and shown larger or smaller by up to `zoom`
    (nearest pixels, edges repeat); each gets another contrast (times 1 +- `light`) and brightness (+- `light` * 128).
    """
    mirror, shift, zoom, light = (s * strength for s in (job.mirror, job.shift, job.zoom, job.light))
    images = to_input(pixels)
    n, px = images.shape[0], images.shape[2]
    mirrored = torch.rand(n, generator=dice).to(images.device) < mirror
    images = torch.where(mirrored.view(n, 1, 1, 1), images.flip(3), images)
    reach = round(px * shift)
    if reach or zoom:
        moves = torch.randint(-reach, reach + 1, (2, n, 1), generator=dice).to(images.device)
        scale = 1 + (torch.rand(n, 1, generator=dice).to(images.device) * 2 - 1) * zoom if zoom else 1.0
        middle = (px - 1) / 2
        apart = (torch.arange(px, device=images.device) - middle) * scale + middle
        rows, columns = ((apart + m).round().long().clamp(0, px - 1) for m in moves)
        which = torch.arange(n, device=images.device).view(n, 1, 1)
        images = images.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    gain, offset = (torch.rand(2, n, 1, 1, 1, generator=dice).to(images.device) * 2 - 1) * light
    mean = images.mean((1, 2, 3), keepdim=True)
    changed: Tensor = ((images - mean) * (1 + gain) + mean + offset * 128).clamp(0, 255)
    return patched(changed, dice, job.fill)


def patched(images: Tensor, dice: torch.Generator, share: float) -> Tensor:
    """A share of the images gets one rectangle of the scrubber's grey, a tenth to a third of the side, anywhere.

    What is trained on was scrubbed, what the camera classifies was not: without this a network learns that a grey
    patch means a person (cutout, DeVries & Taylor 2017, in the colour of the fill).
    """
    n, px = images.shape[0], images.shape[2]
    where = images.device
    size = (torch.rand(2, n, 1, generator=dice).to(where) * (1 / 3 - 0.1) + 0.1) * px
    start = torch.rand(2, n, 1, generator=dice).to(where) * (px - size)
    along = torch.arange(px, device=where)
    rows, columns = ((along >= start[i]) & (along < start[i] + size[i]) for i in (0, 1))
    chosen = torch.rand(n, 1, 1, generator=dice).to(where) < share
    return torch.where((rows[:, :, None] & columns[:, None, :] & chosen)[:, None], FILL, images)


def _standard_error(accuracy: float, n: int) -> float:
    """Of a share of n; half a picture is added on both sides so that 100 % is not beyond doubt."""
    p = (accuracy * n + 0.5) / (n + 1)
    return math.sqrt(p * (1 - p) / n) if n else 0.0


def _groups(net: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weight decay on kernels only: decaying batch norm's and bias' few numbers does nothing good."""
    kernels = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    return [{"params": kernels, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def chances(pictures: Pictures, balance: float, cap: float = 1.0) -> Tensor:
    """Chance of each picture to be drawn: groups (class, camera) of n pictures weigh n ** (1 - balance) in all, and no camera
    of three or more weighs more than `cap`.
    """
    groups = list(zip(pictures.labels.tolist(), pictures.cameras, strict=True))
    sizes = Counter(groups)
    weights = torch.tensor([sizes[g] ** -balance for g in groups], dtype=torch.float64)
    if cap >= 1:
        return weights
    names = np.array(pictures.cameras, dtype=object)
    return torch.from_numpy(mix.capped((weights / weights.sum()).numpy(), names, cap))


def _rate(step: int, steps: int, job: TrainJob) -> float:
    """Linear warm-up over a tenth, then half a cosine to a hundredth (Loshchilov & Hutter, arXiv 1608.03983)."""
    warm = max(1, steps // 10)
    if step < warm:
        return job.lr * (step + 1) / warm
    return job.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))))


def _copy(net: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in net.state_dict().items()}


def _save(path: Path, net: nn.Module, kept: dict[str, Tensor], optimiser: torch.optim.Optimizer, state: State) -> None:
    from safetensors.torch import save

    tensors = {f"net.{k}": v for k, v in net.state_dict().items()} | {f"kept.{k}": v for k, v in kept.items()}
    for i, slots in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{name}": value for name, value in slots.items()}
    durable.write(
        path, save({k: v.contiguous() for k, v in tensors.items()}, {"state": msgspec.json.encode(state).decode()})
    )


def _resume(path: Path, net: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[State, dict[str, Tensor]] | None:
    """Load a checkpoint into `net` and `optimiser`; None when it does not fit (then training starts afresh)."""
    try:
        with safe_open(path, "pt") as f:
            state = msgspec.json.decode((f.metadata() or {})["state"], type=State)
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (safe_open is no dict)
        net.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("net.")})
    except (SafetensorError, OSError, KeyError, RuntimeError, msgspec.MsgspecError, json.JSONDecodeError):
        return None
    parameters = [p for g in optimiser.param_groups for p in g["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("adam."):
            _, i, name = key.split(".")
            # In the order that the weights have in memory: the file knows none but the usual one.
            own = torch.empty_like(parameters[int(i)]).copy_(value) if value.ndim else value
            slots.setdefault(int(i), {})[name] = own
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
    return state, {k[5:]: v for k, v in tensors.items() if k.startswith("kept.")}
