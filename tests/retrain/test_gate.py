"""The gate says yes or no with numbers, and never prefers the worse model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.retrain.gate import GateLimits, judge
from edged.retrain.report import Number, Pair, Report, loss_bound, mcnemar, share

LIMITS = GateLimits()


def measured(value):
    return Number(value, "measured", "test")


def report(n=400, *, both=380, lost=5, won=10, cls=None, cam=None, fps=120.0, how="estimated", baseline=True, **more):
    """`both` right with both models; the rest neither."""
    right = both + won
    pair = Pair(n, right, both + lost, lost, won) if baseline else None
    fields = {
        "device": "atom-x5-e3940", "sha256": "a" * 64, "size": 900_000, "runtime": "openvino", "classes": ("day", "night"),
        "n": n, "skipped": 0, "accuracy": share(right, n),
        "per_class": {"day": share(right // 2, n // 2), "night": share(right - right // 2, n - n // 2)},
        "per_camera": {"gate": share(right, n)}, "confusion": ((1, 0), (0, 1)), "latency_ms_p50": measured(3.0),
        "latency_ms_p95": measured(4.0), "stages_ms": {}, "fps_here": measured(300.0),
        "fps_device": Number(fps, how, "test", fps / 1.2, fps * 1.2), "memory_bytes": measured(120e6),
        "power_w": Number(9.5, "estimated", "thermal design power"), "covered": (), "not_covered": (),
        "baseline": "b" * 64 if baseline else "", "pair": pair, "pair_per_class": cls or {}, "pair_per_camera": cam or {},
    }  # fmt: skip
    return Report(**(fields | more))


def test_a_better_model_passes_and_every_rule_tells_its_number():
    verdict = judge(report(), LIMITS)
    assert verdict.passed
    told = " | ".join(verdict.reasons)
    for words in (
        "400 hold-out samples",
        "rose by 1.2 points",
        "100 frames/s at least",
        "memory 120.0 MB",
        "size 0.90 MB",
    ):
        assert words in told


def test_too_little_evidence_is_refused_however_good_it_looks():
    verdict = judge(report(18, both=16, lost=0, won=2), LIMITS)
    assert not verdict.passed
    assert "18 of 50 hold-out samples" in verdict.reasons[0]


def test_a_loss_that_might_be_more_than_allowed_is_refused():
    """One point down of 400 is within 2, but with 95 % certainty it is not."""
    verdict = judge(report(both=370, lost=14, won=10), LIMITS)
    assert not verdict.passed
    assert "accuracy fell by 1.0 points" in verdict.reasons[0]
    assert judge(report(4000, both=3700, lost=140, won=100), LIMITS).passed


def test_one_class_that_is_forgotten_refuses_the_model():
    cls = {"day": Pair(200, 199, 180, 0, 19), "night": Pair(200, 180, 195, 15, 0)}
    verdict = judge(report(cls=cls), LIMITS)
    assert not verdict.passed
    assert verdict.reasons[0].startswith("class night: accuracy fell by 7.5 points, 90.0% (180 of 200) now")


def test_a_camera_with_few_samples_is_named_and_not_judged():
    cam = {"gate": Pair(380, 370, 365, 5, 10), "yard": Pair(20, 5, 15, 10, 0)}
    verdict = judge(report(cam=cam), LIMITS)
    assert verdict.passed
    assert any("yard (20)" in reason for reason in verdict.reasons)


def test_power_that_is_only_estimated_decides_nothing():
    limits = GateLimits(max_power_w=5.0)
    verdict = judge(report(), limits)
    assert verdict.passed
    assert any("9.5 W is estimated" in r and "not judged" in r for r in verdict.reasons)
    assert not judge(report(power_w=measured(9.5)), limits).passed
    assert judge(report(power_w=None), limits).passed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fps": 35.0}, "29 frames/s at least on atom-x5-e3940 (estimated, likely 35); 30 are needed"),
        ({"memory_bytes": measured(600e6)}, "memory 600.0 MB (measured), 512.0 MB are allowed"),
        ({"size": 7_000_000}, "size 7.00 MB, 6.00 MB are allowed"),
    ],
)
def test_a_device_limit_refuses_with_the_number(change, words):
    verdict = judge(report(**change), LIMITS)
    assert not verdict.passed
    assert words in verdict.reasons[0]


def test_a_gain_can_be_asked_for():
    assert judge(report(), GateLimits(min_gain=0.01)).passed
    assert not judge(report(), GateLimits(min_gain=0.02)).passed


def test_the_first_model_must_surely_beat_guessing():
    assert judge(report(baseline=False), LIMITS).passed
    verdict = judge(report(baseline=False, both=215, won=0), LIMITS)
    assert not verdict.passed
    assert "no baseline" in verdict.reasons[0]


counts = st.tuples(st.integers(0, 300), st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))


@given(counts, st.sampled_from(["lose", "not won"]))
def test_one_more_wrong_picture_never_turns_no_into_yes(cells, how):
    both, lost, won, neither = cells
    n = both + lost + won + neither
    if how == "lose" and both:
        worse = dict(both=both - 1, lost=lost + 1, won=won)
    elif how == "not won" and won:
        worse = dict(both=both, lost=lost, won=won - 1)
    else:
        return

    def made(both, lost, won):
        whole = Pair(n, both + won, both + lost, lost, won)
        return report(n, both=both, lost=lost, won=won, cls={"day": whole}, cam={"gate": whole})

    limits = GateLimits(min_holdout=1)
    better, then = judge(made(both, lost, won), limits), judge(made(**worse), limits)
    assert better.passed or not then.passed
    assert loss_bound(made(**worse).pair) > loss_bound(made(both, lost, won).pair)


@given(st.floats(1, 1000), st.floats(0.1, 1))
def test_a_slower_model_never_turns_no_into_yes(fps, share_of):
    assert judge(report(fps=fps), LIMITS).passed or not judge(report(fps=fps * share_of), LIMITS).passed


@given(st.integers(0, 500), st.integers(0, 500))
def test_wilsons_interval_holds_the_share(right, wrong):
    s = share(right, right + wrong)
    assert 0 <= s.lower <= s.accuracy + 1e-12
    assert s.accuracy - 1e-12 <= s.upper <= 1


def test_the_statistics_agree_with_scipy():
    from scipy.stats import binomtest

    interval = binomtest(90, 100).proportion_ci(method="wilson")
    assert (share(90, 100).lower, share(90, 100).upper) == pytest.approx((interval.low, interval.high), abs=1e-6)
    pair = Pair(100, 80, 83, 12, 9)
    assert mcnemar(pair) == pytest.approx(binomtest(9, 21).pvalue)
    assert mcnemar(Pair(10, 5, 5, 0, 0)) == 1
