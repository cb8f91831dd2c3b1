"""The arithmetic of an audit, and what counts as covered in a delivered picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edged.errors import Refused
from edged.privacy import audit, examine, photo, picture
from edged.privacy.detect import Found
from edged.privacy.file_talk import DoAudit, GotAudit
from edged.privacy.photo import Photographs
from edged.privacy.scrub import Withheld


def csv(tmp_path, text):
    (tmp_path / "boxes.csv").write_text(text, encoding="utf-8")
    return audit.read_boxes(tmp_path / "boxes.csv")


def test_boxes_are_read_by_the_names_of_their_columns(tmp_path):
    read = csv(tmp_path, "kind,file,w,h,x,y,who\nplate,a.jpg,30,10,1,2,ann\n,a.jpg,8,9,3,4,\n,b/c.png,,,,,\n")
    assert read == [
        audit.Annotated("a.jpg", (("plate", 1, 2, 30, 10), ("face", 3, 4, 8, 9)), ()),
        audit.Annotated("b/c.png", (), ()),
    ]


def test_boxes_may_say_where_they_end_and_what_is_to_be_ignored(tmp_path):
    read = csv(tmp_path, "file,xmin,ymin,xmax,ymax,kind\na.jpg,10,20,15,40,ignore-crowd\na.jpg,1,2,4,6,face\n")
    assert read == [audit.Annotated("a.jpg", (("face", 1, 2, 3, 4),), ((10, 20, 5, 20),))]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a.jpg,1,2,3,4\n", "does not name the columns"),
        ("file,left,top\na.jpg,1,2\n", "neither x,y,w,h nor"),
        ("file,x,y,w,h\na.jpg,1,2,three,4\n", ":2:"),
        ("file,x,y,w,h\na.jpg,1,2,3,4\na.jpg,1,2,0,4\n", ":3:"),
        ("file,x,y,w,h\na.jpg,1,2,nan,4\n", ":2:"),
        ("file,x,y,w,h\n,1,2,3,4\n", ":2:"),
        ("file,x,y,w,h,kind\na.jpg,1,2,3,4,A Face\n", "no kind"),
    ],
)
def test_a_row_that_is_no_box_is_refused_by_its_line(tmp_path, text, says):
    with pytest.raises(Refused, match=says):
        csv(tmp_path, text)


def test_wilsons_interval_is_the_textbooks():
    assert audit.wilson(0, 0) == (0.0, 1.0)
    assert audit.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-4)  # Newcombe 1998, table I
    assert audit.wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-4)
    assert audit.wilson(29, 29) == pytest.approx((0.8830, 1.0), abs=5e-4)


@pytest.mark.parametrize(
    ("size", "name"), [(7.9, "under 8"), (8, "8-16"), (16, "16-32"), (63, "32-64"), (64, "64+"), (500, "64+")]
)
def test_classes_of_size_begin_at_their_lower_edge(size, name):
    assert audit.size_class(size) == name


def test_a_plates_size_is_its_width_and_a_faces_its_shorter_side():
    assert (audit.size_of("plate", 60, 12), audit.size_of("face", 60, 12)) == (60, 12)


def got(*shares, sizes=None, false=0, unjudged=""):
    boxes = tuple((0, 0, s, s) for s in sizes or [20] * len(shares))
    return GotAudit(1, 100, 100, shares, boxes, false, unjudged, {"face": 5.0})


def known(*kinds):
    return audit.Annotated("a.jpg", tuple((kind, 0.0, 0.0, 9.0, 9.0) for kind in kinds), ())


def test_pictures_add_up_to_shares_by_kind_and_size_and_withheld_ones_are_counted_apart():
    result = audit.Audit()
    result.add(known("face", "face", "plate"), got(0.95, 0.5, 1.0, sizes=[20, 40, 70], false=200))
    result.add(known("face"), got(0.9, sizes=[10], false=0))
    result.add(known("face"), got(0.0, unjudged="too_dark"))
    report = result.report()
    assert (report["pictures"], report["withheld"], report["false_area"]) == (2, {"too_dark": 1}, 0.01)
    face = report["hidden"]["face"]
    assert (face["all"]["hidden"], face["all"]["n"], face["from_16"]["n"], face["from_32"]["hidden"]) == (2, 3, 2, 0)
    assert list(face["sizes"]) == ["8-16", "16-32", "32-64"]
    assert report["hidden"]["plate"]["sizes"]["64+"]["share"] == 1.0
    assert "66.7%" in audit.table(report)


def test_limits_that_are_not_met_are_named():
    result = audit.Audit()
    result.add(known("face", "face"), got(1.0, 0.0, sizes=[40, 10]))
    limits = [audit.limit_of(text) for text in ("face=0.4", "face=0.95", "face:16=0.95", "plate=0.1")]
    missed = result.missed(limits)
    assert len(missed) == 2
    assert "50.0% of 2" in missed[0]
    assert "no such box" in missed[1]
    for wrong in ("face", "face=x", "=0.5", "face=1.5"):
        with pytest.raises(ValueError):
            audit.limit_of(wrong)


def test_a_box_is_covered_as_far_as_whole_blocks_of_the_filling_lie_on_it():
    image = np.random.default_rng(1).integers(0, 255, (100, 130, 3), dtype=np.uint8)  # no multiple of 16
    hidden = picture.blocks(image)
    hidden[1:3, 1:3] = hidden[6, 8] = True
    picture.fill(image, hidden)
    covered = examine.covered_blocks(photo.encode(image, "jpeg"))
    assert (covered == hidden).all()
    for box, share in [((16, 16, 32, 32), 1), ((0, 16, 32, 32), 0.5), ((60, 60, 10, 10), 0), ((128, 96, 90, 90), 1)]:
        assert examine.covered_share(covered, box, 130, 100) == pytest.approx(share)
    assert examine.covered_share(covered, (200, 200, 5, 5), 130, 100) == 0


class Fixed:
    """Always finds the same boxes."""

    kind, start, keep = "face", 0.5, 0.25

    def __init__(self, *boxes):
        self.boxes = boxes

    def find(self, view):
        return [Found("face", *box, 0.9) for box in self.boxes]


def noise(width=640, height=360):
    small = np.random.default_rng(2).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def test_what_is_covered_for_nothing_is_counted_and_a_margin_around_a_box_is_not():
    data = cv2.imencode(".png", noise())[1].tobytes()
    one = Photographs([Fixed((64, 64, 64, 64), (320, 192, 32, 32))], margin=0.25)
    task = DoAudit(1, (("face", 64.0, 64.0, 64.0, 64.0), ("face", 500.0, 100.0, 20.0, 20.0)))
    found = examine.examine(task, data, one, 0.25)
    assert found.shares == (1.0, 0.0)
    assert found.false_pixels == 64 * 64  # 32 grown by a quarter, snapped outward
    assert (
        examine.examine(DoAudit(1, task.boxes, ((330.0, 200.0, 64.0, 64.0),)), data, one, 0.25).false_pixels < 64 * 64
    )


def test_what_was_grey_before_is_no_cover():
    image = noise()
    image[64:192, 64:192] = picture.GREY
    data = cv2.imencode(".png", image)[1].tobytes()
    found = examine.examine(DoAudit(1, (("face", 80.0, 80.0, 64.0, 64.0),)), data, Photographs([Fixed()]), 0.25)
    assert found.shares == (0.0,)
    assert found.false_pixels == 0


def test_a_picture_is_shrunk_into_a_frame_and_its_boxes_with_it():
    data = cv2.imencode(".png", noise(640, 640))[1].tobytes()
    one = Photographs([Fixed((80, 80, 64, 64))], margin=0.0)
    found = examine.examine(DoAudit(1, (("face", 160.0, 160.0, 128.0, 128.0),), (), (640, 320)), data, one, 0.0)
    assert (found.width, found.height, found.boxes, found.shares) == (320, 320, ((80, 80, 64, 64),), (1.0,))


def test_less_light_is_darker_and_noisier():
    image = noise()
    dark = examine.in_less_light(image, 0.05, np.random.default_rng(0))
    assert dark.mean() < 0.45 * image.mean()
    again = examine.in_less_light(image, 0.05, np.random.default_rng(0))
    assert (dark == again).all()


def test_a_large_picture_is_looked_at_in_parts_that_leave_nothing_out():
    assert photo.parts(1280, 720) == []
    for width, height in ((4000, 3000), (3000, 4000), (1700, 300), (8000, 700)):
        seen = np.zeros((height, width), bool)
        for x, y, w, h in photo.parts(width, height):
            assert x >= 0
            assert y >= 0
            seen[y : y + h, x : x + w] = True
            assert (w, h) == (min(w, width), min(h, height))
        assert seen.all()


def test_a_failing_detector_withholds_the_picture():
    class Broken(Fixed):
        def find(self, view):
            raise Withheld("no", code="detector")

    with pytest.raises(Withheld):
        Photographs([Broken()]).cover(noise())


def test_a_picture_comes_out_upright_and_without_its_metadata():
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    plain = cv2.imencode(".jpg", noise(320, 160))[1].tobytes()
    turned = plain[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + plain[2:]
    assert photo.decode(turned).shape == (320, 160, 3)
    assert photo.decode(turned, upright=False).shape == (160, 320, 3)
    from edged.privacy import jpeg

    assert jpeg.metadata(photo.encode(photo.decode(turned), "jpeg")) == ()
