"""What compression found: accuracy over file size, packed size and frames/s, with the gate's limits. Rows in (the stages of a
cycle, its candidates, their reports and verdicts), frozen values out; geometry in pixels, a template draws it as SVG.

Guarantees: one plot holds one kind of accuracy (of the tuning part, or of the hold-out), never both; a mark's shape tells
whether anything is better in every figure, and a hollow one that the gate refused it, without colour. Does not guarantee that
every try is in the drawing: the table has those that are far below the rest, and those that gave no file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edged import chain
from edged.retrain import pareto
from edged.storage import candidates, cycles, reports, verdicts
from edged.storage.store import Store
from edged.web.words import percent, size

WIDTH, HEIGHT = 330, 220
_LEFT, _TOP, _RIGHT, _BOTTOM = 46.0, 24.0, WIDTH - 14.0, HEIGHT - 42.0
CYCLES = 20
DEEP = 0.2  # of accuracy below the best one: what is worse is in the table only
DIAMOND, CIRCLE = "M{x:g},{t:g}l5.2,5.2l-5.2,5.2l-5.2,-5.2z", "M{l:g},{y:g}a3.6,3.6 0 1,0 7.2,0a3.6,3.6 0 1,0 -7.2,0z"
TUNING, HELD = "the tuning part", "the hold-out"


@dataclass(frozen=True)
class Row:
    """One file. 0 = not known, for all but accuracy; `fps` the lower end. `front`: nothing is at least as good in every
    figure and better in one. `verdict`: passed, refused, no file, or "" = it was not re-tested.
    """

    number: int
    method: str
    accuracy: float | None
    size: int
    packed: int
    fps: float
    fps_likely: float
    how: str
    memory: int
    verdict: str = ""
    why: str = ""
    front: bool = False


@dataclass(frozen=True)
class Mark:
    """`whisker`: from the lower end to what is likely, "" = none; `label` its number, of those on the front."""

    x: float
    y: float
    path: str
    whisker: str
    kind: str
    label: str
    title: str


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Limit:
    """A line of the gate, along the other axis."""

    at: float
    text: str
    anchor: str = "start"


@dataclass(frozen=True)
class Panel:
    """Accuracy over one figure. `floor`: the limit of accuracy, `edge` that of the figure."""

    name: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]
    floor: Limit | None
    edge: Limit | None


@dataclass(frozen=True)
class Front:
    """One device, one kind of accuracy. `below` is how many rows the drawing leaves out, by `DEEP`."""

    cycle: int
    device: str
    measured_on: str
    rows: tuple[Row, ...]
    panels: tuple[Panel, ...]
    below: int


def fronts(store: Store, gate: Mapping[str, Any]) -> tuple[Front, ...]:
    """Of the newest cycle of the last CYCLES that has something to compare: what its search tried, then what was re-tested,
    by device.
    """
    for cycle in cycles.all(store)[:CYCLES]:
        made = candidates.all(store, cycle.id)
        tested = _tested(store, made)
        tried = (cycles.outcome(store, cycle.id, "compress") or {}).get("points") or ()
        device = next(iter(tested), "")
        found = [_searched(cycle.id, device, tried, tested.get(device, []), gate)] if len(tried) > 1 else []
        found += [_held(cycle.id, name, of, gate) for name, of in tested.items() if len(of) > 1]
        if found:
            return tuple(found)
    return ()


@dataclass(frozen=True)
class _Tested:
    method: str
    body: Mapping[str, Any]
    verdict: str
    why: str


def _tested(store: Store, made: Iterable[candidates.Candidate]) -> dict[str, list[_Tested]]:
    """The newest report of each candidate on each device."""
    found: dict[str, list[_Tested]] = {}
    for c in made:
        judged = verdicts.of(store, c.id)
        for device, report in {r.device: r for r in reversed(reports.of(store, c.id))}.items():
            words = ("passed" if judged.passed else "refused") if judged and judged.report == report.id else ""
            why = judged.reasons[0] if words == "refused" and judged and judged.reasons else ""
            steps = " ".join(c.recipe.get("steps") or ()) if "steps" in c.recipe else c.name
            found.setdefault(device, []).append(_Tested(steps or chain.NONE, json.loads(report.body), words, why))
    return found


def _searched(
    cycle: int, device: str, points: Sequence[Mapping[str, Any]], tested: Sequence[_Tested], gate: Mapping[str, Any]
) -> Front:  # fmt: skip
    judged = {t.method: t for t in tested}
    rows = []
    for p in points:
        method = str(p["method"])
        t = judged.get(method)
        lost = bool(p.get("refused"))
        rows.append(
            Row(
                0, method, None if lost else float(p["accuracy"]), int(p["size"]), int(p["packed"]), float(p["fps"]),
                float(p["fps_likely"]), str(p["how"]), int(p["memory_bytes"]), "no file" if lost else t.verdict if t else "",
                str(p["refused"]) if lost else t.why if t else "",
            )
        )  # fmt: skip
    before = next((r.accuracy for r in rows if r.method == chain.NONE), None)
    return _front(cycle, device, TUNING, rows, before, gate)


def _held(cycle: int, device: str, tested: Sequence[_Tested], gate: Mapping[str, Any]) -> Front:
    rows, before = [], None
    for t in tested:
        share, pair = t.body.get("accuracy") or {}, t.body.get("pair") or {}
        fps, memory = t.body.get("fps_device") or {}, t.body.get("memory_bytes") or {}
        if pair.get("n"):
            before = pair["baseline_right"] / pair["n"]
        lower = fps.get("lower")
        likely = float(fps.get("value") or 0.0)
        rows.append(
            Row(
                0, t.method, share.get("accuracy") if share.get("n") else None, int(t.body.get("size") or 0),
                int(t.body.get("size_packed") or 0), likely if lower is None else float(lower), likely,
                str(fps.get("how", "")), int(memory.get("value") or 0), t.verdict, t.why,
            )
        )  # fmt: skip
    return _front(cycle, device, HELD, rows, before, gate)


def _front(
    cycle: int, device: str, measured_on: str, rows: Sequence[Row], before: float | None, gate: Mapping[str, Any]
) -> Front:  # fmt: skip
    order = sorted(rows, key=lambda r: (r.accuracy is None, r.packed or r.size, r.method))
    rows = [replace(r, number=i) for i, r in enumerate(order, 1)]
    good = [r for r in rows if r.accuracy is not None]
    first = pareto.fronts([_figures(r) for r in good])
    on_front = {good[i].number for i in (first[0] if first else ())}
    rows = [replace(r, front=r.number in on_front) for r in rows]
    least = None if before is None or gate.get("max_loss") is None else before - float(gate["max_loss"])
    best = max((r.accuracy or 0.0 for r in rows), default=0.0)
    drawn = [r for r in rows if r.accuracy is not None and r.accuracy >= best - DEEP]
    figures: tuple[tuple[str, Callable[[Row], float], Callable[[Row], float], Callable[[float], str], str, str], ...] = (
        ("file", lambda r: r.size, lambda r: r.size, size, "max_size", "at most"),
        ("packed", lambda r: r.packed, lambda r: r.packed, size, "max_packed", "at most"),
        ("frames/s", lambda r: r.fps, lambda r: r.fps_likely, "{:.3g}".format, "min_fps", "at least"),
    )  # fmt: skip
    panels = tuple(
        _panel(name, [r for r in drawn if of(r) > 0], of, likely, text, float(gate.get(key) or 0), least, word)
        for name, of, likely, text, key, word in figures if any(of(r) > 0 for r in drawn)
    )  # fmt: skip
    below = sum(r.accuracy is not None for r in rows) - len(drawn)
    return Front(cycle, device, measured_on, tuple(rows), panels, below)


def _figures(r: Row) -> tuple[float, float, float, float]:
    return r.accuracy or 0.0, -float(r.size), -float(r.packed), r.fps


def _panel(
    name: str, rows: Sequence[Row], of: Callable[[Row], float], likely: Callable[[Row], float],
    text: Callable[[float], str], limit: float, least: float | None, word: str,
) -> Panel:  # fmt: skip
    values = [v for r in rows for v in (of(r), likely(r))] + ([limit] if limit else [])
    low, high = math.log(min(values) / 1.25), math.log(max(values) * 1.25)
    heights = [r.accuracy or 0.0 for r in rows] + ([least] if least is not None else [])
    bottom, top = max(0.0, min(heights) - 0.005), min(1.0, max(heights) + 0.005)

    def x(value: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * (math.log(value) - low) / (high - low), 1)

    def y(share: float) -> float:
        return round(_BOTTOM - (_BOTTOM - _TOP) * (share - bottom) / (top - bottom), 1)

    def mark(r: Row) -> Mark:
        a, b = x(of(r)), y(r.accuracy or 0.0)
        shape = DIAMOND if r.front else CIRCLE
        whisker = f"M{a:g},{b:g}H{x(likely(r)):g}" if likely(r) > of(r) else ""
        kind = ("front" if r.front else "beaten") + (" refused" if r.verdict == "refused" else "")
        told = f"{r.number}: {r.method}, {percent(r.accuracy)}, {text(of(r))}" + (f", {r.verdict}" if r.verdict else "")
        return Mark(a, b, shape.format(x=a, y=b, l=a - 3.6, t=b - 5.2), whisker, kind, str(r.number) * r.front, told)

    edge = Limit(x(limit), f"{word} {text(limit)}", "end" if x(limit) > WIDTH / 2 else "start") if limit else None
    return Panel(
        name, tuple(Tick(x(v), text(v)) for v in _ticks(math.exp(low), math.exp(high))),
        tuple(Tick(y(v), percent(v, 0 if top - bottom > 0.03 else 1)) for v in _shares(bottom, top)),
        tuple(mark(r) for r in sorted(rows, key=lambda r: r.front)),
        Limit(y(least), f"at least {percent(least)}") if least is not None else None, edge,
    )  # fmt: skip


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... between them; of more than four, every second or third."""
    first = math.floor(math.log10(low))
    found = [m * 10.0**e for e in range(first, first + 12) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    return found[:: max(1, math.ceil(len(found) / 4))]


def _shares(low: float, high: float) -> list[float]:
    """Round shares between them, three to six."""
    step = next(s for s in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if (high - low) / s <= 6)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
