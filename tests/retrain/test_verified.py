"""The delivered file on an emulated processor: said to be verified only where it ran and answered alike."""

import dataclasses
import os
import shutil
import sys

import numpy as np
import pytest
import torch

from edged.retrain import device, export, verified, zoo

PX = 32
ATOM = device.find("atom-x5-e3930")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(6)
    return export.to_onnx(zoo.build("lenet-5", 3, PX), PX)


def test_devices_without_an_emulator_say_so(model):
    found = verified.run(device.find("raspberry-pi-zero"), model, PX)
    assert (found.verified, "not verified" in found.said, "ARMv6" in found.said) == (None, True, True)


def test_without_libraries_built_for_arm_nothing_is_said_to_be_verified(model, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/qemu")
    monkeypatch.delenv(verified.ROOT, raising=False)
    wanted = "instruction set not verified: EDGED_ARM_ROOT names no folder made by .ci/arm root"
    assert verified.run(device.find("arm-a53"), model, PX) == verified.Isa(None, wanted)
    monkeypatch.setenv(verified.ROOT, str(tmp_path))
    assert verified.run(device.find("jetson-tx2"), model, PX) == verified.Isa(None, wanted)


def test_an_arm_device_is_emulated_with_the_python_of_its_root(model, monkeypatch, tmp_path):
    """An emulator that only writes down how it was called, and starts this machine's own Python."""
    root, tools = tmp_path / "root", tmp_path / "tools"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/python3.11").symlink_to(sys.executable)
    (root / "usr/local/lib/python3.11/dist-packages/onnxruntime").mkdir(parents=True)
    tools.mkdir()
    fake = tools / verified.ARM_EMULATOR
    fake.write_text(
        f'#!/bin/sh\necho "$1 $2 $3 $4 $5 $PYTHONPATH" > {tmp_path}/called\nshift 5\nexec {sys.executable} "$@"\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv(verified.ROOT, str(root))
    found = verified.run(device.find("jetson-tx2"), model, PX, 2)
    assert found.verified is True, found.said
    assert "2 pictures under qemu-aarch64 -cpu cortex-a57 get the same answers by onnxruntime" in found.said
    assert "openvino" not in found.said
    *start, path = (tmp_path / "called").read_text().split()
    assert start == ["-cpu", "cortex-a57", "-L", str(root), f"{root}/usr/bin/python3.11"]
    assert "edged-isa-" in path


def test_where_the_emulator_is_not_installed_that_is_said(model, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = verified.run(ATOM, model, PX)
    assert found.verified is None
    assert found.said == "instruction set not verified: qemu-x86_64 is not installed (Debian package qemu-user)"


def test_other_answers_under_the_emulator_are_not_verified(model, monkeypatch):
    """The negative control of the comparison: a processor that adds one to a logit."""
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/qemu")

    def other(profile, model, px, n, runtime, seconds):
        return verified.answers(model, px, n, runtime) + np.array([0, 5, 0], np.float32)

    monkeypatch.setattr(verified, "_emulated", other)
    found = verified.run(ATOM, model, PX)
    assert found.verified is False
    assert "logits differ by" in found.said


@pytest.mark.slow
def test_an_atom_runs_it_and_a_processor_without_sse4_does_not(model):
    if shutil.which(verified.EMULATOR) is None:
        assert not os.environ.get("CI"), "qemu-user must be there in CI"
        pytest.skip("qemu-user is not installed")
    found = verified.run(ATOM, model, PX, 2)
    print(found.said)
    assert found.verified is True
    assert "-cpu Denverton get the same answers by openvino" in found.said
    older = verified.run(dataclasses.replace(ATOM, emulator="qemu64"), model, PX, 2)
    assert (older.verified, "used an instruction that this processor does not have" in older.said) == (False, True)
