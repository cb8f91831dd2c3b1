"""What is left of frames whose pictures are gone: their rows, about 540 bytes a frame and 360 a sample (measured).

Guarantees: a row goes only without picture, label (undone ones too) and snapshot; totals do not fall (`frames.count` adds
what was pruned, the newest sample stays for its number). Does not guarantee that a frame which comes again after its row
has gone is known again: that is why none younger than YOUNG_S goes.
"""

from __future__ import annotations

from dataclasses import dataclass

from edged.storage.store import Store

BATCH = 500  # rows of either table in one transaction
PAUSE_S = 0.01  # between two, so that frames come in
MOST = 100_000  # frames in one run
YOUNG_S = 7 * 86400.0


@dataclass(frozen=True)
class Pruned:
    frames: int
    samples: int


def run(store: Store, before: float, *, young: float, max_bytes: int = 0, most: int = MOST) -> Pruned:
    """Rows of what was received before that time of the box go; while the catalogue takes more than `max_bytes` (0 = any),
    the oldest that were received before `young` as well. At most `most` frames.
    """
    frames = samples = 0
    while frames < most:
        over = max_bytes and size(store) > max_bytes
        done = rows(store, max(before, young) if over else before, min(BATCH, most - frames))
        frames, samples = frames + done.frames, samples + done.samples
        if not done.frames and not done.samples:
            break
        store.clock.sleep(PAUSE_S)
    return Pruned(frames, samples)


def size(store: Store) -> int:
    """Bytes of the catalogue that hold something."""
    pages = int(store.value("pragma page_count")) - int(store.value("pragma freelist_count"))
    return pages * int(store.value("pragma page_size"))


def rows(store: Store, before: float, most: int = BATCH) -> Pruned:
    """Remove rows of what was received before that time of the box, oldest first, at most `most` frames and samples."""
    found = store.rows(
        "select s.id from sample s where s.received < ? and s.object is null"
        " and s.rowid < (select max(rowid) from sample) and not exists (select 1 from label l where l.sample = s.id)"
        " order by s.received limit ?",
        (before, most),
    )
    taught = _in_snapshots(store) if found else set()
    gone = [(r[0],) for r in found if r[0] not in taught]
    with store.transaction():
        store.execute_many("delete from sample where id = ? and object is null", gone)
        old = store.rows(
            "select f.camera, f.id, f.status from frame f where f.received < ? and f.object is null and not exists"
            " (select 1 from sample s where s.camera = f.camera and s.ts = f.ts and s.frame = f.id)"
            " order by f.received limit ?",
            (before, most),
        )
        store.execute_many("delete from frame where camera = ? and id = ?", [(r[0], r[1]) for r in old])
        for status in {r["status"] for r in old}:
            store.execute(
                "insert into counter (name, n) values (?1, ?2) on conflict (name) do update set n = n + ?2",
                (f"pruned:{status}", sum(r["status"] == status for r in old)),
            )
    return Pruned(len(old), len(gone))


def _in_snapshots(store: Store) -> set[str]:
    return {
        r[0]
        for r in store.rows(
            "select j.value ->> 0 from snapshot s, json_each(json_array(s.body -> '$.train', s.body -> '$.tune',"
            " s.body -> '$.holdout')) p, json_each(p.value) j"
        )
    }
