"""The tuner takes what is measured faster and right, and nothing else. The measuring is played; one test does it really."""

import numpy as np
import pytest

from edged import engine
from edged.retrain import device, rewrite
from edged.retrain.device import Profile
from edged.retrain.rewrite import measure, tuner
from edged.retrain.rewrite.measure import Seen
from tests.retrain.rewrite.sums import one

HERE = Profile(id="here", name="here", cores=1, ghz=0, memory_bytes=0, isa="all it has", power_w=0)
BATCH = np.ones((4, 48, 20, 20), np.float32)
MODEL, _, _ = one(48, 48, (20, 20), (5, 5), pads=(2, 2, 2, 2))


class Played:
    """`of` a candidate that is so many times as fast as direct; the whole model `whole` times."""

    def __init__(self, whole=2.0, whole_error=0.0, **of):
        self.of, self.whole, self.whole_error, self.calls, self.names = of, whole, whole_error, 0, ()

    def __call__(self, models, inputs, *, caps, runtime, seconds):
        self.calls += 1
        if len(inputs) == 1:
            return Seen(cpu_ms=10, rounds=3), Seen(cpu_ms=10 / self.whole, error=self.whole_error, rounds=3)
        (conv,) = rewrite.convs(models[0])
        self.names = rewrite.candidates(conv, hopeful=True)
        assert len(models) == len(self.names)
        return tuple(self._seen(name.replace("-", "_")) for name in self.names)

    def _seen(self, name):
        found = self.of.get(name, 1.0 if name == "direct" else 0.5)
        return found if isinstance(found, Seen) else Seen(cpu_ms=10 / found, rounds=3)


def tune(measurer, **more):
    return tuner.tune(MODEL, BATCH, more.pop("profile", HERE), runtime="onnxruntime", measurer=measurer, **more)


def test_the_fastest_is_taken_and_the_model_still_answers_the_same():
    made, tuned = tune(Played(winograd_4=1.4, fft_16=1.9))
    assert tuned.kept
    assert tuned.rows[0].chosen == "fft-16"
    assert "2.00 times as fast" in tuned.note
    apart = engine.load(made).run(BATCH)[0] - engine.load(MODEL).run(BATCH)[0]
    assert np.abs(apart).max() < 1e-4
    (row,) = tuner.table(tuned)
    assert row["candidates"]["fft-16"] == {"times": 1.9, "error": 0.0}
    assert row["share"] == 1


def test_nothing_faster_leaves_the_model_as_it_is_to_the_byte():
    played = Played()
    made, tuned = tune(played)
    assert made == MODEL
    assert not tuned.kept
    assert "nothing is clearly faster" in tuned.note
    assert played.calls == 1


def test_a_little_faster_is_within_the_noise():
    made, tuned = tune(Played(fft_16=1.04))
    assert made == MODEL
    assert tuned.rows[0].chosen == "direct"


@pytest.mark.parametrize(
    "rigged",
    [
        Seen(cpu_ms=1, error=2e-4, rounds=3),
        Seen(cpu_ms=1, error=float("inf"), rounds=3),
        Seen(cpu_ms=1, error=float("nan"), rounds=3),
        Seen(cpu_ms=1, references=("y",), rounds=3),
        Seen(failed="it does not load"),
    ],
)
def test_a_fast_one_that_is_wrong_or_does_not_run_is_not_taken(rigged):
    made, tuned = tune(Played(fft_16=rigged))
    assert made == MODEL
    assert tuned.rows[0].chosen == "direct"


@pytest.mark.parametrize("played", [Played(whole=0.97, fft_16=3), Played(whole=1.0, fft_16=3)])
def test_layers_that_win_alone_and_lose_together_are_not_kept(played):
    made, tuned = tune(played)
    assert made == MODEL
    assert not tuned.kept
    assert "as a whole" in tuned.note


def test_a_whole_model_that_answers_otherwise_is_not_kept():
    made, tuned = tune(Played(whole_error=0.01, fft_16=3))
    assert made == MODEL
    assert "its answers differ" in tuned.note


def test_a_direct_convolution_on_a_reference_kernel_loses_to_anything():
    _, tuned = tune(Played(direct=Seen(cpu_ms=900, references=("y",), rounds=1), winograd_4=1.0))
    assert tuned.rows[0].chosen == "winograd-4"


def test_what_was_measured_is_not_measured_again(tmp_path):
    first, second = Played(fft_16=2), Played(fft_16=2)
    tune(first, cache=tmp_path / "tuning.json")
    _, tuned = tune(second, cache=tmp_path / "tuning.json")
    assert (first.calls, second.calls) == (2, 1)
    assert tuned.rows[0].chosen == "fft-16"


def test_a_broken_cache_is_as_none(tmp_path):
    (tmp_path / "tuning.json").write_bytes(b"{nonsense")
    assert tune(Played(fft_16=2), cache=tmp_path / "tuning.json")[1].kept


def test_a_device_that_nothing_here_stands_for_is_not_tuned_for():
    arm = Profile(id="a", name="a", cores=1, ghz=1, memory_bytes=0, isa="ARMv8 (NEON)", power_w=1, caps=(("A", "B"),))
    played = Played(fft_16=9)
    made, tuned = tune(played, profile=arm)
    assert made == MODEL
    assert played.calls == 0
    assert "no processor with ARMv8" in tuned.note


def test_onnxruntime_is_not_tuned_for_a_processor_without_avx_on_one_that_has_it(monkeypatch):
    monkeypatch.setattr(device, "flags", lambda: frozenset({"avx"}))
    made, tuned = tune(Played(fft_16=9), profile=device.find("atom-x5-e3940"))
    assert made == MODEL
    assert "cannot be kept from AVX" in tuned.note


def test_a_wrong_rewrite_is_refused_by_what_the_child_really_measures():
    """A negative control through the real child: the second file has other weights."""
    other, _, _ = one(48, 48, (20, 20), (5, 5), pads=(2, 2, 2, 2), seed=3)
    good = rewrite.rewritten(MODEL, {"y": "winograd-4"})
    maps = np.random.default_rng(0).normal(size=(2, 48, 20, 20)).astype(np.float32)
    seen = measure.side_by_side([MODEL, good, other, b"no"], [maps], caps={}, runtime="auto", seconds=0.05)
    assert seen[0].error == 0
    assert 0 < seen[1].error <= tuner.GATE < seen[2].error
    assert all(s.cpu_ms > 0 and s.rounds >= 1 for s in seen[:3])
    assert "not an ONNX model" in seen[3].failed
    table = dict(zip(("direct", "winograd-4", "fft-8", "fft-16"), seen, strict=True))
    assert tuner.choose(table | {"fft-8": Seen(cpu_ms=1e-9, error=seen[2].error, rounds=3)}) in ("direct", "winograd-4")


def test_answers_that_are_no_numbers_come_back_from_the_child_as_a_huge_error():
    other = rewrite.rewritten(MODEL, {"y": "winograd-4"})
    maps = np.full((1, 48, 20, 20), np.float32(3e38))
    seen = measure.side_by_side([MODEL, other], [maps], caps={}, runtime="onnxruntime", seconds=0.01)
    assert seen[1].error > tuner.GATE
    assert tuner.choose({"direct": seen[0], "winograd-4": seen[1]}) == "direct"
