"""Mixed precision learns and resumes; a precision that the machine lacks is said to be missing."""

import msgspec
import pytest
import torch
from torch import nn

from edged.errors import Misconfigured, Refused
from edged.retrain import accelerator, fit, jobs
from edged.retrain.accelerator import Accelerator

torch.set_num_threads(1)


def job(**more):
    fields = {"data_dir": "", "classes": ["disc", "box"], "epochs": 4, "lr": 0.003, "epoch_least": 1, "batch": 16}
    return msgspec.convert(fields | more, jobs.TrainJob)


def small():
    """With batch norm and dropout, whose masks must go on after a kill as they would have."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8 * 7 * 7, 2)
    )


class Killed(Exception):
    pass


def train(net, pics, checkpoint, clock, *, where=accelerator.CPU, die_after=None, **more):
    def progress(state, _fraction):
        if die_after is not None and state.epoch >= die_after:
            raise Killed

    data = pics(96), pics(48, seed=1)
    return fit.fit(net, *data, job(**more), checkpoint, clock=clock, progress=progress, accelerator=where)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_every_precision_learns_and_a_killed_run_ends_with_the_very_weights(pics, tmp_path, clock, precision):
    where = Accelerator(torch.device("cpu"), precision)
    whole, broken = small(), small()
    state = train(whole, pics, tmp_path / "whole", clock, where=where, draw="turns")
    assert state.curve[-1][1] < state.curve[0][1]
    with pytest.raises(Killed):
        train(broken, pics, tmp_path / "broken", clock, where=where, die_after=2, draw="turns")
    broken = small()
    train(broken, pics, tmp_path / "broken", clock, where=where, draw="turns")
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), broken.state_dict().values(), strict=True)
    )
    assert next(whole.parameters()).dtype == torch.float32
    assert next(whole.parameters()).is_contiguous()


def test_in_float16_a_step_that_overflows_is_left_out_but_not_for_ever(pics, tmp_path, clock):
    class Overflows(nn.Module):
        def forward(self, x):
            return x * float("inf")

    net = nn.Sequential(*small(), Overflows())
    with pytest.raises(Refused, match="diverged"):
        train(net, pics, tmp_path / "c", clock, where=Accelerator(torch.device("cpu"), "float16"), epochs=20)


def test_on_a_cpu_the_precision_is_float32_unless_the_cpu_has_another(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert accelerator.choose() == accelerator.choose("float32") == accelerator.CPU
    with pytest.raises(Misconfigured, match="float16 needs a CUDA device"):
        accelerator.choose("float16")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert accelerator.choose("bfloat16").precision == "bfloat16"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    with pytest.raises(Misconfigured, match="has no bfloat16"):
        accelerator.choose("bfloat16")


@pytest.mark.parametrize(("has", "chosen"), [(True, "bfloat16"), (False, "float16")])
def test_with_cuda_each_process_has_its_device_and_the_precision_that_it_has(monkeypatch, has, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has)
    found = accelerator.choose(local=3)
    assert (found.device, found.precision) == (torch.device("cuda", 3), chosen)
    assert accelerator.choose("float32").precision == "float32"


def test_time_that_is_over_within_an_epoch_ends_it_there(pics, tmp_path):
    class Slow:
        at = 0.0

        def monotonic(self):
            self.at += 10
            return self.at

    state = train(small(), pics, tmp_path / "c", Slow(), max_minutes=0.1, epoch_least=1000)
    assert state.epoch == 1
    assert "0.1 minutes were over within epoch 1" in state.stopped
