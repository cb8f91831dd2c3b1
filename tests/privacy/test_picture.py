"""From JPEG to JPEG: what is covered is gone, and nothing else came along."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edged.engine import patterns
from edged.errors import Refused
from edged.privacy import faces, jpeg, picture, plates, selftest
from edged.privacy.picture import BLOCK, Scrubber
from edged.privacy.scrub import Withheld
from edged.privacy.talk import Spot


@pytest.fixture(scope="module")
def scrubber():
    return Scrubber([faces.FaceDetector(), plates.PlateDetector()])


QUARTER = (((0.0, 0.5), (0.5, 0.5), (0.5, 1.0), (0.0, 1.0)),)  # a mask over the lower left


@pytest.fixture
def masks_only():
    """Finds nothing by itself."""
    return Scrubber()


def wide(seed: int, width: int = 640, height: int = 360) -> np.ndarray:
    return np.ascontiguousarray(patterns.picture(seed, width)[:height])


def test_a_face_and_a_plate_are_hidden_in_the_picture_and_in_the_regions(scrubber, planted, encode, pixels, request_of):
    image, face, plate = planted
    x, y, w, h = face
    done = scrubber.scrub(request_of(encode(image), (x - 40, y - 40, w + 80, h + 80), plate))
    out = pixels(done.jpeg)
    assert selftest.hidden(out, face)
    assert selftest.hidden(out, plate)
    assert done.hidden["face"] == 1
    assert done.hidden["plate"] >= 1
    around_face, on_plate = (pixels(crop) for crop in done.crops)
    assert selftest.hidden(around_face, (80, 80, 64, 64))
    assert selftest.hidden(on_plate, (0, 0, 224, 224))
    assert np.abs(out[:40].astype(int) - image[:40]).mean() < 6, "the rest of the picture stays"


def test_a_detector_that_is_switched_off_hides_nothing(planted, encode, pixels, request_of):
    image, face, plate = planted
    out = pixels(Scrubber().scrub(request_of(encode(image))).jpeg)
    assert not selftest.hidden(out, face)
    assert not selftest.hidden(out, plate)


def test_covered_blocks_are_the_same_whatever_was_beneath(masks_only, encode, pixels, request_of):
    outs = []
    for seed in (11, 12):
        image = wide(1)
        image[200:, :300] = wide(seed)[200:, :300]  # differs under the mask only
        outs.append(masks_only.scrub(request_of(encode(image, quality=100), (0, 100, 320, 260), masks=QUARTER)))
    a, b = (pixels(done.jpeg) for done in outs)
    np.testing.assert_array_equal(a[192:, :320], b[192:, :320])
    assert (a[192:, :320] == picture.GREY).all()
    assert not (a[:160, 336:] == picture.GREY).all()


def test_the_fill_comes_before_the_encoder(masks_only, encode, request_of, monkeypatch):
    data, seen, keep = encode(wide(3)), [], cv2.imencode
    monkeypatch.setattr(cv2, "imencode", lambda ext, image, flags: seen.append(image.copy()) or keep(ext, image, flags))
    masks_only.scrub(request_of(data, (0, 180, 320, 180), masks=QUARTER))
    region, whole = seen
    assert (whole[192:, :320] == picture.GREY).all()
    assert (region[60:] == picture.GREY).mean() > 0.7


def test_a_mask_is_burned_in_before_anyone_looks(encode, pixels, look_of, planted):
    image, _, _ = planted
    left = (((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)),)  # the face is there
    scrubber = Scrubber([faces.FaceDetector(), plates.PlateDetector()])
    assert "face" in {s.kind for s in scrubber.look(look_of(encode(image))).spots if s.sure}
    assert "face" not in {s.kind for s in scrubber.look(look_of(encode(image), masks=left)).spots if s.sure}


def test_the_grey_of_a_mask_is_no_light(planted, encode, look_of):
    dark = (planted[0] * 0.02).astype(np.uint8)
    half = (((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)),)
    with pytest.raises(Withheld) as caught:
        Scrubber([plates.PlateDetector()]).look(look_of(encode(dark), masks=half))
    assert caught.value.code == "too_dark"


def test_what_a_track_says_is_covered_and_nothing_is_looked_for(scrubber, planted, encode, pixels, request_of):
    image, face, plate = planted
    done = scrubber.scrub(request_of(encode(image), spots=(Spot("plate", *plate),)))
    assert selftest.hidden(pixels(done.jpeg), plate)
    assert not selftest.hidden(pixels(done.jpeg), face)
    assert done.hidden == {"plate": 1}
    assert "face" not in done.ms


def test_a_blanked_picture_shows_nothing(scrubber, planted, encode, pixels, request_of):
    done = scrubber.scrub(request_of(encode(planted[0]), (10, 10, 100, 100), spots=(), blank=True))
    assert (pixels(done.jpeg) == picture.GREY).all()
    assert (pixels(done.crops[0]) == picture.GREY).all()


def test_a_mask_covers_every_block_that_it_touches():
    triangle = ((0.1, 0.1), (0.4, 0.15), (0.2, 0.6))
    hidden = picture.blocks_of_polygon(triangle, 320, 240)
    drawn = np.zeros((240, 320), np.uint8)
    cv2.fillPoly(drawn, [np.rint(np.array(triangle) * (320, 240)).astype(int)], 1)
    for y, x in np.argwhere(drawn):
        assert hidden[y // BLOCK, x // BLOCK]
    assert hidden.sum() < 70


@pytest.mark.parametrize(("width", "height"), [(640, 360), (333, 219), (100, 97)])
def test_a_grown_box_snaps_outward_and_stays_inside(width, height):
    hidden = np.zeros((-(-height // BLOCK), -(-width // BLOCK)), bool)
    picture.hide_box(hidden, (50, 40, 40, 20), 0.25)
    rows, columns = np.nonzero(hidden)
    assert rows.min() == 35 // 16
    assert rows.max() == (65 - 1) // 16
    assert columns.min() == 40 // 16
    assert columns.max() == min((100 - 1) // 16, hidden.shape[1] - 1)
    before = hidden.sum()
    picture.hide_box(hidden, (-500, -500, 100, 100), 0.25)
    picture.hide_box(hidden, (10, 10, 0, 0), 0.25)
    assert hidden.sum() == before
    picture.hide_box(hidden, (-100, -100, 5000, 5000), 0.0)
    assert hidden.all()


def test_metadata_and_orientation_are_left_behind(encode, pixels, request_of):
    data = encode(wide(5))
    turned = (
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
    )
    exif = b"\xff\xe1" + (len(turned) + 2).to_bytes(2, "big") + turned
    note = b"\xff\xfe\x00\x0cour garden"
    carried = data[:2] + exif + note + data[2:]
    assert jpeg.metadata(carried) == ("APP1", "COM")
    done = Scrubber().scrub(request_of(carried, (0, 0, 300, 300)))
    assert (done.width, done.height) == (640, 360), "regions are in the sensor's pixels: nothing is turned"
    for made in (done.jpeg, *done.crops):
        assert jpeg.metadata(made) == ()
        assert b"Exif" not in made
        assert b"garden" not in made


def test_a_roi_gives_one_crop_of_the_whole_picture(scrubber, planted, encode, pixels, request_of):
    image, face, _ = planted
    x, y, w, h = face
    tile = np.ascontiguousarray(image[y - 60 : y + h + 60, x - 75 : x + w + 75])
    done = scrubber.scrub(request_of(encode(tile), kind="roi", size=(1280, 720)))
    assert (done.width, done.height) == (tile.shape[1], tile.shape[0])
    (crop,) = done.crops
    assert pixels(crop).shape == (224, 224, 3)
    assert done.hidden["face"] == 1
    assert selftest.hidden(pixels(done.jpeg), (75, 60, w, h))
    assert selftest.hidden(pixels(crop), (90, 90, 44, 44))


def test_the_header_must_be_true(encode, request_of):
    with pytest.raises(Refused) as caught:
        Scrubber().scrub(request_of(encode(wide(1)), size=(1280, 720)))
    assert caught.value.code == "size_mismatch"


def test_a_region_outside_the_picture_is_refused(encode, request_of):
    with pytest.raises(Refused) as caught:
        Scrubber().scrub(request_of(encode(wide(1)), (700, 0, 50, 50)))
    assert caught.value.code == "bad_region"


def damaged(data: bytes) -> dict[str, bytes]:
    """JPEGs that libjpeg mends by guessing: their headers are in order, their entropy-coded data are not."""
    start = data.index(b"\xff\xda") + 14
    frame = data.index(b"\xff\xc0")
    wider = bytearray(data)
    wider[frame + 7 : frame + 9] = (656).to_bytes(2, "big")
    flipped = bytearray(data)
    rng = np.random.default_rng(5)
    for at in rng.integers(start, len(data) - 2, 40):
        flipped[at] ^= 0x55 if flipped[at] not in (0xFF, 0xAA) and flipped[at - 1] != 0xFF else 0
    return {
        "cut": data[: start + (len(data) - start) // 3].rstrip(b"\xff") + b"\xff\xd9",
        "wider": bytes(wider),
        "restart": data[: len(data) // 2].rstrip(b"\xff") + b"\xff\xd3" + data[len(data) // 2 :],
        "flipped": bytes(flipped),
    }


@pytest.mark.parametrize("what", ["cut", "wider", "restart", "flipped"])
def test_a_jpeg_whose_decoder_has_to_guess_is_refused(what, masks_only, encode, request_of, capfd):
    data = damaged(encode(wide(6)))[what]
    size = (656, 360) if what == "wider" else (640, 360)
    with pytest.raises(Refused) as caught:
        masks_only.scrub(request_of(data, size=size))
    assert caught.value.code == "bad_jpeg"
    assert "Corrupt JPEG" not in capfd.readouterr().err, "what the decoder says is listened to, not printed"
    masks_only.scrub(request_of(encode(wide(6))))


def test_a_cut_picture_never_shows_the_one_before(encode, pixels, request_of):
    """OpenCV 4.10 filled the missing part with whatever lay in memory: the previous camera's picture."""
    scrubber = Scrubber()
    secret = np.zeros((360, 640, 3), np.uint8)
    secret[:] = (255, 0, 255)
    dull = np.random.default_rng(3).integers(80, 120, (360, 640, 1), np.uint8).repeat(3, axis=2)
    data = encode(dull)
    for length in range(800, len(data), len(data) // 25):
        assert (pixels(scrubber.scrub(request_of(encode(secret))).jpeg)[..., 2] > 240).all()
        mutant = data[:length].rstrip(b"\xff") + b"\xff\xd9"
        try:
            out = pixels(scrubber.scrub(request_of(mutant)).jpeg).astype(int)
        except Refused:
            continue
        pink = (out[..., 0] > out[..., 1] + 60) & (out[..., 2] > out[..., 1] + 60)
        assert not pink.any(), length


def test_noise_in_the_entropy_coded_data_is_an_answer_or_a_refusal(encode, request_of):
    scrubber = Scrubber()
    rng = np.random.default_rng(4)
    data = encode(wide(2))
    for _ in range(60):
        mutant = bytearray(data)
        for at in rng.integers(200, len(data) - 2, 8):
            mutant[at] = int(rng.integers(0, 255))
        try:
            done = scrubber.scrub(request_of(bytes(mutant)))
        except Refused:
            continue
        assert jpeg.check(done.jpeg).width == 640


class Answers:
    """An engine that answers what it is told."""

    runtime = "test"

    def __init__(self, heat: float, scale: float = 2.0) -> None:
        self.heat, self.scale = heat, scale

    def run(self, batch):
        h, w = batch.shape[2] // 4, batch.shape[3] // 4
        flat = [np.full((1, n, h, w), v, np.float32) for n, v in ((1, 0.0), (2, self.scale), (2, 0.0), (10, 0.0))]
        flat[0][0, 0, 20, 30] = self.heat
        return tuple(flat)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_withhold_the_picture(monkeypatch, bad, encode, request_of):
    detector = faces.FaceDetector()
    for answers in (Answers(bad), Answers(0.9, scale=bad)):
        monkeypatch.setattr(detector.engines, "at", lambda w, h, a=answers: a)
        with pytest.raises(Withheld) as caught:
            Scrubber([detector]).scrub(request_of(encode(wide(1))))
        assert caught.value.code == "detector"
