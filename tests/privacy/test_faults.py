"""Fail closed: whatever breaks, wherever and whenever, no raw picture is stored as a scrubbed one.

The promise is about faults. A child that runs an attacker's code can say anything of a picture that nobody else
decodes; what such code could gain is taken from it by confine.py. Nor can one frame show that a network quietly finds
less than it did: planted pictures do (`test_what_no_frame_can_show_a_planted_picture_shows`).
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections import Counter
from functools import partial

import numpy as np
import pytest

from edged import ingest
from edged.errors import Corrupt, Misconfigured, Unavailable
from edged.ingest import Line
from edged.privacy import faces, pool, scrub, stream, talk
from edged.privacy.pool import ScrubChild
from edged.privacy.scrub import ScrubOptions, Withheld
from edged.privacy.talk import Plugin, Spot
from edged.privacy.track import Rules
from edged.storage import frames
from edged.storage.store import Store
from edged.wire.messages import Frame, FrameHeader
from tests.privacy import faults, nets, signed
from tests.privacy.faults import DEADLINE_S, DEATHS, ERRORS, OPTIONS, SHORT_S, Bench, Case, cases, command
from tests.site import FakeClock

CASES = cases()
SHORT = set(CASES[3::16])  # what runs in the fast suite, too
ENDED: Counter[str] = Counter()  # how the faulty frame of every case ended
RAW: list[str] = []  # what was stored and shows something planted


def open_bench(folder, *orders, detect="colour", deadline_s=DEADLINE_S, options=OPTIONS):
    clock = FakeClock()
    store = Store.open(folder / "site", clock=clock, site_key=bytes(32))
    run = command(detect, f"deadline={deadline_s}", *orders)
    return Bench(store, ScrubChild(options, deadline_s, command=run), clock)


@pytest.fixture(scope="module")
def steady(tmp_path_factory):
    bench = open_bench(tmp_path_factory.mktemp("steady"))
    with bench.store, bench.child:
        yield bench


@pytest.fixture(scope="module")
def hasty(tmp_path_factory):
    bench = open_bench(tmp_path_factory.mktemp("hasty"), deadline_s=SHORT_S)
    with bench.store, bench.child:
        yield bench


@pytest.fixture
def bench(tmp_path):
    opened = open_bench(tmp_path)
    with opened.store, opened.child:
        yield opened


def count(found, status):
    """A fault was tried; its frame ended so."""
    ENDED[status] += 1
    RAW.extend(what for what in found if " shows a " in what)
    assert found == []


def test_without_a_fault_every_frame_is_stored_and_scrubbed(steady):
    for case in (Case("sound", ""), Case("sound", "", delayed=True)):
        assert steady.complaints(case) == []


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=str(case), marks=() if case in SHORT else pytest.mark.slow) for case in CASES]
)
def test_a_fault_in_mid_life(request, case):
    bench = request.getfixturevalue("hasty" if case.of_time else "steady")
    before = bench.ended.copy()
    found = bench.complaints(case)
    count(found, *(bench.ended - before))


@pytest.mark.parametrize("delayed", [False, True], ids=["direct", "delayed"])
@pytest.mark.parametrize("fault", ["earlier", "earlier-region"])
def test_an_earlier_picture_that_is_grey_in_the_same_places_is_not_this_one(bench, monkeypatch, fault, delayed):
    """A bench of its own: on another one tracks of earlier cases' frames could cover more."""
    monkeypatch.setattr(faults.signed, "picture", partial(signed.picture, places=1))
    found = bench.complaints(Case(f"scrub.encode.instead.{fault}", "other_picture", delayed))
    count(found, "withheld")


STARTS = [
    *(f"make.before.{fault}" for fault in (*list(ERRORS)[::4], *list(DEATHS)[::3])),
    "selftest.after.sigsegv", "selftest.after.exit0", "judge.before.runtimeerror", "plate.before.runtimeerror",
    "face.instead.nan", "face.instead.no-height", "fill.instead.skipped", "fill.instead.copy", "cover.instead.skipped",
    "cover.instead.pretended", "encode.instead.raw", "encode.instead.png", "judge.instead.nan", "attest.instead.none",
    "answer.instead.garbage", "answer.instead.endless", "answer.instead.half", "answer.instead.seen",
    "answer.before.hang",
]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "delayed"),
    [pytest.param(f, i % 5 == 0, marks=() if i % 12 == 5 else pytest.mark.slow) for i, f in enumerate(STARTS)],
)
def test_a_fault_at_start_leaves_the_frame_with_its_camera_until_it_is_mended(tmp_path, monkeypatch, fault, delayed):
    monkeypatch.setattr(pool, "START_S", 2.0 if fault.endswith("hang") else 30.0)
    bench = open_bench(tmp_path, f"start.{fault}")
    with bench.store, bench.child as child:
        line = bench.delayed if delayed else bench.direct
        frame = bench.frame("gate")
        assert [r.status for _, r in (*line.put(frame), *line.finish())] == ["retry"]
        assert bench.store.value("select count(*) from object") == 0
        monkeypatch.setattr(pool, "START_S", 30.0)
        child.close()
        child._closed, child._command = False, list(command("colour"))
        assert [r.status for _, r in (*line.put(frame), *line.finish())] == ["stored"]
        count(bench.stored_wrongly(), "retry")


def other_net() -> bytes:
    return nets.fixed_net(found=np.zeros((1, 3, 6)))


def spoilt(data: bytes, how: str) -> bytes:
    return {
        "truncated": data[: len(data) // 2], "zeroed": bytes(len(data)), "empty": b"", "another": other_net(),
        "bit": data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 16]) + data[len(data) // 2 + 1 :],
        "cut-by-one": data[:-1], "text": b"version https://git-lfs.github.com/spec/v1\n", "behind": data + b"\0",
        "first-half-zero": bytes(len(data) // 2) + data[len(data) // 2 :],
    }[how]  # fmt: skip


WEIGHTS = ("missing", "folder", "truncated", "zeroed", "empty", "another", "bit", "cut-by-one", "text", "behind",
           "first-half-zero")  # fmt: skip


@pytest.mark.parametrize("whose", ["built-in", "installer's"])
@pytest.mark.parametrize("how", [pytest.param(h, marks=() if h == "bit" else pytest.mark.slow) for h in WEIGHTS])
def test_weights_that_are_not_what_they_should_be_start_no_child(tmp_path, how, whose):
    path = tmp_path / "net.onnx"
    sound = faces.model_file().read_bytes() if whose == "built-in" else nets.colour_net("face")
    if how == "folder":
        path.mkdir()
    elif how != "missing":
        path.write_bytes(spoilt(sound, how))
    if whose == "built-in":
        options, orders = ScrubOptions(plates=False), [f"weights={path}"]
    else:
        plugin = Plugin("face", str(path), "yolo", long_side=320, sha256=hashlib.sha256(sound).hexdigest())
        options, orders = ScrubOptions(faces=False, plates=False, plugins=(plugin,)), []
    bench = open_bench(tmp_path, *orders, detect="real", options=options)
    with bench.store, bench.child as child:
        with pytest.raises(Misconfigured):
            child.ready()
        for line in (bench.direct, bench.delayed):
            assert [r.status for _, r in (*line.put(bench.frame("gate")), *line.finish())] == ["retry"]
        assert bench.store.value("select count(*) from object") == 0
        if path.is_dir():
            path.rmdir()
        path.write_bytes(sound)
        if whose == "installer's":
            assert [r.status for _, r in bench.direct.put(bench.frame("gate"))] == ["stored"]
        count([], "retry")


@pytest.fixture(scope="module")
def networked(tmp_path_factory):
    """Its detectors are real networks on a real runtime."""
    folder = tmp_path_factory.mktemp("networked")
    plugins = []
    for kind in ("face", "plate"):
        (folder / f"{kind}.onnx").write_bytes(nets.colour_net(kind))
        plugins.append(Plugin(kind, str(folder / f"{kind}.onnx"), "yolo", long_side=320))
    options = ScrubOptions(faces=False, plates=False, plugins=tuple(plugins))
    bench = open_bench(folder, detect="real", options=options)
    with bench.store, bench.child:
        yield bench


NETS = {
    **dict.fromkeys(("nan", "inf", "one-nan", "flat", "half", "ones", "zeros"), "detector"),
    **dict.fromkeys(("nothing", "empty", "none"), "*"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("delayed", [False, True], ids=["direct", "delayed"])
@pytest.mark.parametrize(
    "fault", [f"instead.{f}" for f in NETS] + ["before.runtimeerror", "after.sigsegv", "before.oom"]
)
def test_a_network_that_answers_rubbish(networked, fault, delayed):
    moment, _, name = fault.partition(".")
    code = NETS.get(name) or ERRORS.get(name) or DEATHS[name]
    spec = f"{'look' if delayed else 'scrub'}.net.{moment}.{name}"
    count(networked.complaints(Case(spec, code, delayed)), "withheld")


def test_a_child_that_dies_in_the_delay_costs_nothing(bench):
    bench.child.ready()
    for number in (signal.SIGKILL, signal.SIGTERM):
        frame = bench.frame("gate")
        assert list(bench.delayed.put(frame)) == []
        os.kill(bench.child.pid, number)
        os.waitid(os.P_PID, bench.child.pid, os.WEXITED | os.WNOWAIT)
        assert [r.status for _, r in bench.delayed.finish()] == ["stored"]
        count(bench.stored_wrongly(), "stored")


def test_a_box_that_restarts_in_the_delay_stores_nothing_until_the_frames_come_again(bench):
    waiting = [bench.frame("gate") for _ in range(4)]
    assert [r for frame in waiting for r in bench.delayed.put(frame)] == []
    bench.child.close()
    bench.child._closed = False
    assert bench.store.value("select count(*) from object") == 0
    again = Line(bench.store, bench.child, Rules(), 5.0, bench.clock)
    receipts = [r for frame in waiting for r in again.put(frame)] + list(again.finish())
    assert [r.status for _, r in receipts] == ["stored"] * 4
    count(bench.stored_wrongly(), "none")


@pytest.mark.parametrize("delayed", [False, True], ids=["direct", "delayed"])
def test_a_store_that_cannot_keep_the_frame_keeps_nothing_of_it(bench, monkeypatch, delayed):
    line, keep = bench.delayed if delayed else bench.direct, frames.add
    monkeypatch.setattr(frames, "add", lambda *_: (_ for _ in ()).throw(Unavailable("full", code="disk_full")))
    frame = bench.frame("gate")
    assert [r.status for _, r in (*line.put(frame), *line.finish())] == ["retry"]
    monkeypatch.setattr(frames, "add", keep)
    assert [r.status for _, r in (*line.put(frame), *line.finish())] == ["stored"]
    count(bench.stored_wrongly(), "retry")


@pytest.mark.parametrize("error", [Corrupt("no"), ValueError("a bug"), MemoryError()], ids=lambda e: type(e).__name__)
def test_after_a_failure_that_stops_the_line_every_frame_may_come_again(bench, monkeypatch, error):
    waiting, keep = [bench.frame("gate") for _ in range(3)], frames.add
    assert [r for frame in waiting for r in bench.delayed.put(frame)] == []
    monkeypatch.setattr(frames, "add", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(type(error)):
        list(bench.delayed.finish())
    monkeypatch.setattr(frames, "add", keep)
    receipts = [r for frame in waiting for r in bench.delayed.put(frame)] + list(bench.delayed.finish())
    assert [r.status for _, r in receipts] == ["stored"] * 3
    count(bench.stored_wrongly(), "none")


@pytest.mark.parametrize(
    "spots",
    [
        [Spot("face", float("nan"), 0.0, 9.0, 9.0)], [Spot("face", 1e6, 0.0, 9.0, 9.0)],
        [Spot("face", 1.0, 1.0, 9.0, 9.0)] * 2001, [Spot("EDG 0000", 1.0, 1.0, 9.0, 9.0)],
    ],
    ids=["nan", "far", "many", "kind"],
)  # fmt: skip
def test_places_that_cannot_be_are_not_asked_for_and_the_frame_is_withheld(bench, monkeypatch, spots):
    pid = bench.child.ready() and bench.child.pid
    monkeypatch.setattr(stream.Tracker, "step", lambda self, seen, shift: [(0, s) for s in spots])
    frame = bench.frame("gate")
    assert [r.status for _, r in (*bench.delayed.put(frame), *bench.delayed.finish())] == ["withheld"]
    assert bench.child.pid == pid, "the child is not at fault"
    count(bench.stored_wrongly(), "withheld")


def test_a_clock_that_steps_in_the_delay_lets_nothing_out_uncovered(bench):
    for step in (-1e6, 1e6):
        frame = bench.frame("gate")
        receipts = list(bench.delayed.put(frame))
        bench.clock.t += step
        receipts += [*bench.delayed.overdue(), *bench.delayed.finish()]
        assert [r.status for _, r in receipts] == ["stored"]
        count(bench.stored_wrongly(), "stored")


def test_what_no_frame_can_show_a_planted_picture_shows(bench):
    """These detectors know the planted colours only: of the drawn face and plate they quietly find nothing."""
    planted = bench.child.plant(1, 640, 360)
    header = FrameHeader("p-1", 1.0, 1, "p", planted.width, planted.height)
    scrubbed = bench.child.scrub(Frame("planted", header, planted.jpeg))
    assert max(bench.child.inspect(scrubbed.jpeg, planted.spots)) < 0.5


# Negative controls: builds that were broken on purpose. The bench must complain of each.


@pytest.mark.parametrize("how", ["raw-on-exception", "blind-witness"])
def test_the_bench_notices_a_child_that(tmp_path, how):
    bench = open_bench(tmp_path, f"mutant={how}")
    spec = {"raw-on-exception": "scrub.face.before.valueerror", "blind-witness": "scrub.fill.instead.skipped"}[how]
    with bench.store, bench.child:
        found = bench.complaints(Case(spec, "*"))
    assert {"frame: shows a face", "crop: shows a face", "frame: shows a plate"} <= set(found)


def test_the_bench_notices_a_parent_that_takes_any_answer(bench, monkeypatch):
    def ask(child, question, wanted):
        return talk.answer_of(child._child.exchange(talk.pack(question), DEADLINE_S))

    monkeypatch.setattr(ScrubChild, "_ask", ask)
    monkeypatch.setattr(scrub, "compare_digest", lambda a, b: True)
    monkeypatch.setattr(talk, "settled", lambda question: question)
    bench.next_is_served(bench.direct)
    assert "frame: shows a face" in bench.complaints(Case("scrub.answer.instead.raw", "*"))
    assert "frame: is not this frame's picture" in bench.complaints(Case("scrub.answer.instead.replayed-seq", "*"))


def test_the_bench_notices_an_ingest_that_stores_what_was_withheld(bench, monkeypatch):
    def keep(store, frame, work, **_):
        try:
            scrubbed = work()
        except Withheld:
            h = frame.header
            crops = tuple(frame.jpeg for _ in h.regions)
            scrubbed = scrub.Scrubbed(frame.jpeg, h.w, h.h, crops, {}, {}, scrub._OURS)
        return frames.add(store, frame, scrubbed)

    monkeypatch.setattr(ingest, "keep", keep)
    assert "frame: shows a face" in bench.complaints(Case("scrub.face.before.sigkill", "*"))


def test_the_bench_notices_a_delay_that_forgets_what_was_found(bench, monkeypatch):
    def pop(self, left, real=stream.Stream._pop):
        return [(item, ()) for item, _ in real(self, left)]

    monkeypatch.setattr(stream.Stream, "_pop", pop)
    assert "frame: shows a face" in bench.complaints(Case("sound", "", delayed=True))


def test_the_faults_are_counted(request, capsys):
    """Runs last in this file; of a selection only what was selected counts."""
    tried = sum(ENDED.values())
    with capsys.disabled():
        print(
            f"\n  {tried} injected faults, {len(RAW)} raw frames stored as scrubbed; the faulty frames ended {dict(ENDED)}"
        )
    if sum(getattr(item, "originalname", "") == "test_a_fault_in_mid_life" for item in request.session.items) == len(
        CASES
    ):
        assert tried >= 200
