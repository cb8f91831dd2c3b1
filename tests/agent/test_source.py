"""A camera's pictures, whatever they come from: told apart by a spec, paced, and never the end of the agent."""

from __future__ import annotations

import io
import os
import signal
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from agent import video
from agent.source import Shot, Source, Tally, open_source
from edged.clock import SystemClock
from edged.errors import Misconfigured


class Hands:
    """A clock that only sleeping moves; it remembers each sleep."""

    def __init__(self) -> None:
        self.time, self.slept = 1000.0, list[float]()

    def now(self) -> float:
        return 1_700_000_000 + self.time

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


def picture(level: int, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    return np.full((height, width, 3), level, np.uint8)


def jpeg(level: int, width: int = 64, height: int = 48) -> bytes:
    return bytes(cv2.imencode(".jpg", picture(level, width, height))[1])


def opened(spec: str, **options: object) -> Source:
    return open_source(spec, **({"fps": 0, "clock": Hands()} | options))  # type: ignore[arg-type]


def shots(spec: str, limit: int | None = None) -> list[Shot]:
    with opened(spec, limit=limit) as source:
        return [shot for shot in source if shot is not None]


# --- specs


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("scen:north", "did you mean 'scene'"),
        ("nonsense", "unknown source"),
        ("scene:nort", "no place 'nort'"),
        ("scene:north?sead=3", "did you mean 'seed'"),
        ("scene:north?phase=dusk", "must be one of day, night"),
        ("scene:north?seed=x", "no number"),
        ("scene:north?seed=1.5", "whole number"),
        ("scene:north?start=yesterday", "no date"),
        ("folder:/nowhere", "no folder"),
        ("file:/nowhere.mp4", "no video at /nowhere.mp4"),
        ("v4l2:/dev/video-none", "no camera at"),
        ("cnrpark:/nowhere", "not CNRPark"),
        ("pklot:/nowhere", "not PKLot"),
    ],
)
def test_a_spec_that_cannot_work_is_refused_in_a_sentence(spec: str, words: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        opened(spec)
    assert words in str(caught.value)
    assert caught.value.exit_code == 78


# --- pace


def endless(count: int = 100) -> Iterator[Shot | None]:
    for i in range(count):
        yield Shot(picture(i), float(i))


def test_pictures_come_no_faster_than_fps_and_waiting_is_cut_into_short_sleeps() -> None:
    clock = Hands()
    source = Source(endless(), Tally(), fps=0.5, clock=clock, limit=4)
    begun = clock.time
    taken = [shot for shot in source]
    assert sum(shot is not None for shot in taken) == 4
    assert any(shot is None for shot in taken)
    assert clock.time - begun == pytest.approx(6.0)
    assert max(clock.slept) <= 0.2


def test_without_fps_nothing_sleeps() -> None:
    clock = Hands()
    assert len(list(Source(endless(), Tally(), fps=0, clock=clock, limit=None))) == 100
    assert clock.slept == []


def test_a_slow_caller_is_not_flooded_afterwards() -> None:
    clock = Hands()
    source = Source(endless(), Tally(), fps=10, clock=clock, limit=None)
    assert next(source) is not None
    clock.time += 5
    assert next(source) is not None
    clock.slept.clear()
    assert next(source) is not None
    assert next(source) is not None
    assert sum(clock.slept) >= 0.1


# --- the street


def test_the_street_gives_regions_with_truth_inside_the_picture() -> None:
    taken = shots("scene:north?seed=4", limit=12)
    assert len(taken) == 12
    for shot in taken:
        assert shot.image.shape == (720, 1280, 3)
        assert shot.regions is not None
        assert shot.truth is not None
        assert len(shot.regions) == len(shot.truth) <= 4
        for x, y, w, h in shot.regions:
            assert 0 <= x < x + w <= 1280
            assert 0 <= y < y + h <= 720
    assert {"vehicle", "person"} <= {word for shot in taken for word in shot.truth or ()}


def test_the_street_by_motion_gives_regions_that_mostly_cover_the_known_things() -> None:
    words = [word for shot in shots("scene:north?seed=4&regions=motion", limit=40) for word in shot.truth or ()]
    assert len(words) > 30
    assert sum(word != "nothing" for word in words) > len(words) / 2


def test_night_falls_when_the_control_file_says_so_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    control = tmp_path / "phase"
    with opened(f"scene:north?phase-file={control}") as source:

        def bright() -> tuple[float, float]:
            shot = next(source)
            assert shot is not None
            return float(shot.image.mean()), shot.ts

        day, first = bright()
        control.write_text("night\n")
        night, second = bright()
        control.write_text("nig")
        still, third = bright()
        control.unlink()
        later, fourth = bright()
        control.write_text("day")
        again, fifth = bright()
    assert max(night, still, later) < 0.5 * day
    assert again > 0.8 * day
    assert first < second < third < fourth < fifth
    assert datetime.fromtimestamp(second, UTC).hour >= 19
    assert 8 <= datetime.fromtimestamp(fifth, UTC).hour < 17


def test_the_street_starts_at_the_given_date_else_on_a_day_of_its_seed() -> None:
    def day(spec: str) -> str:
        return datetime.fromtimestamp(shots(spec, limit=1)[0].ts, UTC).strftime("%m-%d")

    assert day("scene:north?start=2026-05-06") == "05-06"
    assert day("scene:north?seed=3") != day("scene:north?seed=4")


# --- folders


def test_a_folder_is_shown_by_name_and_what_is_no_picture_is_skipped_and_counted(tmp_path: Path) -> None:
    (tmp_path / "b.jpg").write_bytes(jpeg(200))
    (tmp_path / "a.png").write_bytes(bytes(cv2.imencode(".png", picture(100))[1]))
    (tmp_path / "aa.jpg").write_bytes(b"no picture")
    (tmp_path / "c.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("ignored")
    with opened(f"folder:{tmp_path}") as source:
        taken = list(source)
    assert [int(shot.image.mean()) for shot in taken if shot] == [100, 200]
    assert source.tally.skipped == 2
    assert source.tally.ended
    assert [shot.jpeg is not None for shot in taken if shot] == [False, True]
    assert taken[0].regions is None


def test_a_looped_folder_goes_round_and_one_without_a_good_picture_ends(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"broken")
    assert shots(f"folder:{tmp_path}?loop=1") == []
    (tmp_path / "b.jpg").write_bytes(jpeg(50))
    assert len(shots(f"folder:{tmp_path}?loop=1", limit=5)) == 5


def test_folders_can_name_the_class_of_whole_regions(tmp_path: Path) -> None:
    for word in ("busy", "free"):
        (tmp_path / word).mkdir()
        (tmp_path / word / "1.jpg").write_bytes(jpeg(90))
    taken = shots(f"folder:{tmp_path}?kind=roi&truth=folder")
    assert [(shot.kind, shot.truth, shot.regions) for shot in taken] == [
        ("roi", ("busy",), ((0, 0, 64, 48),)),
        ("roi", ("free",), ((0, 0, 64, 48),)),
    ]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="holds no picture"):
        opened(f"folder:{tmp_path}")


# --- replays


@pytest.fixture
def car_park(tmp_path: Path) -> Path:
    """CNRPark in small: cameras A and B, three times, two spaces each; one patch is broken, one is missing."""
    rows, raw = ["path,camera,label,date,hhmm,slot"], io.BytesIO()
    with zipfile.ZipFile(raw, "w") as patches:
        for camera, date in (("B", "20150708"), ("A", "20150703")):
            for time in ("0815", "0805", "0810"):
                for slot in ("15", "14"):
                    label = "busy" if slot == "14" else "free"
                    path = f"{camera}/{label}/{date}_{time}_{slot}.jpg"
                    rows.append(f"{path},{camera},{label},{date},{time},{slot}")
                    if (camera, time, slot) == ("B", "0810", "14"):
                        patches.writestr(path, b"broken")
                    elif (camera, time, slot) != ("B", "0810", "15"):
                        patches.writestr(path, jpeg(int(slot), 150, 150))
    (tmp_path / "index.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "patches.zip").write_bytes(raw.getvalue())
    return tmp_path


def test_patches_come_in_order_of_their_time_with_camera_time_truth_and_their_own_bytes(car_park: Path) -> None:
    taken = shots(f"cnrpark:{car_park}?camera=A")
    assert [shot.truth for shot in taken] == [("busy",), ("free",)] * 3
    assert taken[0].ts == datetime(2015, 7, 3, 8, 5, tzinfo=UTC).timestamp()
    assert [shot.ts for shot in taken] == sorted(shot.ts for shot in taken)
    assert {shot.kind for shot in taken} == {"roi"}
    assert taken[0].regions == ((0, 0, 150, 150),)
    assert taken[0].jpeg == jpeg(14, 150, 150)


def test_camera_b_follows_camera_a_and_damaged_patches_are_counted(car_park: Path) -> None:
    with opened(f"cnrpark:{car_park}") as source:
        taken = [shot for shot in source if shot is not None]
    assert len(taken) == 10
    assert source.tally.skipped == 2
    assert [shot.ts for shot in taken] == sorted(shot.ts for shot in taken)


@pytest.mark.parametrize(
    ("options", "count"),
    [("every=2", 3), ("every=4&offset=1", 2), ("start=0.5", 3), ("stop=0.34", 2), ("after=20150703_0805", 4)],
)
def test_a_replay_can_take_a_part(car_park: Path, options: str, count: int) -> None:
    assert len(shots(f"cnrpark:{car_park}?camera=A&{options}")) == count


def test_parts_with_other_offsets_share_no_patch(car_park: Path) -> None:
    parts = [{shot.jpeg or b"" for shot in shots(f"cnrpark:{car_park}?camera=A&every=2&offset={i}")} for i in (0, 1)]
    assert parts[0]
    assert parts[1]
    assert not parts[0] & parts[1]


def test_an_empty_part_is_refused(car_park: Path) -> None:
    with pytest.raises(Misconfigured, match="no patch"):
        opened(f"cnrpark:{car_park}?camera=A&offset=1000")


def test_a_replay_waits_for_its_hold_file(car_park: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with opened(f"cnrpark:{car_park}?hold-file={go}") as source:
        assert [next(source) for _ in range(3)] == [None] * 3
        go.touch()
        assert next(source) is not None


SPACE = '<space id="{i}" occupied="{busy}"><contour>{points}</contour></space>'


def test_marked_pictures_are_shown_once_for_every_four_spaces(tmp_path: Path) -> None:
    frames, marks = tmp_path / "sequence1" / "frames", tmp_path / "sequence1" / "bounding_boxes"
    frames.mkdir(parents=True)
    marks.mkdir()
    for name in ("2013-02-22_07_05_01", "2013-02-22_07_10_01"):
        (frames / f"{name}.jpg").write_bytes(jpeg(80, 320, 180))
    spaces = ""
    for i in range(6):
        corners = ((10 * i + 8, 20), (10 * i, 40), (10 * i + 9, 60), (10 * i + 30, 30))
        points = "".join(f'<point x="{x}" y="{y}" />' for x, y in corners)
        spaces += SPACE.format(i=i, busy=int(i == 5), points=points)
    (marks / "2013-02-22_07_05_01.xml").write_text(f"<parking>{spaces}</parking>")
    (marks / "2013-02-22_07_10_01.xml").write_text("<parking><space")
    with opened(f"pklot:{tmp_path}?sequence=1") as source:
        taken = [shot for shot in source if shot is not None]
    assert [len(shot.regions or ()) for shot in taken] == [4, 2]
    assert taken[0].regions is not None
    assert taken[0].regions[1] == (10, 20, 30, 40)
    assert taken[1].truth == ("free", "busy")
    assert taken[0].ts < taken[1].ts
    assert source.tally.skipped == 1


# --- videos, in a child process


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Ten pictures, ten a second, each brighter than the one before."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for i in range(10):
        writer.write(picture(20 * i + 20, 96, 64))
    writer.release()
    return path


def test_a_clip_is_shown_from_its_first_picture_to_its_last_and_ends(clip: Path) -> None:
    with opened(f"file:{clip}", clock=SystemClock()) as source:
        taken = [shot for shot in source if shot is not None]
    levels = [float(shot.image.mean()) for shot in taken]
    assert len(taken) == 10
    assert levels == sorted(levels)
    assert taken[0].image.shape == (64, 96, 3)
    assert taken[0].regions is None
    assert source.tally.ended == "it has no more pictures"


def test_a_clip_keeps_its_own_speed_when_fewer_pictures_are_wanted(clip: Path) -> None:
    child = video.VideoChild(str(clip), live=False, loop=False, fps=5, clock=SystemClock())
    try:
        taken = [shot for shot in video.shots(child, Tally(), SystemClock()) if shot is not None]
    finally:
        child.close()
    assert len(taken) == 5


def test_a_looped_clip_goes_round(clip: Path) -> None:
    with opened(f"file:{clip}?loop=1", clock=SystemClock(), limit=23) as source:
        assert len([shot for shot in source if shot is not None]) == 23


def test_a_file_that_is_no_video_is_refused_at_its_first_picture(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"no video at all")
    with opened(f"file:{path}", clock=SystemClock()) as source, pytest.raises(Misconfigured, match="no video"):
        list(source)


def test_a_decoder_that_dies_ends_the_pictures_and_nothing_else(clip: Path) -> None:
    tally = Tally()
    child = video.VideoChild(str(clip), live=False, loop=True, fps=0, clock=SystemClock())
    taken = video.shots(child, tally, SystemClock())
    while next(taken) is None:
        pass
    os.kill(child.pid, signal.SIGABRT)  # as OpenCV does it to itself over a crafted AVI
    assert all(shot is None or shot.image.shape == (64, 96, 3) for shot in taken)
    assert tally.ended == "the decoder was killed by signal 6"


def poll_often(child: video.VideoChild) -> None:
    for _ in range(100):
        child.poll()


def test_a_decoder_that_hangs_is_given_up(clip: Path) -> None:
    child = video.VideoChild(str(clip), live=False, loop=True, fps=0, clock=SystemClock(), silent_s=0.5)
    try:
        while child.poll() is None:
            pass
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(video.Ended, match="said nothing"):
            poll_often(child)
    finally:
        child.close()
    assert child.ended


def test_closing_a_source_ends_its_decoder(clip: Path) -> None:
    child = video.VideoChild(str(clip), live=False, loop=True, fps=0, clock=SystemClock())
    assert not child.ended
    child.close()
    assert child.ended
