"""The gate says yes or no with numbers, and never prefers the worse model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.retrain.gate import GateLimits, judge
from edged.retrain.report import Number, Pair, Pinned, Report, loss_bound, mcnemar, needed, share

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


def test_a_hold_out_that_shows_one_class_alone_is_no_evidence_for_any_model():
    """A model that always names it has 100 % there: none could beat that, and none would show what it is worth."""
    one = {"day": share(400, 400), "night": share(0, 0)}
    verdict = judge(report(both=390, lost=0, won=10, per_class=one), LIMITS)
    assert not verdict.passed
    assert verdict.reasons[0] == "refused for lack of evidence: only `day` is held out"
    vouched = judge(
        report(both=0, lost=0, won=0, per_class={"day": share(0, 400), "night": share(0, 0)}), LIMITS, "ann"
    )
    assert vouched.passed
    assert vouched.reasons[0] == "ann (only `day` is held out)"
    assert not judge(report(per_class=one, fps=1.0), LIMITS, "ann").passed  # what can be measured still judges
    two = {
        "day": share(399, 399),
        "night": share(0, 1),
    }  # the control: one picture of another class, and nobody is heeded
    assert judge(report(per_class=two, both=389, won=10), LIMITS, "ann") == judge(
        report(per_class=two, both=389, won=10), LIMITS
    )


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


def test_a_model_that_is_no_better_than_always_naming_one_class_is_refused_even_when_the_one_before_was_worse():
    cls = {"day": share(240, 300), "night": share(0, 100)}
    verdict = judge(report(both=100, lost=0, won=140, per_class=cls), LIMITS)
    assert not verdict.passed
    assert verdict.reasons[0] == "accuracy 60.0% (240 of 400); always naming the most frequent class has 75.0%"
    assert judge(report(both=100, lost=0, won=201, per_class=cls), LIMITS).passed


def test_where_a_class_is_rare_a_model_that_is_as_good_as_the_one_before_still_passes():
    cls = {"day": share(389, 390), "night": share(5, 10)}
    assert judge(report(both=394, lost=0, won=0, per_class=cls), LIMITS).passed


def test_a_refusal_for_lack_of_evidence_says_how_much_would_do():
    """Nothing lost and nothing won, but fifty pictures cannot show that it is within two points."""
    reason = judge(report(50, both=45, lost=0, won=0), LIMITS).reasons[0]
    assert "at most 5.1 points are lost (95 % sure)" in reason
    assert reason.endswith("if the two go on differing so, 133 hold-out samples would show that (50 now)")
    assert judge(report(133, both=120, lost=0, won=0), LIMITS).passed
    worse = judge(report(400, both=370, lost=20, won=2), LIMITS).reasons[0]
    assert "would show" not in worse


def test_the_owner_may_ask_for_less_certainty_or_for_more():
    some = report(60, both=54, lost=0, won=0)
    assert not judge(some, LIMITS).passed
    verdict = judge(some, GateLimits(sure=0.8))
    assert verdict.passed
    assert any("80 % sure" in r for r in verdict.reasons)
    assert not judge(report(133, both=120, lost=0, won=0), GateLimits(sure=0.99)).passed


def test_a_class_that_may_have_lost_much_is_refused_though_it_looks_even():
    cls = {"day": Pair(40, 20, 20, 15, 15)}
    verdict = judge(report(cls=cls), LIMITS)
    assert not verdict.passed
    assert verdict.reasons[0].startswith("class day: accuracy stayed the same")
    assert judge(report(cls={"day": Pair(30, 27, 28, 2, 1)}), LIMITS).passed


def test_a_pinned_failure_that_comes_back_refuses_and_is_named():
    pins = Pinned(3, 2, failed=("gate:b-1:0",), lost=(), left_out=("pinned gate:b-9:0: its picture is gone",))
    verdict = judge(report(pinned=pins), LIMITS)
    assert not verdict.passed
    assert verdict.reasons[0].startswith("2 of 3 pinned pictures are right; wrong: gate:b-1:0")
    assert any(r.endswith("its picture is gone: not judged") for r in verdict.reasons)
    kept = GateLimits(pinned="kept")
    assert judge(report(pinned=pins), kept).passed
    lost = Pinned(3, 2, failed=("gate:b-1:0",), lost=("gate:b-1:0",))
    assert "that the model before had right: gate:b-1:0" in judge(report(pinned=lost), kept).reasons[0]
    assert judge(report(pinned=Pinned(3, 3)), LIMITS).passed


def test_answers_that_are_no_numbers_refuse():
    verdict = judge(report(not_numbers=12), LIMITS)
    assert verdict.reasons[0].startswith("12 of 400 answers (3.0%) are not numbers")


def test_a_device_without_an_estimate_is_refused_for_lack_of_evidence():
    fps = Number(0, "unknown", "nobody has measured one")
    verdict = judge(report(fps_device=fps), LIMITS)
    assert not verdict.passed
    assert verdict.reasons[0].startswith("refused for lack of evidence: no estimate of frames/s on atom-x5-e3940")


def test_the_packed_size_is_judged_where_it_is_limited():
    limits = GateLimits(max_packed_bytes=500_000)
    assert judge(report(size_packed=400_000), limits).passed
    assert "packed 0.60 MB, 0.50 MB are allowed" in judge(report(size_packed=600_000), limits).reasons[0]
    assert "was not made" in judge(report(), limits).reasons[0]


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


def test_every_picture_counts_in_the_bound():
    """All tables of up to 25 pictures: one more lost, or one less won, always means a larger bound."""
    tables = 0
    for n in range(1, 26):
        for lost in range(n + 1):
            for won in range(n - lost + 1):
                bound = loss_bound(Pair(n, 0, 0, lost, won))
                if lost + won < n:
                    assert loss_bound(Pair(n, 0, 0, lost + 1, won)) > bound
                if won:
                    assert loss_bound(Pair(n, 0, 0, lost, won - 1)) > bound
                tables += 1
    print(tables, "tables")


@pytest.mark.parametrize(("n", "loss"), [(50, 0.02), (133, 0.02), (200, 0.02), (50, 0.05), (100, 0.05), (200, 0.05)])
def test_a_model_that_loses_what_is_just_too_much_rarely_passes(n, loss):
    """Every outcome with its chance: at most 7 % for a bound of 95 %. The adjusted Wald interval, the negative control,
    lets 13 % and more through somewhere."""
    import numpy as np
    from scipy.stats import multinomial

    tables = np.array([(b, c) for b in range(40) for c in range(40) if b + c <= n])
    score = np.array([loss_bound(Pair(n, 0, 0, b, c)) for b, c in tables.tolist()])
    wrong = 0.0
    for won in (0, 0.005, 0.01, 0.02, 0.05, 0.1):
        chance = multinomial.pmf(np.c_[tables, n - tables.sum(1)], n, [won + loss, won, 1 - 2 * won - loss])
        wrong = max(wrong, float(chance[score <= loss].sum()))
    assert wrong <= 0.07


def test_the_adjusted_wald_interval_would_not_keep_the_promise():
    """100 pictures, 2 points lost in truth, none won: it lets a model pass that lost nothing on them, one time in eight."""
    from scipy.stats import binom

    lost, won, n = 0.5, 0.5, 102
    assert 1.644854 * (lost + won) ** 0.5 / n <= 0.02
    assert binom.pmf(0, 100, 0.02) > 0.13
    assert loss_bound(Pair(100, 0, 0, 0, 0)) > 0.02


@given(st.integers(20, 2000), st.integers(0, 20), st.integers(0, 20), st.sampled_from([0.02, 0.05]))
def test_what_is_said_to_be_needed_is_enough_and_is_the_least(n, lost, won, most):
    enough = needed(Pair(n, 0, 0, lost, won), most) if lost + won <= n else None
    if enough is None:
        assert lost + won > n or (lost - won) / n >= most - 0.001  # so near, it would take many millions
        return
    assert enough >= n
    if enough % n == 0:
        times = enough // n
        assert loss_bound(Pair(enough, 0, 0, lost * times, won * times)) <= most + 1e-9
    if enough == n:
        assert loss_bound(Pair(n, 0, 0, lost, won)) <= most


def test_the_bound_is_the_score_interval_found_the_slow_way_and_agrees_with_a_bootstrap():
    import numpy as np
    from scipy.optimize import brentq, minimize_scalar

    def slow(n, lost, won):
        def score(d):
            def against(q):
                rest = max(1e-300, 1 - 2 * q - d)
                return -(lost * np.log(q + d) + won * np.log(max(q, 1e-300)) + (n - lost - won) * np.log(rest))

            q = minimize_scalar(against, bounds=(1e-12, (1 - d) / 2), method="bounded", options={"xatol": 1e-12}).x
            return (lost - won - n * d) / np.sqrt(n * (2 * q + d * (1 - d))) + 1.6448536

        return brentq(score, max(1e-6, (lost - won) / n + 1e-6), 0.9)

    for n, lost, won in ((100, 12, 9), (400, 14, 10), (60, 5, 2), (1000, 30, 21)):
        assert loss_bound(Pair(n, 0, 0, lost, won)) == pytest.approx(slow(n, lost, won), abs=1e-4)
    dice = np.random.default_rng(1)
    drawn = dice.multinomial(2000, [100 / 2000, 70 / 2000, 1830 / 2000], size=20_000)
    boot = np.percentile((drawn[:, 0] - drawn[:, 1]) / 2000, 95)
    assert loss_bound(Pair(2000, 0, 0, 100, 70)) == pytest.approx(boot, abs=0.001)


def test_the_statistics_agree_with_scipy():
    from scipy.stats import binomtest

    interval = binomtest(90, 100).proportion_ci(method="wilson")
    assert (share(90, 100).lower, share(90, 100).upper) == pytest.approx((interval.low, interval.high), abs=1e-6)
    pair = Pair(100, 80, 83, 12, 9)
    assert mcnemar(pair) == pytest.approx(binomtest(9, 21).pvalue)
    assert mcnemar(Pair(10, 5, 5, 0, 0)) == 1


def test_a_layer_without_a_fast_kernel_or_an_instruction_that_the_device_lacks_refuses():
    slow = "OpenVINO has no fast kernel for its Convolution 'c1' on this instruction set (ref_any_f32)"
    assert judge(report(kernels=(slow,)), LIMITS).reasons[0].startswith(slow)
    assert not judge(report(isa="it ended by SIGILL", isa_failed=True), LIMITS).passed
    assert judge(report(isa="verified under qemu", beside=1), LIMITS).passed


def test_a_model_that_surely_loses_nothing_is_told_so():
    """The bound is below 0: "at most -11 points" would be no sentence."""
    better = Pair(278, 263, 222, 2, 43)
    reasons = judge(report(pair=better, pair_per_class={"a": better}), LIMITS).reasons
    assert any("2 lost and 43 won" in r and "so none are lost (95 % sure)" in r for r in reasons)
    assert any(r.startswith("class a") and "none are lost (95 % sure)" in r for r in reasons)
    assert not any("at most -" in r for r in reasons)


def test_one_is_not_told_as_several_and_little_not_as_nothing():
    pins, slight = Pinned(1, 1), Pair(4000, 3999, 4000, 1, 0)
    limits = GateLimits(min_holdout=1, min_group=0, min_gain=0.01)
    told = "; ".join(
        judge(
            report(
                beside=1, pinned=pins, skipped=1, not_numbers=1, size=3210, pair=slight,
                pair_per_class={"none": Pair(0, 0, 0, 0, 0)},
            ),
            limits,
        ).reasons
    )  # fmt: skip
    for sentence in (
        "at least 1 is needed", "1 hold-out sample could not be read and was left out", "is no number", "size 3.2 kB",
        "1 of 1 pinned picture is right", "1 other process of the re-test", "fell by 0.03 points",
        "no gain, where 1.0 points are asked for", "(fewer than 1): none (0)",
    ):  # fmt: skip
        assert sentence in told, sentence
