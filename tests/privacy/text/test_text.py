"""Burned-in text: what the shipped weights must manage, and how lines are cut into pieces."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edged.privacy.detect import View
from edged.privacy.plates import measure
from edged.privacy.text import TextDetector, scenes
from edged.privacy.text.measure import look_alikes


@pytest.fixture(scope="module")
def text():
    return TextDetector()


@pytest.mark.parametrize("tone", [255, 20])
@pytest.mark.parametrize("corner", [(10, 40), (800, 40), (10, 700), (800, 700)])
def test_a_name_and_a_date_are_found_in_every_corner_light_or_dark(text, tone, corner):
    image = np.full((720, 1280, 3), 200 if tone < 100 else 30, np.uint8)
    before = image.copy()
    cv2.putText(image, "DOE, JANE 1970-01-01", corner, cv2.FONT_HERSHEY_SIMPLEX, 0.9, (tone,) * 3, 2, cv2.LINE_AA)
    rows, columns = np.nonzero((image != before).any(2))
    x, y = int(columns.min()), int(rows.min())
    box = (float(x), float(y), float(columns.max() + 1 - x), float(rows.max() + 1 - y))
    assert measure.judge(text, image, "drawn", [box], (text.start,)).hidden.all()


def test_nine_of_ten_pieces_of_text_are_hidden_in_a_typeface_that_training_never_saw(text):
    judged = [measure.judge(text, image, "drawn", boxes, (text.start,)) for image, boxes in look_alikes(3, 20, [])]
    figures = measure.summary(judged, (text.start,), text.start)
    assert figures["plates"] >= 30
    assert figures["hidden"] >= 0.9


def test_an_empty_picture_has_no_text(text):
    assert text.find(View(np.full((720, 1280, 3), 120, np.uint8))) == []


def test_a_line_is_cut_where_it_has_gaps_and_into_pieces_of_about_three_heights():
    mask = np.zeros((10, 200), np.uint8)
    mask[:, :60] = mask[:, 90:110] = 255
    assert scenes.cut(mask, 5, 7) == [(5, 7, 30, 10), (35, 7, 30, 10), (95, 7, 20, 10)]
    assert scenes.cut(np.zeros((10, 50), np.uint8), 0, 0) == []
