"""The known-answer pictures may never change: released models carry answers computed from them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from edged.engine import patterns


@pytest.mark.parametrize(
    ("seed", "px", "digest"),
    [
        (0, 64, "b9adf6ac3afefdb5ac02d880c94630f41f972aeafdcbc7fcec00c53c5b5b1cf8"),
        (1, 224, "9a3c3ea79423ed42aa5f30088ee3c7443c04aa2160e9722e46905775587d7f2e"),
        (2147483648, 32, "bfa3334bfcc69b24f4b8c9d71161d1884aed6a0622759e971050caf7f4067a5d"),
        (12345, 97, "b27687902b1f954b1ddb6582edcfbc742be5be5bbcc435b52c927181ce163109"),
    ],
)
def test_a_picture_is_what_it_always_was(seed, px, digest):
    picture = patterns.picture(seed, px)
    assert (picture.shape, picture.dtype) == ((px, px, 3), np.uint8)
    assert hashlib.sha256(picture.tobytes()).hexdigest() == digest


def test_pictures_differ_from_seed_to_seed():
    assert len({patterns.picture(seed, 32).tobytes() for seed in range(200)}) == 200


@pytest.mark.parametrize(("seed", "px"), [(-1, 64), (0, 7), (0, 5000)])
def test_sizes_that_make_no_sense_are_refused(seed, px):
    with pytest.raises(ValueError, match="are needed"):
        patterns.picture(seed, px)
