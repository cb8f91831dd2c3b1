"""Will it fit? Memory and time of a training run, told from the layer table before it starts. Light: no torch.

Every figure is an estimate: bytes and operations counted from `nets`, times constants that were measured. The constants
are fits to 46 runs of a few steps (five families of networks, 28 to 224 px, batches of 8 to 256, one thread, torch 2.13
on an AMD EPYC with AVX-512) and to 8 whole stages `train`. Of those, told / measured: peak memory 0.92 to 1.18 (steps)
and 0.96 to 1.16 (stages), time of a step 0.80 to 1.23, but for LeNet-5 with 256 pictures (0.5); `bench.fits` measures
it again, less the libraries' pages. Those are counted as they were resident there; where the page cache holds large
folios, twice as many are, which the kernel takes back before it ends a process and RLIMIT_DATA does not count. What
`head` and `tail` need besides their steps is reckoned, on the high side, not fitted. Time is
scaled by the speed of a matrix product here, which says little of a machine that is busy or throttled. Does not know of
swap.
"""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edged.errors import Refused
from edged.retrain import nets, tables
from edged.retrain.tables import Layer

Rung = Literal["norms", "head", "tail", "all", "scratch"]
RUNGS: tuple[Rung, ...] = ("norms", "head", "tail", "all", "scratch")
WORDS = {
    "norms": "batch norm's statistics only",
    "head": "the last layer",
    "tail": "the last blocks",
    "all": "every layer, from the present model",
    "scratch": "every layer, from nothing",
}
DOUBT = 0.3  # an estimate may be off by this share either way
BATCH = 32
PICTURES = 2000
TAIL_BLOCKS = 4

_MB = 10**6
# bytes
_STAGE = 470 * _MB  # interpreter with torch 230, its training parts 105, runtimes, OpenCV and the store 135
LIBRARIES = 108 * _MB  # of those 230: clean pages of torch's files
_STEP_WEIGHTS, _STEP_LARGEST = 3.1, 3.5  # times the weights, and times the largest layer's
_STEP_KEPT = 1.7  # times what is kept of a batch: gradients in flight, what the allocator cannot give back
_FORWARD_KEPT = 1.8  # times the two largest outputs of a batch
_SAVED = 14.0  # times the weights: optimiser, kept epoch, checkpoint as it is written, then the export
_HELD = 7.5  # times the weights: network, its states at start and best, the export of the stem
_DRAWN_COPIES = 4  # float copies of a batch of pictures while it is augmented
# seconds of one thread
_START_S = 4.5  # imports, export, looking at what was exported
_PICTURE_S = 1e-3  # unseal, decode, resize one crop
_AUGMENT_S = 0.012e-6  # per number of a picture
_STEP_S = (0.0578e-9, 1.41e-9, 1.79e-9, 7.6e-9, 159e-6)  # per multiply-add, number, pooled number, weight; per layer
_FORWARD_S = (0.0203e-9, 0.72e-9, 0.47e-9, 0.0, 27.6e-6)
_ENGINE_S = 0.013e-9  # per multiply-add by the inference runtime
REFERENCE_GFLOPS = 93.0  # numpy's matrix product on one thread of the machine the constants are from

# What the stages draw: train.py's and ladder.py's defaults.
_EPOCHS, _EPOCH_LEAST, _EPOCH_MOST = 14, 1000, 4000
_PASSES, _LEAST, _MOST, _BLIND = 6, 3000, 16_000, 512


@dataclass(frozen=True)
class Fit:
    """One estimate. `parts` of the peak in bytes; `parameters` and `macs` (for one picture) are counted, not estimated."""

    name: str
    px: int
    rung: Rung
    batch: int
    pictures: int
    parameters: int
    macs: int
    peak_bytes: int
    cpu_seconds: float
    parts: tuple[tuple[str, int], ...]
    basis: str
    how: str = "estimated"

    def within(self, memory_bytes: int) -> Literal["yes", "perhaps", "no"]:
        """Whether it fits: "perhaps" where the doubt decides; 0 = any amount may be used."""
        if not memory_bytes or self.peak_bytes <= memory_bytes:
            return "yes"
        return "perhaps" if self.peak_bytes / (1 + DOUBT) <= memory_bytes else "no"


@dataclass(frozen=True)
class Speed:
    """How fast this machine is against the one that the constants are from: seconds here = seconds there / factor."""

    factor: float = 1.0
    basis: str = "as on the machine the constants were measured on (AMD EPYC, AVX-512), one thread"


def measure_speed() -> Speed:
    """A few hundredths of a second of matrix products, by CPU time; so small ones that OpenBLAS spreads none of them."""
    import numpy as np

    from edged.clock import cpu_seconds

    n, times = 64, 400
    a, b, out = (np.full((n, n), 0.5, np.float32) for _ in range(3))
    best = math.inf
    for _ in range(6):
        began = cpu_seconds()
        for _ in range(times):
            np.matmul(a, b, out=out)
        best = min(best, (cpu_seconds() - began) / times)
    gflops = 2 * n**3 / max(best, 1e-7) / 1e9
    told = f"numpy's matrix product does {gflops:.0f} GFLOP/s here, {REFERENCE_GFLOPS:.0f} where the constants are from"
    return Speed(gflops / REFERENCE_GFLOPS, told)


def estimate(
    name: str,
    px: int,
    classes: int,
    rung: Rung,
    *,
    batch: int = BATCH,
    pictures: int = PICTURES,
    cut: int | None = None,
    speed: Speed | None = None,
) -> Fit:
    """Peak resident bytes and CPU seconds of one stage. `cut`: where the tail begins, a row of the table; None = the last
    blocks. Raises Refused as `nets.layers`.
    """
    rows = nets.layers(name, classes, px)
    speed = speed or Speed()
    cuts = tables.cuts(rows)
    at = cuts[-1] if rung == "head" else cuts[max(0, len(cuts) - TAIL_BLOCKS)] if cut is None else cut
    trained = rows[at:] if rung in ("head", "tail") else rows
    stored = pictures * 3 * px * px
    features = 0 if rung not in ("head", "tail") else 4 * pictures * _entering(rows, at)
    weights = 4 * tables.parameters(rows)
    if rung == "norms":
        work = round(_FORWARD_KEPT * 4 * batch * sum(sorted((r.floats for r in rows), reverse=True)[:2]))
        least = round(_HELD * weights)
        seconds = _forward(rows, _BLIND, batch)
    else:
        work = _step_bytes(trained, batch)
        least = round((_SAVED if rung in ("all", "scratch") else _HELD) * weights)
        drawn = _drawn(rung, pictures)
        seconds = _steps(trained, drawn, batch)
        if rung in ("head", "tail"):
            seconds += pictures * _ENGINE_S * tables.macs(rows[:at])
        else:
            work += _DRAWN_COPIES * 4 * batch * 3 * px * px
            seconds += drawn * 3 * px * px * _AUGMENT_S
    seconds += _START_S + pictures * _PICTURE_S
    parts = {
        "interpreter and libraries": _STAGE,
        "pictures": stored,
        "features": features,
        "a training step" if work >= least else "checkpoint and export": max(work, least),
    }
    return Fit(
        name=name, px=px, rung=rung, batch=batch, pictures=pictures, parameters=tables.parameters(rows),
        macs=tables.macs(rows), peak_bytes=sum(parts.values()), cpu_seconds=round(seconds / speed.factor, 1),
        parts=tuple((k, v) for k, v in parts.items() if v), basis=f"from the layer table; {speed.basis}",
    )  # fmt: skip


def step(name: str, px: int, classes: int, *, batch: int = BATCH) -> tuple[int, float]:
    """Peak bytes, LIBRARIES among them, and CPU seconds of one step of full training by itself, in a process with torch
    and no more. What `bench.fits` compares with a real one.
    """
    rows = nets.layers(name, classes, px)
    return 335 * _MB + _step_bytes(rows, batch), _steps(rows, batch, batch)


def _step_bytes(rows: tuple[Layer, ...], batch: int) -> int:
    weights, largest = 4 * tables.parameters(rows), 4 * max(row.parameters for row in rows)
    return round(_STEP_WEIGHTS * weights + _STEP_LARGEST * largest + _STEP_KEPT * 4 * batch * tables.activations(rows))


def _steps(rows: tuple[Layer, ...], drawn: int, batch: int) -> float:
    return math.ceil(drawn / batch) * _work(rows, batch, _STEP_S)


def _forward(rows: tuple[Layer, ...], drawn: int, batch: int) -> float:
    return math.ceil(drawn / batch) * _work(rows, batch, _FORWARD_S)


def _work(rows: tuple[Layer, ...], batch: int, price: tuple[float, float, float, float, float]) -> float:
    wide = [row for row in rows if not row.depthwise]  # a depthwise convolution is as slow as what it reads and writes
    numbers = sum(row.outputs * row.side**2 for row in rows if row.kind != "flatten")
    pooled = sum(row.outputs * row.side**2 * row.kernel**2 for row in rows if row.kind == "pool")
    amounts = (batch * tables.macs(tuple(wide)), batch * numbers, batch * pooled, tables.parameters(rows), len(rows))
    return sum(a * p for a, p in zip(amounts, price, strict=True))


def _drawn(rung: Rung, pictures: int) -> int:
    if rung == "scratch":
        return _EPOCHS * min(max(pictures, _EPOCH_LEAST), _EPOCH_MOST)
    return min(max(_PASSES * pictures, _LEAST), _MOST)


def _entering(rows: tuple[Layer, ...], at: int) -> int:
    """Numbers that enter row `at`."""
    before = rows[at - 1]
    return before.outputs * before.side**2


def table(
    px: int = 64,
    classes: int = 2,
    *,
    names: Iterable[str] = nets.LISTED,
    rungs: Iterable[Rung] = RUNGS,
    pictures: int = PICTURES,
    batch: int = BATCH,
    speed: Speed | None = None,
) -> list[Fit]:
    """Every network with every rung, at `px` or the nearest size that it takes; norms only where there are any."""
    found = []
    for name in names:
        low, high = nets.sides(name)
        side = min(max(px, low), high)
        normed = any(row.kind == "norm" for row in nets.layers(name, classes, side))
        for rung in rungs:
            if rung != "norms" or normed:
                found.append(
                    estimate(name, side, classes, rung, batch=batch, pictures=pictures, speed=speed)
                )  # fmt: skip
    return found


@dataclass(frozen=True)
class Fitting:
    """What the page shows: every network trained from nothing, and the memory that may be used."""

    rows: tuple[Fit, ...]
    memory: int


def fitting(px: int, classes: int, memory_bytes: int, *, pictures: int = PICTURES) -> Fitting:
    """At the configured size, on this machine."""
    rows = table(px, classes, rungs=["scratch"], pictures=pictures, speed=measure_speed())
    return Fitting(tuple(rows), min(memory_bytes or box_memory(), box_memory()))


def box_memory() -> int:
    """Bytes that a process here can have at most: the machine's, less what its control group or rlimit allows."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # "max", or no such control group
            continue
    soft = resource.getrlimit(resource.RLIMIT_DATA)[0]
    return min(found + ([soft] if soft not in (resource.RLIM_INFINITY, 0) else []))


def require(name: str, px: int, classes: int, rung: Rung, *, batch: int, pictures: int, memory_bytes: int = 0) -> Fit:
    """The estimate; Refused (code too_large) with what would fit instead where even its lower end does not."""
    limit = min(memory_bytes or box_memory(), box_memory())
    found = estimate(name, px, classes, rung, batch=batch, pictures=pictures)
    if found.within(limit) == "no":
        said = advise(name, px, classes, pictures=pictures, memory_bytes=limit, batch=batch, rung=rung)
        raise Refused(said[0], hint="; ".join(said[1:]), code="too_large")
    return found


def instead(name: str, px: int, classes: int, memory_bytes: int, stage: str) -> str:
    """What would fit, as a hint, for a stage ("train", "learn") that had not enough memory; 0 bytes = the box's."""
    rung: Rung = "scratch" if stage == "train" else "all"
    try:
        told = advise(name, px, classes, memory_bytes=memory_bytes or box_memory(), rung=rung)
    except Refused:
        told = ()
    return "; ".join(("raise [train] max_memory if the box has more", *told))


def advise(
    name: str,
    px: int,
    classes: int,
    *,
    memory_bytes: int,
    pictures: int = PICTURES,
    batch: int = BATCH,
    rung: Rung = "scratch",
    speed: Speed | None = None,
) -> tuple[str, ...]:
    """Sentences: whether `rung` fits into so much memory, and what to do if it does not."""

    def of(which: Rung, side: int = px, size: int = batch) -> Fit:
        return estimate(name, side, classes, which, batch=size, pictures=pictures, speed=speed)

    found = of(rung)
    fits = found.within(memory_bytes)
    need = f"about {size_text(found.peak_bytes)} and {time_text(found.cpu_seconds)} of CPU time (estimated)"
    told = f"{name} at {px} px, {WORDS[rung]}: {need}"
    if fits == "yes":
        return (*([f"{told}; it fits into {size_text(memory_bytes)}"] if memory_bytes else [told]), *notes(name))
    verdict = "may not fit" if fits == "perhaps" else "does not fit"
    said = [f"{told}; it {verdict} into {size_text(memory_bytes)}"]
    cheaper = [of(r) for r in RUNGS[: RUNGS.index(rung)] if r != "norms"]
    if good := [f for f in cheaper if f.within(memory_bytes) == "yes"]:
        best = good[-1]
        said.append(f"{WORDS[best.rung]} alone would: about {size_text(best.peak_bytes)}, from a model that is there")
    low = nets.sides(name)[0]
    sides = [s for s in (192, 160, 128, 96, 64, 32) if low <= s < px]
    if cheaper and not good:
        least = f"{WORDS['head']} alone needs about {size_text(of('head').peak_bytes)}, copies of all weights with it"
        small = next((f for f in (of("head", s) for s in sides) if f.within(memory_bytes) == "yes"), None)
        if small is not None:
            least += f"; at {small.px} px it would fit: about {size_text(small.peak_bytes)}, from a model that is there"
        said.append(least)
    for side in sides:
        if (smaller := of(rung, side)).within(memory_bytes) == "yes":
            said.append(f"{side} px would: about {size_text(smaller.peak_bytes)}")
            break
    for size in (b for b in (16, 8, 4) if b < batch):
        if (fewer := of(rung, size=size)).within(memory_bytes) == "yes":
            said.append(f"{size} pictures at a time would: about {size_text(fewer.peak_bytes)}")
            break
    said.append(
        f"or train it on a bigger machine: `edged train --data DIR --model {name} --px {px}`"
        " there, `edged model import` here"
    )
    return (*said, *notes(name))


def notes(name: str) -> tuple[str, ...]:
    """What else must be known of a network before it is chosen."""
    if name == "alexnet":
        return (
            "without AVX, OpenVINO 2025.4 and newer run its first convolution (11x11, stride 4) by a reference kernel:"
            " seconds a picture; onnxruntime does not",
        )
    return ()


def size_text(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 0.95e9 else f"{max(10, round(size / 1e7) * 10)} MB"


def time_text(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
