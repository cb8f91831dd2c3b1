"""The statistics behind the watch for drift, with SciPy and the plain formulas as referees."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edged.retrain import ownpast, pagehinkley, twosample
from edged.retrain.ownpast import Tile
from edged.retrain.series import BLOCKS, Block, Series
from edged.retrain.watched import Watched


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of SciPy's own p-value, which is not asked for
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_ks_is_scipys(x, y):
    assert twosample.ks(x, y) == pytest.approx(stats.ks_2samp(x, y).statistic, abs=1e-12)


def test_ks_leaves_out_what_is_no_number():
    assert twosample.ks([0.1, math.nan, 0.2], [0.1, 0.2, math.inf]) == 0
    assert twosample.ks([], [1.0]) == 0
    assert twosample.ks([math.nan], [1.0]) == 0


def test_cumulative_counts_add_up_to_those_of_both():
    x, y = np.random.default_rng(1).random((2, 50))
    both = twosample.cumulative(np.concatenate([x, y]))
    assert np.array_equal(twosample.cumulative(x) + twosample.cumulative(y), both)
    assert (both[0], both[-1]) == (0, 100)
    at_places = np.abs(twosample.cumulative(x) / 50 - twosample.cumulative(y) / 50).max()
    assert at_places <= twosample.ks(x, y) <= at_places + 0.1


@pytest.mark.parametrize("unbiased", [False, True])
def test_mmd_is_the_direct_sum_over_pairs(unbiased):
    dice = np.random.default_rng(2)
    x, y, s = dice.normal(size=(7, 3)), dice.normal(0.5, 1, (5, 3)), 1.3

    def kernel(a, b):
        return math.exp(-sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) / (2 * s * s))

    def mean(a, b, same):
        pairs = [kernel(p, q) for i, p in enumerate(a) for j, q in enumerate(b) if not (same and unbiased and i == j)]
        return sum(pairs) / len(pairs)

    direct = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert twosample.mmd2(x, y, s, unbiased=unbiased) == pytest.approx(direct, abs=1e-12)


def test_an_embeddings_distance_is_mmd_up_to_its_waves():
    dice = np.random.default_rng(3)
    x, y = dice.normal(size=(300, 5)), dice.normal(0.4, 1, (200, 5))
    s = twosample.width(np.concatenate([x, y]))
    e = twosample.Embedding(5, s, pairs=4000)
    apart = e.total(x) / 300 - e.total(y) / 200
    assert apart @ apart == pytest.approx(twosample.mmd2(x, y, s), rel=0.1)
    assert np.allclose(e.total(x[:100]) + e.total(x[100:]), e.total(x), atol=1e-3)


def test_width_is_the_median_distance_and_never_nought():
    x = np.random.default_rng(4).normal(size=(60, 3))
    apart = [np.linalg.norm(p - q) for i, p in enumerate(x) for q in x[:i]]
    assert twosample.width(x) == pytest.approx(float(np.median(apart)), rel=1e-9)
    assert twosample.width(np.ones((9, 3))) == 1.0


@given(st.floats(0.001, 50), st.floats(1, 40), st.floats(2, 2000))
def test_the_tail_of_f_is_scipys(x, d1, d2):
    assert ownpast.f_tail(x, d1, d2) == pytest.approx(stats.f.sf(x, d1, d2), rel=1e-6, abs=1e-12)


def tiles(n, dice, size=6, day=10, spread=1.0):
    return [Tile(dice.normal(0, spread, size), 1e9 + i * 86400.0 / day, 100) for i in range(n)]


@pytest.mark.parametrize("compare", [ownpast.nearest, ownpast.beyond])
def test_windows_of_the_past_are_rarely_unlike_it_and_a_far_one_always_is(compare):
    dice = np.random.default_rng(5)
    p = []
    for _ in range(400):
        *past, now = tiles(15, dice)
        p.append(compare(now, past).p)
    assert np.mean(np.array(p) < 0.01) <= 0.02
    far = Tile(now.mean + 30, now.ts, 100)
    assert compare(far, past).p < 0.001
    assert compare(now, past[:3]) is None


def test_swings_that_the_past_knows_are_no_drift_and_others_are():
    dice = np.random.default_rng(6)
    swing, other = np.eye(8)[0], np.eye(8)[1]
    past = [Tile(10 * math.sin(i) * swing + dice.normal(0, 0.1, 8), i * 8640.0, 100) for i in range(30)]
    inside = Tile(14 * swing + dice.normal(0, 0.1, 8), 31 * 8640.0, 100)
    outside = Tile(2 * other + dice.normal(0, 0.1, 8), 31 * 8640.0, 100)
    assert ownpast.beyond(inside, past).p > 0.01
    assert ownpast.beyond(outside, past).p < 1e-4


def test_a_window_is_compared_with_the_same_hours_of_other_days():
    dice = np.random.default_rng(7)
    past = [
        Tile(np.array([math.sin(2 * math.pi * i / 10)] * 3) + dice.normal(0, 0.01, 3), i * 8640.0, 100)
        for i in range(40)
    ]
    same = Tile(np.array([math.sin(2 * math.pi * 0.2)] * 3), 42 * 8640.0, 100)
    wrong_hour = Tile(np.array([-math.sin(2 * math.pi * 0.2)] * 3), 42 * 8640.0, 100)
    assert ownpast.nearest(same, past).same_hour
    assert ownpast.nearest(same, past).p > 0.01
    assert ownpast.nearest(wrong_hour, past).p < 1e-4
    assert not ownpast.nearest(same, past[:6]).same_hour


def test_a_past_without_any_swing_makes_a_change_remarkable_but_not_certain():
    past = [Tile(np.zeros(3), float(i), 10) for i in range(9)]
    assert ownpast.nearest(Tile(np.zeros(3), 9.0, 10), past).p == 1
    assert ownpast.nearest(Tile(np.ones(3), 9.0, 10), past).p == 0.1


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.9])
def test_lundbergs_equation_holds(share):
    t = pagehinkley.lundberg(share, 0.025)
    assert share * math.exp(t) + 1 - share == pytest.approx(math.exp(t * (share + 0.025)), rel=1e-6)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_page_hinkley_is_rarely_wrong_about_steady_answers_and_soon_right_about_worse_ones(share):
    dice, raised, delays = np.random.default_rng(8), 0, []
    for _ in range(200):
        wrong = list(dice.random(300) < share)
        raised += any(pagehinkley.test(wrong[:k], 100, 0.05).score >= 1 for k in range(110, 301, 10))
        worse = wrong[:160] + list(dice.random(200) < share + 0.4)
        delays.append(next(k - 160 for k in range(161, 361) if pagehinkley.test(worse[:k], 100, 0.05).score >= 1))
    assert raised <= 0.05 * 200
    assert np.median(delays) < 60


def test_page_hinkley_needs_something_to_compare_with():
    assert pagehinkley.test([], 10, 0.01) is None
    assert pagehinkley.test([True] * 10, 10, 0.01) is None
    assert pagehinkley.test([True], 0, 0.01) is None
    assert pagehinkley.test([True] * 60, 40, 0.01).score < 1  # it was always wrong: no worse now


def blocks(dice, n, level=0.0):
    return [Block(dice.normal(level, 1, (20, 4)).sum(0), 20, 0.0) for _ in range(n)]


def test_one_look_below_the_line_is_no_alarm_and_what_drifts_does_not_become_past():
    dice = np.random.default_rng(9)
    series = Series(100, ownpast.nearest)
    for b in blocks(dice, 100):
        series.add(b)
        assert not series.look(0.001).alarm
    looks = []
    for b in blocks(dice, 300, level=3.0):
        series.add(b)
        looks.append(series.look(0.001))
    first = next(i for i, look in enumerate(looks) if look.score >= 1)
    assert not looks[first].alarm
    assert all(look.alarm for look in looks[first + 1 :])
    assert looks[-1].answer.tiles == looks[first].answer.tiles
    for b in blocks(dice, 3 * BLOCKS):
        series.add(b)
        last = series.look(0.001)
    assert not last.alarm


def test_the_negative_control_a_rule_that_counts_samples_accuses_steady_days():
    """What the watch is measured against: KS with SciPy's p-value on windows of parked cars that stay for hours."""
    dice = np.random.default_rng(10)
    watched, naive, alarms = Watched(100, 0.001), 0, 0
    margins = []
    for hour in range(150):
        level = dice.normal(0.7, 0.1)  # of the cars that stand there in this hour
        margins += list(np.clip(dice.normal(level, 0.05, 20), 0, 1))
        looks = [watched.take(hour * 3600.0 + i, "busy", m) for i, m in enumerate(margins[-20:])]
        alarms += any(look.alarm for found in looks for look in found.values())
        if len(margins) >= 600:
            naive += stats.ks_2samp(margins[:500], margins[-100:]).pvalue < 0.001
    assert naive > 30
    assert alarms <= 2
