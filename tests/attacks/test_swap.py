"""Between check and use: a thread swaps the model file as fast as it can while its slot is loaded 10,000 times.

(RAUC's CVE-2020-25860: a bundle was verified, then opened once more to be installed.)
"""

import hashlib
import os
import sys
import threading
from contextlib import contextmanager

import pytest

from agent.selftest import KnownAnswer
from agent.slots import Loaded, Slot, Slots
from edged.errors import Corrupt

LOADS, SWAPS = 10_000, 10_000
GOOD, EVIL = b"good" * 1000, b"evil" * 1000


class OpensTwice(Slots):
    """The control: what was checked is not what is loaded."""

    def _verified(self, name, slot):
        super()._verified(name, slot)
        os.sched_yield()
        return (self.folder / name / "model.onnx").read_bytes()


@contextmanager
def swapping(path, turns):
    """`turns[0]` counts how often the file was another one."""
    good, evil = path.with_name("good.link"), path.with_name("evil.link")
    kept = path.with_name("good"), path.with_name("evil")
    for file, data in zip(kept, (GOOD, EVIL), strict=True):
        file.write_bytes(data)
    stop = threading.Event()

    def swap():
        while not stop.is_set() or turns[0] < SWAPS:
            for file, link in zip(kept, (good, evil), strict=True):
                os.link(file, link)
                os.replace(link, path)
            turns[0] += 1
            if turns[0] >= SWAPS and stop.is_set():
                break

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(before)


def loads(kind, folder):
    """(unverified, refused, swaps): how often the evil bytes were handed over, or the slot was found changed."""
    slots = kind(folder)
    slot = Slot("cars", 1, hashlib.sha256(GOOD).hexdigest(), ("a", "b"), 32, KnownAnswer((1,), 32, ((0.0, 1.0),), 0.1))
    slots.stage(slot, GOOD)
    slots.switch()
    unverified = refused = 0
    turns = [0]
    with swapping(slots.folder / slots.pointer.active / "model.onnx", turns):
        for _ in range(LOADS):
            try:
                loaded = slots.load()
            except Corrupt:
                refused += 1
                continue
            assert isinstance(loaded, Loaded)
            unverified += loaded.model != GOOD
    return unverified, refused, turns[0]


@pytest.mark.parametrize("kind", [Slots, OpensTwice], ids=["", "control"])
def test_of_10_000_loads_while_the_file_is_swapped_none_is_unverified(tmp_path, capsys, kind):
    unverified, refused, swaps = loads(kind, tmp_path)
    with capsys.disabled():
        print(f"\n{kind.__name__}: {LOADS} loads, {swaps} swaps, {refused} found changed, {unverified} unverified")
    assert swaps >= SWAPS
    assert refused > 100  # the swaps did fall between
    assert (unverified > 0) == (kind is OpensTwice)
