"""An owner's YuNet: decoded by hand-made numbers, at two scales, on both runtimes; a wrong file is named as such."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edged.errors import Misconfigured
from edged.privacy import yunet
from edged.privacy.detect import View
from edged.privacy.faces import FaceDetector, strict_faces
from edged.privacy.scrub import Withheld
from edged.privacy.yunet import YuNet

WIDE, HIGH = np.log(4.0), np.log(3.0)


def network(
    strides=(8, 16, 32), *, box_numbers: int = 4, only: int | None = 16, poison: float = 0.0, doubt: float = 0.01
) -> bytes:
    """A network with YuNet's outputs: a cell's cls and obj are how red it is in the mean; its box is 4 cells wide, 3
    high, in the middle of the cell. Strides other than `only` see nothing. `poison` is added to bbox_8."""
    nodes, constants, outputs = [], [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    for s in strides:
        nodes.append(helper.make_node("AveragePool", ["input"], [f"mean_{s}"], kernel_shape=[s, s], strides=[s, s]))
        for name, n in (("cls", 1), ("obj", 1), ("bbox", box_numbers), ("kps", 10)):
            weight, bias = np.zeros((n, 3, 1, 1), np.float32), np.zeros(n, np.float32)
            if name in ("cls", "obj"):
                weight[0, 2] = 1 / 255 if only in (s, None) else 0  # BGR: red comes last
                if name == "cls" and only not in (s, None):
                    bias[:] = doubt  # no working network says exactly nothing of every place
            elif name == "bbox":
                bias[:4] = np.float32((0.5, 0.5, WIDE, HIGH))[:n]
                if s == 8:
                    bias += np.float32(poison)
            made = f"{name}_{s}"
            inputs = [f"mean_{s}", constant(f"w_{made}", weight), constant(f"b_{made}", bias)]
            nodes.append(helper.make_node("Conv", inputs, [f"c_{made}"]))
            nodes.append(helper.make_node("Transpose", [f"c_{made}"], [f"t_{made}"], perm=[0, 2, 3, 1]))
            shape = constant(f"s_{made}", np.array([1, -1, n], np.int64))
            nodes.append(helper.make_node("Reshape", [f"t_{made}", shape], [made]))
            outputs.append(helper.make_tensor_value_info(made, TensorProto.FLOAT, [1, None, n]))
    taken = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 640, 640])
    graph = helper.make_graph(nodes, "yunet", [taken], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model.SerializeToString()


@pytest.fixture
def file(tmp_path):
    def write(data: bytes):
        path = tmp_path / "yunet.onnx"
        path.write_bytes(data)
        return path

    return write


@pytest.fixture
def red():
    """A grey 1280x704 picture with one red square of 32 pixels, and its corner."""
    image = np.full((704, 1280, 3), 120, np.uint8)
    image[..., 2] = 0
    image[320:352, 640:672] = (120, 120, 255)
    return View(image)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_face_is_where_the_numbers_say(file, red, runtime):
    data = network()
    detector = YuNet(file(data), runtime)
    assert detector.runtime == runtime
    assert detector.sha256 == hashlib.sha256(data).hexdigest()
    found = [f for f in detector.find(red) if f.score > 0.9]
    # At 1280 four cells of 16 pixels are red, at 640 one; they overlap, so that one or two boxes stay.
    assert found
    assert all(f.kind == "face" for f in found)
    half = next(f for f in found if f.w == pytest.approx(128, rel=1e-3)) if len(found) > 1 else found[0]
    assert half.w / half.h == pytest.approx(4 / 3, rel=1e-3)
    assert 640 <= half.x + half.w / 2 <= 672
    assert 320 <= half.y + half.h / 2 <= 352


def test_decoding_is_that_of_the_paper():
    width, height = 96, 64
    outputs = {}
    for s in yunet.STRIDES:
        n = (width // s) * (height // s)
        outputs |= {f"{name}_{s}": np.zeros((1, n, k), np.float32) for name, k in (("cls", 1), ("obj", 1), ("bbox", 4))}
    yunet.check(outputs, width, height)
    cell = 2 * (width // 16) + 3  # row 2, column 3
    outputs["cls_16"][0, cell], outputs["obj_16"][0, cell] = 0.81, 1.4  # OpenCV clips both to 1
    outputs["bbox_16"][0, cell] = (0.25, 0.5, np.log(2.0), np.log(1.5))
    ((x, y, w, h, score),) = yunet.decode(outputs, width, 0.3)
    assert (w, h) == pytest.approx((32, 24))
    assert (x, y) == pytest.approx((3.25 * 16 - 16, 2.5 * 16 - 12))
    assert score == pytest.approx(0.9)
    assert yunet.decode(outputs, width, 0.91) == []


def test_what_both_scales_see_is_one_face(file, red):
    detector = YuNet(file(network(only=None)))
    found = detector.find(red)
    for i, a in enumerate(found):
        for b in found[:i]:
            across = min(a.x + a.w, b.x + b.w) - max(a.x, b.x)
            down = min(a.y + a.h, b.y + b.h) - max(a.y, b.y)
            shared = max(0.0, across) * max(0.0, down)
            assert shared / (a.w * a.h + b.w * b.h - shared) <= yunet.OVERLAP + 1e-6


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (network(strides=(8, 16)), "no output cls_32"),
        (network(box_numbers=5), "bbox_8 is"),
        (b"no network at all", "not an ONNX model"),
        (b"", "not an ONNX model"),
    ],
)
def test_a_wrong_file_is_told_with_what_is_expected(file, data, why):
    with pytest.raises(Misconfigured, match=why) as caught:
        YuNet(file(data))
    assert "cls_s and obj_s [1,n,1] and bbox_s [1,n,4]" in caught.value.hint


def test_another_network_is_no_yunet(file):
    other = helper.make_graph(
        [helper.make_node("Relu", ["input"], ["faces"])],
        "other",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("faces", TensorProto.FLOAT, [1, 3, 32, 32])],
    )
    model = onnx.helper.make_model(other, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    with pytest.raises(Misconfigured, match="it has no output cls_8, but faces"):
        YuNet(file(model.SerializeToString()))


def test_a_missing_file_is_the_operators_matter(tmp_path):
    with pytest.raises(Misconfigured, match=r"gone\.onnx cannot be read: No such file"):
        YuNet(tmp_path / "gone.onnx")


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_numbers_that_are_none_withhold_the_picture(file, red, poison):
    detector = YuNet(file(network(poison=poison)))
    with pytest.raises(Withheld) as caught:
        detector.find(red)
    assert caught.value.code == "detector"


def test_a_network_that_is_stuck_withholds_the_picture(file):
    with pytest.raises(Withheld, match="the same for every place"):
        YuNet(file(network(doubt=0.0))).find(View(np.zeros((360, 640, 3), np.uint8)))


def test_a_dark_wall_has_no_face_and_only_a_few_networks_are_kept(file):
    detector = YuNet(file(network()))
    for height in (90, 180, 360, 720):
        assert detector.find(View(np.zeros((height, 640, 3), np.uint8))) == []
    assert len(detector.engines) <= yunet.KEPT_SIZES


@pytest.mark.parametrize(("picture", "size"), [((1280, 720), (1280, 704)), ((640, 360), (1280, 704))])
def test_small_pictures_are_enlarged(picture, size):
    assert yunet.input_size(*picture, 1280) == size


def test_strict_runs_both_networks(file):
    detectors = strict_faces(yunet=file(network()))
    assert any(isinstance(d, YuNet) for d in detectors)
    assert any(isinstance(d, FaceDetector) for d in detectors)
    assert all(d.kind == "face" for d in detectors)
