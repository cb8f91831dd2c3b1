"""The latency model: a board made up of known numbers is found again, another board's calibration is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from scipy.optimize import nnls as reference

from edged.engine import probe
from edged.engine.cost import Cost
from edged.engine.probe import Probed, Timed
from edged.errors import Refused
from edged.retrain import device, latency
from edged.retrain.device import Profile

SEED = 7
HERE = "Imaginary CPU 9000"
BOARD = Profile(
    id="board", name="a board", cores=4, ghz=1.6, memory_bytes=0, isa="SSE4.2", power_w=9.5, factor=0.7, doubt=0.2,
    processor="E3940", calibrated_on="Imaginary", basis="a factor",
)  # fmt: skip
KINDS = ("stem", "conv", "pointwise", "depthwise", "full", "pool")
TRUE = {  # milliseconds per thousand million multiply-adds and bytes, and per call
    "stem": (160.0, 90.0), "conv": (150.0, 30.0), "pointwise": (165.0, 60.0), "depthwise": (420.0, 40.0),
    "full": (200.0, 120.0), "pool": (90.0, 80.0),
}  # fmt: skip


def layers(dice: np.random.Generator, n: int = 1, kinds: tuple[str, ...] = KINDS) -> tuple[Cost, ...]:
    chosen = dice.choice(kinds, size=n, replace=n > len(kinds))
    return tuple(Cost(k, "float32", float(dice.uniform(1e6, 2e8)), float(dice.uniform(1e5, 5e6))) for k in chosen)


def true_ms(costs: tuple[Cost, ...]) -> float:
    return sum(TRUE[c.kind][0] * c.macs / 1e9 + TRUE[c.kind][1] * c.bytes / 1e9 + 0.01 * c.calls for c in costs)


def board(
    noise: float, *, processor: str = "Intel(R) Atom(TM) Processor E3940 @ 1.60GHz", runtime: str = "openvino",
    slower: float = 1.0,
) -> tuple[Probed, dict[str, tuple[Cost, ...]], set[str]]:  # fmt: skip
    """Times of sixty layers and eight models on a board of known numbers."""
    dice = np.random.default_rng(SEED)
    asked = {f"layer {i}": layers(dice, kinds=(KINDS[i % 6],)) for i in range(60)}
    asked |= {f"model {i}": layers(dice, 12) for i in range(8)}
    timed = tuple(
        Timed(n, float(slower * true_ms(c) * math.exp(noise * dice.standard_normal())), 0.0) for n, c in asked.items()
    )
    probed = Probed(
        suite=probe.SUITE, processor=processor, machine="x86_64", cores=4, runtime=runtime, version="1", flags=(), caps={},  # type: ignore[arg-type]
        scaling=3.2, probes=timed,
    )  # fmt: skip
    return probed, asked, {n for n in asked if n.startswith("model")}


def fitted(noise: float, **more: object) -> latency.Calibration:
    probed, asked, whole = board(noise, **more)  # type: ignore[arg-type]
    return latency.fit(probed, "board", asked=asked, whole=whole, author="ann", made=1.8e9)


def test_least_squares_without_negative_numbers_agree_with_scipy() -> None:
    dice = np.random.default_rng(SEED)
    for m, n in ((4, 2), (30, 12), (12, 30), (60, 20)):
        for _ in range(20):
            a, b = dice.standard_normal((m, n)), dice.standard_normal(m)
            x = latency.nnls(a, b)
            assert (x >= 0).all()
            assert np.linalg.norm(a @ x - b) == pytest.approx(reference(a, b)[1], rel=1e-6, abs=1e-9)
    assert latency.nnls(np.ones((3, 1)), -np.ones(3)).tolist() == [0.0]


def test_a_board_without_noise_is_found_again() -> None:
    found = fitted(0.0)
    for kind, (macs, moved) in TRUE.items():
        assert found.ms[f"{kind} float32 macs"] == pytest.approx(macs, rel=1e-3)
        assert found.ms[f"{kind} float32 bytes"] == pytest.approx(moved, rel=1e-2)
    assert found.error["float32"] < 1e-3


def test_with_noise_new_models_lie_within_the_error_bar() -> None:
    dice, found, inside, n = np.random.default_rng(SEED + 1), fitted(0.08), 0, 200
    for _ in range(n):
        costs = layers(dice, 12)
        real = 3.2 * 1000 / (true_ms(costs) * math.exp(0.08 * dice.standard_normal()))
        there = latency.predict(found, costs)
        inside += there.lower <= real <= there.upper
    assert inside / n >= 8 / 9 - 0.05, f"{inside} of {n}, seed {SEED}"
    assert 0.02 < found.error["float32"] < 0.3


def test_negative_control_a_model_that_takes_all_layers_alike_says_itself_how_wrong_it_is() -> None:
    probed, asked, whole = board(0.08)
    alike = {n: tuple(msgspec.structs.replace(c, kind="conv") for c in costs) for n, costs in asked.items()}
    wrong = latency.fit(probed, "board", asked=alike, whole=whole)
    assert wrong.error["float32"] > 2 * fitted(0.08).error["float32"]


def test_the_estimate_says_who_measured_it_when_and_on_what() -> None:
    there = latency.predict(fitted(0.05), layers(np.random.default_rng(3), 12))
    assert there.how == "estimated"
    assert there.lower < there.likely < there.upper
    for words in ("by ann on 2027-01-15", "E3940", "one core x 3.2", "8 models that it was not fitted to"):
        assert words in there.basis


def test_a_calibration_from_another_cpu_is_refused_in_words() -> None:
    other = fitted(0.05, processor="Intel(R) Celeron(R) N3350 @ 1.10GHz")
    with pytest.raises(Refused, match=r"a calibration from another CPU: refused.*N3350.*E3940") as e:
        latency.there(BOARD, b"", 30.0, "openvino", latency.encode(other))
    assert e.value.code == "other_processor"
    with pytest.raises(Refused, match="a calibration of board, not of atom-x5-e3940"):
        latency.check(device.find("atom-x5-e3940"), fitted(0.05))


@pytest.mark.parametrize("text", ["{", "[]", '{"device": 3}', '{"ms": {"conv": -1}}', "[" * 5000, "\x00"])
def test_what_is_no_calibration_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="no calibration"):
        latency.decode(text)


def test_without_a_calibration_the_profile_estimates_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "processor", lambda: HERE)
    assert latency.there(BOARD, b"", 100.0, "openvino") == BOARD.estimate(100.0, "openvino")


def test_a_calibration_of_another_runtime_is_not_used_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "processor", lambda: HERE)
    there = latency.there(BOARD, b"", 100.0, "openvino", latency.encode(fitted(0.05, runtime="onnxruntime")))
    assert there.likely == BOARD.estimate(100.0, "openvino").likely
    assert "its calibration is of onnxruntime" in there.basis


def test_what_was_measured_here_is_carried_over_by_the_ratio_of_two_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "processor", lambda: HERE)
    monkeypatch.setattr("edged.retrain.costs.of_frame", lambda model, regions: layers(np.random.default_rng(9), 12))
    box = fitted(0.0, processor=HERE)
    both = msgspec.structs.replace(fitted(0.0, slower=2.0), box=box)
    there = latency.there(BOARD, b"", 100.0, "openvino", latency.encode(both))
    assert there.likely == pytest.approx(100.0 / 2 * 3.2, rel=1e-3)
    assert "carried over from 100.0 frames/s" in there.basis
    monkeypatch.setattr(device, "processor", lambda: "another box")  # the fit of the box is another box's: not used
    assert "carried over" not in latency.there(BOARD, b"", 100.0, "openvino", latency.encode(both)).basis


def test_a_model_that_the_calibration_knows_nothing_of_falls_back_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "processor", lambda: HERE)
    there = latency.there(BOARD, b"no onnx", 100.0, "openvino", latency.encode(fitted(0.0)))
    assert there.likely == BOARD.estimate(100.0, "openvino").likely
    assert "its calibration could not be used" in there.basis


def test_a_fit_survives_its_json() -> None:
    found = fitted(0.05)
    assert latency.decode(latency.encode(found)) == found


def test_another_suite_and_too_few_probes_are_refused() -> None:
    probed, asked, whole = board(0.0)
    with pytest.raises(Refused, match="probe suite 99"):
        latency.fit(msgspec.structs.replace(probed, suite=99), "board", asked=asked, whole=whole)
    with pytest.raises(Refused, match="too few for a fit"):
        latency.fit(msgspec.structs.replace(probed, probes=probed.probes[:5]), "board", asked=asked, whole=whole)


def test_kinds_of_numbers_that_were_not_probed_are_refused() -> None:
    small = tuple(msgspec.structs.replace(c, precision="int8") for c in layers(np.random.default_rng(1), 3))
    with pytest.raises(Refused, match="says nothing about int8 layers"):
        latency.predict(fitted(0.0), small)


def test_the_ratio_of_two_boards_per_kind_of_layer() -> None:
    one = {k: (Cost(k, "float32", 1e8, 1e6),) for k in KINDS}  # type: ignore[arg-type]
    for value in latency.ratios(fitted(0.0, slower=3.0), fitted(0.0), one).values():
        assert value == pytest.approx(3.0, rel=1e-3)


def test_a_profile_of_this_very_processor_needs_no_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "processor", lambda: "Intel(R) Atom(TM) Processor E3940 @ 1.60GHz")
    assert latency.there(replace(BOARD), b"", 30.0, "openvino", latency.encode(fitted(0.0))).how == "measured"
