"""From a picture to labelled regions."""

import numpy as np
import pytest

from agent.pipeline import STAGES, Pipeline, encode, inside
from edged.engine import load, patterns
from edged.errors import Refused
from edged.wire.messages import FrameHeader

BOXES = ((0, 0, 100, 100), (50, 60, 120, 90), (200, 10, 40, 60), (10, 150, 90, 80))


@pytest.fixture
def picture():
    return patterns.picture(4, 320)[:240]


@pytest.fixture
def pipeline(make):
    return Pipeline(load(make.classifier(1), runtime="onnxruntime"), make.CLASSES, make.PX)


def test_every_stage_is_timed_and_every_region_labelled(pipeline, picture, make):
    result = pipeline.run(picture, BOXES, acquire_ms=2.5)
    assert tuple(result.ms) == STAGES
    assert result.ms["acquire"] > 2.5
    assert result.ms["infer"] > 0
    assert result.ms["overlay"] == 0
    assert [(r.x, r.y, r.w, r.h) for r in result.regions] == list(BOXES)
    assert all(r.label in make.CLASSES and 0.5 <= r.score <= 1 and r.margin <= r.score for r in result.regions)
    assert result.bad == 0


def test_regions_together_and_one_by_one_get_the_same_answer(pipeline, picture):
    together = pipeline.run(picture, BOXES).regions
    alone = [pipeline.run(picture, [b]).regions[0] for b in BOXES]
    assert [r.label for r in together] == [r.label for r in alone]
    assert np.allclose([r.score for r in together], [r.score for r in alone], atol=1e-5)


def test_without_a_model_regions_have_no_label(picture):
    result = Pipeline(None, (), 224).run(picture, BOXES)
    assert [r.label for r in result.regions] == [""] * 4
    assert result.ms["infer"] == 0


def test_a_picture_without_regions_is_not_shown_to_the_model(picture):
    class Never:
        runtime, takes = "none", "float32"

        def run(self, batch):
            raise AssertionError

    assert Pipeline(Never(), ("a", "b"), 32).run(picture, ()).regions == ()


def test_what_is_not_finite_gets_no_label_and_can_be_sent(picture, make):
    class Half:
        runtime, takes = "none", "float32"

        def run(self, batch):
            return (np.array([[1, 2], [np.nan, 0], [np.inf, 0], [3, 1]], np.float32),)

    result = Pipeline(Half(), make.CLASSES, 32).run(picture, BOXES)
    assert result.bad == 2
    assert [r.label for r in result.regions] == ["busy", "", "", "free"]
    header = FrameHeader("x-1", 1.0, 1, "x", 320, 240, "", result.regions)
    assert FrameHeader.from_properties(header.to_properties()) == header


def test_a_model_with_other_classes_is_refused(picture, make):
    model = load(make.classifier(1, classes=7), runtime="onnxruntime")
    with pytest.raises(Refused, match="classes"):
        Pipeline(model, make.CLASSES, make.PX).run(picture, BOXES)


def test_boxes_are_clipped_and_at_most_four():
    boxes = [(-10, -10, 30, 30), (310, 230, 50, 50), (400, 0, 10, 10), *[(0, 0, 5, 5)] * 4]
    assert inside(boxes, 320, 240) == ((0, 0, 20, 20), (310, 230, 10, 10), (0, 0, 5, 5))


def test_the_overlay_is_a_copy(pipeline, picture):
    before = picture.copy()
    result = pipeline.run(picture, BOXES, overlay=True)
    assert (picture == before).all()
    assert (result.overlay != picture).any()
    assert result.ms["overlay"] > 0


def test_a_picture_becomes_a_jpeg(picture):
    assert encode(picture)[:3] == b"\xff\xd8\xff"
