"""What the watch says of its looks, and how labels are judged. Pure: numbers in, evaluations with sentences out.

Sentences have no full stop and name the camera, so that an alarm can stand alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from statistics import NormalDist
from typing import NamedTuple

from edged.interval import wilson
from edged.retrain import pagehinkley, twosample
from edged.retrain.ownpast import Floats
from edged.retrain.series import ROW, Look
from edged.storage.drifts import Evaluation
from edged.storage.watching import Held, Labelled

FIRST = 40  # audit labels that say what is usual where the re-test's hold-out cannot
ENOUGH = 20  # labels of a class
NEWEST = 200  # labels of a class that its recall is counted on
HALF = 0.5  # a class that is missed more often than found
FALL = 0.1  # and one whose recall fell by more than this


class Median(NamedTuple):
    now: float
    before: float


def told(camera: str, test: str, class_: str, look: Look) -> str:
    """A sentence about one look at margins or features."""
    what = {"confidence": "answers", "features": "pictures"}[test] + (f" called {class_}" if class_ else "")
    a = look.answer
    if a is None:
        if look.have >= look.need - 1:
            return f"{camera}: too few {what} in the newest window"
        return f"{camera}: collecting {what}, {look.have} of {look.need}"
    if not look.score >= 1 and not look.alarm:
        return f"{camera}: {what} are as they were, p = {a.p:.2g}"
    times = f"at these hours on {days(look.first, look.last)}" if a.same_hour else f"of {days(look.first, look.last)}"
    text = f"{camera}: {what} differ from those {times}: "
    if test == "confidence" and look.now is not None and look.before is not None:
        m = Median(median(look.now), median(look.before))
        text += f"median margin {m.now:.2f}, before {m.before:.2f}" if abs(m.now - m.before) >= 0.01 else shares(look)
    else:
        text += f"{a.distance / a.usual if a.usual else 0:.1f} times as far as is usual"
    text += f"; p {bound(a.p)}" + (f" in {ROW} blocks" if look.alarm else " once")
    return text + (" (the model was never here at this hour before)" if a.new_hour else "")


def shares(look: Look) -> str:
    """For margins whose medians say nothing: the place where the two distributions are furthest apart."""
    assert look.now is not None
    assert look.before is not None
    at = int(abs(look.now - look.before).argmax())
    return (
        f"{look.now[at]:.0%} of the margins are {twosample.PLACES[at]:.3g} or less, before {look.before[at]:.0%}"
    )  # fmt: skip


def median(cumulative: Floats) -> float:
    """Of margins, from their cumulative distribution at twosample.PLACES."""
    return float(twosample.PLACES[min(int((cumulative < 0.5).sum()), len(cumulative) - 1)])


def bound(p: float) -> str:
    """p < 0.001, as one would say it."""
    for limit in ("0.000001", "0.0001", "0.001", "0.01", "0.05"):
        if p < float(limit):
            return f"< {limit}"
    return f"= {p:.2f}"


def days(first: float, last: float) -> str:
    """14-16 November, 30 November to 2 December, or hours of one day (UTC). A clock that jumped shows as it was."""
    try:
        a, b = (datetime.fromtimestamp(min(max(t, 0.0), 4e9), UTC) for t in (min(first, last), max(first, last)))
    except (OverflowError, ValueError):
        return "before"
    if a.date() == b.date():
        return f"{a.day} {a:%B}, {a:%H:%M} to {b:%H:%M}"
    if (a.year, a.month) == (b.year, b.month):
        return f"{a.day}-{b.day} {b:%B}"
    return f"{a.day} {a:%B} to {b.day} {b:%B}"


def ended(e: Evaluation, model: str) -> Evaluation | None:
    """The row that ends a drift when another model has come; None where none stood."""
    if not e.alarm:
        return None
    detail = f"{e.camera}: a new model has come, its past begins anew"
    return Evaluation(e.camera, e.test, model, 0, 0.0, None, False, detail, e.class_)


def outdated(
    camera: str, model: str, stored: Sequence[Evaluation], judged: Collection[tuple[str, str]]
) -> list[Evaluation]:
    """Rows that end what is `stored` as standing and has lost its ground: another model runs now, or the labels that told of
    it do not hold any more, so that labels `judged` other (test, class) only.
    """
    found = []
    for e in stored:
        if not e.alarm:
            continue
        if e.model != model:
            found += [end] if (end := ended(e, model)) else []
        elif e.test in ("audit", "recall") and (e.test, e.class_) not in judged:
            of = f" of {e.class_}" if e.class_ else ""
            detail = f"{camera}: the labels{of} that told of it were taken back"
            found.append(Evaluation(camera, e.test, model, 0, 0.0, None, False, detail, e.class_))
    return found


def audit(camera: str, model: str, labelled: Sequence[Labelled], held: Held, alert_p: float) -> list[Evaluation]:
    """Page-Hinkley on the audit labels in the order of their samples. What is usual is the hold-out's word on this camera
    if it has FIRST answers, else that of the first FIRST audit labels.
    """
    wrong = [not x.right for x in labelled if x.audit]
    before = [False] * held.right + [True] * (held.n - held.right) if held.n >= FIRST else []
    if not before and len(wrong) <= FIRST:
        if not wrong:
            return []
        detail = f"{camera}: collecting audit labels, {len(wrong)} of {FIRST + 1}"
        return [Evaluation(camera, "audit", model, len(wrong), 0.0, None, False, detail)]
    first = len(before) or FIRST
    risen = pagehinkley.test(before + wrong, first, alert_p)
    if risen is None:
        return []
    n, newer = len(wrong), (before + wrong)[risen.since :]
    alarm = risen.score >= 1
    detail = (
        f"{camera}: {sum(newer)} of the last {len(newer)} audit answers were wrong, {risen.usual:.0%} at most is usual"
    )
    if not alarm:
        detail = f"{camera}: {n - sum(wrong)} of {n} audit answers were right"
    return [Evaluation(camera, "audit", model, n, round(risen.score, 4), None, alarm, detail)]


def recall(camera: str, model: str, labelled: Sequence[Labelled], held: Held, alert_p: float) -> list[Evaluation]:
    """Of each class with ENOUGH labels, by the upper end of Wilson's interval at alert_p. On audit labels alone if there
    are enough, else on all: those are the hard ones, so only a class that is missed more often than found counts then.
    """
    found = []
    z = NormalDist().inv_cdf(1 - alert_p)
    for class_ in sorted({x.class_ for x in labelled}):
        own = [x for x in labelled if x.class_ == class_]
        blind = [x for x in own if x.audit]
        fair = len(blind) >= ENOUGH
        used = (blind if fair else own)[-NEWEST:]
        if len(used) < ENOUGH:
            continue
        right, n = sum(x.right for x in used), len(used)
        upper = wilson(right, n, z)[1]
        line = HALF
        if fair and class_ in held.classes:
            line = max(HALF, wilson(*held.classes[class_])[0] - FALL)
        score = round((1 - upper) / (1 - line), 4)
        kind = "audit labels" if fair else "labels"
        detail = f"{camera}: {right} of {n} {kind} of {class_} were answered so, {right / n:.0%}"
        if score >= 1:
            detail += f" ({upper:.0%} at best; {line:.0%} is the line)"
        found.append(Evaluation(camera, "recall", model, n, score, None, score >= 1, detail, class_))
    return found
