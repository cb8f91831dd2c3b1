"""Where what a model may learn from comes from: SECURITY, "train on scrubbed frames only".

Guarantees: `unvouched` is empty only if every sample that a snapshot names, that was looked at, or that has a label a model
may learn from, is a region of a frame that was stored, and only a scrubbed frame is (`frames.add` takes no other). Does not
guarantee that the scrubber saw everything (privacy/planted measures that).
"""

from __future__ import annotations

from dataclasses import dataclass

from edged.storage.store import Store


@dataclass(frozen=True)
class Provenance:
    """Samples by what they are used for, how many; `unvouched`: (use, sample id) of those whose frame was not stored, or is
    not known.
    """

    learned_from: int
    looked_at: int
    labelled: int
    unvouched: tuple[tuple[str, str], ...] = ()


def of(store: Store) -> Provenance:
    """One statement for each use, over the whole store."""
    counts: dict[str, int] = {}
    wrong: list[tuple[str, str]] = []
    for use, ids in _USES.items():
        counts[use] = int(store.value(f"select count(*) from ({ids})"))
        wrong += [
            (use, r[0])
            for r in store.rows(
                f"select u.id from ({ids}) u where not exists (select 1 from sample s join frame f"
                " on f.camera = s.camera and f.id = s.frame where s.id = u.id and f.status = 'stored') order by u.id"
            )
        ]
    return Provenance(counts["snapshot"], counts["insight"], counts["label"], tuple(wrong))


_USES = {
    "snapshot": "select distinct j.value ->> 0 as id from snapshot, json_each(json_array(snapshot.body -> '$.train',"
                " snapshot.body -> '$.tune', snapshot.body -> '$.holdout')) p, json_each(p.value) j",
    "insight": "select sample as id from insight",
    "label": "select distinct sample as id from label where undone is null and class <> ''",
}  # fmt: skip
