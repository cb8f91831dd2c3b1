"""The order in which pictures go when there are too many: what could be missed least first. Pure.

    0  redundant     see `redundant`
    1  unlabelled    the rest without a human label, first come first gone; only these two go by age
    2..              by `keep_last`, in its order: labelled, holdout (of any snapshot), champion (its snapshot, all parts),
                     previous (the snapshot of the model before it)

A picture that stands for several goes with the last of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Reason = Literal["labelled", "holdout", "champion", "previous"]
KEEP_LAST: tuple[Reason, ...] = ("labelled", "holdout", "champion", "previous")
REDUNDANT, UNLABELLED, KEPT = 0, 1, 2

CELL_S = 10.0  # seconds of camera time within which two like views tell the same
SURE = 0.8  # least margin of a prediction that teaches nothing any more


@dataclass(frozen=True)
class View:
    """One picture with what was seen on it. `n` its place in the order of arrival, `frame` the frame it is of, `ts` the
    camera's time, `seen` (class, margin) of each sample on it, `samples` their ids.
    """

    n: int
    id: str
    camera: str
    frame: str
    ts: float
    size: int
    labelled: bool
    waits: bool  # in the outbox: never goes
    samples: tuple[str, ...] = ()
    seen: tuple[tuple[str, float], ...] = ()


def rank(view: View, kept: Mapping[Reason, Collection[str]], keep_last: Sequence[Reason] = KEEP_LAST) -> int:
    """Its place in the order above, but for `redundant`; `kept` are sample ids."""
    found = UNLABELLED
    for i, reason in enumerate(keep_last):
        if view.labelled if reason == "labelled" else any(s in kept.get(reason, ()) for s in view.samples):
            found = KEPT + i
    return found


def redundant(views: Sequence[View], cell_s: float = CELL_S, sure: float = SURE) -> list[str]:
    """The pictures of frames that tell what another one, which stays, tells as well.

    Of the frames of one camera within a cell of `cell_s` seconds of its time that saw the same set of classes, and were
    sure of each (margin >= `sure`), the first stays. A frame with a label, with something that waits to be sent, or
    of a camera without a model is nobody's double. Frames that saw nothing are doubles of each other.
    """
    frames: dict[tuple[str, str], list[View]] = {}
    for v in views:
        frames.setdefault((v.camera, v.frame), []).append(v)
    stays: set[tuple[str, int, frozenset[str]]] = set()
    doubles: list[str] = []
    for pictures in frames.values():
        seen = [s for v in pictures for s in v.seen]
        if any(v.labelled or v.waits for v in pictures) or any(not c or margin < sure for c, margin in seen):
            continue
        like = (pictures[0].camera, int(pictures[0].ts // cell_s), frozenset(c for c, _ in seen))
        if like in stays:
            doubles += [v.id for v in pictures]
        stays.add(like)
    return doubles
