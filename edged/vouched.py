"""A person's word for a model that too little is held out here to judge: who gives it, what is said of it, when it counts.

Guarantees: the word is a sentence that the request, the candidate, the signed release and the page keep alike; where the gate
can judge, it counts nothing. Does not guarantee that the model is any good: the canary and the cameras' probation find out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edged.errors import Refused
from edged.retrain import gate, untaught
from edged.storage import snapshots
from edged.storage.requests import Request


@dataclass(frozen=True)
class Word:
    """Whose it is, and why the model may be trusted. An empty one is no word."""

    author: str = ""
    reason: str = ""

    @property
    def said(self) -> str:
        """A sentence without its full stop; "" = there is no word."""
        return f"not tested on this site's pictures; released so by {self.author}: {self.reason}" if self.reason else ""


def of(asked: Sequence[Request]) -> Word:
    """The first word among the requests that a cycle began by."""
    given = [r for r in asked if r.args.get("untested")]
    return Word(given[0].author, str(given[0].args["untested"])) if given else Word()


def refusal(
    body: snapshots.Body, limits: gate.GateLimits, block_s: float, *, word: Word | None = None, sha256: str = "",
    anew: bool = False, least: int = untaught.LEAST,
) -> Refused | None:  # fmt: skip
    """Why a cycle on this snapshot ends before it trains, None = it goes on. few_held_out, in the gate's words, where nothing
    could pass and nobody gives his word; can_be_judged where he does and the gate can; too_few or missing_class, in the words of
    training, where it would begin `anew`, from scratch. `least` labelled crops are enough for that. `sha256` of the
    model that was asked for, "" = none.
    """
    held = snapshots.per_class(body, "holdout")
    n, against = sum(held.values()), gate.lacking(held, limits)
    if word is not None and word.reason:
        return None if against else Refused(
            f"{n} samples are held out here, so the gate can judge it: nobody's word is taken instead",
            hint=f"`edged cycle run --model {sha256[:12]}`", code="can_be_judged",
        )  # fmt: skip
    taught = untaught.refusal(snapshots.per_class(body, "train"), least) if anew else None
    if taught is not None and n >= limits.min_holdout:
        return taught
    if not against:
        return None
    hint = _more_to_test_on(block_s, [] if n < limits.min_holdout else [c for c, k in held.items() if not k])
    if sha256:
        hint += f"; or give your word for it: `edged model release {sha256[:12]} --untested --reason WHY`"
    return Refused(against, hint=hint, code="few_held_out")


def _more_to_test_on(block_s: float, unseen: Sequence[str]) -> str:
    block = f"{block_s / 60:g} minutes" if block_s % 60 == 0 else f"{block_s:g} s"
    what = f"crops of {' or of '.join(f'`{c}`' for c in unseen)}" if unseen else "more"
    return f"label {what}, over more of the day: whole blocks of {block} of a camera are held out"
