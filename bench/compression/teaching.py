"""A float network trained as `edged train` does, from pictures in memory, and the file it delivers."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from bench.compression.parts import Parts
from edged.clock import SystemClock, cpu_seconds
from edged.retrain import compress, export, recipes, source, train
from edged.retrain.jobs import Arch, TrainJob


@dataclass(frozen=True)
class Taught:
    """`weights`: safetensors as a store keeps them; `onnx` the delivered float file."""

    name: str
    px: int
    net: nn.Module
    weights: bytes
    onnx: bytes
    seconds: float  # of CPU
    curve: tuple[tuple[int, float, float, float], ...] = ()


def teach(
    parts: Parts, name: str, px: int, *, seed: int = 1, start: bytes = b"", keep: Path | None = None, **more: object
) -> Taught:
    """`more` are fields of TrainJob (epochs, ...). With `keep` the weights of the same call on as many pictures are taken
    from that folder, or left there.
    """
    job = TrainJob(data_dir="", classes=parts.classes, arch=Arch(name, px), seed=seed, **more)  # type: ignore[arg-type]
    told = "-".join(f"{k}={v}" for k, v in sorted(more.items()))
    kept = keep / f"{name}-{px}-{seed}-{told}-{len(parts.train)}-{len(start)}.safetensors" if keep else None
    if kept is not None and kept.exists():
        weights = kept.read_bytes()
        net, _ = compress.network(weights)
        return Taught(name, px, net, weights, _file(net, parts, name, px), 0.0)
    began = cpu_seconds()
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as place:
        net, state = train.teach(
            job, parts.train, parts.tune, start, Path(place, "checkpoint.safetensors"), clock=SystemClock(),
            progress=lambda _: None,
        )  # fmt: skip
    weights = train.weights_of(net, job)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(weights)
    return Taught(
        name, px, net, weights, _file(net, parts, name, px), round(cpu_seconds() - began, 1), tuple(state.curve)
    )


def recipe(name: str, px: int, epochs: int) -> dict[str, object]:
    """Fields of a TrainJob as `edged train --augment camera` sets them; 0 epochs = as many as it makes."""
    usual = recipes.settings(name, "camera", px=px, epochs=epochs)
    return {key: value for key, value in usual.items() if key != "arch"}


def _file(net: nn.Module, parts: Parts, name: str, px: int) -> bytes:
    return source.with_metadata(
        export.to_onnx(net, px), {source.CLASSES: json.dumps(parts.classes), "edged.arch": name}
    )
