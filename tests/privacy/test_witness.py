"""The second look sees what the first stage forgot to hide, in the picture and in its regions."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edged.engine import patterns, preprocess
from edged.privacy import picture, witness
from edged.privacy.picture import Scrubber
from edged.privacy.scrub import Withheld, believe, vouch
from edged.privacy.talk import Spot, settled, word

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
        witness.attest(request_of(data, blank=True), (), 0.25, data, (), blank=True)


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
