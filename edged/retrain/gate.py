"""The gate: may this model reach a camera? A pure function of a report and limits, with its reasons in numbers.

Guarantees: a model that does worse on any single hold-out picture, everything else equal, never passes where the
better one is refused; too little evidence refuses; power that is only estimated neither passes nor refuses anything.
Does not guarantee that the hold-out looks like tomorrow: the cameras' probation and the rollout's canary stand behind
it.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from edged.retrain.report import Number, Pair, Report, loss_bound, mcnemar


class GateLimits(Struct, frozen=True, kw_only=True):
    """Shares are 0..1. `min_group` = hold-out crops of a class or camera from which on it is judged by itself."""

    min_holdout: int = 50
    max_loss: float = 0.02  # accuracy lost against the baseline, by the 95 % bound
    max_class_loss: float = 0.05  # the same for one class or one camera, as it was counted
    min_gain: float = 0.0  # accuracy that must be won; 0 = none is asked for
    min_group: int = 30
    min_fps: float = 30.0
    max_memory_bytes: int = 512 * 10**6
    max_size_bytes: int = 6 * 10**6
    max_power_w: float = 10.0


class Verdict(Struct, frozen=True):
    """`reasons` are sentences: those against first when refused, else those for."""

    passed: bool
    reasons: tuple[str, ...]


Finding = tuple[bool | None, str]  # None = noted, not judged


def judge(report: Report, limits: GateLimits) -> Verdict:
    """Every rule looks; one that objects refuses the model."""
    findings = [*_evidence(report, limits), *_accuracy(report, limits), *_device(report, limits)]
    against = tuple(text for good, text in findings if good is False)
    rest = tuple(text for good, text in findings if good) + tuple(text for good, text in findings if good is None)
    return Verdict(not against, against + rest)


def _evidence(report: Report, limits: GateLimits) -> Iterator[Finding]:
    if report.n < limits.min_holdout:
        yield False, f"refused for lack of evidence: {report.n} of {limits.min_holdout} hold-out samples"
    else:
        yield True, f"{report.n} hold-out samples (at least {limits.min_holdout} are needed)"
    if report.skipped:
        yield None, f"{report.skipped} hold-out samples could not be read and were left out"


def _accuracy(report: Report, limits: GateLimits) -> Iterator[Finding]:
    if report.n == 0:
        return
    if report.pair is None:
        yield _beats_guessing(report)
        return
    pair = report.pair
    loss, bound = (pair.baseline_right - pair.right) / pair.n, loss_bound(pair)
    counted = f"{_of(pair.right, pair.n)} now, {_of(pair.baseline_right, pair.n)} before"
    yield (
        bound <= limits.max_loss,
        f"{_change(loss)}: {counted}; {pair.lost} got lost and {pair.won} were won (p = {mcnemar(pair):.2g}), "
        f"so at most {_points(bound)} points "
        f"are lost (95 % sure); {_points(limits.max_loss)} are allowed",
    )
    if limits.min_gain > 0:
        yield (
            -loss >= limits.min_gain,
            f"a gain of {_points(-loss)} points, where {_points(limits.min_gain)} are asked for",
        )
    yield from _groups("class", report.pair_per_class, limits)
    yield from _groups("camera", report.pair_per_camera, limits)


def _beats_guessing(report: Report) -> Finding:
    """Without a baseline the least to ask: surely better than always naming the most frequent class."""
    most = max(report.per_class.values(), key=lambda s: s.n).n / report.n
    a = report.accuracy
    return (
        a.lower > most,
        f"accuracy {_of(a.right, a.n)}, at least {a.lower:.1%} (95 % sure); "
        f"always naming the most frequent class has {most:.1%}; there is no baseline to compare with",
    )


def _groups(what: str, pairs: dict[str, Pair], limits: GateLimits) -> Iterator[Finding]:
    few = []
    for name, pair in pairs.items():
        if pair.n < limits.min_group:
            few.append(f"{name} ({pair.n})")
            continue
        loss = (pair.baseline_right - pair.right) / pair.n
        yield (
            loss <= limits.max_class_loss,
            f"{what} {name}: {_change(loss)}, {_of(pair.right, pair.n)} now, {_of(pair.baseline_right, pair.n)} "
            f"before; {_points(limits.max_class_loss)} points may be lost",
        )
    if few:
        yield None, f"too few hold-out samples to judge by {what} (fewer than {limits.min_group}): {', '.join(few)}"


def _device(report: Report, limits: GateLimits) -> Iterator[Finding]:
    fps = report.fps_device
    sure = fps.value if fps.lower is None else fps.lower
    yield (
        sure >= limits.min_fps,
        f"{sure:.0f} frames/s at least on {report.device} ({fps.how}, likely {fps.value:.0f}); {limits.min_fps:.0f} "
        "are needed",
    )
    yield _at_most("memory", report.memory_bytes, limits.max_memory_bytes, 1e6, "MB")
    yield (
        report.size <= limits.max_size_bytes,
        f"size {report.size / 1e6:.2f} MB, {limits.max_size_bytes / 1e6:.2f} MB are allowed",
    )
    if report.power_w is None:
        yield None, "power is not known and was not judged"
    elif report.power_w.how == "estimated":
        yield None, f"power {report.power_w.value:.1f} W is estimated ({report.power_w.basis}) and was not judged"
    else:
        yield _at_most("power", report.power_w, limits.max_power_w, 1, "W")


def _at_most(what: str, number: Number, limit: float, unit: float, name: str) -> Finding:
    return (
        number.value <= limit,
        f"{what} {number.value / unit:.1f} {name} ({number.how}), {limit / unit:.1f} {name} are allowed",
    )


def _change(loss: float) -> str:
    if loss > 0:
        return f"accuracy fell by {_points(loss)} points"
    return f"accuracy rose by {_points(-loss)} points" if loss < 0 else "accuracy stayed the same"


def _of(right: int, n: int) -> str:
    return f"{right / n:.1%} ({right} of {n})"


def _points(share: float) -> str:
    """A share as percentage points."""
    return f"{100 * share:.1f}"
