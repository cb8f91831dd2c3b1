"""What must be known of a safetensors file from outside before anything loads it, read from its bytes alone.

Guarantees of `check`: the header is short, plain JSON; every tensor is F32 or I64, lies inside the file, overlaps no
other, leaves no gap and has only finite numbers; names and shapes are those of the network that the header names.
Nothing is unpickled or executed. Does not guarantee that the weights are any good.

Format: https://github.com/huggingface/safetensors#format (8 bytes length of the header, little-endian; JSON; data).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from edged.errors import Refused
from edged.retrain import nets, tables

MAX_HEADER = 1 << 20  # the largest network here has 8 kB
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8")}


@dataclass(frozen=True)
class Facts:
    """What the header says the weights are for."""

    architecture: str
    px: int
    classes: tuple[str, ...]


def check(data: bytes) -> Facts:
    """Raises Refused (code bad_weights) with what is wrong."""
    try:
        return _check(data)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as e:
        raise Refused(f"not a weights file: {e}", code="bad_weights") from e


def metadata(data: bytes) -> dict[str, str]:
    """What a safetensors file says of itself. Raises ValueError or KeyError where it does not."""
    found: dict[str, str] = _header(data)[0]["__metadata__"]
    return found


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """The header, and where it ends."""
    if len(data) < 10:
        raise ValueError("it is too short")
    size = int.from_bytes(data[:8], "little")
    if size > MAX_HEADER:
        raise ValueError(f"its header claims {size} bytes; {MAX_HEADER} at most")
    if 8 + size > len(data):
        raise ValueError(f"its header claims {size} bytes of {len(data)}")
    header: dict[str, Any] = json.loads(data[8 : 8 + size])
    return header, 8 + size


def _check(data: bytes) -> Facts:
    header, end = _header(data)
    given = json.loads(header.pop("__metadata__")["edged"])
    name, px, classes = str(given[0]), int(given[1]), tuple(str(c) for c in given[2])
    wanted = tables.tensors(nets.layers(name, len(classes), px))
    found = {k: _shape(k, v) for k, v in header.items()}
    if found != wanted:
        odd = sorted({k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k)})
        raise ValueError(f"its tensors are not those of {name}: {', '.join(odd[:3])}")
    _lie_well(header, memoryview(data)[end:])
    return Facts(name, px, classes)


def _shape(name: str, entry: dict[str, Any]) -> tuple[int, ...]:
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"tensor {name[:80]} is {str(entry['dtype'])[:20]}, not F32 or I64")
    shape = tuple(entry["shape"])
    if not all(type(n) is int and 0 <= n < 1 << 32 for n in shape):
        raise ValueError(f"tensor {name[:80]} has no shape")
    return shape


def _lie_well(header: dict[str, Any], body: memoryview) -> None:
    at = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, end = entry["data_offsets"]
        dtype = _DTYPES[entry["dtype"]]
        if start != at or end - start != math.prod(entry["shape"]) * dtype.itemsize or end > len(body):
            raise ValueError(f"tensor {name[:80]} lies where it cannot")
        if not np.isfinite(np.frombuffer(body[start:end], dtype)).all():
            raise ValueError(f"tensor {name[:80]} holds numbers that are none")
        at = end
    if at != len(body):
        raise ValueError(f"{len(body) - at} bytes follow its last tensor")
