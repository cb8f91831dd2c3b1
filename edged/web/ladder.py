"""The Cycle section: why the cycle runs or what the next one waits for, its stages with what they took, the rungs of the
training that were tried, and the curves of loss and accuracy. Rows in, frozen values out; geometry in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edged import due, plan
from edged.storage import cycles, overturned, requests, views
from edged.storage.store import Store
from edged.web.words import percent

WIDTH, HEIGHT = 420, 170
_LEFT, _TOP, _RIGHT, _BOTTOM = 46.0, 12.0, WIDTH - 10.0, HEIGHT - 26.0


@dataclass(frozen=True)
class Tried:
    """One rung; None = not measured, or not predicted."""

    name: str
    accuracy: float | None
    cpu_seconds: float | None
    predicted: float | None
    peak_bytes: int | None
    told: str


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Curve:
    """One figure over epochs. `path` and `dots` in pixels; `rows` epoch and value as text, for the table."""

    name: str
    path: str
    dots: tuple[tuple[float, float], ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    rows: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Ladder:
    """`cycle` None: none has run. `cpu` and `memory` by stage; `waits` "" while one runs, or when it is not known.
    `overturned`: the labels that the last cycle was refused for, "" = none, or a cycle that learns from them is asked for.
    """

    cycle: views.CycleView | None
    past: list[cycles.Cycle]
    cpu: Mapping[str, float]
    memory: Mapping[str, int]
    tried: tuple[Tried, ...]
    curves: tuple[Curve, ...]
    next: due.Due
    overturned: str = ""


def of(store: Store, rules: due.Rules | None, now: float, *, daemon: bool = False) -> Ladder:
    """What is to be shown now; `rules` None: nothing is said of the next cycle; `daemon`: one runs."""
    shown = views.cycle(store)
    details = {s.name: s.detail for s in cycles.stages(store, shown.id)} if shown else {}
    train = details.get("train", {})
    return Ladder(
        cycle=shown,
        past=views.past_cycles(store),
        cpu={name: float(d["cpu_seconds"]) for name, d in details.items() if d.get("cpu_seconds")},
        memory={name: int(d["peak_bytes"]) for name, d in details.items() if d.get("peak_bytes")},
        tried=tuple(_tried(r) for r in train.get("rungs_tried") or ()),
        curves=curves(train),
        next=due.Due() if rules is None else plan.when(store, rules, now, daemon=daemon),
        overturned=_overturned(store, shown),
    )


def _overturned(store: Store, shown: views.CycleView | None) -> str:
    """Counting reads every label of a person, so it is done only after a cycle that was refused for it."""
    if shown is None or shown.state != "refused" or overturned.SAYS not in shown.detail:
        return ""
    if any(r.verb == "cycle" and r.args.get("overturn") for r in requests.pending(store)):
        return ""
    return plan.contradicted(store).told


def _tried(r: Mapping[str, Any]) -> Tried:
    return Tried(
        str(r.get("name", "")), r.get("accuracy"), r.get("cpu_seconds"), r.get("predicted_seconds") or None,
        r.get("peak_bytes") or None, str(r.get("told", "")),
    )  # fmt: skip


def curves(train: Mapping[str, Any]) -> tuple[Curve, ...]:
    """Loss and accuracy over epochs, of a stage that ended (`curve`) or runs (`running`)."""
    if "curve" in train:
        points = [(int(e), float(loss), float(accuracy)) for e, loss, _, accuracy in train["curve"]]
    else:
        points = [tuple(p) for p in train.get("running") or ()]
    loss = {e: v for e, v, _ in points if v is not None and math.isfinite(v)}
    accuracy = {e: v for e, _, v in points if v is not None}
    made = [
        _curve("training loss", loss, lambda v: f"{v:.3g}", 0.0),
        _curve("accuracy on the tuning part", accuracy, lambda v: percent(v, 0), None),
    ]
    return tuple(c for c in made if c is not None)


def _curve(name: str, values: Mapping[int, float], text: Any, floor: float | None) -> Curve | None:
    """None of fewer than two points. The scale reaches from `floor`, or just below the least, to just above the most."""
    if len(values) < 2:
        return None
    epochs = sorted(values)
    low = min(values.values()) if floor is None else floor
    high = max(values.values())
    if high - low < 1e-6:
        low, high = low - 0.05, high + 0.05
    first, last = epochs[0], epochs[-1]

    def x(epoch: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * (epoch - first) / (last - first), 1)

    def y(value: float) -> float:
        return round(_BOTTOM - (_BOTTOM - _TOP) * (value - low) / (high - low), 1)

    dots = tuple((x(e), y(values[e])) for e in epochs)
    path = " ".join(f"{'M' if i == 0 else 'L'}{a:g},{b:g}" for i, (a, b) in enumerate(dots))
    return Curve(
        name, path, dots, tuple(Tick(x(e), str(e)) for e in _some(epochs)),
        tuple(Tick(y(v), text(v)) for v in (low, (low + high) / 2, high)), tuple((e, text(values[e])) for e in epochs),
    )  # fmt: skip


def _some(epochs: Sequence[int], most: int = 6) -> list[int]:
    step = max(1, math.ceil((len(epochs) - 1) / most))
    return list(epochs[::step])
