"""What a camera needs runs on 64-bit ARM, as far as an emulator of its instructions can tell: `.ci/arm`, by command.

Here is only what needs no download: that nothing is left out, and that the comparison can say no.
"""

from __future__ import annotations

import configparser
import importlib.util
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from edged.engine import onnx_write

ROOT = Path(__file__).parents[2]
SCRIPT = (ROOT / ".ci" / "arm").read_text()
MODULES = {"opencv-python-headless": "cv2", "paho-mqtt": "paho"}


def listed(name: str) -> list[str]:
    return re.findall(rf'^{name}="([^"]*)"', SCRIPT, re.MULTILINE)[0].split()


def probe():
    spec = importlib.util.spec_from_file_location("probe_camera", ROOT / "tests" / "arm" / "probe_camera.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_dependency_of_the_camera_is_left_out_of_the_emulation() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    wanted = config["options"]["install_requires"] + config["options.extras_require"]["camera"]
    names = {re.split(r"[\s<>=\[;]", line.strip())[0] for line in wanted.splitlines() if line.strip()}
    names = {name for name in names if not name.startswith("#")}
    assert names <= set(listed("wheels"))
    modules = {MODULES.get(name, name.replace("-", "_")) for name in names}
    assert modules <= {word.split(".")[0] for word in listed("modules")}


def test_every_wheel_of_the_emulation_is_pinned() -> None:
    pins = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert set(listed("wheels")) <= pins


def test_the_control_is_a_dot_product_of_armv8_2() -> None:
    """UDOT (vector), Arm ARM C7.2: 0 Q 1 01110 10 0 Rm 1 0 0 1 0 1 Rn Rd, with Q = 1, Rm = Rn = Rd = 0."""
    text = (ROOT / "tests" / "arm" / "probe_dotprod.py").read_text()
    (word,) = struct.unpack("<I", bytes.fromhex(re.findall(r'UDOT = bytes.fromhex\("(\w+)"\)', text)[0]))
    assert word == 0b0_1_1_01110_10_0_00000_1_0_0_1_0_1_00000_00000


def test_another_answer_than_the_makers_fails_the_comparison() -> None:
    """The negative control of the comparison: the first logit of one picture by a thousandth of the largest."""
    camera, net = probe(), onnx_write.Net((3, 16, 16), batch=2)
    model = net.model(net.full(net.conv(net.x, 4), 3))
    right = camera.answers(model, 16, 2, "onnxruntime")
    other = right.copy()
    other[1, 0] += 1e-3 * np.abs(right).max()
    for logits, fails in ((right, False), (other, True)):
        known = json.loads(json.dumps({"answers": {"onnxruntime": logits.tolist()}, "known": {"px": 16}}))
        if not fails:
            assert "onnxruntime within" in camera.answered(model, "net-float32", known, "onnxruntime")
            continue
        with pytest.raises(AssertionError, match="of the largest logit"):
            camera.answered(model, "net-float32", known, "onnxruntime")


def test_a_file_that_is_refused_on_one_side_only_fails_the_comparison() -> None:
    camera, net = probe(), onnx_write.Net((3, 16, 16))
    known = {"answers": {"onnxruntime": "OpenCV cannot run the model"}, "known": {"px": 16}}
    with pytest.raises(AssertionError, match="refuses"):
        camera.answered(net.model(net.conv(net.x, 4)), "net-int8", known, "onnxruntime")
