"""What is drawn: exemplars of every group, replay against forgetting, and no camera above its cap."""

from collections import Counter

import numpy as np
import pytest

from edged.retrain import mix


def groups(**counts):
    return [tuple(name.split("_")) for name, n in counts.items() for _ in range(n)]


def test_every_class_of_every_camera_is_remembered_as_far_as_it_goes():
    given = groups(free_gate=500, busy_gate=400, free_yard=3, busy_yard=100)
    drawn = Counter(given[i] for i in mix.exemplars(given, 120, 1))
    assert drawn["free", "yard"] == 3
    assert {drawn[g] for g in drawn if g != ("free", "yard")} == {39}
    assert mix.exemplars(given, 120, 1).tolist() == mix.exemplars(given, 120, 1).tolist()
    assert mix.exemplars(given, 120, 1).tolist() != mix.exemplars(given, 120, 2).tolist()


def test_there_are_no_more_exemplars_than_samples():
    assert mix.exemplars(groups(a_x=3, b_x=2), 100, 1).tolist() == [0, 1, 2, 3, 4]
    assert len(mix.exemplars([], 10, 1)) == 0


def test_the_old_get_their_share_and_the_new_the_rest():
    given = groups(a_x=10, a_y=100)
    new = np.array([True] * 10 + [False] * 100)
    chances = mix.chances(given, new, replay=0.3, balance=0.5, cap=1.0)
    assert chances[:10].sum() == pytest.approx(0.7)
    assert chances.sum() == pytest.approx(1)
    assert mix.chances(given[:10], new[:10], replay=0.3, balance=0.5, cap=1.0).sum() == pytest.approx(1)


def test_one_camera_of_three_cannot_take_over_the_mix():
    given = groups(a_loud=1000, a_x=20, a_y=20)
    chances = mix.chances(given, np.ones(1040, bool), replay=0.3, balance=0.0, cap=0.5)
    assert chances[:1000].sum() == pytest.approx(0.5)
    assert chances[1000:].sum() == pytest.approx(0.5)
    two = mix.chances(given[:1020], np.ones(1020, bool), replay=0.3, balance=0.0, cap=0.5)
    assert two[:1000].sum() > 0.9  # of two cameras one is always the larger


def test_two_loud_cameras_are_capped_together():
    given = groups(a_one=500, a_two=500, a_x=10, a_y=10)
    chances = mix.chances(given, np.ones(1020, bool), replay=0.0, balance=0.0, cap=0.3)
    assert chances[:500].sum() == pytest.approx(0.3)
    assert chances[500:1000].sum() == pytest.approx(0.3)
    assert chances.sum() == pytest.approx(1)
