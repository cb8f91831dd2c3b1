"""The training loop: seeded, resumable after a kill, and nothing else (no files but its checkpoint, no store, no
export).

Guarantees: with one thread the same pictures, job and start give the same weights to the bit, also when killed and
resumed (all randomness comes from (seed, epoch), the learning rate from the step). The checkpoint is one safetensors
file whose header carries the state; it is replaced atomically after each epoch. Pickle is never used. Does not
guarantee sameness over thread counts or machines (sums are taken in another order).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from edged import durable
from edged.clock import Clock
from edged.errors import Refused

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


Progress = Callable[[State, float], None]  # state, fraction 0..1


def fit(
    net: nn.Module,
    train: Pictures,
    tune: Pictures,
    job: TrainJob,
    checkpoint: Path,
    *,
    clock: Clock,
    progress: Progress,
) -> State:
    """Train `net` in place and leave the weights of the kept epoch in it (the latest that is about as good as the
    best).

    Raises Refused when the loss stops being a number.
    """
    torch.manual_seed(job.seed)
    optimiser = torch.optim.AdamW(_groups(net, job.weight_decay), lr=job.lr)
    state, kept = State(), _copy(net)
    if checkpoint.exists():
        state, kept = _resume(checkpoint, net, optimiser) or (state, kept)
    pixels = torch.from_numpy(train.pixels)
    labels = torch.from_numpy(train.labels)
    weights = chances(train, job.balance)
    steps = max(1, min(max(len(train), job.epoch_least), job.epoch_most) // job.batch)
    started = clock.monotonic() - state.seconds
    loss_of = nn.CrossEntropyLoss(label_smoothing=job.smoothing)
    while state.epoch < job.epochs and not state.stopped:
        dice = torch.Generator().manual_seed(job.seed * 100_003 + state.epoch)
        order = torch.multinomial(weights, steps * job.batch, replacement=True, generator=dice)
        strength = max(0.0, 1 - job.fade * state.epoch / job.epochs)
        net.train()
        total = 0.0
        for i, chosen in enumerate(order.chunk(steps)):
            rate = _rate(state.epoch * steps + i, job.epochs * steps, job)
            for group in optimiser.param_groups:
                group["lr"] = rate
            images = augment(pixels[chosen], dice, job, strength)
            loss = loss_of(net(images), labels[chosen])
            value = loss.item()
            if not math.isfinite(value):
                raise Refused(
                    f"training diverged: the loss became {value} in epoch {state.epoch + 1}, learning rate {rate:.2g}",
                    hint="lower `lr`, or look for wrong labels",
                    code="diverged",
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            total += value
            if i % 8 == 0:
                progress(state, (state.epoch + i / steps) / job.epochs)
        tune_loss, accuracy = score(net, tune)
        state.epoch += 1
        state.seconds = clock.monotonic() - started
        state.curve.append((state.epoch, round(total / steps, 5), round(tune_loss, 5), round(accuracy, 5)))
        # Breiman's rule: the latest epoch within one standard error of the best is kept. The single best of a small
        # tune split is mostly luck, and the rate's last, smallest steps are what generalises.
        if accuracy > state.best_accuracy:
            state.best_epoch, state.best_accuracy = state.epoch, accuracy
        if accuracy >= state.best_accuracy - _standard_error(state.best_accuracy, len(tune)):
            state.kept_epoch, kept = state.epoch, _copy(net)
        if state.epoch - state.best_epoch >= job.patience:
            state.stopped = f"no better on the tune split for {job.patience} epochs"
        elif state.epoch < job.epochs and state.seconds * (1 + 1 / state.epoch) > job.max_minutes * 60:
            state.stopped = f"another epoch would not fit into {job.max_minutes:g} minutes"
        _save(checkpoint, net, kept, optimiser, state)
        progress(state, state.epoch / job.epochs)
    net.load_state_dict(kept)
    net.eval()
    return state


def score(net: nn.Module, pictures: Pictures, batch: int = 64) -> tuple[float, float]:
    """Mean cross entropy and accuracy 0..1, by torch; (0, 0) of no pictures."""
    net.eval()
    loss = right = 0.0
    with torch.inference_mode():
        for i in range(0, len(pictures), batch):
            logits = net(to_input(torch.from_numpy(pictures.pixels[i : i + batch])))
            labels = torch.from_numpy(pictures.labels[i : i + batch])
            loss += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
            right += (logits.argmax(1) == labels).sum().item()
    n = max(1, len(pictures))
    return loss / n, right / n


def to_input(pixels: Tensor) -> Tensor:
    """uint8 [n, px, px, 3] -> float32 NCHW 0..255 as a view in channels-last order."""
    return pixels.permute(0, 3, 1, 2).float()


FILL = 128.0  # what privacy/picture.py paints


def augment(pixels: Tensor, dice: torch.Generator, job: TrainJob, strength: float) -> Tensor:
    """uint8 [n, px, px, 3] -> float32 NCHW 0..255, changed at random; `strength` 0..1 scales everything.

    A share of `mirror` is mirrored; each is shifted by up to `shift` of its side (edges repeat); each gets another
    contrast (times 1 +- `light`) and brightness (+- `light` * 128).
    """
    mirror, shift, light = job.mirror * strength, job.shift * strength, job.light * strength
    images = to_input(pixels)
    n, px = images.shape[0], images.shape[2]
    mirrored = torch.rand(n, generator=dice) < mirror
    images = torch.where(mirrored.view(n, 1, 1, 1), images.flip(3), images)
    reach = round(px * shift)
    if reach:
        moves = torch.randint(-reach, reach + 1, (2, n, 1), generator=dice)
        along = torch.arange(px)
        rows = (along + moves[0]).clamp(0, px - 1)
        columns = (along + moves[1]).clamp(0, px - 1)
        which = torch.arange(n).view(n, 1, 1)
        images = images.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    gain, offset = (torch.rand(2, n, 1, 1, 1, generator=dice) * 2 - 1) * light
    mean = images.mean((1, 2, 3), keepdim=True)
    changed: Tensor = ((images - mean) * (1 + gain) + mean + offset * 128).clamp(0, 255)
    return patched(changed, dice, job.fill)


def patched(images: Tensor, dice: torch.Generator, share: float) -> Tensor:
    """A share of the images gets one rectangle of the scrubber's grey, a tenth to a third of the side, anywhere.

    What is trained on was scrubbed, what the camera classifies was not: without this a network learns that a grey
    patch means a person (cutout, DeVries & Taylor 2017, in the colour of the fill).
    """
    n, px = images.shape[0], images.shape[2]
    size = (torch.rand(2, n, 1, generator=dice) * (1 / 3 - 0.1) + 0.1) * px
    start = torch.rand(2, n, 1, generator=dice) * (px - size)
    along = torch.arange(px)
    rows, columns = ((along >= start[i]) & (along < start[i] + size[i]) for i in (0, 1))
    chosen = torch.rand(n, 1, 1, generator=dice) < share
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


def chances(pictures: Pictures, balance: float) -> Tensor:
    """Chance of each picture to be drawn: groups (class, camera) of n pictures weigh n ** (1 - balance) in all."""
    groups = list(zip(pictures.labels.tolist(), pictures.cameras, strict=True))
    sizes = Counter(groups)
    return torch.tensor([sizes[g] ** -balance for g in groups], dtype=torch.float64)


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
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("adam."):
            _, i, name = key.split(".")
            slots.setdefault(int(i), {})[name] = value
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
    return state, {k[5:]: v for k, v in tensors.items() if k.startswith("kept.")}
