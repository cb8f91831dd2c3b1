"""The probe: small networks written without the onnx package, run by both runtimes, their costs as the onnx package sees them."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import pytest

from edged import engine
from edged.engine import onnx_file, probe
from edged.engine.cost import by_kind, of_conv
from edged.engine.onnx_write import Net
from edged.retrain import costs


class Quick:
    """Ten seconds go by at each look, so that each probe runs as few times as it may."""

    def __init__(self) -> None:
        self.t = 0.0

    def now(self) -> float:
        return self.t

    def monotonic(self) -> float:
        self.t += 10
        return self.t

    def sleep(self, seconds: float) -> None:
        self.t += seconds


def every(precision: str) -> Net:
    """A network with every layer that a Net can write."""
    net = Net((3, 32, 32), precision="int8" if precision == "int8" else "float32")
    x = net.conv(net.x, 8, 3, stride=2)
    y = net.conv(net.depthwise(x), 8, 1, act="Clip")
    x = net.add(x, net.conv(y, 8, 3, act=""), "Relu")
    x = net.norm(net.upsample(net.pool(net.pool(x, 3, 2, pad=1), 2, 2, how="Average")))
    x = net.concat((x, net.conv(x, 8, 1, k2=3, act="LeakyRelu")))
    x = net.full(net.full(net.mean(x), 16, "Relu"), 5)
    net.made = net.model(x)  # type: ignore[attr-defined]
    return net


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_what_is_written_is_an_onnx_file_that_every_runtime_runs_alike(precision: str) -> None:
    data = every(precision).made  # type: ignore[attr-defined]
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    assert onnx_file.check(data).input_name == "input"
    picture = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    answers = [engine.load(data, runtime=name).run(picture)[0] for name in engine.runtimes()]
    assert answers[0].shape == (1, 5)
    for other in answers[1:]:  # one step of int8 is 0.03
        np.testing.assert_allclose(other, answers[0], atol=0.1 if precision == "int8" else 1e-4)


def test_the_same_calls_write_the_same_bytes() -> None:
    assert every("int8").made == every("int8").made  # type: ignore[attr-defined]


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_its_costs_are_those_that_the_onnx_package_finds(precision: str) -> None:
    net = every(precision)
    found = costs.of(net.made)  # type: ignore[attr-defined]
    assert found.unknown == ()
    assert {(c.kind, c.precision): (c.macs, c.calls) for c in found.by_kind} == {
        (c.kind, c.precision): (c.macs, c.calls) for c in by_kind(net.costs)
    }
    for ours, theirs in zip(by_kind(net.costs), found.by_kind, strict=True):
        assert ours.bytes == pytest.approx(theirs.bytes, rel=0.02)


def test_each_kind_of_convolution_has_its_name() -> None:
    assert [of_conv(*c) for c in ((3, 1, 9), (3, 1, 1), (64, 64, 9), (64, 1, 1), (64, 1, 9), (64, 2, 9))] == [
        "stem", "stem", "depthwise", "pointwise", "conv", "conv",
    ]  # fmt: skip


def test_the_suite_holds_each_probe_once_and_each_kind_often_enough() -> None:
    found = probe.suite()
    names = [p.name for p in found]
    assert len(set(names)) == len(names) > 80
    asked = {p.name: p.asks() for p in found if "28" in p.name or "stem" in p.name or p.whole}
    kinds = {(c.kind, c.precision) for costs_of in asked.values() for c in costs_of}
    for kind in ("stem", "conv", "pointwise", "depthwise", "full", "pool", "elementwise", "movement"):
        assert {(kind, "float32"), (kind, "int8")} <= kinds
    assert sum(p.whole for p in found) >= 14


@pytest.mark.slow
def test_every_probe_is_a_sound_onnx_file_that_asks_for_what_it_says() -> None:
    for p in probe.suite():
        data = p.make()
        onnx.shape_inference.infer_shapes(onnx.load_from_string(data), check_type=True, strict_mode=True)
        found = {(c.kind, c.precision): (c.macs, c.calls) for c in costs.of(data).by_kind}
        assert found == {(c.kind, c.precision): (c.macs, c.calls) for c in p.asks()}, p.name


@pytest.mark.parametrize("runtime", engine.runtimes())
def test_a_short_probe_tells_times_machine_and_progress(runtime: str) -> None:
    build = partial(lambda n: n.mean(n.conv(n.x, 8, 3)))
    few = tuple(probe.Probe(f"conv {p}", p, p == "int8", (3, 16, 16), build) for p in ("float32", "int8"))  # type: ignore[arg-type]
    told: list[str] = []
    found = probe.run(runtime, threads=1, seconds=1, clock=Quick(), probes=few, progress=lambda _s, n: told.append(n))
    assert [t.name for t in found.probes] == ["prepare 224", "prepare 96", "conv float32", "conv int8"]
    assert all(t.ms > 0 for t in found.probes)
    assert (found.runtime, found.suite, found.scaling) == (runtime, probe.SUITE, 1.0)
    assert found.version
    assert told == ["conv float32", "conv int8", "1 cores"]
