"""Short forms of `python -m tests.fuzz`: what strangers send is taken or refused, and nothing else happens."""

import random
from functools import partial

import pytest

from edged.errors import EdgedError, Refused
from edged.privacy import jpeg
from edged.privacy.pool import ScrubChild
from edged.privacy.scrub import ScrubOptions, Withheld
from edged.wire.messages import Frame, FrameHeader

from .bombs import BOMBS
from .mutate import mutant, pictures, seeds_of
from .targets import TARGETS, survives

MAGENTA, GREEN = (255, 0, 255), (0, 255, 0)


def frame(data, n=0, px=64):
    return Frame("gate", FrameHeader(f"b-{n}", 1.0, n, "b", px, px), data)


@pytest.fixture(scope="module")
def child():
    """A real scrub child that looks for nothing: what is tried here comes before the detectors."""
    with ScrubChild(ScrubOptions(faces=False, plates=False, unjudged="keep"), deadline_s=10) as made:
        made.ready()
        yield made


@pytest.mark.parametrize("name", TARGETS)
def test_no_mutant_is_anything_but_taken_or_refused(name):
    rng, seeds, n = random.Random(f"{name} 1"), seeds_of(name), 4000
    assert all(survives(TARGETS[name], s) for s in seeds)
    taken = sum(survives(TARGETS[name], mutant(rng, seeds)) for _ in range(n))
    print(f"{name}: {n} mutants, seed 1, {taken} taken")
    assert taken < n


def test_the_control_a_target_without_its_checks_is_caught():
    """The harness tells an escaped error from a refusal."""
    rng, seeds = random.Random(2), seeds_of("header")

    def unchecked(data):
        float(data.decode().split("\n")[3])

    mutants = [mutant(rng, seeds) for _ in range(1000)]
    with pytest.raises((ValueError, IndexError)):
        list(map(partial(survives, unchecked), mutants))


def test_there_are_fifty_bombs_with_the_630_bytes_among_them():
    assert len(BOMBS) >= 50
    assert len(BOMBS["630 bytes"]) == 630


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_any_decoder_sees_it(name):
    with pytest.raises(Refused):
        jpeg.check(BOMBS[name])


def test_bombs_cost_the_child_nothing(child):
    pid = child.pid
    for n, data in enumerate(BOMBS.values()):
        with pytest.raises(Refused):
            child.scrub(frame(data, n))
    assert child.pid == pid


def behind(child, colour, data, n):
    """What becomes of a picture that comes right behind one of a single colour."""
    child.scrub(frame(pictures(colour=colour)[0], 2 * n))
    return child.scrub(frame(data, 2 * n + 1)).jpeg


def test_a_damaged_picture_never_shows_pixels_of_the_one_before(child):
    """OpenCV 4.10 filled what was missing with the picture that it had decoded before."""
    rng, seeds = random.Random(3), pictures()
    came = 0
    for n in range(300):
        data = mutant(rng, seeds)
        try:
            first = behind(child, MAGENTA, data, 2 * n)
        except (Refused, Withheld):
            continue
        came += 1
        assert behind(child, GREEN, data, 2 * n + 1) == first
    print(f"300 mutants, seed 3: {came} were pictures")
    assert came > 3


def test_a_picture_cut_anywhere_is_refused(child):
    data = pictures()[0]
    for at in range(0, len(data) - 1, max(1, len(data) // 60)):
        with pytest.raises(EdgedError):
            child.scrub(frame(data[:at], at))
