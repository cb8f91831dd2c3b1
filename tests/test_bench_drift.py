"""The bench of drift on made-up answers: it counts false alarms and delays, and its control does raise alarms."""

import numpy as np
import pytest

from bench.drifting import plot
from bench.drifting.answers import Answers
from bench.drifting.streams import Stream, joined, replayed, shifted
from bench.drifting.tell import markdown, naive_p, run


def answers(n, dice, features=0.0, right=1.0, parked=40):
    """Cars that stay for `parked` answers: neighbours are alike."""
    level = np.repeat(dice.normal(0.7, 0.1, -(-n // parked)), parked)[:n]
    return Answers(
        dice.integers(0, 2, n), np.clip(dice.normal(level, 0.03), 0, 1), dice.normal(features, 1, (n, 5)).astype(np.float32),
        dice.random(n) < right, np.arange(n) * 60.0,
    )  # fmt: skip


@pytest.fixture
def told():
    dice = np.random.default_rng(3)
    steady = answers(3000, dice)
    later = shifted(answers(1000, dice, features=2.0, right=0.5), 3)
    return [
        run(Stream("steady", steady, None), 100, 0.001),
        run(Stream("other", joined(steady, later), 3000), 100, 0.001),
    ]


def test_a_steady_stream_is_quiet_where_the_control_is_not(told):
    steady, _ = told
    assert steady.below["any"] <= 2
    assert steady.naive_below > 10
    assert steady.days == 3
    assert steady.delay["any"] is None


def test_a_drift_has_a_delay_of_a_few_blocks(told):
    _, other = told
    assert 20 <= other.delay["features"] <= 200
    assert (other.right_before, other.right_after < 0.6) == (1.0, True)


def test_tables_and_plot_name_every_stream(told):
    text = markdown(told, 0.001, 1)
    assert "| steady | 100 |" in text
    assert "| other | 100 |" in text
    drawn = plot.draw(told)
    assert drawn.count("steady") == drawn.count("other") == 1
    assert "<svg" in drawn
    assert "nan" not in drawn


def test_replayed_days_keep_the_order_of_time_and_the_parts_of_a_sample_together():
    dice = np.random.default_rng(1)
    one = answers(600, dice)
    made = replayed([one], np.arange(600) % 30, 3, dice)
    assert list(np.unique(made.ts // 86400)) == [0, 1, 2]
    assert all(np.diff(made.ts) >= 0)
    place = {round(float(m), 12): i for i, m in enumerate(one.margin)}
    pairs = [(m, f) for m, f in zip(made.margin, made.features, strict=True) if 0 < m < 1]
    assert all(np.array_equal(one.features[place[round(float(m), 12)]], f) for m, f in pairs)


def test_the_control_is_kolmogorovs_p_value():
    from scipy import stats

    dice = np.random.default_rng(2)
    x, y = dice.normal(size=(2, 400))
    assert naive_p(x, y + 0.1) == pytest.approx(stats.ks_2samp(x, y + 0.1, method="asymp").pvalue, rel=0.25)
