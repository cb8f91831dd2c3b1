"""Deltas that somebody else made: taken or a named error, in bounded time and memory, never anything else."""

import random
import time
import tracemalloc
import zlib

import pytest

from edged.engine.protobuf import leb128
from edged.errors import Corrupt, Refused
from edged.packed import delta
from edged.packed.rangecoder import Encoder

from .pairs import corpus
from .test_hostile import forged, lengths_swapped, opened

MUTANTS = 700
NAMES = (
    "float", "float, hardly moved", "float, rows multiplied", "half", "sparse", "head only", "int8", "uint8", "renamed",
    "other shapes", "nodes renamed", "eight bytes", "no models",
)  # fmt: skip
PAIRS = corpus()
SEEDS = [(old, new, delta.make(old, new)) for old, new in (PAIRS[name] for name in NAMES)]


def taken(old, new, data, most=1 << 20):
    """Whether a file came out, then it is the right one; anything but Corrupt and Refused escapes."""
    try:
        found = delta.rebuild(old, data, most=most)
    except (Corrupt, Refused):
        return False
    assert found == new
    return True


@pytest.mark.parametrize("mutate", [forged, lengths_swapped])
def test_no_mutant_is_anything_but_the_right_file_or_refused(mutate):
    rng, slowest, through = random.Random(7), 0.0, 0
    for _ in range(MUTANTS):
        old, new, data = rng.choice(SEEDS)
        began = time.process_time()
        mutant = mutate(data, rng)
        through += mutant != data and taken(old, new, mutant)
        slowest = max(slowest, time.process_time() - began)
    print(
        f"{mutate.__name__}: {MUTANTS} mutants, seed 7, {through} led to the right file, slowest {slowest:.2f} s of CPU"
    )
    assert through < MUTANTS // 10


def test_the_control_a_build_that_compares_no_hash_takes_wrong_files(monkeypatch):
    class Believing:
        def __init__(self, wanted):
            self.wanted = wanted

        def update(self, piece):
            pass

        def hexdigest(self):
            return self.wanted

    rng, wrong = random.Random(7), 0
    for _ in range(400):
        old, new, data = rng.choice(SEEDS)
        mutant = forged(data, rng)
        with monkeypatch.context() as broken:
            sums = iter([mutant[36:68].hex(), mutant[4:36].hex()])
            broken.setattr(delta.hashlib, "sha256", lambda *_, sums=sums: Believing(next(sums)))
            try:
                wrong += delta.rebuild(old, mutant, most=1 << 20) != new
            except (Corrupt, Refused):
                continue
    print(f"400 mutants, seed 7: {wrong} wrong files")
    assert wrong > 10


@pytest.mark.parametrize("name", ["head only", "int8", "nodes renamed"])
def test_each_byte_changed_is_found(name):
    old, _, data = SEEDS[NAMES.index(name)]
    rng = random.Random(5)
    places = range(len(data)) if len(data) < 600 else sorted(rng.sample(range(len(data)), 600))
    for place in places:
        changed = bytearray(data)
        changed[place] ^= rng.randrange(1, 256)
        with pytest.raises((Corrupt, Refused)):
            delta.rebuild(old, bytes(changed))
    print(f"{name}: {len(places)} bytes of {len(data)}, seed 5, all found")


@pytest.mark.parametrize("name", ["int8", "renamed"])
def test_a_delta_cut_anywhere_is_corrupt(name):
    old, _, data = SEEDS[NAMES.index(name)]
    for at in range(4, len(data), max(1, len(data) // 150)):
        with pytest.raises(Corrupt):
            delta.rebuild(old, data[:at])
    with pytest.raises(Corrupt, match="longer"):
        delta.rebuild(old, data + b"\0")


def sealed(data, lengths, side):
    """A delta of nothing but a side stream, with the head of another and a right checksum."""
    head = data[:68] + b"".join(map(leb128, (*lengths, len(side), 0)))
    return head + zlib.crc32(side, zlib.crc32(head)).to_bytes(4, "little") + side


def test_lengths_that_are_forged_allocate_nothing():
    """A run, a piece and an insert of half a gigabyte each; and as many runs as a number holds."""
    old, _, data = SEEDS[0]
    bombs = []
    for numbers in (
        [("runs", 1), ("gap", 0), ("size", 1 << 29)],
        [("runs", 0), ("insert", 0), ("copy", 1 << 29), ("from", 0)],
        [("runs", 0), ("insert", 1 << 29)],
        [("runs", (1 << 63) - 1)],
        [("runs", 1), ("gap", 0), ("size", 1 << 29), ("base", (1 << 62))],
        [("runs", 0)] + [("insert", 0), ("copy", 0)] * 9,
    ):
        side = Encoder()
        for name, value in numbers:
            side.number(name, value)
        bombs.append(sealed(data, (1 << 29, 0, 0), side.finish()))
    at, _ = opened(data)
    bombs.append(data[:68] + b"".join(map(leb128, [1 << 29, 5, 1 << 30, 1 << 30, 1 << 30])) + data[at:])
    for bomb in bombs:
        tracemalloc.start()
        try:
            assert not taken(old, b"", bomb, most=1 << 30)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 1 << 20
    print(f"{len(bombs)} bombs")


def test_a_delta_that_repeats_the_old_file_stops_at_what_is_allowed():
    old, _, data = SEEDS[0]
    side = Encoder()
    side.number("runs", 0)
    for _ in range(400):
        side.number("insert", 0)
        side.number("copy", len(old))
        side.number("from", 0)
    bomb = sealed(data, (len(old) * 400, 0, 0), side.finish())
    assert len(bomb) < 3000
    assert not taken(old, b"", bomb, most=len(old) * 399)
    assert not taken(old, b"", bomb, most=len(old) * 400)  # it swells no further than that, and its hash is wrong
