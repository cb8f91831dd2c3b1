"""What came of a climb, and finished rungs on disk, so that a run that was killed does not climb them again.

Guarantees: a file of a rung is whole or not there; one that does not fit the network counts as not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import Struct
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from edged import durable
from edged.retrain import fit


class Tried(Struct, frozen=True):
    """One rung. Accuracies 0..1 on the tune split; `predicted_seconds` 0 = was not predicted."""

    name: str
    accuracy: float
    new_accuracy: float
    old_accuracy: float
    cpu_seconds: float
    peak_bytes: int
    predicted_seconds: float
    predicted_bytes: int
    epochs: int
    curve: tuple[tuple[int, float, float, float], ...]
    told: str


@dataclass(frozen=True)
class Climbed:
    """What came of it; `net` in evaluation mode."""

    net: nn.Sequential
    kept: Tried
    tried: tuple[Tried, ...]
    start_accuracy: float
    note: str
    stopped: str


def keep(path: Path, net: nn.Module, state: fit.State) -> None:
    tensors: dict[str, Tensor] = {k: v.contiguous() for k, v in net.state_dict().items()}
    durable.write(path, save(tensors, {"state": msgspec.json.encode(state).decode()}))


def read(path: Path, net: nn.Module) -> fit.State | None:
    """A finished rung of a run that was killed, loaded into `net`; None when there is none."""
    try:
        with safe_open(path, "pt") as f:
            state = msgspec.json.decode((f.metadata() or {})["state"], type=fit.State)
            net.load_state_dict({k: f.get_tensor(k) for k in f.keys()})  # noqa: SIM118 (safe_open is no dict)
        return state
    except (SafetensorError, OSError, KeyError, RuntimeError, msgspec.MsgspecError):
        return None
