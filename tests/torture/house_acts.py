"""The acts of housekeeping: retention, cleaning, erasure, and the start that gives lost rows back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from edged.clock import day
from edged.storage import clean, erasure, frames, labels, objects, retention, rotate, samples, sitekey
from edged.storage.store import Store
from tests.torture.act import NOON, Act, Promise
from tests.torture.box_acts import CROPS, SEGMENT, SITE_KEY, fill, kept, key_place, open_store, picture, sound
from tests.torture.scene import recover

# retention: two runs over a store that is too large, with a label in it

FRAMES = 40


def prepare_retention(folder: Path) -> None:
    fill(folder, FRAMES // 2)
    with open_store(folder) as store:
        labels.add(store, "gate:boot-0:0", "car", "human", "Ada")


def play_retention(folder: Path, promise: Promise, broken: str) -> None:
    with open_store(folder, NOON + 100) as store:
        recover.run(store)
        for _ in range(2):
            done = retention.run(store, retention.Rules(max_bytes=20_000, max_age_s=1e9))
            promise(f"thinned {done.objects}")


def check_retention(folder: Path, promises: Sequence[str], final: bool) -> list[str]:
    def look(store: Store) -> Iterator[str]:
        total = FRAMES * (1 + CROPS)
        there = int(store.value("select count(*) from object"))
        taken = sum(int(p.split()[1]) for p in promises)
        runs = len(promises) + 1  # one may have ended without a word
        if not total - runs * max(1, total // 20) <= there <= total - taken:
            yield f"{there} objects of {total} are there after {runs} runs that said they took {taken}"
        if frames.count(store) != FRAMES:
            yield "a row of a frame is lost"
        samples.crop(store, "gate:boot-0:0")

    return sound(folder, look)


# cleaning: segments with few living objects are emptied into others


def prepare_cleaning(folder: Path) -> None:
    fill(folder, 15)
    with open_store(folder) as store:
        gone = [r[0] for r in store.rows("select id from object") if int(r[0][-2:], 16) % 3]
        with store.transaction():
            objects.forget(store, gone)


def play_cleaning(folder: Path, promise: Promise, broken: str) -> None:
    with open_store(folder, max_bytes=9 * SEGMENT) as store:
        recover.run(store)
        before = int(store.value("select count(*) from object"))
        promise(f"there {before}")
        promise(f"freed {clean.run(store).freed}")
        for n in range(3):  # into what was freed
            fill_one(store, n, promise)


def fill_one(store: Store, n: int, promise: Promise) -> None:
    frames.add(store, *picture("new", n))
    promise(f"stored new {n}")


def check_cleaning(folder: Path, promises: Sequence[str], final: bool) -> list[str]:
    def look(store: Store) -> Iterator[str]:
        there = int(store.value("select count(*) from object where camera <> 'new'"))
        before = [int(p.split()[1]) for p in promises if p.startswith("there")]
        if before and there != before[0]:
            yield f"{there} objects are there, {before[0]} were before"
        yield from kept(store, promises, False, 0)

    return sound(folder, look)


# erasure of one camera's day

ERASED = 6


def play_erasure(folder: Path, promise: Promise, broken: str) -> None:
    with open_store(folder) as store:
        recover.run(store)
        erasure.now(store, erasure.What(camera="gate", first=day(NOON), last=day(NOON)), "Ada")
        promise("erased")


def check_erasure(folder: Path, promises: Sequence[str], final: bool) -> list[str]:
    def look(store: Store) -> Iterator[str]:
        there = int(store.value("select count(*) from object where camera = 'gate'"))
        if there not in (0, ERASED * (1 + CROPS)) or (there and promises):
            yield f"{there} objects of what was erased are there"
        told = int(store.value("select count(*) from audit where act like '%eras%' or act like '%purge%'"))
        if (there == 0) != (told > 0):
            yield f"{there} objects are there, but the audit log tells of {told} erasures"
        if store.value("select count(*) from object where camera = 'yard'") != ERASED * (1 + CROPS):
            yield "another camera lost pictures"

    return sound(folder, look)


# start: the catalogue is that of some time ago, as a power cut may leave it; its rows come back from the segments


def prepare_start(folder: Path) -> None:
    fill(folder, 4)
    then = folder.with_name("then.db")
    shutil.copy(folder / "edged.db", then)
    for camera in ("gate", "yard"):
        fill(folder, 9, (camera,))
    shutil.move(then, folder / "edged.db")


def play_start(folder: Path, promise: Promise, broken: str) -> None:
    with open_store(folder) as store:
        recover.run(store)
        promise("ready")


def check_start(folder: Path, promises: Sequence[str], final: bool) -> list[str]:
    owed = [f"stored {camera} {n}" for camera in ("gate", "yard") for n in range(9)]
    return sound(folder, lambda store: kept(store, owed, True, 18))


# rotation of the site key


def prepare_rotation(folder: Path) -> None:
    fill(folder, 3)
    sitekey.put_new(key_place(folder), SITE_KEY)


def play_rotation(folder: Path, promise: Promise, broken: str) -> None:
    place = key_place(folder)
    with open_store(folder) as store:
        recover.run(store)
        done = rotate.run(store, place, "Ada")
        promise(f"rotated {done.fingerprint}")
    with open_store(folder) as store:
        fill_one(store, 0, promise)


def check_rotation(folder: Path, promises: Sequence[str], final: bool) -> list[str]:
    owed = [f"stored {camera} {n}" for camera in ("gate", "yard") for n in range(3)]
    found = sound(folder, lambda store: kept(store, [*owed, *promises], False, 0))
    key = sitekey.read(key_place(folder))
    told = [p.split()[1] for p in promises if p.startswith("rotated")]
    if told and key == SITE_KEY:
        found.append("the old key lies in its place again")
    if final and key_place(folder).staged.exists():
        found.append("the new key lies beside its place")
    # That one is under way may be said until it has ended.
    return found if final else [f for f in found if "rotation_unfinished" not in f]


HOUSE = {
    "rotation": Act(prepare_rotation, play_rotation, check_rotation),
    "retention": Act(prepare_retention, play_retention, check_retention),
    "cleaning": Act(prepare_cleaning, play_cleaning, check_cleaning),
    "erasure": Act(partial(fill, per_camera=ERASED), play_erasure, check_erasure),
    "start": Act(prepare_start, play_start, check_start),
}
