"""One batch, two kinds of model: what is fed to one that prepares the picture itself."""

import numpy as np
import pytest

from edged.engine import feed, preprocess
from edged.errors import Refused

CROPS = [np.random.default_rng(i).integers(0, 256, (40 + i, 30, 3), np.uint8) for i in range(3)]


def test_the_camera_s_uint8_batch_holds_the_very_numbers_of_the_float_batch():
    floats = preprocess.stack(preprocess.prepare(CROPS, 32, "float32"), "float32")
    bytes_ = preprocess.stack(preprocess.prepare(CROPS, 32, "uint8"), "uint8")
    assert (floats.dtype, bytes_.dtype, bytes_.shape) == (np.float32, np.uint8, (3, 32, 32, 3))
    assert np.array_equal(feed.fitting(floats, "uint8"), bytes_)


def test_what_is_right_already_is_fed_as_it_is():
    bytes_ = preprocess.stack(preprocess.prepare(CROPS, 32, "uint8"), "uint8")
    floats = np.ones((1, 3, 8, 8), np.float32)
    assert feed.fitting(bytes_, "uint8") is bytes_
    assert feed.fitting(floats, "float32") is floats


@pytest.mark.parametrize("value", [0.5, -1.0, 256.0, float("nan"), float("inf")])
def test_nothing_is_rounded_on_the_way(value):
    batch = np.full((1, 3, 8, 8), value, np.float32)
    with np.errstate(invalid="ignore"), pytest.raises(Refused, match="whole numbers"):
        feed.fitting(batch, "uint8")


@pytest.mark.parametrize(
    ("batch", "takes", "words"),
    [
        (np.zeros((1, 8, 8, 3), np.uint8), "float32", "takes float32, not uint8"),
        (np.zeros((1, 8, 8, 3), np.float64), "uint8", "not float64"),
        (np.zeros((1, 1, 8, 8), np.float32), "uint8", "not float32"),
    ],
)
def test_another_kind_of_batch_is_refused_in_words(batch, takes, words):
    with pytest.raises(Refused, match=words):
        feed.fitting(batch, takes)
