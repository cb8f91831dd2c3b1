"""How a network stands: new and old apart, paired against another, and what was forgotten is said."""

import numpy as np
import pytest
from scipy import stats

from edged.retrain import standing
from edged.retrain.standing import Standing


def stands(new, old, loss=0.1):
    right = np.array([*new, *old], bool)
    return Standing(np.where(right, loss, 2.0), right, len(new))


def test_new_and_old_weigh_the_same_however_many_there_are():
    one = stands([1, 1, 0, 0], [1] * 100)
    assert (one.new_accuracy, one.old_accuracy) == (0.5, 1.0)
    assert one.balanced == pytest.approx(0.75)
    assert one.weight.sum() == pytest.approx(1)


def test_without_new_or_old_samples_all_weigh_the_same():
    assert stands([], [1, 0]).balanced == 0.5
    assert stands([1, 0], []).balanced == 0.5
    assert stands([], []).accuracy == 0.0


def test_loss_is_cross_entropy():
    logits = np.array([[2.0, 0.0], [0.0, 1.0]], np.float32)
    found = standing.of(logits, np.array([0, 0]), 1)
    assert found.loss.tolist() == pytest.approx([np.log1p(np.exp(-2)), np.log1p(np.exp(1))])
    assert found.right.tolist() == [True, False]


def test_a_few_more_right_answers_are_no_proof_and_many_are():
    before = np.array([0] * 20 + [1] * 80, bool)
    two = np.array([0] * 18 + [1] * 82, bool)
    assert not standing.better(two, before)
    assert standing.better(np.ones(100, bool), before)
    assert not standing.better(before, before)


def test_what_was_gained_on_the_new_is_not_hidden_by_the_old():
    start, now = stands([1] * 95 + [0] * 11, [1] * 400), stands([1] * 101 + [0] * 5, [1] * 396 + [0] * 4)
    assert not standing.better(now.right, start.right)
    assert standing.gained(now, start)
    assert not standing.gained(start, start)
    assert not standing.gained(start, now)


def test_forgetting_is_more_than_a_point_and_more_than_chance():
    start = stands([1], [1] * 100)
    assert standing.forgot(stands([1], [1] * 90 + [0] * 10), start)
    assert not standing.forgot(stands([1], [1] * 98 + [0] * 2), start)
    assert not standing.forgot(stands([0], [1] * 100), start)


def test_students_t_is_that_of_scipy():
    for freedom in (1, 2, 3, 4, 7, 20, 200):
        assert standing.student(freedom) == pytest.approx(stats.t.ppf(0.95, freedom), rel=1e-3)


def test_what_may_be_wrong_of_few_is_more_than_of_many_and_of_one_block_all():
    few, many = stands([0] * 2 + [1] * 52, [1]), stands([0] * 20 + [1] * 520, [1])
    assert 0.10 < standing.wrong_at_most(few, np.arange(54)) < 0.12
    assert 0.05 < standing.wrong_at_most(many, np.arange(540)) < 0.06
    assert standing.wrong_at_most(many, np.zeros(540, np.int64)) == 1.0
    assert standing.wrong_at_most(stands([], [1]), np.arange(0)) == 1.0


def test_errors_that_stand_together_leave_more_doubt_than_the_same_spread_out():
    blocks, right = np.repeat(np.arange(10), 20), np.ones((10, 20), bool)
    spread, together = right.copy(), right.copy()
    spread[:, 0], together[0, :10] = False, False
    bounds = [standing.wrong_at_most(stands(r.ravel(), [1]), blocks) for r in (spread, together)]
    assert 0.05 < bounds[0] < bounds[1]


def test_the_bound_holds_as_often_as_it_says_where_neighbours_are_wrong_together():
    dice, truth, held, naive = np.random.default_rng(7), 0.15, 0, 0
    blocks, times = np.repeat(np.arange(8), 10), 1000
    for _ in range(times):
        rates = dice.beta(
            0.3 * truth / 0.15, 0.3 * (1 - truth) / 0.15, 8
        )  # blocks differ: most are right, some much wrong
        now = stands(dice.random(80) >= np.repeat(rates, 10), [1])
        held += standing.wrong_at_most(now, blocks) >= truth
        naive += standing.wrong_at_most(now, np.arange(80)) >= truth
    assert naive / times < 0.85
    assert held / times > 0.9


def test_plainly_better_is_so_on_the_new_or_on_the_old():
    one = stands([1] * 40, [1] * 40)
    assert standing.plainly(one, stands([0] * 10 + [1] * 30, [1] * 40))
    assert standing.plainly(one, stands([1] * 40, [0] * 10 + [1] * 30))
    assert not standing.plainly(one, stands([0] + [1] * 39, [1] * 40))
    assert not standing.plainly(one, one)


def test_worse_by_counts_standard_errors_of_paired_losses():
    same = stands([1, 0] * 20, [1] * 40)
    assert standing.worse_by(same, same) == 0.0
    worse = Standing(same.loss + np.random.default_rng(1).normal(0.5, 0.1, 80), same.right, 40)
    assert standing.worse_by(worse, same) > 10
    assert standing.worse_by(same, worse) < -10


def test_a_camera_that_lost_more_than_a_point_is_named():
    start, now = stands([0, 0], [1] * 20), stands([1, 1], [1] * 15 + [0] * 5)
    labels = np.array([0, 1] * 11)
    cameras = ["new", "new", *["gate"] * 10, *["yard"] * 10]
    told = standing.lost(now, start, labels, cameras, ("free", "busy"))
    assert "camera yard fell from 100.0% to 50.0% of 10" in told
    assert not any("gate" in t or "new" in t for t in told)
