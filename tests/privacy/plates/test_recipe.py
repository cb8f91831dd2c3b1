"""Drawing, cutting and measuring: the parts of the recipe that can be wrong without anybody noticing."""

from __future__ import annotations

import csv
import json
import sys

import cv2
import numpy as np
import pytest

from edged.privacy.detect import Found
from edged.privacy.plates import measure, photographs, render, scenes
from edged.privacy.plates.layouts import HELD_OUT, LAYOUTS


def test_the_same_seed_draws_the_same_scene():
    first, second = (scenes.drawn(np.random.default_rng(5), []) for _ in range(2))
    assert (first.luma == second.luma).all()
    assert (first.boxes == second.boxes).all()


@pytest.mark.parametrize("kind", [*LAYOUTS, *HELD_OUT], ids=lambda kind: kind.name)
def test_every_layout_can_be_drawn_and_has_writing_on_it(kind):
    rng = np.random.default_rng(1)
    for width in (48, 200, 480):
        plate = render.plate(rng, kind, width)
        assert plate.luma.shape == plate.alpha.shape
        assert 0 <= plate.luma.min() <= plate.luma.max() <= 255
        assert plate.luma.std() > 4
        assert plate.luma.shape[1] / plate.luma.shape[0] == pytest.approx(plate.mm[0] / plate.mm[1], rel=0.1)


def test_no_layout_of_the_look_alike_test_is_drawn_for_training():
    assert not {kind.name for kind in LAYOUTS} & {kind.name for kind in HELD_OUT}
    rng = np.random.default_rng(0)
    assert {render.layout(rng).name for _ in range(300)} <= {kind.name for kind in LAYOUTS}


def test_boxes_lie_in_the_scene_and_what_cannot_be_made_out_is_ignored():
    for seed in range(30):
        scene = scenes.drawn(np.random.default_rng(seed), [])
        shown = scene.boxes[scene.boxes[:, 4] != 0]
        assert (shown[:, :2] >= 0).all()
        assert (shown[:, :2] + shown[:, 2:4] <= scenes.SIDE + 1e-3).all()
        assert (shown[shown[:, 4] > 0][:, 2] >= scenes.NARROWEST * 0.6).all()
    assert scenes.table([(-90, 10, 100, 20)], 320)[0, 4] == scenes.IGNORED
    assert scenes.table([(10, 10, 8, 3)], 320)[0, 4] == scenes.IGNORED


@pytest.fixture
def frames(tmp_path):
    """Two films of one frame each with one plate, as a folder and a table."""
    for name in ("a_1.png", "b_1.png"):
        image = np.full((480, 640), 90, np.uint8)
        cv2.rectangle(image, (300, 300), (400, 325), 220, -1)
        cv2.imwrite(str(tmp_path / name), image)
    table = tmp_path / "boxes.csv"
    with table.open("w", newline="") as f:
        csv.writer(f).writerows([
            ("image", "film", "xmin", "ymin", "xmax", "ymax"),
            ("a_1.png", "a", 300, 300, 400, 325),
            ("b_1.png", "b", 300, 300, 400, 325),
        ])  # fmt: skip
    return tmp_path, table


def test_frames_are_taken_by_film_and_their_skies_show_no_plate(frames):
    taken = photographs.frames(*frames, lambda name, film: film == "a")
    assert [frame.name for frame in taken] == ["a_1.png"]
    assert taken[0].boxes == ((300.0, 300.0, 100.0, 25.0),)
    assert all((sky == 90).all() for sky in photographs.skies(taken))
    scene = photographs.scene(np.random.default_rng(0), taken)
    assert scene.trust == photographs.TRUST
    assert (scene.boxes[:, 4] != 0).any()


class Blind:
    kind, start, keep = "plate", 0.3, 0.1

    def __init__(self, *found: Found) -> None:
        self.found = list(found)

    def find(self, view):
        return self.found


def test_the_measure_tells_a_hidden_plate_from_an_exposed_one_and_counts_what_was_covered_in_vain():
    image = np.zeros((480, 640, 3), np.uint8)
    plates = [(160.0, 160.0, 64.0, 32.0), (320.0, 320.0, 64.0, 32.0)]
    detector = Blind(Found("plate", *plates[0], 0.9), Found("plate", 480.0, 0.0, 32.0, 16.0, 0.5))
    judged = measure.judge(detector, image, "film", plates, (0.3, 0.7))
    assert judged.hidden.tolist() == [[True, False], [True, False]]
    assert judged.false_area.tolist() == [pytest.approx(4 * 2 * 256 / (640 * 480)), 0]
    figures = measure.summary([judged], (0.3, 0.7), 0.3)
    assert figures["hidden"] == 0.5
    assert figures["by_film"]["film"][1] == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the exporter that needs no further package
@pytest.mark.timeout(400)
def test_the_recipe_runs_from_nothing_to_weights_that_load(tmp_path, monkeypatch):
    from edged.privacy.plates import PlateDetector, train

    arguments = ["train", "--out", str(tmp_path), "--minutes", "0.03", "--width", "12", "--first", "2", "--chunk", "40"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--cache", str(tmp_path)])
    train.main()
    card = json.loads((tmp_path / "plates.json").read_text())
    detector = PlateDetector(weights=tmp_path)
    assert card["sha256"] == detector.sha256
    assert detector.find(measure.View(np.zeros((360, 640, 3), np.uint8))) is not None
