"""Bytes that somebody else made: taken or a named error, in bounded time, never anything else."""

import random
import time
import tracemalloc
import zlib
from pathlib import Path

import pytest

from edged import packed
from edged.engine.protobuf import leb128
from edged.errors import Corrupt, Refused
from edged.packed.rangecoder import Decoder

from .made import model, samples

MUTANTS = 1500


def survives(data, most=1 << 22):
    """Whether it was taken; anything but Corrupt and Refused escapes."""
    try:
        packed.unpack(data, most=most)
    except (Corrupt, Refused):
        return False
    return True


def start_of_lengths(data):
    return 68 if data.startswith(b"EPD") else 36


def opened(data):
    """(end of the lengths, the lengths) of a packed model or a delta, which names a second hash."""
    at = start_of_lengths(data)
    lengths = []
    for _ in range(5):
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        lengths.append(value)
    return at, lengths


def forged(data, rng):
    """A mutant whose head matches its checksum: what is behind that door is tried, too."""
    at, (_, _, graph, side, _) = opened(data)
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(at + 4 + graph, len(out)) if rng.random() < 0.9 else rng.randrange(at + 4, len(out))
        match rng.randrange(4):
            case 0:
                out[place] ^= 1 << rng.randrange(8)
            case 1:
                out[place] = rng.choice((0, 255, rng.randrange(256)))
            case 2:
                other = rng.randrange(at + 4 + graph, len(out))
                out[place], out[other] = out[other], out[place]
            case _:
                width = rng.randrange(1, 9)
                out[place : place + width] = bytes(rng.randrange(256) for _ in range(len(out[place : place + width])))
    covered = zlib.crc32(bytes(out[at + 4 : at + 4 + graph + side]), zlib.crc32(bytes(out[:at])))
    out[at : at + 4] = covered.to_bytes(4, "little")
    return bytes(out)


def lengths_swapped(data, rng):
    at, lengths = opened(data)
    i, j = rng.randrange(5), rng.randrange(5)
    lengths[i], lengths[j] = lengths[j], rng.choice((lengths[i], 1 << rng.randrange(40), 0))
    head = data[: start_of_lengths(data)] + b"".join(map(leb128, lengths))
    rest = data[at + 4 :]
    covered = zlib.crc32(rest[: lengths[2] + lengths[3]], zlib.crc32(head))
    return head + covered.to_bytes(4, "little") + rest


SEEDS = [packed.pack(model(w=array)) for array in samples().values()]
SEEDS += [packed.pack(model(w=array), coder="csr") for array in list(samples().values())[:4]]
SEEDS.append(packed.pack(packed.unpack((Path(__file__).parent / "version-1.epk").read_bytes())))  # with lanes


@pytest.mark.parametrize("mutate", [forged, lengths_swapped])
def test_no_mutant_is_anything_but_taken_or_refused(mutate):
    rng, slowest, taken = random.Random(7), 0.0, 0
    for _ in range(MUTANTS):
        data = mutate(rng.choice(SEEDS), rng)
        began = time.process_time()
        taken += survives(data)
        slowest = max(slowest, time.process_time() - began)
    print(f"{mutate.__name__}: {MUTANTS} mutants, seed 7, {taken} taken, the slowest {slowest:.2f} s of CPU")
    assert taken < MUTANTS // 10


def test_the_control_a_decoder_that_does_not_check_is_caught():
    def unchecked(data):
        at, (_, _, graph, side, _) = opened(data)
        runs = Decoder(data[at + 4 + graph :][:side]).number("runs")
        return [data[at + 4 + graph + side]][runs]

    rng = random.Random(7)
    mutants = [forged(SEEDS[0], rng) for _ in range(200)]
    with pytest.raises(IndexError):
        list(map(unchecked, mutants))


def test_a_flipped_bit_anywhere_is_found():
    data = packed.pack(model(w=samples()["pictures"]))
    rng = random.Random(5)
    places = rng.sample(range(8 * len(data)), 600)
    for place in places:
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        assert not survives(bytes(changed)), place
    print(f"{len(places)} flips, seed 5, all found")


def test_a_length_that_is_forged_allocates_nothing():
    data = packed.pack(model(w=samples()["weights"]))
    at, lengths = opened(data)
    huge = data[:36] + b"".join(map(leb128, [1 << 29, 5, 1 << 30, 1 << 30, 1 << 30])) + data[at:]
    tracemalloc.start()
    try:
        assert not survives(huge, most=1 << 30)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20, lengths
