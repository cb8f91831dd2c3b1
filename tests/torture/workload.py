"""A store at work, which says aloud every promise it was given: the program that the torture harnesses cut and kill.

    python -m tests.torture.workload DATA_DIR [--seed S] [--part NAME] [--frames N] [--tell FD] [--broken NAME] [--die NAME:N]

One line a promise goes to the descriptor `--tell` by one write, after the store's function returned and before anything
that builds on it; `told.py` reads the lines. The same seed sends the same frames: run again after a death it is the
camera that sends again. It uses only public functions of `edged.storage`. `--broken` switches one safeguard off: a
harness must notice.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edged.errors import Unavailable
from edged.storage import (
    Store,
    alarms,
    audit,
    clean,
    counters,
    erasure,
    frames,
    labels,
    models,
    objects,
    releases,
    retention,
    samples,
)
from tests.torture import broken, scene

DAY_S = 86_400.0
THREADS = 4


class Day:
    """A clock that goes a millisecond each time it is asked, and a day when it is told."""

    def __init__(self, at: float = scene.START) -> None:
        self.at = at

    def now(self) -> float:
        self.at += 0.001
        return self.at

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


class Work:
    """What the parts share: the store, the clock, chance, and where promises are told."""

    def __init__(self, store: Store, clock: Day, seed: int, frames_: int, told: Callable[[str], None]) -> None:
        self.store, self.clock, self.rng, self.frames = store, clock, random.Random(seed), frames_
        self.seed, self.sent, self._told = seed, 0, told
        self._gone: set[str] = set()

    def tell(self, *words: object) -> None:
        self._told(" ".join(map(str, words)) + "\n")

    def send(self, camera: str, frame_id: str) -> None:
        """One frame, stored or withheld as its content wills; told with its receipt."""
        sent = scene.frame(camera, frame_id)
        try:
            if sent.withheld:
                receipt = frames.settle(self.store, sent.frame, "withheld", "too_dark")
            else:
                receipt = frames.add(self.store, sent.frame, sent.scrubbed)
        except Unavailable as e:
            if e.code not in (
                "disk_full",
                "key_destroyed",
            ):  # the store is full, or the day is being erased: no receipt
                raise
            return
        self.tell("receipt", camera, receipt.id, receipt.sha256, receipt.status)

    def tell_gone(self) -> None:
        """Every picture that left since the last call."""
        for row in self.store.rows(
            "select camera || ':' || id from frame where status = 'stored' and object is null"
            " union all select id from sample where object is null"
        ):
            if row[0] not in self._gone:
                self._gone.add(row[0])
                self.tell("gone", row[0])


def ingest(work: Work) -> None:
    """Several cameras at once, so that frames share a flush; one in eight comes twice at the same time."""
    batch = []
    for _ in range(work.frames):
        one = (work.rng.choice(scene.CAMERAS), f"s{work.seed}-{work.sent}")
        work.sent += 1
        batch += [one] * (2 if work.rng.random() < 1 / 8 else 1)
    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(work.send, *one) for one in batch]:
            done.result()


def label(work: Work) -> None:
    """Labels, one taken back, an import, an alarm, and a counter, which promises nothing."""
    seen = samples.recent(work.store, limit=50)
    for sample in work.rng.sample(seen, min(4, len(seen))):
        number = labels.add(work.store, sample, work.rng.choice(("car", "free")), "human", "ann")
        work.tell("label", number, sample.id)
        if work.rng.random() < 0.3:
            labels.undo(work.store, number, "ann")
            work.tell("undone", number)
        counters.bump(work.store, "labelled")
    labels.add_many(work.store, [(s.id, "car") for s in seen[:2]], "teacher", "teacher")
    work.tell("audit", *audit.head(work.store))
    if alarms.sound(work.store, alarms.SCRUB_DOWN, "no scrub child starts"):
        work.tell("alarm", alarms.SCRUB_DOWN, "standing")
    else:
        alarms.clear(work.store, alarms.SCRUB_DOWN)
        work.tell("alarm", alarms.SCRUB_DOWN, "cleared")


def release(work: Work) -> None:
    """A model switch: the file, the release, the end of the one before it, and the act in the log."""
    store = work.store
    before = releases.latest(store)
    number = releases.next_number(store)
    sha256 = models.put_model(store, scene.noise(f"model {work.seed} {number}", 5000))
    work.tell("model", sha256)
    with store.transaction():
        releases.add(
            store, number=number, name="lot", candidate=None, sha256=sha256, size=5000,
            target=f"lot/{number}.onnx", classes=("car", "free"),
        )  # fmt: skip
        head = audit.append(store, "ann", "release", str(number), {"sha256": sha256})
    work.tell("release", number, "rolling")
    work.tell("audit", *head)
    if before is not None:
        releases.set_state(store, before.number, "superseded")
        work.tell("release", before.number, "superseded")


def retain(work: Work) -> None:
    """Retention takes up to a fifth of the pictures."""
    thin(work, 0.2)


def thin(work: Work, share: float) -> None:
    """Retention takes up to that share of the pictures."""
    objects_then = int(work.store.value("select count(*) from object")) + 6 * work.frames  # what comes in meanwhile
    most = int(objects_then * share) + 1
    work.tell("taking", most)
    keep = int(objects.used(work.store) * (1 - 0.8 * share))
    retention.run(work.store, retention.Rules(max_bytes=keep, max_age_s=30 * DAY_S, max_share=share))
    work.tell_gone()
    work.tell("taken", most)


def recycle(work: Work) -> None:
    """Fill the store, let half of it go, move what is left together, fill what became free; twice."""
    for _ in range(2):
        for _ in range(3):
            ingest(work)
        thin(work, 0.5)
        busy(tidy)(work)


def tidy(work: Work) -> None:
    """Free segments."""
    clean.run(work.store, spare=12)


def reseal(work: Work) -> None:
    """A camera and day is sealed anew, then the old keys are destroyed: what was there stays, by a new key."""
    days = work.store.rows("select distinct camera, date(created, 'unixepoch') from object order by 2, 1")
    if not days:
        return
    camera, when = work.rng.choice(days)
    of_day = "select id, key_id from object where camera = ? and date(created, 'unixepoch') = ?"
    rows = work.store.rows(of_day, (camera, when))
    keys = sorted({r["key_id"] for r in rows})
    while rows:
        try:
            clean.reseal(work.store, [r["id"] for r in rows])
        except Unavailable as e:
            if e.code != "disk_full":
                raise
            return
        with work.store.journal.settled():  # what was promised under the old keys has rows now
            rows = [r for r in work.store.rows(of_day, (camera, when)) if r["key_id"] in keys]
            if not rows:
                work.store.seal.destroy(work.store, keys)
    work.tell("destroyed", *keys)


def erase_one(work: Work) -> None:
    """Erasure of one sample with the picture around it: all else under its key is sealed anew."""
    seen = [s for s in samples.recent(work.store, limit=50) if s.object is not None]
    if not seen:
        return
    sample = work.rng.choice(seen)
    keys = work.store.rows(
        "select distinct key_id from object where id = ?1 or id = (select object from frame where camera = ?2 and id = ?3)",
        (sample.object, sample.camera, sample.frame),
    )
    work.tell("taking", 2)
    try:
        erasure.now(work.store, erasure.What(samples=(sample.id,)), "ann")
    except Unavailable as e:
        if e.code != "disk_full":
            raise
        return
    work.tell_gone()
    work.tell("taken", 2)
    work.tell("destroyed", *(k[0] for k in keys))


def erase(work: Work) -> None:
    """Erasure of one camera and day; the data keys that sealed it are named, none may open again."""
    days = work.store.rows("select distinct camera, date(created, 'unixepoch') from object order by 2, 1")
    if not days:
        return
    camera, when = work.rng.choice(days)
    keys = work.store.rows(
        "select distinct key_id from object where camera = ? and date(created, 'unixepoch') = ?", (camera, when)
    )
    work.tell("erasing", camera, when)
    try:
        erasure.now(work.store, erasure.What(camera=camera, first=when, last=when), "ann")
    except Unavailable as e:  # promised; it goes on when there is room, or at the next start
        if e.code != "disk_full":
            raise
        return
    work.tell_gone()
    work.tell("erased", camera, when)
    work.tell("destroyed", *(k[0] for k in keys))
    work.tell("audit", *audit.head(work.store))


def next_day(work: Work) -> None:
    """New data keys for every camera."""
    work.clock.sleep(DAY_S)
    work.tell("clock", work.clock.at)


def reopen(work: Work) -> None:
    """Close and open as a start of the daemon does."""
    work.store.close()
    work.store = scene.open_store(work.store.data_dir, work.clock)


def busy(part: Callable[[Work], None]) -> Callable[[Work], None]:
    """The part while frames come in."""

    def both(work: Work) -> None:
        background = threading.Thread(target=ingest, args=(work,))
        background.start()
        try:
            part(work)
        finally:
            background.join()

    both.__name__ = f"busy {part.__name__}"
    return both


PARTS: dict[str, Sequence[Callable[[Work], None]]] = {
    "ingest": (ingest, ingest),
    "catalogue": (ingest, label, release, label, release, label),
    "retention": (ingest, retain, busy(retain), next_day, ingest, retain),
    "erasure": (ingest, erase_one, next_day, ingest, erase, busy(erase), busy(erase_one), reopen),
    "recycle": (recycle, reseal, recycle),
    "keys": (ingest, reseal, ingest, next_day, busy(reseal), erase, reopen, ingest),
    "all": (ingest, label, release, retain, next_day, ingest, busy(label), erase, release, busy(retain), reopen,
            ingest, next_day, busy(erase), tidy, label),
}  # fmt: skip


def run(data_dir: Path, *, seed: int, part: str, frames_: int, tell: int) -> None:
    """Open the store as the daemon does, do the part, close."""
    clock = Day()
    store = scene.open_store(data_dir, clock)
    clock.at = max(clock.at, float(store.value("select max(received) from frame") or 0.0) + 1.0)
    work = Work(store, clock, seed, frames_, lambda line: _all(tell, line.encode()))
    work.tell("clock", clock.at)
    work.tell_gone()
    work.tell("begin")
    for step in PARTS[part]:
        step(work)
    work.store.close()
    work.tell("end")


def _all(fd: int, line: bytes) -> None:
    assert os.write(fd, line) == len(line)


def _die(name: str, n: int) -> None:
    """SIGKILL instead of the `n`-th call of a function of `os`, whichever thread calls it."""
    real, left = getattr(os, name), itertools.count(1)

    def call(*args: object, **options: object) -> object:
        if next(left) == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **options)

    setattr(os, name, call)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", choices=PARTS, default="all")
    parser.add_argument("--frames", type=int, default=12, help="frames of each ingest")
    parser.add_argument("--tell", type=int, default=1, help="descriptor for the promises")
    parser.add_argument("--broken", choices=broken.BUILDS)
    parser.add_argument("--die", metavar="NAME:N", help="be killed instead of the N-th os.NAME")
    args = parser.parse_args()
    if args.broken:
        broken.BUILDS[args.broken].switch_off()
    if args.die:
        name, _, n = args.die.partition(":")
        _die(name, int(n))
    run(args.data_dir, seed=args.seed, part=args.part, frames_=args.frames, tell=args.tell)


if __name__ == "__main__":
    main()
