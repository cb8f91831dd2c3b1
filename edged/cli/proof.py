"""A re-test's report as text for people, in 100 columns. Every figure says whether it was measured or estimated."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edged.retrain.gate import Verdict
    from edged.retrain.report import Number, Report, Share

COLUMNS = 100
CONFUSED = 12  # classes of a matrix that is shown
LISTED = 30  # classes whose shares are shown


def lines(report: Report, verdict: Verdict, tested_on: str) -> list[str]:
    """The verdict with its reasons, then the figures, then what was covered and what was not."""
    found = [f"{'passed' if verdict.passed else 'refused'} on {tested_on}"]
    for reason in verdict.reasons:
        found += wrapped(reason, "- ")
    found += ["", *_figures(report), "", *_answers(report)]
    for word, said in (("imposed", report.imposed), ("covered", report.covered), ("not covered", report.not_covered)):
        found += ["", f"{word}:"] if said else []
        found += [line for text in said for line in wrapped(text, "- ")]
    return found


def wrapped(text: str, first: str) -> list[str]:
    """`text` behind `first`, its further lines as far in."""
    return textwrap.wrap(
        text, COLUMNS, initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False
    )


def _figures(report: Report) -> Iterator[str]:
    yield from _row("file", f"{_kb(report.size)}, packed {_kb(report.size_packed)} (for storage and transport)")
    p50, p95 = report.latency_ms_p50, report.latency_ms_p95
    yield from _row(
        "latency here", f"{p50.value:.1f} ms p50, {p95.value:.1f} ms p95 ({p50.how}), {report.runtime}, four regions"
    )
    if report.fps_here.value:
        yield from _row("frames/s here", f"{report.fps_here.value:.0f} ({report.fps_here.how}, CPU time of one core)")
    for n, fps in sorted(report.fps_regions.items()) or [("4", report.fps_device)]:
        yield from _row(f"frames/s, {n} region{'' if n == '1' else 's'}", f"{_fps(fps)}, on {report.device}")
    if report.cold_start_ms is not None:
        yield from _row("cold start", f"{report.cold_start_ms.value:.0f} ms ({report.cold_start_ms.how} here)")
    yield from _row("memory", f"{report.memory_bytes.value / 1e6:.0f} MB at most ({report.memory_bytes.how})")
    if report.power_w is not None:
        yield from _row("power", f"{report.power_w.value:.1f} W ({report.power_w.how})")
    if report.isa:
        yield from _row("instructions", report.isa)


def _answers(report: Report) -> Iterator[str]:
    yield from _row("accuracy", _share(report.accuracy))
    for name, one in list(report.per_class.items())[:LISTED]:
        yield from _row(f"  class {name}", _share(one))
    if len(report.per_class) > LISTED:
        yield f"  and {len(report.per_class) - LISTED} more classes (--json has them)"
    if len(report.per_camera) > 1:
        for name, one in report.per_camera.items():
            yield from _row(f"  camera {name}", _share(one))
    if 2 <= len(report.classes) <= CONFUSED and len(report.confusion) == len(report.classes):
        yield from _confusion(report)


def _confusion(report: Report) -> Iterator[str]:
    """Rows are what people say, columns are what the model answers, in the same order."""
    names = [name if len(name) <= 14 else f"{name[:13]}." for name in report.classes]
    digits = max(len(str(n)) for row in report.confusion for n in row)
    wide = max(digits, min(6, max(map(len, names)))) + 1
    left = max(map(len, names)) + 2
    yield ""
    yield f"{'is':{left}} was answered as"
    yield " " * left + "".join(f"{name[: wide - 1]:>{wide}}" for name in names)
    for name, row in zip(names, report.confusion, strict=True):
        yield f"{name:{left}}" + "".join(f"{n or '.':>{wide}}" for n in row)


def _row(name: str, text: str) -> list[str]:
    return wrapped(text, f"{name[:22]:22} ")


def _fps(fps: Number) -> str:
    if fps.how == "unknown":
        return "not known"
    ends = "" if fps.lower is None or fps.upper is None else f", {fps.lower:.0f} to {fps.upper:.0f}"
    return f"{fps.value:.0f}{ends} ({fps.how})"


def _share(one: Share) -> str:
    if not one.n:
        return "no pictures"
    return f"{one.accuracy:.1%} ({one.right} of {one.n}), {one.lower:.1%} to {one.upper:.1%}"


def _kb(n: int) -> str:
    return f"{n / 1000:.1f} kB" if n else "not made"
