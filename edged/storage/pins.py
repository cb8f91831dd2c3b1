"""Pins: pictures that a model in use got wrong, and that whoever is to be released must get right (retrain/gate.py).

Guarantees: adding and removing leave a row in the audit log in the same transaction; a pin's class is what people say of
the picture now, so a mended label mends the pin; a pinned picture stands in no part of a snapshot made after it was
pinned, and what shows the same leaves train and tune (`snapshots.build`): it was chosen because a model failed on it, so
it would bend the hold-out's comparison, and learned by heart it would prove nothing. Does not guarantee that the picture
stays: retention and erasure take it as any other, and `standing` then says so.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from edged.errors import EXIT_NOT_FOUND, Refused
from edged.storage import audit, samples
from edged.storage.store import Store

MOST = 500  # a re-test looks at every one, for every candidate
NOTE_LENGTH = 200


@dataclass(frozen=True)
class Pin:
    """`class_` by the newest human label that was not undone, "" = nobody says; `predicted` what the camera said then."""

    sample: str
    author: str
    ts: float
    note: str
    class_: str
    predicted: str
    gone: bool  # the picture is


@dataclass(frozen=True)
class Standing:
    """`pairs` (sample, class) can be tested on; `left_out` sentences say why the others cannot."""

    pairs: tuple[tuple[str, str], ...]
    left_out: tuple[str, ...]


def add(store: Store, sample_ids: Sequence[str], author: str, note: str = "") -> int:
    """Pin samples, all or none; returns how many are new. Raises Refused: unknown, no picture, no human label, too many."""
    if len(note) > NOTE_LENGTH:
        raise Refused(f"a note has at most {NOTE_LENGTH} characters, not {len(note)}", code="bad_note")
    with store.transaction():
        known = {p.sample: p for p in all(store)}
        new = [s for s in dict.fromkeys(sample_ids) if s not in known]
        if len(known) + len(new) > MOST:
            raise Refused(f"at most {MOST} pictures are pinned; {len(known)} are already", code="too_many")
        for s in new:
            if samples.get(store, s).object is None:
                raise Refused(f"the picture of {s} is gone: retention or erasure took it", code="gone")
            if not _class(store, s):
                raise Refused(
                    f"nobody has said what {s} shows", hint="label it first: `edged label import`", code="no_label"
                )
        now = store.clock.now()
        store.execute_many(
            "insert into pin (sample, author, ts, note) values (?, ?, ?, ?)", [(s, author, now, note) for s in new]
        )
        if new:
            audit.append(store, author, "pin.add", new[0], {"samples": new})
    return len(new)


def remove(store: Store, sample_ids: Sequence[str], author: str) -> int:
    """Take pins away, all or none; returns how many. Raises Refused for a sample that is not pinned."""
    with store.transaction():
        known = {p.sample for p in all(store)}
        going = list(dict.fromkeys(sample_ids))
        if strange := [s for s in going if s not in known]:
            raise Refused(f"{strange[0][:200]} is not pinned", code="not_found", exit_code=EXIT_NOT_FOUND)
        store.execute_many("delete from pin where sample = ?", [(s,) for s in going])
        if going:
            audit.append(store, author, "pin.remove", going[0], {"samples": going})
    return len(going)


def all(store: Store) -> list[Pin]:
    """Oldest first."""
    rows = store.rows(
        "select p.sample, p.author, p.ts, p.note,"
        " coalesce((select l.class from label l where l.sample = p.sample and l.source = 'human' and l.undone is null"
        " order by l.id desc limit 1), '') as class, s.predicted, s.object is null as gone"
        " from pin p join sample s on s.id = p.sample order by p.ts, p.sample"
    )
    return [
        Pin(r["sample"], r["author"], r["ts"], r["note"], r["class"], r["predicted"], bool(r["gone"])) for r in rows
    ]


def standing(store: Store, classes: Collection[str]) -> Standing:
    """What a re-test is given."""
    pairs, left_out = [], []
    for p in all(store):
        if p.gone:
            left_out.append(f"pinned {p.sample}: its picture is gone")
        elif p.class_ not in classes:
            said = (
                f"is labelled {p.class_}, which is no class of this site" if p.class_ else "has no human label any more"
            )
            left_out.append(f"pinned {p.sample} {said}")
        else:
            pairs.append((p.sample, p.class_))
    return Standing(tuple(pairs), tuple(left_out))


def _class(store: Store, sample_id: str) -> str:
    found = store.value(
        "select class from label where sample = ? and source = 'human' and undone is null order by id desc limit 1",
        (sample_id,),
    )
    return str(found or "")
