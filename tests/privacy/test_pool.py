"""The parent's end of a scrub child; what happens when the child breaks is in test_faults.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from edged.engine import patterns
from edged.errors import Misconfigured, Refused, Unavailable
from edged.privacy import jpeg, selftest
from edged.privacy.pool import ScrubChild
from edged.privacy.scrub import Scrubbed, ScrubOptions, Withheld, vouch
from edged.privacy.talk import Done, word
from edged.wire.messages import Frame, FrameHeader

PLAIN = ScrubOptions(faces=False, plates=False)  # starts fast
FAULTY = (sys.executable, "-P", str(Path(__file__).with_name("fault_child.py")), "colour")
BOX = (100, 100, 200, 200)


@pytest.fixture(scope="module")
def child():
    with ScrubChild(ScrubOptions(), 20) as made:
        yield made


@pytest.fixture
def still(encode):
    return encode(np.ascontiguousarray(patterns.picture(1, 640)[:360]))


def test_a_frame_comes_back_scrubbed(child, planted, encode, pixels, frame):
    image, face, plate = planted
    scrubbed = child.scrub(frame(encode(image), face, plate))
    assert (scrubbed.width, scrubbed.height, len(scrubbed.crops)) == (640, 360, 2)
    assert scrubbed.regions["face"] == 1
    assert scrubbed.regions["plate"] >= 1
    assert set(scrubbed.ms) == {"decode", "judge", "face", "plate", "fill", "encode", "check", "total"}
    assert selftest.hidden(pixels(scrubbed.jpeg), face)
    assert selftest.hidden(pixels(scrubbed.jpeg), plate)


def test_masks_travel_to_the_child(still, pixels, frame):
    options = ScrubOptions(faces=False, plates=False, masks={"gate": (((0, 0), (0.5, 0), (0.5, 1), (0, 1)),)})
    with ScrubChild(options, 10) as masked:
        assert selftest.hidden(pixels(masked.scrub(frame(still)).jpeg), (0, 0, 320, 360))
        assert not selftest.hidden(pixels(masked.scrub(frame(still, camera="yard")).jpeg), (0, 0, 320, 360))


def test_masks_painted_later_hold_from_the_next_frame(still, pixels, frame):
    painted = {"gate": ()}
    with ScrubChild(PLAIN, 10, painted=lambda camera: painted.get(camera, ())) as plain:
        assert not selftest.hidden(pixels(plain.scrub(frame(still)).jpeg), (0, 0, 320, 360))
        painted["gate"] = (((0, 0), (0.5, 0), (0.5, 1), (0, 1)),)
        assert selftest.hidden(pixels(plain.scrub(frame(still)).jpeg), (0, 0, 320, 360))


def test_a_mask_removed_between_look_and_cover_still_covers_where_nobody_looked(still, pixels, frame):
    left = ((0, 0), (0.5, 0), (0.5, 1), (0, 1))
    painted = {"gate": (left,)}
    with ScrubChild(PLAIN, 10, painted=lambda camera: painted.get(camera, ())) as plain:
        taken = frame(still)
        plain.look(taken)
        painted["gate"] = ()
        assert selftest.hidden(pixels(plain.scrub(taken, ()).jpeg), (0, 0, 320, 360))
        assert not selftest.hidden(pixels(plain.scrub(taken, ()).jpeg), (0, 0, 320, 360)), "looked at anew, it is gone"


def test_look_then_cover_hides_what_one_scrub_hides(child, planted, encode, pixels, frame):
    image, face, _ = planted
    taken = frame(encode(image), face)
    seen = child.look(taken)
    assert {s.kind for s in seen.spots if s.sure} == {"face", "plate"}
    scrubbed = child.scrub(taken, [s for s in seen.spots if s.sure])
    assert scrubbed.jpeg == child.scrub(taken).jpeg


def test_a_planted_picture_is_hidden_where_it_was_planted(child):
    planted = child.plant(2)
    header = FrameHeader("p-2", 1.0, 1, "p", planted.width, planted.height)
    scrubbed = child.scrub(Frame("planted", header, planted.jpeg))
    easy = [spot for spot, is_easy in zip(planted.spots, planted.easy, strict=True) if is_easy]
    assert {spot.kind for spot in easy} == {"face", "plate"}
    assert all(share > 0.9 for share in child.inspect(scrubbed.jpeg, easy))
    assert all(share < 0.5 for share in child.inspect(planted.jpeg, planted.spots)), "the control must leak"


def test_the_child_says_what_it_runs_on(child):
    hello = child.ready()
    assert "openvino" in hello.runtime
    assert set(hello.weights) == {"0:face", "1:plate"}
    assert all(len(sha256) == 64 for sha256 in hello.weights.values())
    assert hello.memory_limit == ScrubOptions().memory_bytes


def test_what_breaks_the_rules_is_refused_and_the_child_lives_on(child, still, frame):
    child.ready()
    pid = child.pid
    for data, code in ((still[:-5], "truncated"), (still + b"x", "trailing"), (b"GIF89a", "not_jpeg")):
        with pytest.raises(Refused) as caught:
            child.scrub(frame(data))
        assert caught.value.code == code
    assert child.pid == pid
    assert isinstance(child.scrub(frame(still)), Scrubbed)


def test_a_late_child_is_replaced_and_its_frame_withheld(still, frame):
    with ScrubChild(PLAIN, 0.3, command=FAULTY) as faulty:
        faulty.ready()
        before = faulty.pid
        with pytest.raises(Withheld) as caught:
            faulty.scrub(frame(still, camera="scrub.work.before.hang"))
        assert caught.value.code == "timeout"
        assert not psutil.pid_exists(before)
        assert faulty.pid != before
        assert faulty.ready()


def test_a_child_that_was_killed_between_frames_costs_no_frame(still, frame):
    with ScrubChild(PLAIN, 10) as plain:
        plain.scrub(frame(still))
        before = plain.pid
        os.kill(before, signal.SIGKILL)
        os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT)  # gone, not yet reaped
        assert isinstance(plain.scrub(frame(still)), Scrubbed)
        assert plain.pid != before


def test_a_child_that_cannot_start_leaves_the_frame_with_its_camera(still, frame):
    for program in ("import sys; sys.exit('no such module')", "print('rubbish' * 99)"):
        with (
            ScrubChild(PLAIN, 5, command=(sys.executable, "-c", program)) as broken,
            pytest.raises(Unavailable) as caught,
        ):
            broken.scrub(frame(still))
        assert caught.value.code == "child_down"


def test_a_missing_runtime_is_the_operators_matter(still, frame):
    with ScrubChild(ScrubOptions(runtime="tensorrt"), 5) as broken:
        with pytest.raises(Misconfigured, match="tensorrt"):
            broken.ready()
        with pytest.raises(Unavailable):
            broken.scrub(frame(still))


def test_too_little_memory_is_said_before_the_first_frame():
    with ScrubChild(ScrubOptions(memory_bytes=300 << 20), 5) as small, pytest.raises(Unavailable):
        small.ready()


def test_a_closed_child_is_gone_and_answers_no_more(still, frame):
    plain = ScrubChild(PLAIN, 5)
    plain.ready()
    pid = plain.pid
    plain.close()
    plain.close()
    assert not psutil.pid_exists(pid)
    assert plain.pid == 0
    with pytest.raises(Withheld) as caught:
        plain.scrub(frame(still))
    assert caught.value.code == "closed"


def test_the_child_sees_none_of_our_variables_and_no_open_file(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGED_STORAGE_KEY", "very secret")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    with (tmp_path / "storage.key").open("w"), ScrubChild(PLAIN, 5) as plain:
        plain.ready()
        process = psutil.Process(plain.pid)
        assert not {"EDGED_STORAGE_KEY", "OPENBLAS_CORETYPE"} & set(process.environ())
        assert process.open_files() == []
        assert process.net_connections() == []
        assert process.cwd() == "/"


def test_what_the_child_says_of_its_memory_is_not_its_parent_s():
    program = (
        "from edged.privacy.pool import ScrubChild; from edged.privacy.scrub import ScrubOptions; held = b'x' * (1 << 30);"
        "c = ScrubChild(ScrubOptions(faces=False, plates=False), 5); print(c.ready().rss_bytes); c.close()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert 10 << 20 < int(done.stdout) < 1 << 29


def test_the_child_ends_when_its_parent_vanishes():
    program = (
        "import os; from edged.privacy.pool import ScrubChild; from edged.privacy.scrub import ScrubOptions;"
        "c = ScrubChild(ScrubOptions(faces=False, plates=False), 5); c.ready(); print(c.pid, flush=True); os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    pid = int(done.stdout)
    try:
        psutil.Process(pid).wait(timeout=20)
    except psutil.NoSuchProcess:
        return
    except psutil.TimeoutExpired:
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_only_the_scrub_module_makes_a_scrubbed(still):
    with pytest.raises(TypeError, match="made by"):
        Scrubbed(still, 640, 360, (), {}, {})


def test_a_scrubbed_cannot_be_changed_afterwards(still, encode, request_of):
    crop = encode(patterns.picture(2, 224))
    request = request_of(still, BOX)
    done = Done(7, 640, 360, still, (crop,), {"face": 1}, {"total": 1.0}, word(request, still, crop))
    scrubbed = vouch(request, done)
    with pytest.raises(AttributeError):
        scrubbed.jpeg = b""
    with pytest.raises(TypeError):
        scrubbed.regions["face"] = 0
    assert jpeg.metadata(scrubbed.jpeg) == ()
