"""How far a new model may disagree with the one before it, by what the re-test saw of both.

Guarantees: reads rows, writes none. Does not guarantee that cameras see what was held out: it supposes that they see what
came since the model before.
"""

from __future__ import annotations

import json

from edged.storage import candidates, releases, reports, snapshots
from edged.storage.releases import ReleaseRow
from edged.storage.store import Store


def shared(store: Store, release: ReleaseRow, least: int) -> float | None:
    """The share of what cameras see now that this model and the one before it have right at least, None where they were
    compared on fewer than `least` samples, as may be what a person releases untested.

    Cameras see what came since the model before, not all of the hold-out: at worst all on which not both are right is of
    that part. Fewer than `least` such samples say nothing of it; then it is the share of all.
    """
    found = reports.of(store, release.candidate) if release.candidate is not None else []
    pair = (json.loads(found[0].body).get("pair") if found else None) or {}
    if pair.get("n", 0) < max(1, least):
        return None
    n, both, new = int(pair["n"]), int(pair["right"] - pair["won"]), _new_held_out(store, release)
    return max(0, new - (n - both)) / new if new >= max(1, least) else both / n


def _new_held_out(store: Store, release: ReleaseRow) -> int:
    """How many samples are held out for this release that were not for the newest complete one before it, 0 where there is
    none. One that was halted is not what cameras run.
    """

    def held(candidate: int) -> set[str]:
        body = snapshots.get(store, candidates.get(store, candidate).snapshot)
        return {sample for sample, _ in body["holdout"]}

    before = [
        r.candidate for r in releases.all(store)
        if r.number < release.number and r.name == release.name and r.state == "complete"
        and r.candidate is not None
    ]  # fmt: skip
    return len(held(release.candidate) - held(before[-1])) if before and release.candidate is not None else 0
