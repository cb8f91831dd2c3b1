"""The privacy benchmark on a tiny set made here: it runs end to end, survives odd files, and its verdicts are strict."""

from __future__ import annotations

import json
import stat
import sys

import cv2
import numpy as np
import pytest

from bench import annotated, hard, privacy, targets
from bench.annotated import Box
from bench.deface import Program
from bench.tally import Count, Tally, near, share
from edged.errors import Misconfigured
from edged.privacy import selftest

FAKE_DEFACE = """#!{python}
import sys
import cv2
arguments = sys.argv[1:]
if arguments == ["--version"]:
    print("1.5.0-fake")
    sys.exit(0)
for name in arguments:
    if name.endswith(".bmp"):
        image = cv2.imread(name)
        if "solid" in arguments:
            image[: image.shape[0] // 2] = 0
        cv2.imwrite(name.replace(".bmp", "_anonymized.bmp"), image)
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with an ordinary picture, a grey PNG, a huge picture, an empty street and a broken file; its CSV."""
    folder = tmp_path_factory.mktemp("pictures")
    image, face, plate = selftest.planted()
    cv2.imwrite(str(folder / "a.jpg"), image)
    (folder / "deep").mkdir()
    cv2.imwrite(str(folder / "deep" / "grey.png"), cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))
    cv2.imwrite(str(folder / "huge.png"), cv2.resize(image, (5120, 2880)))
    cv2.imwrite(str(folder / "empty.jpg"), np.full((360, 640, 3), 90, np.uint8))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    rows = ["file,x,y,w,h,kind,region"]
    for name, scale in (("a.jpg", 1), ("deep/grey.png", 1), ("huge.png", 4)):
        for kind, box in (("face", face), ("plate", plate)):
            rows.append(",".join(map(str, (name, *(v * scale for v in box), kind, "eu" if kind == "plate" else ""))))
    rows += ["a.jpg,-40,10,60,60,ignore,", "a.jpg,nan,1,2,3,face,", "a.jpg,1,1,0,9,face,", "empty.jpg,,,,,,"]
    rows += ["broken.jpg,1,1,20,20,face,", "gone.jpg,1,1,20,20,face,"]
    table = folder / "boxes.csv"
    table.write_text("\n".join(rows))
    return folder, table


@pytest.fixture
def fake_deface(tmp_path):
    """A program with deface's options that covers the upper half of every picture."""
    program = tmp_path / "deface"
    program.write_text(FAKE_DEFACE.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def test_a_run_from_end_to_end_measures_every_tool_on_the_same_pictures(pictures, tmp_path, fake_deface, capsys):
    folder, table = pictures
    out = tmp_path / "out.json"
    arguments = ["--data", folder, "--boxes", table, "--deface", fake_deface, "--size", "640x360", "--night", "1"]
    assert privacy.main([*map(str, arguments), "--pan", "1", "--no-cpu", "--json", str(out)]) == 0
    measured = json.loads(out.read_text())["measured"]
    assert measured["deface"] == "deface 1.5.0-fake"
    assert measured["stills"]["edged"]["hidden"]["face"]["n"] == 3
    assert measured["stills"]["edged"]["hidden"]["plate:eu"]["n"] == 3
    assert measured["stills"]["edged"]["hidden"]["face"]["hidden"] == 3
    assert "plate" not in measured["stills"]["deface"]["hidden"]
    assert measured["passed_over"] == {
        "rows that are no box": 2, "files that are not there": 1, "files that are no picture": 1,
    }  # fmt: skip
    assert measured["night"][targets.NIGHT]["deface"]["hidden"]["face"]["n"] == 1
    assert {"kept", "withheld"} < set(measured["blur"]["blur 4 px"]["edged"])
    assert measured["pan"]["edged"]["frames"] > 10
    assert "| faces >= 16 px" in capsys.readouterr().out
    assert out.with_suffix(".md").read_text().startswith("# Privacy, measured on ")


def test_without_the_program_its_settings_are_recreated_and_said_to_be(pictures, tmp_path):
    folder, table = pictures
    out = tmp_path / "out.json"
    arguments = ["--data", str(folder), "--boxes", str(table), "--kinds", "face", "--limit", "2", "--size", "640x360"]
    privacy.main([*arguments, "--night", "0", "--pan", "0", "--no-cpu", "--json", str(out)])
    measured = json.loads(out.read_text())["measured"]
    assert "not the program" in measured["deface"]
    assert measured["stills"]["deface"]["hidden"]["face"]["n"] >= 1


@pytest.mark.slow
def test_the_cost_is_measured_in_processes_of_their_own(pictures, tmp_path, fake_deface, monkeypatch):
    monkeypatch.setattr(privacy, "COST_FRAMES", 2)
    monkeypatch.setattr(privacy, "_pin", lambda: None)  # the tests that follow need both cores
    folder, table = pictures
    out = tmp_path / "out.json"
    arguments = ["--data", folder, "--boxes", table, "--deface", fake_deface, "--night", "0", "--pan", "0", "--sse"]
    privacy.main([*map(str, arguments), "--json", str(out)])
    measured = json.loads(out.read_text())["measured"]
    assert measured["cpu"]["edged"]["look_cpu_ms"] > 0
    assert 0 < measured["cpu"]["edged"]["looks_per_frame"] <= 1
    assert measured["sse"]["edged"]


def test_check_ends_with_3_when_a_target_is_missed(pictures, fake_deface, monkeypatch):
    folder, table = pictures
    monkeypatch.setattr(privacy, "run", lambda asked: {"stills": {"edged": _stills(0.5)}, "pictures": 1, "deface": ""})
    arguments = ["--data", str(folder), "--boxes", str(table)]
    assert privacy.main([*arguments, "--check"]) == 3
    assert privacy.main(arguments) == 0


def test_nothing_to_measure_is_said(tmp_path):
    table = tmp_path / "boxes.csv"
    table.write_text("nowhere.jpg,1,2,3,4\n")
    with pytest.raises(Misconfigured, match="no annotated picture"):
        annotated.read(tmp_path, [str(table)])


def test_a_set_is_measured_for_the_kinds_that_it_has_boxes_of(pictures, tmp_path):
    folder, _ = pictures
    plates, faces = tmp_path / "plates.csv", tmp_path / "faces.csv"
    plates.write_text("a.jpg,1,2,30,40,plate\n")
    faces.write_text("file,xmin,ymin,xmax,ymax,note\ndeep/grey.png,1,2,31,42,no\n")
    found = annotated.read(folder, [f"us={plates}", str(faces)])
    assert [p.kinds for p in found.pictures] == [{"plate"}, {"face"}]
    assert found.pictures[0].boxes[0].region == "us"
    assert found.pictures[1].boxes[0] == Box("face", 1, 2, 30, 40)


def test_boxes_shrink_with_their_picture_and_go_when_they_lie_outside(pictures):
    folder, _ = pictures
    boxes = (Box("face", 1280, 720, 400, 400), Box("face", -300, 0, 400, 400))
    frame = annotated.load(annotated.Picture(folder / "huge.png", frozenset({"face"}), boxes), (1280, 800))
    assert (frame.image.shape, frame.width, frame.height) == ((800, 1280, 3), 1280, 720)
    assert [b[:5] for b in frame.boxes] == [("face", 320, 180, 100, 100)]


def test_nine_tenths_of_the_visible_part_of_a_box_must_be_covered():
    mask = np.zeros((100, 100), bool)
    mask[:, :9] = True
    assert share(Box("face", -10, 0, 20, 20), mask) == pytest.approx(0.9)
    tally = Tally()
    tally.picture("face", [Box("face", -10, 0, 20, 20), Box("face", 50, 50, 20, 20)], mask)
    assert (tally.counts["face"].hidden, tally.counts["face"].n) == (1, 2)


def test_what_is_covered_far_from_every_box_is_false_and_near_ignored_ones_it_is_not():
    mask = np.zeros((160, 160), bool)
    mask[:16, :16] = mask[144:, 144:] = True
    tally = Tally()
    tally.picture("face", [Box("ignore", 0, 0, 16, 16)], mask)
    assert tally.areas["face"].share == pytest.approx(1 / 100)
    assert near([], (20, 20)).sum() == 0


def test_the_night_is_darker_by_the_light_that_was_taken_and_pans_keep_boxes_on_their_faces():
    rng = np.random.default_rng(1)
    image = np.full((96, 128, 3), 188, np.uint8)  # half of the light
    assert hard.night(image, rng, light=1 / 8).mean() == pytest.approx(71, abs=4)  # a sixteenth
    image[40:56, 60:76] = 0
    frames = list(hard.pan(image, (Box("face", 60, 40, 16, 16),), rng))
    assert len(frames) > 2
    for frame, boxes in frames:
        box = boxes[0]
        assert frame[round(box.y) + 3 : round(box.y) + 13, round(box.x) + 3 : round(box.x) + 13].mean() < 40


def test_dark_pictures_that_are_kept_must_be_hidden_well_in_every_darkness():
    def tools(hidden, n):
        kept = {"face>=16": Count(hidden, n).figures()}
        return {"edged": {"kept": kept, "hidden": kept, "pictures": 9, "withheld": 9 if not n else 0}, "deface": {}}

    night = {targets.NIGHT: tools(400, 400), "1/32 of the light": tools(200, 400)}
    first, second = targets.judge({"night": night})[3:5]
    assert (first.verdict, second.verdict) == (targets.REACHED, targets.MISSED)
    night["1/32 of the light"] = tools(0, 0)  # all withheld
    assert targets.judge({"night": night})[4].verdict == targets.REACHED


def test_wilsons_interval_is_that_of_the_textbook():
    low, high = Count(9, 10).interval()
    assert (round(low, 3), round(high, 3)) == (0.596, 0.982)
    assert Count().interval() == (0.0, 1.0)


@pytest.mark.parametrize(
    ("hidden", "n", "verdict"),
    [
        (960, 1000, targets.REACHED),
        (940, 1000, targets.MISSED),  # its interval holds 95 %, but there are enough boxes to be strict
        (40, 43, targets.UNMEASURED),
        (43, 43, targets.UNMEASURED),  # all hidden, and still too few to say
        (10, 43, targets.MISSED),
        (299, 299, targets.REACHED),
    ],
)
def test_a_verdict_needs_enough_boxes(hidden, n, verdict):
    stills = {"edged": {"hidden": {"face>=16": Count(hidden, n).figures()}, "false_area": {"face": 0.005}}}
    assert targets.judge({"stills": stills})[0].verdict == verdict


def test_too_much_false_area_misses_the_target_however_much_is_hidden():
    assert targets.judge({"stills": {"edged": _stills(0.99, false=0.013)}})[0].verdict == targets.MISSED
    assert targets.judge({"stills": {"edged": _stills(0.99)}})[0].verdict == targets.REACHED
    few = {"hidden": {"face>=16": Count(40, 40).figures()}, "false_area": {"face": 0.013}, "pictures_of": {"face": 100}}
    assert targets.judge({"stills": {"edged": few}})[0].verdict == targets.MISSED
    assert targets.judge({"stills": {"edged": few | {"pictures_of": {"face": 9}}}})[0].verdict == targets.UNMEASURED


def test_times_against_the_recreated_deface_are_not_judged():
    cpu = {"deface": {"ms": {"our engine": 150.0}, "real": False}, "edged": {"film_cpu_ms": 10.0, "look_cpu_ms": 50.0}}
    verdict = next(v for v in targets.judge({"cpu": cpu}) if "detector CPU" in v.target)
    assert verdict.verdict == targets.UNMEASURED
    cpu["deface"]["real"] = True
    verdict = next(v for v in targets.judge({"cpu": cpu}) if "detector CPU" in v.target)
    assert verdict.verdict == targets.REACHED


def test_a_program_that_fails_is_said(tmp_path):
    from edged.errors import Unavailable

    with pytest.raises(Unavailable, match="does not run"):
        Program(tmp_path / "none")


def _stills(part, *, false=0.001):
    return {"hidden": {"face>=16": Count(round(part * 1000), 1000).figures()}, "false_area": {"face": false}}
