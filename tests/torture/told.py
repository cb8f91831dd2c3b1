"""What a store promised, read from the lines of `workload.py`, and whether a store keeps it.

    receipt CAMERA FRAME SHA256 STATUS   answered: the row stays, the picture until told otherwise
    label N SAMPLE | undone N | audit N HASH | release N STATE | model SHA256 | alarm CODE standing|cleared
    taking N ... taken N                 between the two up to N pictures may go
    erasing CAMERA DAY ... erased CAMERA DAY          between the two those of that day may go
    destroyed KEY...                     these data keys open nothing any more
    gone CAMERA:FRAME[:INDEX]            this picture or crop is gone for good
    begin                                a process has opened the store and told everything that is gone
    clock T                              the box's time is at least T

`verify` opens the store as the daemon's start does and says in words what is broken. It cannot know of promises
that were made but not yet told; those may be kept or not.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from edged.clock import day
from edged.errors import EdgedError, Unavailable
from edged.storage import Store, alarms, audit, check, frames, keyring, labels, models, objects, releases
from edged.storage.sheet import SiteKey
from tests.torture import scene

_STATES = ("rolling", "superseded")


@dataclass
class Told:
    """The promises of one moment. `may_go`: pictures that may be gone without having been told."""

    receipts: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    labels: dict[int, str] = field(default_factory=dict)
    undone: set[int] = field(default_factory=set)
    audit: dict[int, str] = field(default_factory=dict)
    releases: dict[int, str] = field(default_factory=dict)
    models: set[str] = field(default_factory=set)
    alarms: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    dead_keys: set[str] = field(default_factory=set)
    days: set[tuple[str, str]] = field(default_factory=set)
    may_go: int = 0
    clock: float = scene.START

    def hear(self, line: str) -> None:
        """Take one line in."""
        match line.split():
            case ["receipt", camera, frame_id, sha256, status]:
                self.receipts[camera, frame_id] = (sha256, status)
            case ["label", n, sample]:
                self.labels[int(n)] = sample
            case ["undone", n]:
                self.undone.add(int(n))
            case ["audit", n, row_hash]:
                self.audit[int(n)] = row_hash
            case ["release", n, state]:
                self.releases[int(n)] = state
            case ["model", sha256]:
                self.models.add(sha256)
            case ["alarm", code, state]:
                self.alarms[code] = state
            case ["taking", n]:
                self.may_go += int(n)
            case ["taken", n]:
                self.may_go -= int(n)
            case ["begin"]:
                self.may_go = 0
                self.days.clear()
            case ["erasing", camera, when]:
                self.days.add((camera, when))
            case ["erased", camera, when]:
                self.days.discard((camera, when))
            case ["destroyed", *keys]:
                self.dead_keys.update(keys)
            case ["gone", picture]:
                self.gone.add(picture)
            case ["clock", at]:
                self.clock = max(self.clock, float(at))
            case ["end"]:
                pass
            case _:
                raise ValueError(f"not a promise: {line!r}")


class _Still:
    def __init__(self, at: float) -> None:
        self.at = at

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


def verify(data_dir: Path, promises: Iterable[str], *, resume: bool = True, recovers: bool = True) -> list[str]:
    """What is broken, a sentence each; [] when every promise is kept and `check` finds nothing.

    `resume` also lets the camera send its last answered frame again and a new one, and looks once more: what a recovered
    store writes next must not harm what it kept. It changes the store. `recovers` False: a start without recovery.
    """
    told = Told()
    for line in promises:
        told.hear(line)
    broken = list(_keys_left(data_dir, told))
    try:
        clock = _Still(told.clock + 60.0)
        with scene.open_store(data_dir, clock, max_bytes=0, recovers=recovers) as store:
            broken += _look(store, told)
            if resume and not broken:
                broken = [f"after going on: {b}" for b in _resume(store, told)]
            return broken
    except (EdgedError, sqlite3.Error) as e:
        return [*broken, f"does not open: {type(e).__name__}: {e}"]


def _keys_left(data_dir: Path, told: Told) -> Iterable[str]:
    """Before anything mends it: files in which a destroyed key still stands, whatever they are called."""
    for path in data_dir.rglob("*keyring*"):
        unlocked = keyring.look([path], SiteKey(scene.SITE_KEY))[0].unlocked if path.is_file() else None
        for key in unlocked.ring.keys if unlocked is not None else ():
            if key.id in told.dead_keys:
                yield f"data key {key.id} was destroyed and stands in {path.relative_to(data_dir)}"


def _look(store: Store, told: Told) -> list[str]:
    newest = max(told.audit, default=0)
    published = audit.Head(newest, told.audit[newest]) if newest else None
    return [*_rows(store, told), *_pictures(store, told), *(f"check: {f}" for f in check.run(store, published))]


def _rows(store: Store, told: Told) -> Iterable[str]:
    for (camera, frame_id), (sha256, status) in told.receipts.items():
        receipt = frames.find_receipt(store, camera, frame_id)
        if receipt is None:
            yield f"frame {camera}:{frame_id} was receipted and is lost"
        elif (receipt.sha256, receipt.status) != (sha256, status):
            yield f"frame {camera}:{frame_id} was receipted otherwise: {receipt}"
    for number, sample in told.labels.items():
        found = [one for one in labels.of(store, sample) if one.id == number]
        if not found:
            yield f"label {number} of {sample} is lost"
        elif number in told.undone and found[0].undone is None:
            yield f"label {number} was taken back and is not"
    hashes = {e.n: e.hash for e in audit.rows(store, 1_000_000)}
    for n, row_hash in told.audit.items():
        if hashes.get(n) != row_hash:
            yield f"audit row {n} is lost"
    for number, state in told.releases.items():
        release = releases.get(store, number)
        if release is None or _STATES.index(release.state) < _STATES.index(state):
            yield f"release {number} was {state} and is {release and release.state}"
    for sha256 in told.models:
        try:
            models.read_model(store, sha256)
        except EdgedError as e:
            yield f"model {sha256}: {e}"
    for key_id in told.dead_keys:
        try:
            store.seal.key_of(store, key_id)
        except EdgedError:
            continue
        yield f"data key {key_id} was destroyed and opens"


def _pictures(store: Store, told: Told) -> Iterable[str]:
    """Every picture and crop of every frame that is there, told or not, is right or allowed to be gone."""
    missing = 0
    objects_held: set[str] = set()
    for row in store.rows("select camera, id, received, object from frame where status = 'stored'"):
        camera, frame_id = row["camera"], row["id"]
        sent = scene.frame(camera, frame_id).scrubbed
        wanted = [(f"{camera}:{frame_id}", row["object"], sent.jpeg)]
        crops = store.rows(
            "select id, object from sample where camera = ? and frame = ? order by id", (camera, frame_id)
        )
        if [c["id"] for c in crops] != [f"{camera}:{frame_id}:{i}" for i in range(len(sent.crops))]:
            yield f"frame {camera}:{frame_id} has samples {[c['id'] for c in crops]}, sent {len(sent.crops)}"
            continue
        wanted += [(c["id"], c["object"], content) for c, content in zip(crops, sent.crops, strict=True)]
        for name, object_id, content in wanted:
            if object_id is None:
                missing += name not in told.gone and (camera, day(row["received"])) not in told.days
                continue
            if name in told.gone:
                yield f"{name} was told gone and is there"
            objects_held.add(object_id)
            try:
                if objects.read(store, object_id) != content:
                    yield f"{name} opens to other bytes"
            except EdgedError as e:
                yield f"{name} does not open: {e}"
    if missing > told.may_go:
        yield f"{missing} pictures are gone, at most {told.may_go} may be"
    rows = int(store.value("select count(*) from object"))
    if rows != len(objects_held):
        yield f"{rows} objects for {len(objects_held)} pictures"
    standing = {a.code for a in alarms.standing(store)}
    if len(standing) > len(alarms.CODES):
        yield f"alarms stand twice: {standing}"


def _resume(store: Store, told: Told) -> list[str]:
    broken = []
    for camera, frame_id in list(told.receipts)[-1:]:
        sent = scene.frame(camera, frame_id)
        again = (
            frames.settle(store, sent.frame, "withheld", "too_dark")
            if sent.withheld
            else frames.add(store, sent.frame, sent.scrubbed)
        )
        if (again.sha256, again.status) != told.receipts[camera, frame_id]:
            broken.append(f"frame {camera}:{frame_id} came again and got another receipt: {again}")
    for n in range(2):
        new = scene.frame("gate", f"after-{n}")
        try:
            receipt = frames.add(store, new.frame, new.scrubbed)
        except Unavailable as e:  # a store that is full says so
            if e.code != "disk_full":
                raise
            continue
        told.receipts["gate", f"after-{n}"] = (receipt.sha256, "stored")
    with store.journal.settled():
        return broken + _look(store, told)
