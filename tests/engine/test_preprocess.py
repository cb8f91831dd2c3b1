"""Cutting, turning into floats, and reading the answer."""

from __future__ import annotations

import numpy as np
import pytest

from edged.engine import patterns, preprocess
from edged.errors import Refused


def test_floats_are_rgb_and_not_normalised():
    blue = np.zeros((50, 40, 3), np.uint8)
    blue[..., 0], blue[..., 1] = 200, 10
    (tensor,) = preprocess.to_float([blue], 8)
    assert (tensor.shape, tensor.dtype) == ((8, 8, 3), np.float32)
    assert tensor[3, 3].tolist() == [0.0, 10.0, 200.0]


def test_marshal_makes_contiguous_nchw():
    tensors = preprocess.to_float([patterns.picture(s, 32) for s in (1, 2)], 16)
    batch = preprocess.marshal(tensors)
    assert batch.shape == (2, 3, 16, 16)
    assert batch.flags.c_contiguous
    np.testing.assert_array_equal(batch[1, 2], tensors[1][..., 2])


def test_decode_gives_class_probability_and_margin():
    logits = np.array([[0, np.log(2), np.log(5)], [1000, 0, 0]], np.float32)
    index, score, margin = preprocess.decode(logits)
    assert index.tolist() == [2, 0]
    np.testing.assert_allclose(score, [5 / 8, 1])
    np.testing.assert_allclose(margin, [3 / 8, 1])


def test_decode_of_a_single_class_is_sure():
    index, score, margin = preprocess.decode(np.array([[3.0]], np.float32))
    assert (index[0], score[0], margin[0]) == (0, 1.0, 1.0)


def test_a_region_of_the_right_size_is_cut_as_it_is():
    image = patterns.picture(5, 300)
    np.testing.assert_array_equal(preprocess.cut(image, 30, 40, 224, 224), image[40:264, 30:254])


def test_a_long_region_is_padded_with_its_own_edge_not_with_its_surroundings():
    image = np.full((300, 300, 3), 255, np.uint8)
    image[100:150, 50:250] = 60
    crop = preprocess.cut(image, 50, 100, 200, 50)
    assert crop.shape == (224, 224, 3)
    assert crop.max() == 60


def test_a_region_over_the_border_is_clipped_and_one_outside_refused():
    image = patterns.picture(6, 100)
    np.testing.assert_array_equal(preprocess.cut(image, -50, -50, 80, 80), preprocess.cut(image, 0, 0, 30, 30))
    with pytest.raises(Refused) as caught:
        preprocess.cut(image, 100, 0, 10, 10)
    assert caught.value.code == "bad_region"
