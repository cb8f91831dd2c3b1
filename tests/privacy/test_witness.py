"""The second look sees what the first stage forgot to hide, in the picture and in its regions."""

from __future__ import annotations

import cv2
import msgspec
import numpy as np
import pytest

from edged.engine import patterns, preprocess
from edged.privacy import picture, witness
from edged.privacy.picture import Scrubber
from edged.privacy.scrub import Withheld, believe, vouch
from edged.privacy.talk import Spot, settled, word
from edged.privacy.witness import Encoded

luma_of = witness._luma
FACE = Spot("face", 101.5, 90.25, 60.0, 70.0)
MASK = (((0.5, 0.5), (0.9, 0.55), (0.7, 0.95)),)


def wide(seed: int = 1, width: int = 640, height: int = 360) -> np.ndarray:
    return np.ascontiguousarray(patterns.picture(seed, width)[:height])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [(640, 360), (333, 219)])
def test_what_was_covered_is_never_called_uncovered(encode, request_of, seed, size):
    rng = np.random.default_rng(seed)
    spots = tuple(Spot("face", *map(float, (*rng.uniform(-60, 640, 2), *rng.uniform(0.2, 300, 2)))) for _ in range(4))
    boxes = tuple(tuple(map(int, (*rng.integers(0, 200, 2), *rng.integers(9, 400, 2)))) for _ in range(4))
    request = request_of(encode(wide(seed, *size)), *boxes, size=size, spots=spots, masks=MASK)
    assert Scrubber(margin=float(rng.uniform(0, 0.5))).scrub(request).word


@pytest.mark.parametrize("stage", ["fill", "cover", "hide_box", "encode", "cut"])
def test_a_stage_that_does_nothing_is_seen(encode, request_of, monkeypatch, stage):
    data = encode(wide())
    raw = wide()
    skipped = {
        "fill": (picture, lambda image, hidden: None),
        "cover": (picture, lambda image, spots, margin, *, blank: {"face": 1}),
        "hide_box": (picture, lambda hidden, box, margin: None),
        "encode": (picture, lambda image, quality: data if image.shape == raw.shape else encode(image)),
        "cut": (preprocess, lambda image, *box, real=preprocess.cut: real(raw, *box)),
    }
    home, nothing = skipped[stage]
    monkeypatch.setattr(home, stage, nothing)
    with pytest.raises(Withheld) as caught:
        Scrubber().scrub(request_of(data, (80, 60, 120, 120), spots=(FACE,)))
    assert caught.value.code == "uncovered"


def test_a_mask_that_was_not_burned_in_is_seen(encode, request_of, monkeypatch):
    monkeypatch.setattr(picture, "burn", lambda image, masks: None)
    with pytest.raises(Withheld) as caught:
        Scrubber().scrub(request_of(encode(wide()), masks=MASK))
    assert caught.value.code == "uncovered"


def test_a_picture_that_was_to_be_blank_and_is_not_is_seen(encode, request_of):
    data = encode(wide())
    with pytest.raises(Withheld):
        witness.attest(request_of(data, blank=True), (), 0.25, Encoded(wide(), 85, data), (), blank=True)


def test_an_earlier_picture_is_not_taken_though_it_is_grey_where_it_should_be(encode, request_of, monkeypatch):
    earlier = Scrubber().scrub(request_of(encode(wide(2)), spots=(FACE,)))
    monkeypatch.setattr(picture, "encode", lambda image, quality: earlier.jpeg)
    with pytest.raises(Withheld) as caught:
        Scrubber().scrub(request_of(encode(wide()), spots=(FACE,)))
    assert caught.value.code == "other_picture"


@pytest.mark.parametrize("whose", [0, 1])
def test_an_earlier_region_is_not_taken_though_nothing_in_it_was_to_be_hidden(encode, request_of, monkeypatch, whose):
    boxes = ((400, 60, 120, 120), (80, 60, 120, 120))
    earlier = Scrubber().scrub(request_of(encode(wide(2)), *boxes, spots=(FACE,)))
    real, turn = picture.encode, iter([*range(2), None])
    monkeypatch.setattr(
        picture, "encode", lambda image, q: earlier.crops[whose] if next(turn) == whose else real(image, q)
    )
    with pytest.raises(Withheld) as caught:
        Scrubber().scrub(request_of(encode(wide()), *boxes, spots=(FACE,)))
    assert caught.value.code == "other_picture"


def drawn(seed: int) -> list[np.ndarray]:
    """Pictures that JPEG finds hard, of odd sizes, too."""
    rng = np.random.default_rng(seed)
    noisy = np.clip(wide(seed).astype(int) + rng.normal(0, 15, (360, 640, 3)), 0, 255).astype(np.uint8)
    flat = np.full((200, 300, 3), rng.integers(0, 256, 3), np.uint8)
    cv2.putText(flat, "EDG 0000", (5, 90), cv2.FONT_HERSHEY_SIMPLEX, 2, rng.integers(0, 256, 3).tolist(), 5)
    return [
        noisy, flat, rng.integers(0, 256, (333, 219, 3), np.uint8), rng.integers(0, 256, (7, 5, 3), np.uint8),
        (rng.integers(0, 2, (200, 203, 3)) * 255).astype(np.uint8),
        (rng.integers(0, 2, (64, 64, 1)) * 255).astype(np.uint8).repeat(3, 2),
        np.kron(rng.integers(0, 256, (30, 30, 3), np.uint8), np.ones((5, 5, 1), np.uint8)),
    ]  # fmt: skip


@pytest.mark.parametrize("quality", [picture.FRAME_QUALITY, picture.CROP_QUALITY, 40, 98])
@pytest.mark.parametrize("seed", range(8))
def test_what_jpeg_does_to_a_picture_makes_it_no_other(quality, seed):
    for pixels in drawn(seed):
        assert witness.same(luma_of(picture.encode(pixels, quality)), pixels, quality)


@pytest.mark.parametrize("size", [(640, 360), (333, 219), (13, 9)])
def test_one_block_that_moved_makes_another_picture(size):
    pixels = wide(1, *size)
    assert witness.same(luma_of(picture.encode(pixels, 85)), pixels, 85)
    for left, top in ((0, 0), (size[0] // 16 * 8, size[1] // 16 * 8), (size[0] - 8, size[1] - 8)):
        changed = pixels.copy()
        corner = changed[top : top + 8, left : left + 8]
        corner[:] = np.where(corner > 127, corner - 60, corner + 60)
        assert not witness.same(luma_of(picture.encode(changed, 85)), pixels, 85)
    brighter = np.clip(pixels, 20, 230) + np.uint8(3)
    assert not witness.same(luma_of(picture.encode(brighter, 85)), np.clip(pixels, 20, 230), 85)
    assert not witness.same(luma_of(picture.encode(pixels[:-1], 85)), pixels, 85)


def test_the_bound_is_that_of_the_table_that_opencv_writes():
    for quality in (picture.FRAME_QUALITY, picture.CROP_QUALITY):
        data = picture.encode(wide(), quality)
        table = data[data.index(b"\xff\xdb") + 5 :][:64]
        scale = 200 - 2 * quality
        assert sorted(table) == sorted(max(1, (step * scale + 50) // 100) for step in witness.STEPS)


def test_a_word_fits_one_question_one_picture_and_its_regions_only(encode, request_of):
    request = settled(request_of(encode(wide()), (80, 60, 120, 120), spots=(FACE,)))
    done = Scrubber().scrub(request)
    assert vouch(request, done).jpeg == done.jpeg
    other = Scrubber().scrub(msgspec.structs.replace(request, jpeg=encode(wide(2))))
    changes = (
        {"jpeg": other.jpeg}, {"crops": other.crops}, {"jpeg": request.jpeg}, {"word": bytes(32)},
        {"jpeg": other.jpeg, "crops": other.crops, "word": other.word},
    )  # fmt: skip
    for change in changes:
        with pytest.raises(Withheld, match="word"):
            vouch(request, msgspec.structs.replace(done, **change))
    for change in ({"spots": ()}, {"spots": None}, {"jpeg": encode(wide(2))}, {"masks": MASK}, {"camera": "yard"}):
        with pytest.raises(Withheld, match="word"):
            vouch(msgspec.structs.replace(request, **change), done)


def test_a_kind_that_nothing_was_covered_of_is_noticed(encode, request_of):
    request = request_of(encode(wide()), spots=(FACE,))
    done = msgspec.structs.replace(Scrubber().scrub(request), hidden={"plate": 1})
    with pytest.raises(Withheld, match="nothing was covered for a face"):
        vouch(request, done)


def test_what_a_look_found_cannot_be_lost_on_the_way(encode, look_of):
    question = look_of(encode(wide()))
    seen = Scrubber().look(question)
    seen = msgspec.structs.replace(seen, spots=(FACE,), word=word(question, msgspec.msgpack.encode((FACE,)), b""))
    assert believe(question, seen) is seen
    for change in ({"spots": ()}, {"unjudged": "too_dark"}):
        with pytest.raises(Withheld, match="word"):
            believe(question, msgspec.structs.replace(seen, **change))
    with pytest.raises(Withheld, match="word"):
        believe(msgspec.structs.replace(question, camera="yard"), seen)
