"""An installer's own detector: what it finds is hidden; what does not fit is said at start, with what to do."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
import pytest

from edged import engine
from edged.config import check
from edged.daemon import scrub_options
from edged.errors import Misconfigured
from edged.privacy import detect, picture, plugin
from edged.privacy.detect import Found, View
from edged.privacy.picture import Scrubber
from edged.privacy.plugin import OnnxDetector
from edged.privacy.pool import ScrubChild
from edged.privacy.scrub import Withheld
from edged.privacy.talk import Plugin
from edged.wire.messages import Frame, FrameHeader
from tests.privacy import nets, signed

BOXES = np.array([[32, 64, 96, 128], [200, 10, 260, 50]], np.float32)


@pytest.fixture
def made(tmp_path):
    """ONNX bytes and a plug-in's fields -> detector."""

    def make(data, **fields):
        path = tmp_path / "net.onnx"
        path.write_bytes(data)
        settings = {"kind": "person", "file": str(path), "long_side": 320} | fields
        return plugin.make(Plugin(**settings), runtime=make.runtime)

    make.runtime = "onnxruntime"
    return make


@pytest.fixture
def view():
    return View(signed.picture(5, 640, 384).image)


def edges(found):
    return sorted((round(f.x), round(f.y), round(f.w), round(f.h), round(f.score, 2)) for f in found)


@pytest.mark.parametrize("runtime", engine.runtimes())
@pytest.mark.parametrize("boxes", [BOXES, BOXES[None]], ids=["[n,4]", "[1,n,4]"])
@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ([0.9, 0.2], ()), ([[0.9, 0.2]], ()), ([[0.9], [0.2]], ()), ([[0.1, 0.9], [0.8, 0.2]], (1,)),
        ([[[0.1, 0.9], [0.0, 0.2]]], ()),
    ],
    ids=["[n]", "[1,n]", "[n,1]", "[n,classes]", "[1,n,classes]"],
)  # fmt: skip
def test_boxes_and_scores_come_with_or_without_a_batch_axis(made, view, runtime, boxes, scores, labels):
    made.runtime = runtime
    found = made(nets.fixed_net(boxes=boxes, scores=scores), labels=labels).find(view)
    assert edges(found) == [(64, 128, 128, 128, 0.9), (400, 20, 120, 80, 0.2)]
    assert {f.kind for f in found} == {"person"}


@pytest.mark.parametrize("scores", [[0.9], [[0.9]], [[0.3, 0.9]], [[[0.3, 0.9]]]])
@pytest.mark.parametrize("boxes", [BOXES[:1], BOXES[None, :1]])
def test_one_box_is_one_box(made, view, boxes, scores):
    assert edges(made(nets.fixed_net(boxes=boxes, scores=scores)).find(view)) == [(64, 128, 128, 128, 0.9)]


@pytest.mark.parametrize(("boxes", "scores"), [((0, 4), (0,)), ((1, 0, 4), (1, 0)), ((0, 4), (0, 3))])
def test_no_box_is_no_box(made, view, boxes, scores):
    assert made(nets.fixed_net(boxes=np.zeros(boxes), scores=np.zeros(scores))).find(view) == []


def test_only_the_classes_that_count_are_hidden(made, view):
    data = nets.fixed_net(boxes=BOXES, scores=[[0.9, 0.0, 0.1], [0.0, 0.8, 0.1]])
    assert edges(made(data, labels=(1,)).find(view)) == [(400, 20, 120, 80, 0.8)]
    assert len(made(data, labels=(0, 1)).find(view)) == 2
    assert made(data, labels=(2,)).find(view) == []


@pytest.mark.parametrize("runtime", engine.runtimes())
@pytest.mark.parametrize(("classes", "labels"), [(1, ()), (3, (2,)), (3, ())])
def test_yolos_answer_is_read(made, runtime, classes, labels):
    made.runtime = runtime
    sent = signed.picture(9)
    detector = made(nets.colour_net("face", classes=classes), layout="yolo", kind="face", labels=labels)
    hidden = picture.blocks(sent.image)
    for f in detector.find(View(sent.image)):
        picture.hide_box(hidden, f[1:5], 0.0)
    covered = np.kron(hidden, np.ones((16, 16), bool))[: signed.HEIGHT, : signed.WIDTH]
    assert covered[signed.where(sent.image, "face")].all()
    assert covered.mean() < 0.3


def test_boxes_that_say_the_same_are_one(made, view):
    twice = np.concatenate([BOXES, BOXES + 2])
    assert len(made(nets.fixed_net(boxes=twice, scores=[0.9, 0.8, 0.7, 0.6])).find(view)) == 2


@pytest.mark.parametrize(
    ("outputs", "layout", "why"),
    [
        ({"boxes": BOXES}, "boxes", "one output"),
        ({"scores": [0.9, 0.2], "boxes": BOXES}, "boxes", "no boxes and scores"),
        ({"boxes": BOXES, "scores": [0.9, 0.2, 0.1]}, "boxes", "no boxes and scores"),
        ({"boxes": BOXES.ravel(), "scores": [0.9, 0.2]}, "boxes", "no boxes and scores"),
        ({"boxes": np.zeros((2, 5)), "scores": [0.9, 0.2]}, "boxes", "no boxes and scores"),
        ({"boxes": np.zeros((2, 2, 4)), "scores": [0.9, 0.2]}, "boxes", "no boxes and scores"),
        ({"boxes": BOXES, "scores": np.zeros((1, 2, 3, 1))}, "boxes", "no boxes and scores"),
        ({"boxes": BOXES * np.nan, "scores": [0.9, 0.2]}, "boxes", "numbers that are none"),
        ({"boxes": BOXES, "scores": [np.inf, 0.2]}, "boxes", "numbers that are none"),
        ({"boxes": BOXES, "scores": [90.0, 20.0]}, "boxes", "beyond 0..1"),
        ({"boxes": BOXES, "scores": [-3.0, 0.2]}, "boxes", "beyond 0..1"),
        ({"found": np.zeros((1, 9, 5))}, "yolo", r"not \[1,n,5\+classes\]"),
        ({"found": np.zeros((9, 6))}, "yolo", r"not \[1,n,5\+classes\]"),
        ({"found": np.zeros((2, 9, 6))}, "yolo", r"not \[1,n,5\+classes\]"),
        ({"found": np.zeros((1, 9, 6))}, "yolo", "the same for every place"),
        ({"found": np.ones((1, 9, 6))}, "yolo", "the same for every place"),
    ],
)
def test_another_layout_is_said_at_start(made, outputs, layout, why):
    with pytest.raises(Misconfigured, match=why) as caught:
        made(nets.fixed_net(**outputs), layout=layout)
    assert "docs/privacy.md" in caught.value.hint


def test_a_class_that_is_not_there_is_said_at_start(made):
    with pytest.raises(Misconfigured, match="there is no class 7"):
        made(nets.fixed_net(boxes=BOXES, scores=[[0.9, 0.1], [0.2, 0.1]]), labels=(7,))


@pytest.mark.parametrize("data", [b"", b"GIF89a", nets.colour_net("face")[:-40]])
def test_a_file_that_is_no_network_is_said_at_start(made, data):
    with pytest.raises(Misconfigured):
        made(data)


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(Misconfigured, match=r"the detector of every person, .*gone\.onnx, cannot be read"):
        OnnxDetector(Plugin("person", ""), tmp_path / "gone.onnx")


def test_a_pinned_file_is_that_file(made):
    data = nets.fixed_net(boxes=BOXES, scores=[0.9, 0.2])
    digest = hashlib.sha256(data).hexdigest()
    assert made(data, sha256=digest).sha256 == digest
    with pytest.raises(Misconfigured, match="not the file that was configured"):
        made(nets.fixed_net(boxes=BOXES, scores=[0.9, 0.1]), sha256=digest)


def test_numbers_that_are_none_in_mid_life_withhold_the_frame(made, view, monkeypatch):
    detector = made(nets.fixed_net(boxes=BOXES, scores=[0.9, 0.2]))
    for outputs in ((BOXES * np.nan, np.ones(2)), (BOXES, np.array([0.5, np.nan])), (BOXES,), (BOXES, np.ones(3))):
        broken = msgspec.defstruct("Broken", [("run", object), ("runtime", str)])(lambda batch, out=outputs: out, "")
        monkeypatch.setattr(detector._engines, "at", lambda width, height, broken=broken: broken)
        with pytest.raises(Withheld) as caught:
            detector.find(view)
        assert caught.value.code == "detector"


@pytest.mark.parametrize("corners", [(96, 64, 32, 128), (32, 64, 32, 128), (32, 128, 96, 64)])
def test_a_box_turned_inside_out_withholds_the_frame(made, encode, look_of, corners):
    detector = made(nets.fixed_net(boxes=np.array([corners]), scores=[0.9]))
    with pytest.raises(Withheld, match="a box that is none"):
        Scrubber([detector]).look(look_of(encode(signed.picture(1).image), (320, 180)))


def config(tmp_path, detectors, **privacy):
    switches = {"faces": False, "plates": False, "runtime": "onnxruntime"} | privacy
    return check({
        "server": {"site": "plant-a", "data_dir": str(tmp_path)}, "task": {"classes": ["a", "b"]},
        "privacy": switches | {"detector": detectors},
    })  # fmt: skip


def test_from_the_configuration_to_the_child(tmp_path):
    tables = []
    for kind, name in (("face", "head"), ("plate", "plate")):
        (tmp_path / f"{name}.onnx").write_bytes(nets.colour_net(kind))
        tables.append({"kind": name, "file": str(tmp_path / f"{name}.onnx"), "layout": "yolo", "long_side": 320})
    sent = signed.picture(2)
    header = FrameHeader("f-1", 1.0, 1, "b", signed.WIDTH, signed.HEIGHT)
    frame = Frame("gate", header, picture.encode(sent.image, 92))
    with ScrubChild(scrub_options(config(tmp_path, tables)), 20) as child:
        scrubbed = child.scrub(frame)
        assert set(child.ready().weights) == {"0:head", "1:plate"}
    import cv2

    assert signed.shows(cv2.imdecode(np.frombuffer(scrubbed.jpeg, np.uint8), cv2.IMREAD_COLOR)) == []
    assert set(scrubbed.regions) == {"head", "plate"}


def test_what_the_child_cannot_use_is_the_operators_matter_with_what_to_do(tmp_path):
    (tmp_path / "net.onnx").write_bytes(nets.fixed_net(found=np.zeros((1, 3, 6))))
    for table, privacy, words in (
        ([{"kind": "person", "file": str(tmp_path / "net.onnx")}], {"persons": True}, "does not work as a detector"),
        ([{"kind": "person", "file": "/nowhere.onnx"}], {"persons": True}, "cannot be read"),
        ([], {"persons": True}, "hide every person"),
        ([{"kind": "hat", "file": "nowhere:Hat", "layout": "code"}], {}, "does not start"),
    ):
        options = scrub_options(config(tmp_path, table, **privacy))
        with ScrubChild(options, 20) as child, pytest.raises(Misconfigured, match=words) as caught:
            child.ready()
        assert caught.value.hint or "cannot be read" in words


def test_a_detectors_file_has_an_absolute_path(tmp_path):
    with pytest.raises(Misconfigured, match="absolute"):
        config(tmp_path, [{"kind": "hat", "file": "hat.onnx"}])


@pytest.mark.parametrize("kind", ["Person", "2face", "licence plate", "x" * 17, ""])
def test_a_kind_is_a_plain_word(tmp_path, kind):
    with pytest.raises(Misconfigured):
        config(tmp_path, [{"kind": kind, "file": "/x.onnx"}])


class Hat:
    """What an installer might write."""

    start, keep = 0.5, 0.2

    def __init__(self, wanted: Plugin, runtime: str, threads: int) -> None:
        self.kind = wanted.kind

    def find(self, view: View) -> list[Found]:
        return [Found(self.kind, 10, 10, 64, 64, 0.9)] if view.image.any() else []


def none_found(wanted, runtime, threads):
    hat = Hat(wanted, runtime, threads)
    hat.find = lambda view: None
    return hat


def careless(wanted, runtime, threads):
    hat = Hat(wanted, runtime, threads)
    hat.keep = 0.9
    return hat


CODE = f"{__name__}:"


def test_a_detector_may_be_code(encode, request_of, pixels):
    hat: detect.Detector = plugin.make(Plugin("hat", f"{CODE}Hat", "code"))
    done = Scrubber([hat]).scrub(request_of(encode(signed.picture(1).image), size=(320, 180)))
    assert done.hidden == {"hat": 1}
    assert (pixels(done.jpeg)[16:64, 16:64] == picture.GREY).all()


@pytest.mark.parametrize("name", ["Nothing", "", "none_found", "careless", "BOXES"])
def test_code_that_is_no_detector_is_said_at_start(name):
    with pytest.raises(Misconfigured) as caught:
        plugin.make(Plugin("hat", f"{CODE}{name}", "code"))
    assert caught.value.hint
