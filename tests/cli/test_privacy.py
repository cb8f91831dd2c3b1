"""`edged privacy` as a person meets it: files in, scrubbed files out, nothing half made, exit codes, one JSON document."""

import json
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from edged.privacy import selftest


def edged(*args, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "edged", "privacy", *map(str, args)],
        capture_output=True, text=True, timeout=110, cwd=cwd, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def planted():
    return selftest.planted(1280, 720)


def grey(image, box):
    x, y, w, h = box
    return bool((np.abs(image[y : y + h, x : x + w].astype(int) - 128) <= 3).all())


def test_a_folder_is_mirrored_scrubbed_and_told_of_in_one_document(planted, tmp_path):
    image, face, plate = planted
    (tmp_path / "in" / "deep").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "in" / "a.jpg"), image)
    cv2.imwrite(str(tmp_path / "in" / "deep" / "b.png"), image)
    cv2.imwrite(str(tmp_path / "in" / "deep" / "b.webp"), image)
    (tmp_path / "in" / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (tmp_path / "in" / "notes.txt").write_text("hello")
    done = edged("scrub", "in", "--json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr  # one was refused
    document = json.loads(done.stdout)
    assert (document["schema_version"], document["others"]) == (1, 1)
    states = {one["file"]: one for one in document["files"]}
    assert {name: one["status"] for name, one in states.items()} == {
        "in/a.jpg": "done", "in/broken.jpg": "refused", "in/deep/b.png": "done", "in/deep/b.webp": "done",
    }  # fmt: skip
    assert states["in/a.jpg"]["hidden"]["face"] >= 1
    made = tmp_path / "in.scrubbed"
    assert sorted(str(p.relative_to(made)) for p in made.rglob("*.*")) == ["a.jpg", "deep/b.jpg", "deep/b.png"]
    for path in made.rglob("*.*"):
        out = cv2.imread(str(path))
        assert out.shape == image.shape
        assert grey(out, face)
        assert grey(out, plate)
    again = edged("scrub", "in", "--json", cwd=tmp_path)
    assert {one["status"] for one in json.loads(again.stdout)["files"]} == {"there", "refused"}


@pytest.fixture
def film(planted, tmp_path):
    out = cv2.VideoWriter(str(tmp_path / "in.mp4"), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 10, (1280, 720))
    for i in range(12):
        out.write(np.roll(planted[0], i * 4, axis=1))
    out.release()


def test_a_film_is_scrubbed_in_every_frame(planted, film, tmp_path):
    _, face, plate = planted
    done = edged("scrub", tmp_path / "in.mp4", "--mask", "0,0 0.1,0 0.1,0.1 0,0.1")
    assert done.returncode == 0, done.stderr
    assert "12 frames" in done.stdout
    source = cv2.VideoCapture(str(tmp_path / "in.scrubbed.mp4"))
    for i in range(12):
        more, out = source.read()
        assert more
        for x, y, w, h in (face, plate):
            inside = out[y : y + h, x + 4 * i : x + 4 * i + w].astype(int)
            assert np.abs(inside - 126).max() <= 12
        assert np.abs(out[4:60, 4:120].astype(int) - 126).max() <= 12


def test_a_command_that_is_told_to_end_leaves_nothing(film, tmp_path):
    running = subprocess.Popen(
        [sys.executable, "-m", "edged", "privacy", "scrub", "in.mp4", "-o", "two.mp4"], cwd=tmp_path,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for _ in range(600):
        if any(p.name.startswith(".two") for p in tmp_path.iterdir()) or running.poll() is not None:
            break
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    assert running.wait(30) in (128 + signal.SIGTERM, 0)
    if running.returncode:
        assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_a_picture_never_lands_on_another_nor_on_itself(planted, tmp_path):
    cv2.imwrite(str(tmp_path / "a.jpg"), planted[0])
    before = (tmp_path / "a.jpg").read_bytes()
    only_masks = ("--no-faces", "--no-plates", "--mask", "0,0 1,0 1,1")
    assert edged("scrub", "a.jpg", "-o", "a.jpg", "--overwrite", *only_masks, cwd=tmp_path).returncode == 1
    os.link(tmp_path / "a.jpg", tmp_path / "same.jpg")
    assert edged("scrub", "a.jpg", "-o", "same.jpg", "--overwrite", *only_masks, cwd=tmp_path).returncode == 1
    (tmp_path / "b.jpg").write_bytes(b"dear to somebody")
    refused = edged("scrub", "a.jpg", "-o", "b.jpg", *only_masks, cwd=tmp_path)
    assert (refused.returncode, "--overwrite" in refused.stderr) == (1, True)
    assert (tmp_path / "b.jpg").read_bytes() == b"dear to somebody"
    assert edged("scrub", "a.jpg", "-o", "b.jpg", "--overwrite", *only_masks, cwd=tmp_path).returncode == 0
    assert (tmp_path / "a.jpg").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jpg", "b.jpg", "same.jpg"]


def test_what_cannot_be_asked_for_exits_2_and_what_is_not_there_4(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    assert edged("scrub", tmp_path / "absent.jpg").returncode == 4
    assert edged("scrub", tmp_path / "a.jpg", "--no-faces", "--no-plates").returncode == 2
    assert edged("scrub", tmp_path / "a.jpg", "--mask", "0,0 2,0 1,1").returncode == 2
    assert edged("scrub", tmp_path / "a.jpg", "--margin", "7").returncode == 2
    assert edged("scrub", tmp_path / "a.jpg", "--face-model", tmp_path / "absent.onnx").returncode == 4
    assert edged("scrub", tmp_path / "a.jpg", "-o", tmp_path / "a.pdf").returncode == 1
    assert edged("audit", tmp_path / "absent", "--boxes", "x.csv").returncode == 4


def test_a_cameras_masks_come_from_the_configuration(planted, tmp_path):
    made = subprocess.run(
        [sys.executable, "-m", "edged", "init", "--data-dir", "site", "--site", "p", "--classes", "a,b",
         "--camera", "gate"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    config = tmp_path / "site" / "config.toml"
    text = config.read_text()
    if "[[camera]]" not in text:
        text += '\n[[camera]]\nid = "gate"\n'
    mask = '[[camera.mask]]\nname = "street"\npolygon = [[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]]\n'
    config.write_text(text.rstrip() + "\n" + mask)
    cv2.imwrite(str(tmp_path / "a.jpg"), planted[0])
    done = subprocess.run(
        [sys.executable, "-m", "edged", "-c", config, "privacy", "scrub", "a.jpg", "--no-faces", "--no-plates",
         "--camera", "gate"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    out = cv2.imread(str(tmp_path / "a.scrubbed.jpg"))
    assert grey(out, (0, 0, 640, 720))
    assert not grey(out, (700, 0, 500, 720))


def test_an_audit_prints_what_is_hidden_and_exits_3_below_its_limits(planted, tmp_path):
    image, face, plate = planted
    cv2.imwrite(str(tmp_path / "a.png"), image)
    cv2.imwrite(str(tmp_path / "empty.png"), np.full((360, 640, 3), 90, np.uint8))
    (tmp_path / "boxes.csv").write_text(
        "file,x,y,w,h,kind\n"
        f"a.png,{','.join(map(str, face))},face\na.png,{','.join(map(str, plate))},plate\n"
        "a.png,4,4,20,20,face\nempty.png,,,,,\ngone.png,1,1,9,9,face\n"
    )
    done = edged(
        "audit", tmp_path, "--boxes", tmp_path / "boxes.csv", "--json", "--unjudged", "keep", "--at-least",
        "face:32=0.95", "--at-least", "face=0.95",
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    report = json.loads(done.stdout)
    assert (report["pictures"], report["withheld"]) == (2, {"not_found": 1})
    assert report["hidden"]["face"]["from_32"]["share"] == 1
    assert report["hidden"]["face"]["all"]["n"] == 2
    assert report["hidden"]["plate"]["all"]["share"] == 1
    assert len(report["missed"]) == 1
    assert 0 <= report["false_area"] < 0.1
    assert set(report["ms"]) >= {"face", "plate"}


def test_what_would_be_hidden_is_said_without_writing_anything(planted, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), planted[0])
    done = edged("test", tmp_path / "a.png", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert {box["kind"] for box in said["boxes"]} == {"face", "plate"}
    assert set(said["boxes"][0]) == {"kind", "x", "y", "w", "h"}
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
