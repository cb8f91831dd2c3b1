"""Whether a past model does instead of a new one. Pure.

Guarantees: a difference that chance may have made changes nothing, nor do fewer than FEWEST new labels. Does not guarantee
that what was better on the train and tune parts is so on the hold-out: the gate judges that.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

FEWEST = 20  # new labelled samples that can teach more than the statistics; fewer to compare models on tell nothing
FORGOTTEN = 0.05  # accuracy on older labels that a past model may lack
CHANCE = 0.05  # that any camera is offered a past model that is no better there, all cameras and models together


@dataclass(frozen=True)
class Choice:
    """`taken` sha256 or "": is released without training; `start` sha256 or "": training begins there; `told` why."""

    taken: str
    start: str
    told: str


def choose(scores: Sequence[Mapping[str, Any]], champion: str, usual: float | None, names: Mapping[str, str]) -> Choice:
    """Whether the best past model does: on what is new it must beat the champion by more than chance (two standard
    errors), and be as good as the champion was in its own world (within one). One that knows less of the old than FORGOTTEN
    and two standard errors allow is passed over: the champion was trained on just these pictures, hence the allowance.

    `scores` as stage `reuse` leaves them. Pure.
    """
    by = {str(s["sha256"]): s for s in scores}
    own = by.pop(champion, None)
    if own is None or not by:
        return Choice("", "", "no past model could be tried")
    n = int(own["new_n"])
    if n < FEWEST:
        return Choice("", "", f"{n} new labels are too few to compare past models on")
    old_n = int(own["n"]) - n
    known = {sha: (int(s["right"]) - int(s["new_right"])) / max(1, old_n) for sha, s in (*by.items(), ("", own))}
    least = known[""] - FORGOTTEN - 2 * _error(known[""], old_n) if old_n else 0.0
    share = {sha: s["new_right"] / n for sha, s in by.items() if known[sha] >= least}
    if not share:
        return Choice(
            "",
            "",
            f"every past model has forgotten what the present one knows ({known['']:.1%} of {old_n} older labels)",
        )
    here = own["new_right"] / n
    found = max(share, key=lambda sha: share[sha])  # of equal ones the newest: the order of the job
    noise = _error(share[found], n)
    told = f"{names.get(found, found[:12])} is right on {share[found]:.1%} of {n} new labels, the present model on {here:.1%}"
    if share[found] < here + 2 * noise:
        return Choice("", "", f"{told}: not enough to change")
    level = usual if usual is not None else known[""] if old_n else 1.0
    if share[found] < level - noise:
        return Choice("", found, f"{told}; {level:.1%} are usual here, so it is only begun from")
    return Choice(found, "", f"{told}: taken without training")


@dataclass(frozen=True)
class Better:
    """A past model that does better at one camera than the present one: of `n` new labels there it has `right` right and
    the present one `own`; `p` one-sided, times the comparisons that were made.
    """

    camera: str
    sha256: str
    right: int
    own: int
    n: int
    p: float


def by_camera(
    scores: Sequence[Mapping[str, Any]], champion: str, spent: Collection[tuple[str, str]] = ()
) -> list[Better]:
    """The best past model of each camera where the exact paired test (McNemar) on its new labels finds one better; cameras
    with fewer than FEWEST of them are left out, as are the pairs (camera, sha256) that are `spent`. Bonferroni's
    correction over all that is compared. Pure.
    """
    own = next((s for s in scores if s["sha256"] == champion), None)
    known = {} if own is None else {str(c): (int(r), int(n)) for c, (r, n) in own.get("new_per_camera", {}).items()}
    found: dict[str, list[Better]] = {}
    for s in scores:
        for camera, (lost, won) in s.get("new_pairs", {}).items():
            right, n = known.get(camera, (0, 0))
            if s["sha256"] != champion and n >= FEWEST and (camera, s["sha256"]) not in spent:
                better = Better(camera, str(s["sha256"]), right + won - lost, right, n, _sign_test(won, lost))
                found.setdefault(camera, []).append(better)
    many = sum(map(len, found.values()))
    best = [max(tried, key=lambda b: b.right) for _, tried in sorted(found.items())]  # of equal ones the newest
    return [replace(b, p=b.p * many) for b in best if b.p * many <= CHANCE]


def _sign_test(won: int, lost: int) -> float:
    """The chance of so many won, or more, of won + lost, if each is as likely."""
    n = won + lost
    return sum(math.comb(n, i) for i in range(won, n + 1)) / (1 << n)


def _error(share: float, n: int) -> float:
    """Standard error of a share, never 0 (Agresti-Coull's two of each added)."""
    p = (share * n + 2) / (n + 4)
    return math.sqrt(p * (1 - p) / (n + 4))
