"""The gate: may this model reach a camera? A pure function of a report and limits, with its reasons in numbers.

Guarantees: a model that does worse on any single hold-out picture, everything else equal, never passes where the
better one is refused; a model that in truth loses more than `max_loss` passes in about 1 - `sure` of all hold-outs (5 %,
never in more than 6.8 %: report.py); too little evidence refuses, and the reason says how much would do,
unless a person vouches for the model, who is heeded in no other case; power that is
only estimated neither passes nor refuses anything. Does not guarantee that the hold-out looks like tomorrow: the cameras'
probation and the rollout's canary stand behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from msgspec import Struct

from edged.retrain.report import SURE, Number, Pair, Report, loss_bound, mcnemar, needed


class GateLimits(Struct, frozen=True, kw_only=True):
    """Shares are 0..1. `min_group` = hold-out crops of a class or camera from which on it is judged by itself. `pinned`:
    "all" must be right, or "kept": those that the baseline has right.
    """

    min_holdout: int = 50
    sure: float = SURE  # of every bound, one-sided
    max_loss: float = 0.02  # accuracy lost against the baseline, by the bound
    max_class_loss: float = 0.05  # the same for one class or one camera, as it was counted
    max_class_bound: float = 0.2  # and by the bound
    min_gain: float = 0.0  # accuracy that must be won; 0 = none is asked for
    min_group: int = 30
    pinned: Literal["all", "kept"] = "all"
    min_fps: float = 30.0
    max_memory_bytes: int = 512 * 10**6
    max_size_bytes: int = 6 * 10**6
    max_packed_bytes: int = 0  # of the packed form; 0 = not judged
    max_power_w: float = 10.0


class Verdict(Struct, frozen=True):
    """`reasons` are sentences: those against first when refused, else those for."""

    passed: bool
    reasons: tuple[str, ...]


LACK = "refused for lack of evidence"
NAMED = 5  # pinned pictures in a reason

Finding = tuple[bool | None, str]  # None = noted, not judged


def judge(report: Report, limits: GateLimits, untested: str = "") -> Verdict:
    """Every rule looks; one that objects refuses the model.

    `untested`: a person's word, a sentence, for a model that too little is held out to judge: then, and only then, accuracy
    refuses nothing, and the word is the first reason. Everything else still judges.
    """
    few = short_of(dict.fromkeys(report.classes, 0) | {c: s.n for c, s in report.per_class.items()}, limits)
    if not few:
        untested = ""
    accuracy = list(_accuracy(report, limits))
    if untested:
        accuracy = [(None, f"{text}: not judged") for _, text in accuracy]
    findings = [
        *_evidence(report, limits, few, untested),
        *accuracy,
        *_pinned(report, limits),
        *_device(report, limits),
    ]
    against = tuple(text for good, text in findings if good is False)
    rest = tuple(text for good, text in findings if good) + tuple(text for good, text in findings if good is None)
    return Verdict(not against, against + rest)


def short_of(held: Mapping[str, int], limits: GateLimits) -> str:
    """What the hold-out lacks to judge any model, in a few words; "" = nothing. `held`: samples of each class of the task.

    Where one class alone is seen, a model that always names it is right everywhere: nothing could be told from it.
    """
    n, shown = sum(held.values()), [name for name, k in held.items() if k]
    if n < limits.min_holdout:
        return f"{n} of {limits.min_holdout} hold-out samples"
    return f"only `{shown[0]}` is held out" if len(shown) == 1 < len(held) else ""


def lacking(held: Mapping[str, int], limits: GateLimits) -> str:
    """Why no model can pass, whatever it does on the hold-out: a sentence; "" = it can be judged."""
    few = short_of(held, limits)
    return f"{LACK}: {few}" if few else ""


def _evidence(report: Report, limits: GateLimits, few: str, untested: str) -> Iterator[Finding]:
    if untested:
        yield True, f"{untested} ({few})"
    elif few:
        yield False, f"{LACK}: {few}"
    else:
        yield (
            True,
            f"{_many(report.n, 'hold-out sample')} (at least {limits.min_holdout} {_are(limits.min_holdout)} needed)",
        )
    if report.skipped:
        were = "was" if report.skipped == 1 else "were"
        yield None, f"{_many(report.skipped, 'hold-out sample')} could not be read and {were} left out"
    if report.not_numbers:
        are = "is no number" if report.not_numbers == 1 else "are not numbers"
        yield (
            False,
            f"{report.not_numbers} of {report.n} answers ({report.not_numbers / report.n:.1%}) {are}: the model's "
            "weights are damaged",
        )


def _accuracy(report: Report, limits: GateLimits) -> Iterator[Finding]:
    if report.n == 0:
        return
    yield _beats_guessing(report)
    if report.pair is None:
        return
    yield _loss(report.pair, limits)
    pair = report.pair
    loss = (pair.baseline_right - pair.right) / pair.n
    if limits.min_gain > 0:
        gain = f"a gain of {_points(-loss)} points" if loss < 0 else "no gain"
        yield -loss >= limits.min_gain, f"{gain}, where {_points(limits.min_gain)} points are asked for"
    yield from _groups("class", report.pair_per_class, limits)
    yield from _groups("camera", report.pair_per_camera, limits)


def _beats_guessing(report: Report) -> Finding:
    """The least to ask: better than always naming the most frequent class. Surely so where there is no baseline. With one
    as counted: where a class is rare, no hold-out is large enough to be sure, and the loss against the baseline is bounded.
    """
    most = max(report.per_class.values(), key=lambda s: s.n).n / report.n
    a = report.accuracy
    told = f"always naming the most frequent class has {most:.1%}"
    if report.pair is not None:
        return a.accuracy > most, f"accuracy {_of(a.right, a.n)}; {told}"
    return (
        a.lower > most,
        f"accuracy {_of(a.right, a.n)}, at least {a.lower:.1%} (95 % interval); {told}; "
        "there is no baseline to compare with",
    )


def _loss(pair: Pair, limits: GateLimits) -> Finding:
    loss, bound = (pair.baseline_right - pair.right) / pair.n, loss_bound(pair, limits.sure)
    counted = f"{_of(pair.right, pair.n)} now, {_of(pair.baseline_right, pair.n)} before"
    text = (
        f"{_change(loss)}: {counted}; {pair.lost} lost and {pair.won} won (p = {mcnemar(pair):.2g}), so "
        f"{_at_worst(bound)} lost ({_sure(limits)}); {_points(limits.max_loss)} are allowed"
    )
    if bound <= limits.max_loss:
        return True, text
    enough = needed(pair, limits.max_loss, limits.sure)
    if enough is not None:
        text += f"; if the two go on differing so, {enough} hold-out samples would show that ({pair.n} now)"
    return False, text


def _groups(what: str, pairs: dict[str, Pair], limits: GateLimits) -> Iterator[Finding]:
    few = []
    for name, pair in pairs.items():
        if pair.n < max(1, limits.min_group):
            few.append(f"{name} ({pair.n})")
            continue
        loss, bound = (pair.baseline_right - pair.right) / pair.n, loss_bound(pair, limits.sure)
        yield (
            loss <= limits.max_class_loss and bound <= limits.max_class_bound,
            f"{what} {name}: {_change(loss)}, {_of(pair.right, pair.n)} now, {_of(pair.baseline_right, pair.n)} "
            f"before; {_points(limits.max_class_loss)} points may be lost; {_at_worst(bound)} lost ({_sure(limits)}), "
            f"where {_points(limits.max_class_bound)} may be",
        )
    if few:
        least = max(1, limits.min_group)
        yield None, f"too few hold-out samples to judge by {what} (fewer than {least}): {', '.join(few)}"


def _pinned(report: Report, limits: GateLimits) -> Iterator[Finding]:
    pins = report.pinned
    if pins is None:
        return
    if pins.n:
        told = f"{pins.right} of {_many(pins.n, 'pinned picture')} {_are(pins.n)} right"
        wrong = pins.failed if limits.pinned == "all" else pins.lost
        which = "" if limits.pinned == "all" else " that the model before had right"
        if wrong:
            more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
            told += f"; wrong{which}: {', '.join(wrong[:NAMED])}{more} (`edged label unpin` takes a pin away)"
        yield not wrong, told
    for text in pins.left_out:
        yield None, f"{text}: not judged"


def _device(report: Report, limits: GateLimits) -> Iterator[Finding]:
    fps = report.fps_device
    sure = fps.value if fps.lower is None else fps.lower
    if fps.how == "unknown":
        yield (
            False,
            f"{LACK}: no estimate of frames/s on {report.device} ({fps.basis}); {limits.min_fps:.0f} are needed",
        )
    else:
        yield (
            sure >= limits.min_fps,
            f"{sure:.0f} frames/s at least on {report.device} ({fps.how}, likely {fps.value:.0f}); "
            f"{limits.min_fps:.0f} are needed",
        )
    yield _at_most("memory", report.memory_bytes, limits.max_memory_bytes, 1e6, "MB")
    yield (
        report.size <= limits.max_size_bytes,
        f"size {_size(report.size)}, {_size(limits.max_size_bytes)} are allowed",
    )
    if report.size_packed and limits.max_packed_bytes:
        yield (
            report.size_packed <= limits.max_packed_bytes,
            f"packed {_size(report.size_packed)}, {_size(limits.max_packed_bytes)} are allowed",
        )
    elif limits.max_packed_bytes:
        yield False, f"{LACK}: the packed form was not made, and its size is limited"
    for text in report.kernels:
        yield False, f"{text}: rewrite it (`tune`) or choose another network"
    if report.isa:
        yield None if not report.isa_failed else False, report.isa
    if report.beside:
        others = f"{report.beside} other process" + ("es" if report.beside > 1 else "")
        yield None, f"while speed was measured, {others} of the re-test ran on other cores"
    if report.power_w is None:
        yield None, f"power is not known and was not judged against {limits.max_power_w:g} W"
    elif report.power_w.how == "estimated":
        yield (
            None,
            f"power {report.power_w.value:.1f} W is estimated ({report.power_w.basis}) and was not judged: an estimate "
            f"passes nothing, and refuses nothing; {limits.max_power_w:g} W are allowed where it is measured",
        )
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


def _sure(limits: GateLimits) -> str:
    return f"{100 * limits.sure:g} % sure"


def _at_worst(bound: float) -> str:
    return f"at most {_points(bound)} points are" if bound > 0 else "none are"


def _many(n: int, thing: str) -> str:
    return f"{n} {thing}" + ("" if n == 1 else "s")


def _are(n: int) -> str:
    return "is" if n == 1 else "are"


def _size(n: int) -> str:
    return f"{n / 1e6:.2f} MB" if n >= 100_000 else f"{n / 1e3:.1f} kB" if n >= 1000 else f"{n} B"


def _points(share: float) -> str:
    """A share as percentage points; what is not nothing is not told as 0.0."""
    points = 100 * share
    return f"{points:.1f}" if points == 0 or abs(points) >= 0.05 else f"{points:.1g}"
