"""A box under load, to be killed at a random moment: threads that bring frames, one that keeps house. It never ends by itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from edged.storage import alarms, clean, frames, labels, retention
from edged.storage.store import Store
from tests.torture.act import Act, Promise
from tests.torture.box_acts import empty, open_store, picture, picture_lost, sound
from tests.torture.scene import recover

CAMERAS = ("gate", "yard", "dock", "passing")  # retention lets "passing" have little room


def play(folder: Path, promise: Promise, broken: str) -> None:
    with open_store(folder, max_bytes=1 << 25) as store:
        recover.run(store)
        promise("ready")
        threads = [threading.Thread(target=_bring, args=(store, camera, promise), daemon=True) for camera in CAMERAS]
        for thread in threads:
            thread.start()
        while all(thread.is_alive() for thread in threads):
            _keep_house(store, promise)
    promise("raised a thread ended")


def _bring(store: Store, camera: str, promise: Promise) -> None:
    n = int(store.value("select coalesce(max(seq), -1) + 1 from frame where camera = ?", (camera,)))
    while True:
        frames.add(store, *picture(camera, n))
        promise(f"stored {camera} {n}")
        n += 1


def _keep_house(store: Store, promise: Promise) -> None:
    retention.run(store, retention.Rules(max_bytes=0, max_age_s=1e9, cameras={"passing": retention.Limits(60_000)}))
    clean.run(store)
    sample = store.value("select id from sample where camera = 'gate' order by random() limit 1")
    if sample:
        promise(f"label {labels.add(store, sample, 'car', 'human', 'Ada')} {sample}")
    if not alarms.sound(store, "scrub_down", "for a moment"):
        alarms.clear(store, "scrub_down")


def check(folder: Path, promises: Sequence[str], final: bool) -> list[str]:
    def look(store: Store) -> Iterator[str]:
        for words in (p.split() for p in promises):
            if words[0] == "label":
                if store.value("select sample from label where id = ?", (int(words[1]),)) != words[2]:
                    yield f"label {words[1]} is lost"
            elif words[0] == "stored":
                receipt = frames.find_receipt(store, words[1], f"boot-{words[2]}")
                if receipt is None or receipt.status != "stored":
                    yield f"frame {words[1]} {words[2]} was receipted and is lost"
                elif words[1] != "passing" and picture_lost(store, words[1], int(words[2])):
                    yield f"the picture of frame {words[1]} {words[2]} is lost"

    return sound(folder, look)


LOAD = {"load": Act(empty, play, check)}
