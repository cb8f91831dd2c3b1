"""A whole re-test in its child, for devices of other kinds: their limits, their numbers, and the gate's word on them."""

import msgspec
import pytest

from edged.errors import Refused
from edged.retrain import children, device, gate, jobs, train
from edged.retrain.report import Report

SMALL = {"arch": {"name": "lenet-5", "input_px": 32}, "epochs": 10, "lr": 0.003, "epoch_least": 400}


@pytest.fixture(scope="module")
def trained(filled, tmp_path_factory):
    job = jobs.check("train", filled.job(**SMALL))
    return train.run(job, tmp_path_factory.mktemp("job"), clock=filled.clock, progress=lambda _: None).sha256


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raspberry-pi-zero", "ti-c66x"])
def test_a_device_whose_speed_nobody_published_is_tested_and_not_passed(filled, trained, tmp_path, name):
    result = children.run("trial", filled.job(sha256=trained, device=name, seconds=0.2), tmp_path)
    report = msgspec.convert(result, Report)
    print(name, report.accuracy.accuracy, report.fps_device.how)
    assert report.accuracy.accuracy > 0.8
    assert (report.fps_device.how, report.fps_device.value) == ("unknown", 0)
    verdict = gate.judge(report, gate.GateLimits(min_holdout=10, max_size_bytes=10**8))
    assert not verdict.passed
    assert any(f"no estimate of frames/s on {name}" in reason for reason in verdict.reasons)


@pytest.mark.slow
def test_a_network_that_the_stick_does_not_take_is_refused_by_its_re_test(filled, trained, tmp_path):
    with pytest.raises(Refused, match="takes MobileNet-class networks only"):
        children.run("trial", filled.job(sha256=trained, device="movidius-ma2450", seconds=0.2), tmp_path)


@pytest.mark.slow
def test_a_share_of_a_core_makes_the_walls_time_longer_and_is_told(filled, trained, tmp_path):
    whole, slow = (
        msgspec.convert(
            children.run("trial", filled.job(sha256=trained, seconds=0.2, quota=share), tmp_path / str(share)), Report
        )
        for share in (0, 0.1)
    )
    assert any("10% of one core" in text for text in slow.imposed)
    assert not any("of one core by" in text for text in whole.imposed)
    print("p50", whole.latency_ms_p50.value, "->", slow.latency_ms_p50.value, "ms;", slow.imposed)
    assert slow.latency_ms_p95.value > whole.latency_ms_p50.value


def test_limits_are_told_as_they_were_imposed(monkeypatch):
    asked = []
    monkeypatch.setattr(device.quota, "tidy", lambda: None)
    monkeypatch.setattr(device.quota, "memory", lambda n: asked.append(n) or (f"{n} bytes" if n else ""))
    monkeypatch.setattr(device.quota, "processor", lambda s: f"{s} of a core")
    monkeypatch.setattr(device.os, "sched_setaffinity", lambda pid, cores: asked.append(len(cores)))
    assert device.find("raspberry-pi-zero").enforce(0.5) == (
        device.ONE_CORE, "536870912 bytes", "0.5 of a core"
    )  # fmt: skip
    assert device.find("this-machine").enforce() == (device.ONE_CORE,)
    assert asked == [1, 512 << 20, 1, 0]
