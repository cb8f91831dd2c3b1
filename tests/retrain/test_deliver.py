"""The file that each device is given: it reads back, and it answers as it should."""

import io
import os
import zipfile
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from edged import engine
from edged.engine import patterns, preprocess
from edged.errors import Corrupt, Misconfigured, Refused
from edged.retrain import deliver, device, export, formats, intake, integer, zoo
from edged.retrain.methods import int8

PX = 32


def made(name):
    """Weights drawn, batch norms that have seen pictures: its answers differ from picture to picture."""
    torch.manual_seed(2)
    net = zoo.build(name, 3, PX).train()
    with torch.no_grad():
        net(torch.from_numpy(pictures(16)))
    return export.to_onnx(net, PX)


@pytest.fixture(scope="module")
def mobile():
    return made("mobilenet-0.125")


def pictures(n=8):
    return preprocess.marshal(preprocess.to_float([patterns.picture(i, PX) for i in range(n)], PX))


@pytest.mark.parametrize("name", ["atom-x5-e3930", "jetson-tx2", "arm-a53", "this-machine"])
def test_what_runs_onnx_is_given_the_delivered_file_as_it_is(mobile, name):
    assert deliver.write(device.find(name), mobile).files == {"model.onnx": mobile}


@pytest.mark.parametrize("uint8", [False, True])
def test_the_openvino_file_is_half_as_large_and_answers_alike(mobile, tmp_path, uint8):
    import openvino as ov

    model = intake.inside(mobile) if uint8 else mobile
    files = deliver.write(device.find("movidius-ma2450"), model).files
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    core = ov.Core()
    again = core.compile_model(core.read_model(tmp_path / "model.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    loaded = engine.load(model)
    crops = [patterns.picture(i, PX) for i in range(4)]
    batch = preprocess.stack(preprocess.prepare(crops, PX, loaded.takes), loaded.takes)
    (wanted,) = loaded.run(batch)
    assert np.abs(again([batch])[0] - wanted).max() <= 0.02 * max(1, np.abs(wanted).max())
    assert 1.7 < len(model) / len(files["model.bin"]) < 3  # names and structure lie in the other file


def test_an_openvino_file_that_answers_otherwise_is_noticed(mobile, tmp_path):
    """The negative control: the comparison is shown another model's file."""
    import openvino as ov

    torch.manual_seed(9)
    net = zoo.build("mobilenet-0.125", 3, PX)
    with torch.no_grad():
        net[-1].bias += torch.tensor([5.0, -5.0, 0.0])
    other = export.to_onnx(net, PX)
    core = ov.Core()
    ov.save_model(core.read_model(model=other), tmp_path / "model.xml", compress_to_fp16=True)
    with pytest.raises(Corrupt, match="answers differently from the ONNX file"):
        deliver._compare(core, tmp_path / "model.xml", mobile)


@pytest.mark.parametrize(
    ("name", "why"),
    [("squeezenet-1.1", "is 3 x 3 over all its channels"), ("lenet-5", "is 5 x 5 over all its channels")],
)
def test_the_stick_takes_mobilenets_only(name, why):
    model = made(name)
    for act in (deliver.write, formats.load):
        with pytest.raises(Refused, match=f"takes MobileNet-class networks only .*{why}"):
            act(device.find("movidius-ma2450"), model)


def test_each_device_answers_in_its_own_numbers(mobile):
    batch = pictures()
    (single,) = engine.load(mobile).run(batch)
    found = {}
    for name in ("atom-x5-e3940", "movidius-ma2450", "iphone-7-plus", "ti-c66x"):
        loaded = formats.load(device.find(name), mobile, calibration=[batch])
        (found[name],) = loaded.run(batch)
        print(name, loaded.runtime, float(np.abs(found[name] - single).max()))
    assert np.array_equal(found["atom-x5-e3940"], single)
    assert np.array_equal(found["movidius-ma2450"], found["movidius-ma2450"].astype(np.float16).astype(np.float32))
    assert np.array_equal(found["movidius-ma2450"], found["iphone-7-plus"])
    assert not np.array_equal(found["ti-c66x"], single)
    assert np.abs(found["ti-c66x"] - single).mean() < 0.25 * single.std()


def test_the_file_of_integers_is_what_is_run(mobile):
    batch = pictures()
    profile = device.find("ti-c66x")
    data = deliver.write(profile, mobile, [batch]).files[deliver.INTEGERS]
    ran = formats.load(profile, mobile, calibration=[batch]).run(batch)[0]
    assert np.array_equal(integer.IntegerEngine(integer.read(data)).run(batch)[0], ran)
    assert len(data) < 0.5 * len(mobile)


def test_a_quantized_file_needs_no_pictures_for_integers(mobile, pics):
    model = int8.int8(mobile, pics(20))
    loaded = formats.load(device.find("ti-c66x"), model)
    assert loaded.run(pictures(2))[0].shape == (2, 3)


def test_what_is_not_tried_is_said_with_the_file(mobile):
    notes = deliver.write(device.find("ti-c66x"), mobile, [pictures()]).notes
    assert any(n.startswith("not covered: the device itself: no program that reads the file exists") for n in notes)


def test_without_coremltools_the_phone_gets_a_sentence(mobile, monkeypatch):
    monkeypatch.setattr(deliver, "find_spec", lambda name: None)
    with pytest.raises(Misconfigured, match="coremltools is not installed") as e:
        deliver.write(device.find("iphone-7-plus"), mobile)
    assert e.value.hint == 'pip install "edged[coreml]"'


@pytest.mark.slow
def test_a_core_ml_package_holds_the_network_in_half_precision(mobile):
    if find_spec("coremltools") is None:
        assert not os.environ.get("CI"), "coremltools must be there in CI"
        pytest.skip("coremltools is not installed")
    files = deliver.write(device.find("iphone-7-plus"), intake.inside(mobile)).files
    archive = zipfile.ZipFile(io.BytesIO(files["model.mlpackage.zip"]))
    names = archive.namelist()
    assert "model.mlpackage/Manifest.json" in names
    weights = next(n for n in names if n.endswith("weight.bin"))
    assert 1.5 < len(mobile) / archive.getinfo(weights).file_size < 3
    spec = archive.read(next(n for n in names if n.endswith(".mlmodel")))
    assert b"image" in spec
    assert b"logits" in spec


@pytest.mark.slow
def test_a_layer_that_core_ml_does_not_get_is_refused_by_its_name():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.last = torch.nn.Linear(3 * PX * PX, 2)

        def forward(self, x):
            return self.last(torch.tanh(x).flatten(1))

    if find_spec("coremltools") is None:
        assert not os.environ.get("CI"), "coremltools must be there in CI"
        pytest.skip("coremltools is not installed")
    with pytest.raises(Refused, match=r"'/Tanh' \(Tanh\) cannot be converted"):
        deliver.write(device.find("iphone-7-plus"), export.to_onnx(Odd().eval(), PX))
