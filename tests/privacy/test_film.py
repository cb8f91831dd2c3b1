"""A film comes out with as many frames as went in, each covered by what its neighbours showed, or grey all over."""

from __future__ import annotations

import os
import signal
import struct
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edged.errors import Refused, Unavailable
from edged.privacy import batch, encoder, files
from edged.privacy.detect import Found
from edged.privacy.file_pool import FileChild
from edged.privacy.film import Film, looks_every
from edged.privacy.picture import GREY, Scrubber
from edged.privacy.scrub import ScrubOptions, Withheld
from edged.privacy.track import Rules

SIZE = 40
NOTHING = ScrubOptions(faces=False, plates=False)
CORNER = ((0.0, 0.0), (0.25, 0.0), (0.25, 0.25), (0.0, 0.25))


class Reds:
    """Finds a pure red square; `misses` are the looks (counted from 0) at which it fails to."""

    kind, start, keep = "face", 0.5, 0.25

    def __init__(self, misses=(), fails=()):
        self.looks, self.misses, self.fails = 0, set(misses), set(fails)

    def find(self, view):
        look, self.looks = self.looks, self.looks + 1
        if look in self.fails:
            raise RuntimeError("a bug in a detector")
        if look in self.misses:
            return []
        red = (view.image[..., 2] > 200) & (view.image[..., 0] < 50)
        ys, xs = np.nonzero(red)
        if len(xs) < 20:
            return []
        x, y = int(xs.min()), int(ys.min())
        return [Found("face", x, y, int(xs.max()) - x + 1, int(ys.max()) - y + 1, 0.9)]


def wall(width=480, height=272, left=0, seed=3):
    """A piece of a wide textured wall."""
    rng = np.random.default_rng(seed)
    wide = cv2.resize(rng.integers(60, 190, (34, 240, 3), dtype=np.uint8), (1920, 272), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(cv2.resize(wide[:, left : left + 480], (width, height)))


def red(image, x, y=100):
    left, right = max(0, int(x)), max(0, int(x) + SIZE)
    image[y : y + SIZE, left:right] = (20, 20, 230)
    return image


def play(frames, detector, *, fps=30.0, **more):
    film = Film(Scrubber([detector] if detector else []), fps, **more)
    out = []
    for frame in frames:
        out += film.push(frame.copy())
    out += film.end()
    assert film.tally.frames == len(out)
    return out, film.tally


def shown(image):
    """How many pixels of the red square are still to be seen."""
    return int(((image[..., 2] > 200) & (image[..., 0] < 50)).sum())


def test_a_face_is_covered_in_every_frame_though_only_every_third_is_looked_at():
    frames = [red(wall(), 20 + 6 * i) for i in range(40)]
    out, tally = play(frames, Reds())
    assert [shown(done.image) for done in out] == [0] * 40
    assert tally.looks < 20


def test_a_face_that_the_detector_loses_for_three_frames_stays_covered():
    frames = [red(wall(), 20 + 4 * i) for i in range(30)]
    out, _ = play(frames, Reds(misses=(10, 11, 12)), fps=9)  # every frame is looked at
    assert [shown(done.image) for done in out] == [0] * 30


def test_a_face_is_covered_in_the_frames_before_it_was_found():
    frames = [wall() for _ in range(10)] + [red(wall(), 100) for _ in range(20)]
    out, _ = play(frames, Reds(misses=range(10, 14)), fps=9)
    assert [shown(done.image) for done in out] == [0] * 30


@pytest.mark.parametrize("speed", [4, 12, 24, 40])
def test_a_face_in_a_pan_is_covered_from_edge_to_edge(speed):
    steps = 1400 // speed
    frames = [red(wall(left=i * speed), 700 - i * speed) for i in range(steps)]
    out, tally = play([f for f in frames if f.shape == (272, 480, 3)], Reds())
    assert [i for i, done in enumerate(out) if shown(done.image) > 0.1 * SIZE * SIZE] == []
    assert tally.looks < len(out) / 2


def test_a_face_in_the_last_frame_of_a_scene_or_of_the_film_is_found():
    frames = (
        [wall() for _ in range(10)] + [red(wall(), 200)] + [wall(seed=9) for _ in range(9)] + [red(wall(seed=9), 50)]
    )
    out, _ = play(frames, Reds())
    assert [shown(done.image) for done in out] == [0] * len(frames)


def test_masks_hold_in_every_frame():
    out, _ = play([wall(left=10 * i) for i in range(20)], None, masks=[CORNER])
    assert all((done.image[:68, :120] == GREY).all() for done in out)
    assert not any((done.image[100:, 200:] == GREY).all() for done in out)


def test_where_nothing_moves_looks_are_fewer_but_never_further_apart_than_five_frames():
    detector = Reds()
    _, still = play([red(wall(), 50)] * 60, detector)
    assert 60 / 5 <= still.looks <= 60 / 5 + 3
    _, moving = play([red(wall(), 50 + i) for i in range(60)], Reds())
    assert moving.looks >= 20


def test_a_frame_that_cannot_be_judged_is_grey_and_so_are_its_neighbours_up_to_the_looks_that_could():
    frames = [red(wall(), 20 + 6 * i) for i in range(30)]
    out, tally = play(frames, Reds(fails=(4,)))
    grey = [i for i, done in enumerate(out) if (done.image == GREY).all()]
    assert grey == list(range(grey[0], grey[-1] + 1))
    assert 3 <= len(grey) <= 6
    assert dict(tally.blank) == {"child_error": len(grey)}
    assert [shown(done.image) for done in out] == [0] * 30


def test_never_more_frames_wait_than_the_delay():
    film = Film(Scrubber([Reds()]), 30, rules=Rules(back=5))
    out = 0
    for i in range(100):
        out += len(film.push(red(wall(), 2 * i)))
        assert i + 1 - out <= 7
    assert out + len(film.end()) == 100


def test_a_frame_of_another_size_is_refused():
    film = Film(Scrubber([]), 30)
    film.push(wall())
    with pytest.raises(Refused):
        film.push(wall(width=320))


def test_looks_are_a_tenth_of_a_second_apart_or_every_other_frame_of_a_slow_film():
    assert [looks_every(fps, Rules()) for fps in (5, 10, 12.5, 15, 25, 30, 60, 240)] == [1, 3, 3, 3, 3, 3, 5, 5]
    assert looks_every(30, Rules(back=0)) == 1


# With the real processes.


def write(path, frames, fps=25.0):
    height, width = frames[0].shape[:2]
    film = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
    for frame in frames:
        film.write(frame)
    film.release()
    return path


def read(path):
    film = cv2.VideoCapture(str(path))
    out = []
    while True:
        more, frame = film.read()
        if not more:
            return out, film.get(cv2.CAP_PROP_FPS)
        out.append(frame)


def work(source, target):
    return batch.plan(source, target).works[0]


@pytest.fixture(scope="module")
def child():
    with FileChild(NOTHING) as child:
        child.start()
        yield child


@pytest.fixture(params=["ffmpeg", "opencv"])
def program(request, monkeypatch):
    """With the ffmpeg program, where it is installed, and without."""
    if request.param == "opencv":
        monkeypatch.setattr(encoder, "ffmpeg", lambda: None)
    elif encoder.ffmpeg() is None:
        pytest.skip("ffmpeg is not installed")
    return request.param


def test_size_rate_and_number_of_frames_are_kept(child, program, tmp_path):
    source = write(tmp_path / "in.mp4", [wall(left=4 * i) for i in range(33)], fps=12.5)
    done = files.scrub(child, work(source, tmp_path / "out.mp4"), masks=[CORNER])
    frames, fps = read(tmp_path / "out.mp4")
    assert (done.status, done.frames, done.encoder) == ("done", 33, program)
    assert done.sound == ("none" if program == "ffmpeg" else "left_out")
    assert (len(frames), frames[0].shape, fps) == (33, (272, 480, 3), 12.5)
    assert all(abs(int(frame[40, 60].mean()) - GREY) <= 6 for frame in frames)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("empty.mp4", b""),
        ("noise.mp4", np.random.default_rng(1).bytes(200_000)),
        ("noise.avi", b"RIFF\x00\x10\x00\x00AVI LIST" + np.random.default_rng(2).bytes(50_000)),
        ("list.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"),
        ("page.mkv", b"\x1a\x45\xdf\xa3" + b"\xff" * 5000),
    ],
)
def test_garbage_is_refused_and_leaves_nothing(child, tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises((Refused, Withheld)):
        files.scrub(child, work(tmp_path / name, tmp_path / "out.mp4"))
    assert [p.name for p in tmp_path.iterdir()] == [name]


def raw_avi(side, bits, size, frames=3):
    """A RIFF AVI of uncompressed pictures: a certain form of it ends the process that decodes it."""

    def chunk(name, data):
        return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    form = struct.pack("<IiiHH4sIiiII", 40, side, side, 1, bits, b"", size, 0, 0, 0, 0)
    stream = b"vids" + bytes(4) + struct.pack("<8I4h", 0, 0, 0, 1, 10, 0, frames, size, 0, 0, 0, 0) + bytes(8)
    head = struct.pack("<14I", 100_000, 0, 0, 16, frames, 0, 1, size, side, side, 0, 0, 0, 0)
    lists = chunk(b"LIST", b"strl" + chunk(b"strh", stream) + chunk(b"strf", form))
    pictures = b"".join(chunk(b"00db", bytes(size)) for _ in range(frames))
    lists = chunk(b"LIST", b"hdrl" + chunk(b"avih", head) + lists) + chunk(b"LIST", b"movi" + pictures)
    return chunk(b"RIFF", b"AVI " + lists)


def test_a_film_that_ends_its_decoder_leaves_nothing_and_the_next_file_is_scrubbed(child, tmp_path):
    (tmp_path / "bad.avi").write_bytes(raw_avi(48, 24, 48 * 48 * 3))
    with pytest.raises((Refused, Withheld)):
        files.scrub(child, work(tmp_path / "bad.avi", tmp_path / "out.mp4"))
    assert [p.name for p in tmp_path.iterdir()] == ["bad.avi"]
    good = write(tmp_path / "good.mp4", [wall()] * 5)
    assert files.scrub(child, work(good, tmp_path / "out.mp4")).frames == 5


def test_a_film_cut_short_is_refused_and_leaves_nothing(child, tmp_path):
    whole = write(tmp_path / "in.avi", [wall(left=4 * i) for i in range(60)]).read_bytes()
    (tmp_path / "in.avi").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Refused):
        files.scrub(child, work(tmp_path / "in.avi", tmp_path / "out.mp4"))
    assert [p.name for p in tmp_path.iterdir()] == ["in.avi"]


def test_a_child_killed_in_the_middle_leaves_nothing_and_the_next_file_gets_a_new_one(tmp_path):
    source = write(tmp_path / "in.mp4", [wall(left=i) for i in range(300)])
    with FileChild(NOTHING) as child:
        child.start()
        seen = []

        def kill(done, of):
            if done == 5:
                assert any(p.name.startswith(".out.") for p in tmp_path.iterdir())
                os.kill(child.pid, signal.SIGKILL)
            seen.append(done)

        with pytest.raises(Withheld) as error:
            files.scrub(child, work(source, tmp_path / "out.mp4"), progress=kill)
        assert error.value.code == "child_died"
        assert len(seen) < 300
        assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]
        assert files.scrub(child, work(source, tmp_path / "out.mp4")).frames == 300


def test_a_child_that_stalls_is_ended_and_leaves_nothing(tmp_path):
    source = write(tmp_path / "in.mp4", [wall(left=i) for i in range(300)])
    with FileChild(NOTHING, stall_s=1.0) as child:
        child.start()

        def stop(done, of):
            if done == 5:
                os.kill(child.pid, signal.SIGSTOP)

        with pytest.raises(Withheld) as error:
            files.scrub(child, work(source, tmp_path / "out.mp4"), progress=stop)
        assert (error.value.code, child.pid) == ("timeout", 0)
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_ctrl_c_leaves_nothing(tmp_path):
    source = write(tmp_path / "in.mp4", [wall(left=i) for i in range(100)])

    def interrupt(done, of):
        if done == 5:
            raise KeyboardInterrupt

    with FileChild(NOTHING) as child, pytest.raises(KeyboardInterrupt):
        files.scrub(child, work(source, tmp_path / "out.mp4"), progress=interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_an_encoder_that_fails_is_said_and_leaves_nothing(child, tmp_path, monkeypatch):
    monkeypatch.setattr(encoder, "command", lambda *_: ["/bin/sh", "-c", "exit 3"])
    source = write(tmp_path / "in.mp4", [wall(left=i) for i in range(100)])
    with pytest.raises(Unavailable) as error:
        files.scrub(child, work(source, tmp_path / "out.mp4"))
    assert error.value.code == "encoder"
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


LIAR = """
import os, socket, sys
from edged.privacy import file_talk as t
end = socket.socket(fileno=os.dup(0))
t.receive(end)
t.send(end, t.Ready(True, True))
t.receive(end)
{lie}
"""
LIES = {
    "more frames than there were": "t.send(end, t.Opened(1, 16, 16, 25.0, 3)); t.send(end, t.GotFrame(1), bytes(768));"
    " t.send(end, t.GotFilm(1, 2, 1, {}, {}, {}))",
    "another file's answer": "t.send(end, t.Opened(9, 16, 16, 25.0, 3))",
    "a picture for a film": "t.send(end, t.GotPicture(1, 16, 16, 3, {}, (), '', {}), b'abc')",
    "an endless document": "end.sendall(b'\\xff\\xff\\xff\\xff')",
    "no document": "end.sendall(b'\\0\\0\\0\\5hello')",
    "frames beyond any size": "t.send(end, t.Opened(1, 1000000, 1000000, 25.0, 3))",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_child_that_contradicts_itself_is_not_believed(lie, tmp_path):
    import sys

    source = write(tmp_path / "in.mp4", [wall()] * 3)
    command = (sys.executable, "-P", "-c", LIAR.format(lie=LIES[lie]))
    with FileChild(NOTHING, command=command, stall_s=5) as child:
        with pytest.raises(Withheld) as error:
            files.scrub(child, work(source, tmp_path / "out.mp4"))
        assert (error.value.code, child.pid) == ("bad_answer", 0)
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_the_memory_of_a_long_film_is_bounded(tmp_path):
    source = write(tmp_path / "in.mp4", [wall(1280, 720, left=i) for i in range(150)])

    with FileChild(NOTHING) as child:
        child.start()
        sizes = {}

        def measure(done, of):
            if done in (30, 140):
                sizes[done] = int(Path(f"/proc/{child.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        files.scrub(child, work(source, tmp_path / "out.mp4"), progress=measure)
    assert sizes[140] < sizes[30] + 40e6  # 110 frames would be 300 MB


def test_a_picture_that_is_no_picture_is_refused_and_the_child_lives_on(child, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0" + b"nonsense" * 100)
    child.start()
    pid = child.pid
    with pytest.raises(Refused):
        files.scrub(child, work(tmp_path / "a.jpg", None))
    assert child.pid == pid
    assert [p.name for p in tmp_path.iterdir()] == ["a.jpg"]


def test_the_child_can_open_no_socket_and_write_no_file(child):
    child.start()
    status = Path(f"/proc/{child.pid}/status").read_text()
    assert "Seccomp:\t2" in status
    limits = {
        line[:26].strip(): line[26:].split()[0] for line in Path(f"/proc/{child.pid}/limits").read_text().splitlines()
    }
    assert limits["Max file size"] == "0"


def test_a_late_parent_does_not_leave_a_child_behind(tmp_path):
    source = write(tmp_path / "in.mp4", [wall(left=i) for i in range(100)])
    with FileChild(NOTHING) as child:
        child.start()
        pid, gone = child.pid, threading.Event()
        with pytest.raises(KeyboardInterrupt):
            files.scrub(child, work(source, tmp_path / "out.mp4"), progress=_interrupt)
        for _ in range(100):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                gone.set()
                break
            time.sleep(0.05)
        assert gone.is_set()


def _interrupt(done, of):
    raise KeyboardInterrupt
