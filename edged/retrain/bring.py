"""A model from outside is looked at before it is kept: an ONNX file, or the folder that `edged train` leaves.

Guarantees: nothing of the file is executed in this process, which reads its protobuf and safetensors framing only; a
child without network and with limits (`prove`) parses it, adapts it and runs it under every runtime here; what does not
end, or crashes the child, is refused in words. Nothing is unpickled. Light: no torch, no onnx.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edged.engine import onnx_file
from edged.errors import EXIT_NOT_FOUND, Refused, Unavailable
from edged.retrain import device, weights_file
from edged.retrain.prove import Options, Proven

MAX_BYTES = 1 << 30
MAX_FACTS = 1 << 20
SECONDS = 300.0
_MEMORY = 3 << 30  # address space of the child, and eight times the file's size
MODEL, WEIGHTS, FACTS, CARD = "model.onnx", "model.safetensors", "facts.json", "card.json"


@dataclass(frozen=True)
class Found:
    """A model that may be kept. `weights` b"" = it cannot be trained on; `facts` what came with it, unchecked."""

    model: bytes
    weights: bytes
    proven: Proven
    facts: dict[str, Any]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.model).hexdigest()


def look(
    path: Path,
    wanted: Sequence[str] = (),
    *,
    classes: Sequence[str] = (),
    px: int = 0,
    scale: float = 0,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    seconds: float = SECONDS,
    unnamed: bool = False,
) -> Found:
    """A folder with model.onnx, model.safetensors and facts.json or card.json, or one ONNX file.

    `wanted` are the task's classes, in order; for the rest see `prove.Options`. Raises Refused with what is wrong with it,
    Unavailable: no memory to look.
    """
    folder = path.is_dir()
    model = _read(path / MODEL if folder else path, MAX_BYTES)
    onnx_file.check(model)
    weights, facts = b"", {}
    if folder and (path / WEIGHTS).exists():
        weights = _read(path / WEIGHTS, MAX_BYTES)
    for name in (CARD, FACTS):  # `edged train` leaves facts, `edged model export` a card
        if folder and (path / name).exists():
            facts = _facts(_read(path / name, MAX_FACTS))
    told = weights_file.check(weights) if weights else None
    options = Options(
        classes=tuple(classes), wanted=tuple(wanted), px=px, scale=scale, mean=_three(mean), std=_three(std),
        memory_bytes=_MEMORY + 8 * len(model), drop_weights=not weights, unnamed=unnamed,
    )  # fmt: skip
    proven, made = _in_child(model, options, seconds)
    if told is not None:
        if proven.weights != hashlib.sha256(weights).hexdigest():
            raise Refused(
                f"{WEIGHTS} does not hold the weights that {MODEL} was made from", code="other_weights",
                hint=f"bring {MODEL} alone: it can be used, but not trained on",
            )  # fmt: skip
        if (told.px, set(told.classes)) != (proven.px, set(proven.classes) | set(told.classes)):
            raise Refused(
                f"{WEIGHTS} was made for {told.px} pixels and {', '.join(told.classes)}", code="other_weights"
            )
    return Found(made, weights, proven, facts)


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as f:
            data = f.read(most + 1)
    except FileNotFoundError as e:
        raise Refused(f"there is no {path}", code="not_found", exit_code=EXIT_NOT_FOUND) from e
    except OSError as e:
        raise Refused(f"{path} cannot be read: {e.strerror}", code="unreadable") from e
    if len(data) > most:
        raise Refused(f"{path} has more than {most} bytes", code="too_large")
    return data


def _facts(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise Refused(f"what came with it is not JSON: {e}", code="bad_facts") from e
    if not isinstance(value, dict):
        raise Refused("what came with it is not a JSON object", code="bad_facts")
    return value


def _three(values: Sequence[float]) -> tuple[float, ...]:
    if len(values) == 1:
        return tuple(values) * 3
    if len(values) not in (0, 3):
        raise Refused(f"one number or three (red, green, blue) are needed, not {len(values)}", code="bad_options")
    return tuple(values)


def _in_child(model: bytes, options: Options, seconds: float) -> tuple[Proven, bytes]:
    env = {k: os.environ[k] for k in ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH") if k in os.environ}
    env |= {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    env |= device.SSE42
    argv = [sys.executable, "-P", "-m", "edged.retrain.prove", msgspec.json.encode(options).decode()]
    try:
        child = subprocess.run(argv, input=model, env=env, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as e:
        raise Refused(f"it was not looked at to the end within {seconds:g} s", code="too_slow") from e
    except MemoryError as e:
        raise Unavailable("not enough memory to look at it", code="no_memory") from e
    head, _, made = child.stdout.partition(b"\n")
    if child.returncode == 0 and head:
        said = msgspec.json.decode(head)
        if "refused" in said:
            raise Refused(str(said["refused"]), code=str(said["code"]))
        return msgspec.convert(said, Proven), made
    if child.returncode < 0:
        raise Refused(f"a process that ran it was killed by signal {-child.returncode}", code="crashes")
    lines = [line for line in child.stderr.decode(errors="replace").splitlines() if line.strip()]
    raise Refused(f"a process that ran it failed: {lines[-1][:200] if lines else 'it said nothing'}", code="crashes")
