"""Both runtimes give the same numbers, so that the same blocks are covered whichever is installed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edged import engine
from edged.privacy import faces, picture, plates, selftest
from edged.privacy.detect import View
from edged.privacy.faces import FaceDetector
from edged.privacy.picture import Scrubber
from edged.privacy.plates import PlateDetector

CHANCE = 1e-3  # by which a probability may differ; measured 3e-6
NUMBER = 2e-2  # by which a box's number may differ, in cells or in their logarithm, where there may be something
SIZES = [(1280, 720), (640, 360), (704, 576)]

pytestmark = pytest.mark.skipif(len(engine.runtimes()) < 2, reason="only one runtime is installed")


def shipped() -> list[Path]:
    """Every network that comes with edged."""
    home = Path(plates.__file__).parent.parent
    return [faces.model_file(), *sorted(home.rglob("*.onnx"))]


def planted(width: int, height: int) -> np.ndarray:
    if (width, height) != (704, 576):
        return selftest.planted(width, height)[0]
    image = np.asarray(cv2.resize(selftest.planted(1280, 720)[0], (width, 396)), np.uint8)
    return np.vstack([image, image[:180]])


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.name)
def test_every_shipped_network_answers_the_same_on_both(path):
    luma = path.name != "centerface.onnx"
    image = planted(640, 384) if luma else planted(640, 352)
    view = View(image)
    batch = view.luma(640, 384)[None, None] if luma else image[..., ::-1].transpose(2, 0, 1)[None]
    batch = np.ascontiguousarray(batch, np.float32)
    answers = [engine.load(path, runtime=r, input_shape=batch.shape).run(batch) for r in ("openvino", "onnxruntime")]
    heat, other = (answer[0] for answer in answers)
    assert np.abs(heat - other).max() <= CHANCE
    assert heat.max() > 0.3, "there is something to be found"
    somewhere = heat[0, 0] > 0.02
    for a, b in zip(answers[0][1:3], answers[1][1:3], strict=True):
        assert np.abs(a - b)[0, :, somewhere].max() <= NUMBER


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_same_blocks_are_covered_on_both(encode, look_of, size):
    covered = []
    for runtime in ("openvino", "onnxruntime"):
        scrubber = Scrubber([FaceDetector(runtime), PlateDetector(runtime)])
        seen = scrubber.look(look_of(encode(planted(*size)), size))
        hidden = picture.blocks(planted(*size))
        for spot in seen.spots:
            if spot.sure:
                picture.hide_box(hidden, (spot.x, spot.y, spot.w, spot.h), 0.25)
        assert {s.kind for s in seen.spots if s.sure} == {"face", "plate"}
        covered.append(hidden)
    np.testing.assert_array_equal(*covered)
