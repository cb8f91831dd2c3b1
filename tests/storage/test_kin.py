"""Kin: which unlabelled pictures a label speaks for, which it must not, and that noise has none."""

import random

import pytest

from edged.storage import insights, kin, labels, pins, samples, snapshots
from edged.storage.samples import Sample

BLOCK = 900.0


def picture(n, ts):
    return Sample(f"gate:b-{n}:0", "gate", f"b-{n}", ts, ts, 0, 0, 9, 9, "m", "car", 0.5, 0.5, "o")


def differs(bits):
    """A hash in which so many bits are set."""
    return (1 << bits) - 1


def spread(views, taught, apart_s=2 * BLOCK):
    """`views`: (time, hash); ids are b-0, b-1, ..."""
    there = [picture(n, ts) for n, (ts, _) in enumerate(views)]
    hashes = {s.id: h for s, (_, h) in zip(there, views, strict=True)}
    told = {f"gate:b-{n}:0": c for n, c in taught.items()}
    return {int(i.split("-")[1].split(":")[0]): c for i, c in kin.spread(there, told, hashes, apart_s)}


def test_a_label_goes_along_a_chain_of_alike_pictures_while_the_light_changes():
    views = [(n * BLOCK, differs(8 * n)) for n in range(5)]  # neighbours are 8 bits apart, the ends 32
    assert spread(views, {0: "car"}) == {1: "car", 2: "car", 3: "car", 4: "car"}


@pytest.mark.parametrize("views", [[(0, 0), (1, differs(11))], [(0, 0), (2 * BLOCK + 1, 0)]])
def test_another_look_and_a_long_time_break_the_chain(views):
    assert spread(views, {0: "car"}) == {}


def test_a_chain_that_people_disagree_on_gives_nothing():
    views = [(n, 0) for n in range(6)]
    assert spread(views, {0: "car", 1: "van"}) == {}
    assert len(spread(views, {0: "car", 1: "car"})) == 4


def test_one_label_speaks_for_a_few_so_that_a_wrong_one_stays_small():
    found = spread([(n, 0) for n in range(101)], {0: "car"})
    assert len(found) == kin.FEW
    assert max(found) - min(found) > 50  # not the first that come


def test_the_control_noise_has_no_kin():
    dice = random.Random(4)
    views = [(n, dice.getrandbits(64)) for n in range(400)]
    assert spread(views, dict.fromkeys(range(40), "car")) == {}


def frozen(store, **parts):
    body = snapshots.build([], ["car", "van"], holdout_ratio=0.0, block_s=BLOCK, seed=1)
    return body | {part: [[f"gate:boot-{n}:0", "car"] for n in numbers] for part, numbers in parts.items()}


@pytest.fixture
def alike(store, add, clock):
    """Twelve pictures that look the same, one each block's length."""
    for n in range(1, 13):
        add(store, n, regions=1, ts=clock.now() + n * BLOCK)
    ids = [f"gate:boot-{n}:0" for n in range(1, 13)]
    insights.add_many(store, [insights.Insight(i, 0) for i in ids])
    return ids


def numbers(found):
    return [int(i.split("-")[1].split(":")[0]) for i, _ in found]


def test_nothing_beside_what_judges_and_nothing_that_looks_like_it(store, alike):
    labels.add_many(store, [(alike[0], "car"), (alike[6], "car")], "human", "ann")
    assert len(kin.of(store, frozen(store, train=[1]), (), 1e12, 100)) == kin.FEW
    body = frozen(store, train=[1], tune=[7])
    assert kin.of(store, body, (), 1e12, 100) == []  # all look the same as what judges
    insights.add_many(store, [insights.Insight(alike[6], -1)])
    judge = samples.get(store, alike[6])
    found = kin.of(store, body, (), 1e12, 100)
    assert found
    assert all(int(samples.get(store, i).ts // BLOCK) != int(judge.ts // BLOCK) for i, _ in found)
    snapshots.add(store, frozen(store, holdout=[2]))  # held out once, whatever is held out now
    assert kin.of(store, body, (), 1e12, 100) == []


def test_what_looks_like_a_pinned_picture_does_not_teach(store, alike):
    labels.add_many(store, [(alike[0], "car"), (alike[6], "car")], "human", "ann")
    pins.add(store, [alike[6]], "ben")
    assert kin.of(store, frozen(store, train=[1]), (), 1e12, 100) == []


def test_only_new_labels_of_people_speak_and_only_for_what_nobody_labelled(store, alike):
    labels.add_many(store, [(alike[0], "car"), (alike[1], "van")], "human", "ann")
    body = frozen(store, train=[1])
    found = kin.of(store, body, (), 1e12, 100)
    assert 2 not in numbers(found)
    assert {c for _, c in found} == {"car"}
    assert labels.count(store) == 2
    assert kin.of(store, body, {(alike[0], "car")}, 1e12, 100) == []
    assert kin.of(store, body | {"teacher": [alike[0]]}, (), 1e12, 100) == []


def test_as_many_as_are_asked_for_and_none_younger_than_the_cycle(store, alike):
    labels.add(store, alike[0], "car", "human", "ann")
    body = frozen(store, train=[1])
    assert len(kin.of(store, body, (), 1e12, 2)) == 2
    assert kin.of(store, body, (), 1e12, 0) == []
    assert kin.of(store, body, (), 0.0, 100) == []
