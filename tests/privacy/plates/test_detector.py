"""Finding plates: what the shipped weights must manage, and what happens when they are not what they should be."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files

import cv2
import numpy as np
import pytest

from edged.engine import patterns, runtimes
from edged.errors import Misconfigured
from edged.privacy import heatmap, selftest
from edged.privacy.detect import View
from edged.privacy.heatmap import Guess
from edged.privacy.plates import PlateDetector, measure
from edged.privacy.scrub import Withheld


@pytest.fixture(scope="module")
def plates():
    return PlateDetector()


def street(width: int, height: int) -> np.ndarray:
    wall = patterns.picture(8, 64)[: max(8, 64 * height // width)]
    return np.asarray(cv2.resize(wall, (width, height), interpolation=cv2.INTER_CUBIC) // 3 + 90, np.uint8)


def with_plate(width: int, height: int, plate: int) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    image = street(width, height)
    return image, selftest.draw_plate(image, width // 2, height // 2, plate)


def hides(found, box) -> bool:
    seen = np.zeros((2000, 2000), bool)
    for one in found:
        x, y, w, h = one.x - one.w / 4, one.y - one.h / 4, one.w * 1.5, one.h * 1.5
        seen[max(0, int(y)) : int(y + h) + 1, max(0, int(x)) : int(x + w) + 1] = True
    x, y, w, h = box
    return bool(seen[y : y + h, x : x + w].mean() > 0.9)


def test_what_fills_a_frame_is_no_plate_but_a_plate_may_fill_a_region(monkeypatch):
    detector = PlateDetector()
    for width, height, expected in ((1280, 720, 0), (224, 224, 1)):
        wide = Guess(0.1 * width, 0.1 * height, 0.9 * width, 0.6 * height, 0.99)
        monkeypatch.setattr(detector.finder, "guesses", lambda view, least, wide=wide: [wide])
        assert len(detector.find(View(np.zeros((height, width, 3), np.uint8)))) == expected


@pytest.mark.parametrize("plate", [40, 60, 100, 160, 260, 400, 640])
@pytest.mark.parametrize("dim", [1.0, 0.4])
def test_a_plate_of_each_width_is_found_by_day_and_in_the_dark(plates, plate, dim):
    image, box = with_plate(1280, 720, plate)
    found = plates.find(View((image * dim).astype(np.uint8)))
    assert hides([one for one in found if one.score >= plates.start], box)


@pytest.mark.parametrize("size", [(320, 240), (640, 480), (720, 1280), (1920, 1080)])
def test_a_plate_is_found_in_pictures_of_any_size(plates, size):
    image, box = with_plate(*size, min(size) // 4)
    assert hides(plates.find(View(image)), box)


def test_nine_of_ten_plates_of_layouts_that_were_never_drawn_in_training_are_hidden(plates):
    judged = [
        measure.judge(plates, image, "drawn", boxes, (plates.start,))
        for image, boxes in measure.look_alikes(3, 30, [])
    ]  # fmt: skip
    figures = measure.summary(judged, (plates.start,), plates.start)
    assert figures["plates"] >= 20
    assert figures["hidden"] >= 0.9


def test_an_empty_wall_and_a_black_picture_have_no_plate(plates):
    for image in (np.full((720, 1280, 3), 120, np.uint8), np.zeros((480, 640, 3), np.uint8)):
        assert plates.find(View(image)) == []
    assert plates.find(View(np.zeros((16, 16, 3), np.uint8))) == []


def test_one_plate_is_one_box(plates):
    image, _ = with_plate(1280, 720, 200)
    assert len([one for one in plates.find(View(image)) if one.score >= plates.start]) == 1


@pytest.mark.skipif(len(runtimes()) < 2, reason="needs both runtimes")
def test_both_runtimes_find_the_same():
    image, _ = with_plate(1280, 720, 120)
    first, second = (PlateDetector(name).find(View(image)) for name in ("openvino", "onnxruntime"))
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert a == pytest.approx(b, abs=0.1) if not isinstance(a.kind, str) else a[1:] == pytest.approx(b[1:], abs=0.1)


class Answers:
    def __init__(self, heat: float, box: float = 0.0) -> None:
        self.heat, self.box = heat, box

    def run(self, batch):
        h, w = batch.shape[2] // 8, batch.shape[3] // 8
        return np.full((1, 1, h, w), self.heat, np.float32), np.full((1, 4, h, w), self.box, np.float32)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_withhold_the_picture(monkeypatch, bad):
    found = PlateDetector()
    for answers in (Answers(bad), Answers(0.9, box=bad)):
        monkeypatch.setattr(found.finder.engines, "at", lambda w, h, a=answers: a)
        with pytest.raises(Withheld) as caught:
            found.find(View(street(640, 360)))
        assert caught.value.code == "detector"


@pytest.mark.parametrize("spoil", ["onnx", "card", "missing", "nonsense"])
def test_weights_that_are_not_the_measured_file_do_not_load(tmp_path, spoil):
    home = files("edged.privacy.plates")
    weights, card = home.joinpath("plates.onnx").read_bytes(), json.loads(home.joinpath("plates.json").read_bytes())
    if spoil == "onnx":
        weights = weights[:-1] + bytes([weights[-1] ^ 1])
    if spoil == "card":
        card["sha256"] = "0" * 64
    (tmp_path / "plates.json").write_text("{" if spoil == "nonsense" else json.dumps(card))
    if spoil != "missing":
        (tmp_path / "plates.onnx").write_bytes(weights)
    with pytest.raises(Misconfigured):
        PlateDetector(weights=tmp_path)


@pytest.mark.parametrize(
    ("picture", "long_side", "size"),
    [
        ((1280, 720), 960, (960, 544)), ((1280, 720), 320, (320, 192)), ((1920, 1080), 960, (960, 544)),
        ((320, 240), 960, (480, 352)), ((320, 240), 320, (160, 128)), ((720, 1280), 960, (544, 960)),
        ((16, 16), 320, (32, 32)),
    ],
)  # fmt: skip
def test_the_networks_input_follows_the_picture(picture, long_side, size):
    assert heatmap.input_size(*picture, long_side) == size


def test_only_a_few_compiled_networks_are_kept(plates):
    for width in range(64, 64 + 32 * 8, 32):
        plates.finder.engines.at(width, 64)
    assert len(plates.finder.engines) == heatmap.KEPT_SIZES


def test_guesses_of_one_place_become_one_box_between_them():
    whole, again = heatmap.Guess(0, 0, 100, 20, 0.8), heatmap.Guess(4, 0, 104, 20, 0.4)
    part, other = heatmap.Guess(10, 2, 30, 18, 0.3), heatmap.Guess(300, 0, 400, 20, 0.5)
    merged = heatmap.merge([part, again, other, whole])
    assert len(merged) == 2
    assert merged[0][:4] == pytest.approx((4 / 3, 0, 100 + 4 / 3, 20))
    assert merged[1] == other


def test_finding_plates_needs_no_torch():
    code = (
        "import sys; from edged.privacy.plates import PlateDetector; PlateDetector();"
        "sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
