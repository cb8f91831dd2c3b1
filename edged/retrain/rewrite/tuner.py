"""For each convolution the algorithm that is measured fastest on the device's instruction set, or the one it has.

    layers, by shape  ->  candidates that are hopeful  ->  measured in turn, alone, on random and natural inputs
                      ->  the fastest within the error gate, by a clear margin
    the whole model   ->  with all of them, beside the one it was, in one run: kept only where that is faster too

Guarantees: no candidate is taken whose error against the direct convolution is above GATE of the largest output, whose
kernels are references, or that is not at least FASTER times as fast; the model that comes back was WHOLE times as fast as
the one that came, or is that one. Does not guarantee that it is so on another processor: `Tuned.on` says where.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from edged import durable
from edged.retrain import device, rewrite
from edged.retrain.device import Profile
from edged.retrain.rewrite import graph
from edged.retrain.rewrite.graph import Conv
from edged.retrain.rewrite.measure import Measurer, Seen, side_by_side

GATE = 1e-4  # largest error of a layer relative to its largest output, in float32
FASTER = 1.05
WHOLE = 1.02
WHOLE_GATE = 1e-3  # of the logits, as export's
SMALL = 0.01  # share of the multiply-adds below which a layer is left alone
SECONDS = 1.5  # of CPU for one shape; the whole model takes twice as much


class Row(Struct, frozen=True):
    """One shape of layer. `seen` holds what was measured by algorithm; empty where nothing was to be tried."""

    layers: tuple[str, ...]
    shape: str
    share: float  # of the model's multiply-adds
    chosen: str = rewrite.DIRECT
    seen: dict[str, Seen] = {}


class Tuned(Struct, frozen=True):
    """`before_ms` and `after_ms`: CPU of one batch of the whole model; 0 where there was nothing to compare."""

    on: str
    rows: tuple[Row, ...] = ()
    before_ms: float = 0.0
    after_ms: float = 0.0
    error: float = 0.0
    kept: bool = False
    note: str = ""


def tune(
    model: bytes, batch: NDArray[np.float32], profile: Profile, *, runtime: str, cache: Path | None = None,
    seconds: float = SECONDS, measurer: Measurer = side_by_side, tell: Callable[[float, str], None] = lambda *_: None,
) -> tuple[bytes, Tuned]:  # fmt: skip
    """The model and what was found. `batch`: pictures float32 [n, 3, px, px] 0..255, as many as a camera sends at once."""
    on = f"{device.processor() or 'unknown processor'}, {profile.isa}, {runtime} {version(runtime)}"
    if why := unfit(profile, runtime):
        return model, Tuned(on, note=f"left as it is: {why}")
    rows = []
    known = _read(cache)
    groups = by_shape(rewrite.convs(model))
    total = sum(conv.macs for group in groups for conv in group) or 1
    worth = [
        g for g in groups if sum(c.macs for c in g) >= SMALL * total and len(rewrite.candidates(g[0], hopeful=True)) > 1
    ]
    natural = graph.read_by(model, tuple(group[0] for group in worth), batch) if worth else {}
    for i, group in enumerate(groups):
        conv, row = group[0], Row(tuple(c.name for c in group), group[0].shape, sum(c.macs for c in group) / total)
        if group in worth:
            tell(i / (len(groups) + 1), conv.shape)
            key = f"{conv.shape}, {len(batch)} at once, {on}"
            if key not in known:
                known[key] = _measure(model, conv, natural[conv.name], profile, runtime, seconds, measurer)
                _write(cache, known)
            row = msgspec.structs.replace(row, seen=known[key], chosen=choose(known[key]))
        rows.append(row)
    chosen = {name: row.chosen for row in rows for name in row.layers if row.chosen != rewrite.DIRECT}
    if not chosen:
        return model, Tuned(
            on, tuple(rows), note="left as it is: nothing is clearly faster than the direct convolution"
        )
    tell(len(groups) / (len(groups) + 1), "the whole model")
    made = rewrite.rewritten(model, chosen)
    before, after = measurer([model, made], [batch], caps=profile.environment(), runtime=runtime, seconds=2 * seconds)
    tuned = Tuned(on, tuple(rows), before.cpu_ms, after.cpu_ms, after.error)
    if why := worse(before, after):
        return model, msgspec.structs.replace(tuned, note=f"left as it is: {why}")
    note = (
        f"{before.cpu_ms / after.cpu_ms:.2f} times as fast, {before.cpu_ms:.1f} -> {after.cpu_ms:.1f} ms of CPU a batch"
    )
    return made, msgspec.structs.replace(tuned, kept=True, note=note)


def unfit(profile: Profile, runtime: str) -> str:
    """Why times measured here say nothing of the device; "" = they do."""
    caps = profile.environment()
    if caps and not profile.isa.startswith("SSE"):
        return f"no processor with {profile.isa} is here to measure on"
    if caps and runtime == "onnxruntime" and "avx" in device.flags():
        return "onnxruntime cannot be kept from AVX here, which the device does not have"
    return ""


def choose(seen: dict[str, Seen]) -> str:
    """The algorithm, of what was measured of one layer."""
    direct = seen[rewrite.DIRECT]
    fit = {
        name: one.cpu_ms for name, one in seen.items()
        if not one.failed and not one.references and one.cpu_ms > 0 and one.error <= GATE
    }  # fmt: skip
    best = min(fit, key=lambda name: fit[name], default=rewrite.DIRECT)
    return best if best in fit and direct.cpu_ms >= FASTER * fit[best] else rewrite.DIRECT


def worse(before: Seen, after: Seen) -> str:
    """Why the whole tuned model is not taken; "" = it is."""
    if after.failed or after.references:
        return after.failed or f"{after.references[0]} runs by a reference kernel"
    if not after.error <= WHOLE_GATE:
        return f"its answers differ by {after.error:.1g} of the largest"
    if not before.cpu_ms >= WHOLE * after.cpu_ms > 0:
        return f"as a whole it is {before.cpu_ms / after.cpu_ms if after.cpu_ms else 0:.2f} times as fast"
    return ""


def by_shape(convs: tuple[Conv, ...]) -> list[list[Conv]]:
    """Layers that are equally fast, together."""
    groups: dict[str, list[Conv]] = {}
    for conv in convs:
        groups.setdefault(f"{conv.shape} {conv.groups} {conv.dilations} {bool(conv.bias)}", []).append(conv)
    return list(groups.values())


def _measure(
    model: bytes,
    conv: Conv,
    natural: NDArray[np.float32],
    profile: Profile,
    runtime: str,
    seconds: float,
    measurer: Measurer,
) -> dict[str, Seen]:
    alone = graph.alone(model, conv)
    names = rewrite.candidates(conv, hopeful=True)
    random = np.random.default_rng(1).normal(size=natural.shape).astype(np.float32) * (float(natural.std()) or 1.0)
    files = [rewrite.rewritten(alone, {conv.name: name}) for name in names]
    caps = profile.environment()
    return dict(
        zip(names, measurer(files, [natural, random], caps=caps, runtime=runtime, seconds=seconds), strict=True)
    )


def _read(cache: Path | None) -> dict[str, dict[str, Seen]]:
    try:
        return msgspec.json.decode(cache.read_bytes(), type=dict[str, dict[str, Seen]]) if cache else {}
    except (OSError, msgspec.MsgspecError):
        return {}


def _write(cache: Path | None, known: dict[str, dict[str, Seen]]) -> None:
    if cache:
        durable.write(cache, msgspec.json.encode(known), fsync=False)


def table(tuned: Tuned) -> tuple[dict[str, Any], ...]:
    """A row for each shape: its layers, share of the work, and by algorithm (times as fast as direct, error)."""
    return tuple(
        {
            "layers": list(row.layers), "shape": row.shape, "share": round(row.share, 4), "chosen": row.chosen,
            "direct_ms": row.seen[rewrite.DIRECT].cpu_ms,
            "candidates": {
                name: one.failed or {"times": round(row.seen[rewrite.DIRECT].cpu_ms / one.cpu_ms, 2), "error": one.error}
                for name, one in row.seen.items() if one.failed or one.cpu_ms
            },
        }
        for row in tuned.rows if row.seen
    )  # fmt: skip
