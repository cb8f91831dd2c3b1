"""One stream through the watch, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from bench.drifting.streams import DAY_S, Stream
from edged.interval import wilson
from edged.retrain import drifted, pagehinkley, twosample
from edged.retrain.watched import Watched
from edged.storage.watching import Held, Labelled

TESTS = ("confidence", "features", "audit", "any")
AUDIT = 0.02  # share of answers that people label by lot: a tenth of a tenth is what [label] gives, and they may label twice that


@dataclass(frozen=True)
class Told:
    """Of one stream; lists by test. `looks` and `below` count before the onset (all, if there is none), `delay` samples
    from the onset to the alarm, None = none came. `scores`: (sample, score) of each test, for the plot.
    """

    name: str
    window: int
    onset: int | None
    n: int
    right_before: float
    right_after: float | None
    looks: dict[str, int]
    below: dict[str, int]
    alarms: dict[str, int]  # that began before the onset
    days: int
    days_with_alarm: int
    delay: dict[str, int | None]
    naive_below: int
    scores: dict[str, list[tuple[int, float]]]

    def document(self) -> dict:
        return {k: v for k, v in asdict(self).items() if k != "scores"}


def run(stream: Stream, window: int, alert_p: float) -> Told:
    x, onset = stream.answers, stream.onset
    until = len(x) if onset is None else onset
    watched = Watched(window, alert_p)
    found: dict[str, list[tuple[int, float, bool]]] = {t: [] for t in TESTS}
    state: dict[str, bool] = {}
    naive = 0
    dice = np.random.default_rng(len(x))
    labelled: list[Labelled] = []
    block = window // 5
    for i in range(len(x)):
        class_, n = f"c{x.predicted[i]}", i + 1
        looks = [("confidence:" + c, look) for c, look in watched.take(x.ts[i], class_, x.margin[i]).items()]
        if look := watched.take_features(x.ts[i], class_, x.features[i]):
            looks.append(("features", look))
        for key, look in looks:
            if look.answer is None:
                continue
            test = key.partition(":")[0]
            state[key] = look.alarm
            standing = any(v for k, v in state.items() if k.startswith(test))
            found[test].append((n, look.score, standing))
        if dice.random() < AUDIT:
            labelled.append(Labelled(class_, bool(x.right[i]), True))
            for e in drifted.audit("x", "m", labelled, Held(), alert_p):
                if e.score:
                    found["audit"].append((n, e.score, e.alarm))
        if n % block == 0 and n >= 5 * window and n <= until:
            naive += naive_p(x.margin[: n - window], x.margin[n - window : n]) < alert_p
    for n, score, alarm in sorted((f for t in TESTS[:3] for f in found[t]), key=lambda f: f[0]):
        found["any"].append((n, score, alarm))
    days = np.floor(x.ts[:until] / DAY_S) if until else np.zeros(0)
    alarmed = {days[n - 1] for n, _, on in found["any"] if on and n <= until}
    return Told(
        stream.name, window, onset, len(x), float(x.right[:until].mean()),
        None if onset is None else float(x.right[onset:].mean()),
        {t: sum(n <= until for n, _, _ in found[t]) for t in TESTS},
        {t: sum(n <= until and s >= 1 for n, s, _ in found[t]) for t in TESTS},
        {t: _begun(found[t], until) for t in TESTS}, len(set(days.tolist())), len(alarmed),
        {t: _delay(found[t], onset) for t in TESTS}, int(naive),
        {t: [(n, round(s, 3)) for n, s, _ in found[t]] for t in TESTS[:3]},
    )  # fmt: skip


def _begun(looks: Sequence[tuple[int, float, bool]], until: int) -> int:
    on, begun = False, 0
    for n, _, alarm in looks:
        if n > until:
            break
        begun += alarm and not on
        on = alarm
    return begun


def _delay(looks: Sequence[tuple[int, float, bool]], onset: int | None) -> int | None:
    """To the first alarm after the onset; one that stood there already does not count until it has ended."""
    if onset is None:
        return None
    stale = any(alarm for n, _, alarm in [f for f in looks if f[0] <= onset][-1:])
    for n, _, alarm in looks:
        if n > onset:
            if alarm and not stale:
                return n - onset
            stale = stale and alarm
    return None


def naive_p(past: np.ndarray, now: np.ndarray) -> float:
    """Kolmogorov's asymptotic p-value, as if samples were independent."""
    d = twosample.ks(past, now) * math.sqrt(len(past) * len(now) / (len(past) + len(now)))
    if d < 0.2:
        return 1.0
    return min(1.0, 2 * sum((-1) ** (k - 1) * math.exp(-2 * k * k * d * d) for k in range(1, 101)))


def markdown(told: Sequence[Told], alert_p: float, seeds: int) -> str:
    """Two tables: steady streams, and drifting ones."""
    lines = [f"alert_p {alert_p:g}, {seeds} seeds; Page-Hinkley's tolerance {pagehinkley.TOLERANCE}\n", "## No drift\n"]
    lines += [
        "| stream | window | looks | below the line: answers, pictures, audit | per 1000 looks (95 %) |"
        " alarms: answers, pictures, audit | days with an alarm (95 %) | control: below by counting samples |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, window in dict.fromkeys((t.name, t.window) for t in told if t.onset is None):
        some = [t for t in told if (t.name, t.window, t.onset) == (name, window, None)]
        looks, below = (sum(getattr(t, f)["any"] for t in some) for f in ("looks", "below"))
        low, high = wilson(below, looks)
        by = ", ".join(str(sum(t.below[k] for t in some)) for k in TESTS[:3])
        alarms = ", ".join(str(sum(t.alarms[k] for t in some)) for k in TESTS[:3])
        days, bad = sum(t.days for t in some), sum(t.days_with_alarm for t in some)
        share = wilson(bad, days)
        lines.append(
            f"| {name} | {window} | {looks} | {by} | {1000 * below / max(1, looks):.1f} ({1000 * low:.1f} to"
            f" {1000 * high:.1f}) | {alarms} | {bad} of {days} ({share[0]:.0%} to {share[1]:.0%}) |"
            f" {sum(t.naive_below for t in some)} |"
        )
    lines += [
        "\n## Drift: samples from the onset to the alarm, one figure a seed\n",
        "| stream | window | right before | right after | answers | pictures | audit | first of them |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, window in dict.fromkeys((t.name, t.window) for t in told if t.onset is not None):
        some = [t for t in told if (t.name, t.window) == (name, window)]
        delays = [" ".join("-" if t.delay[k] is None else str(t.delay[k]) for t in some) for k in TESTS]
        before, after = (float(np.mean([getattr(t, f) for t in some])) for f in ("right_before", "right_after"))
        lines.append(f"| {name} | {window} | {before:.1%} | {after:.1%} | {' | '.join(delays)} |")
    return "\n".join(lines) + "\n"
