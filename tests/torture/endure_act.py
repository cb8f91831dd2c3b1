"""A box whose disk fails: two cameras bring frames, somebody writes to the audit log; who is told "later" tries again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from edged.errors import EdgedError, Unavailable
from edged.storage import audit, frames
from edged.storage.store import Store
from tests.torture.act import NOON, Act, Promise
from tests.torture.box_acts import SEGMENT, SITE_KEY, empty, kept, picture, sound
from tests.torture.scene import recover

CAMERAS = ("gate", "yard")
HASTE = 20.0  # the store's waits are waited so much faster
PAUSE_S = 0.01


class Hasty:
    """Wall time stands still, monotonic time runs fast."""

    def now(self) -> float:
        return NOON

    def monotonic(self) -> float:
        return time.monotonic() * HASTE

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / HASTE)


def play(folder: Path, promise: Promise, broken: str) -> None:
    """Until a file `stop` lies beside the folder."""
    if broken == "sync again":
        _sync_again()
    stop = folder.with_name("stop")
    with Store.open(folder, clock=Hasty(), site_key=SITE_KEY, segment_bytes=SEGMENT) as store:
        recover.run(store)
        threads = [threading.Thread(target=_bring, args=(store, camera, promise, stop.exists)) for camera in CAMERAS]
        threads.append(threading.Thread(target=_note, args=(store, promise, stop.exists)))
        for thread in threads:
            thread.start()
        promise("ready")
        for thread in threads:
            thread.join()


def _bring(store: Store, camera: str, promise: Promise, stop: Callable[[], bool]) -> None:
    n = 0
    while not stop():
        try:
            frames.add(store, *picture(camera, n))
            promise(f"stored {camera} {n}")
            n += 1
        except Unavailable as e:
            promise(f"retry {e.code}")
        except Exception as e:  # noqa: BLE001 a finding
            promise(f"raised {type(e).__name__} for a frame: {e}")
        time.sleep(PAUSE_S)


def _note(store: Store, promise: Promise, stop: Callable[[], bool]) -> None:
    while not stop():
        try:
            promise(f"audit {audit.append(store, 'Ada', 'looked', 'disk').n}")
        except EdgedError as e:
            promise(f"unaudited {e.code}")
        except Exception as e:  # noqa: BLE001 a finding
            promise(f"raised {type(e).__name__} for the audit log: {e}")
        time.sleep(PAUSE_S)


def _sync_again() -> None:
    """Defect: a sync that failed is tried once more."""

    def twice(real: Callable[[int], None], fd: int) -> None:
        try:
            real(fd)
        except OSError:
            real(fd)

    os.fdatasync, os.fsync = partial(twice, os.fdatasync), partial(twice, os.fsync)


def check(folder: Path, promises: Sequence[str], final: bool) -> list[str]:
    def look(store: Store) -> Iterator[str]:
        yield from kept(store, promises, False, 0)
        noted = [int(p.split()[1]) for p in promises if p.startswith("audit")]
        there = {e.n for e in audit.rows(store, 1_000_000)}
        yield from (f"audit row {n} is lost" for n in noted if n not in there)

    return sound(folder, look)


ENDURE = {"endure": Act(empty, play, check)}
