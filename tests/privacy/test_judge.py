"""Too dark, too grainy, too blurred: what is withheld, and what must not be."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from agent.scene import Scene
from edged.engine import patterns
from edged.privacy.detect import View
from edged.privacy.judge import TOO_BLURRED, TOO_DARK, Judgement, Limits, judge, sharpness, verdict


def told(image: np.ndarray) -> str:
    return verdict(judge(View(np.ascontiguousarray(image))), Limits())


@pytest.fixture(scope="module")
def street():
    """The generated street, by day and by night."""
    scene = Scene("north", 1)
    return {phase: scene.picture(40, phase).image for phase in ("day", "night")}


@pytest.fixture
def board():
    """1280x720 with edges of one pixel in both directions."""
    y, x = np.mgrid[0:720, 0:1280]
    return (((x // 61 + y // 47) % 2) * 120 + 60).astype(np.uint8)[..., None].repeat(3, axis=2)


def grainy(image: np.ndarray, grain: float) -> np.ndarray:
    noise = np.random.default_rng(5).standard_normal(image.shape) * grain
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def smeared(image: np.ndarray, pixels: int) -> np.ndarray:
    return np.asarray(cv2.blur(image, (pixels, 1)), np.uint8)


@pytest.mark.parametrize("phase", ["day", "night"])
def test_the_street_is_judged_by_day_and_by_night(street, phase):
    assert told(street[phase]) == ""


@pytest.mark.parametrize(("light", "word"), [(1.0, ""), (0.4, ""), (0.04, TOO_DARK), (0.0, TOO_DARK)])
def test_a_street_without_lamps_goes_dark(street, light, word):
    assert told((street["day"] * light).astype(np.uint8)) == word


def test_a_lamp_in_a_black_picture_is_no_light():
    image = np.full((720, 1280, 3), 2, np.uint8)
    cv2.circle(image, (400, 200), 90, (255, 255, 255), -1)
    assert told(image) == TOO_DARK


def test_a_lit_quarter_is_light_enough(board):
    board[:, : 1280 * 2 // 3] = 2
    assert told(board) == ""


def test_what_the_camera_makes_of_darkness_by_its_gain_is_dark(street):
    assert told(grainy(street["day"], 10)) == ""
    assert told(grainy(street["day"], 70)) == TOO_DARK


@pytest.mark.parametrize(("sigma", "word"), [(0, ""), (2, ""), (3, ""), (7, TOO_BLURRED), (20, TOO_BLURRED)])
def test_a_lens_out_of_focus_is_found_out(street, sigma, word):
    image = street["day"]
    assert told(cv2.GaussianBlur(image, (0, 0), sigma) if sigma else image) == word


@pytest.mark.parametrize(("pixels", "word"), [(5, ""), (9, ""), (33, TOO_BLURRED)])
def test_motion_blurs_one_direction_only_and_is_found_out(board, pixels, word):
    assert told(smeared(board, pixels)) == word
    assert told(smeared(board.transpose(1, 0, 2), pixels).transpose(1, 0, 2)) == word


def test_a_plain_wall_is_not_blurred():
    wall = np.full((720, 1280, 3), 140, np.uint8)
    slope = np.linspace(60, 200, 1280)[None, :, None] * np.ones((720, 1, 3))
    for image in (wall, slope.astype(np.uint8), grainy(wall, 3), grainy(slope, 3)):
        assert judge(View(image)).sharpness == 1.0
        assert told(image) == ""


def test_one_sharp_thing_before_a_wall_proves_the_focus():
    wall = np.full((720, 1280, 3), 140, np.uint8)
    cv2.rectangle(wall, (600, 100), (700, 620), (60, 60, 60), -1)
    assert told(wall) == ""
    assert told(cv2.GaussianBlur(wall, (0, 0), 9)) == TOO_BLURRED


def test_a_step_is_one_and_a_slope_is_its_share():
    across = np.arange(640) % 64
    step = np.where(across < 32, 60, 160).astype(np.uint8)[None].repeat(360, axis=0)
    slope = np.clip(160 - np.abs(across - 32) * 25, 60, 160).astype(np.uint8)[None].repeat(360, axis=0)
    assert sharpness(step) == 1.0
    assert 0.25 <= sharpness(slope) < 0.5, "25 of 100 grey levels a pixel"


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (150, 150), (224, 224)])
def test_tiles_are_judged_by_their_light_alone(size):
    tile = cv2.resize(cv2.GaussianBlur(patterns.picture(2, 64), (0, 0), 8), size)
    assert told(np.maximum(tile, 60)) == ""
    assert told(np.zeros((*size, 3), np.uint8)) == TOO_DARK


@pytest.mark.parametrize(
    ("judgement", "word"),
    [
        (Judgement(9.9, 1.0, 0.0), TOO_DARK),
        (Judgement(10.0, 0.245, 17.0), ""),
        (Judgement(90.0, 0.24, 0.0), TOO_BLURRED),
        (Judgement(90.0, 1.0, 17.1), TOO_DARK),
        (Judgement(1.0, 0.1, 0.0), TOO_DARK),
    ],
)
def test_the_limits_are_what_they_say(judgement, word):
    assert verdict(judgement, Limits()) == word
    assert verdict(judgement, Limits(0, 0, 255)) == ""
