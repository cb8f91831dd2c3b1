"""A re-test spread over processes finds what one process finds, and outlives what may happen to them."""

import contextlib
import os
import signal

import msgspec
import onnx
import pytest
from onnx import TensorProto

from edged.clock import SystemClock
from edged.errors import Corrupt, Refused, Unavailable
from edged.retrain import children, crew, gate, jobs, measure, pictures, retest, source, task, trial
from edged.retrain.report import Pinned, Report
from edged.retrain.task import Task
from edged.retrain.worker import Reply
from edged.storage import models, snapshots
from tests.retrain.shapes import brightness

CLASSES = ("disc", "box")


def quiet(_):
    pass


@pytest.fixture(scope="module")
def put(filled):
    """A model into the store of the filled site; returns its sha256."""

    def put_(data):
        with filled.open() as store:
            return models.put_model(store, data)

    return put_


@pytest.fixture(scope="module")
def pair(put):
    return put(brightness(0.3)), put(brightness(-0.2))


def answers(report):
    """What must not depend on who did the work: all but times and memory."""
    body = msgspec.to_builtins(report)
    timed = ("latency_ms_p50", "latency_ms_p95", "stages_ms", "fps_here", "fps_device", "fps_regions", "cold_start_ms",
             "memory_bytes", "power_w", "beside")  # fmt: skip
    return {k: v for k, v in body.items() if k not in timed}


def job(site, candidates, **more):
    return site.job(candidates=list(candidates), seconds=0.02, device="this-machine", **more)


def test_slices_and_processes_change_nothing_in_the_answers(filled, pair, tmp_path, monkeypatch):
    base, other = pair
    alone = trial.run(
        jobs.check("trial", filled.job(sha256=other, baseline=base, seconds=0.02, device="this-machine")),
        progress=quiet,
        imposed=("one core (affinity)",),
    )
    told = []
    spread = children.run(
        "retest", job(filled, pair, baseline=base, workers=2), tmp_path / "r", progress=told.append, nice=0
    )
    assert set(spread["reports"]) == set(pair)
    report = msgspec.convert(spread["reports"][other], Report)
    assert answers(report) == answers(alone)
    assert report.pair.lost + report.pair.won > 0  # the two do differ, else this shows nothing
    assert told[-1].fraction > 0.5
    assert not list((tmp_path / "r").glob("*.onnx"))
    assert report.cold_start_ms.value > 0
    assert list(report.fps_regions) == ["1", "2", "3", "4"]
    monkeypatch.setattr(task, "SLICE", 16)  # what is cut otherwise is put together to the same
    with source.open_source(jobs.check("retest", job(filled, pair))) as store:
        bench = task.Bench(jobs.check("retest", job(filled, pair)), store, tmp_path)
        cut = trial.whole(bench, other, 48)
    assert cut.found == tuple(int(x) for x in _found(filled, other))


def _found(site, sha256):
    with source.open_source(jobs.check("retest", job(site, [sha256]))) as store:
        held = pictures.load(store.crops("holdout"), CLASSES, 32)
        return measure.answers(store.model(sha256), held)


def test_the_same_job_gives_the_same_answers_again(filled, pair):
    one, two = (
        trial.run(jobs.check("trial", filled.job(sha256=pair[0], seconds=0.02, device="this-machine")), progress=quiet)
        for _ in range(2)
    )
    assert answers(one) == answers(two)


def test_what_is_done_is_not_done_again(filled, pair, tmp_path, monkeypatch):
    """The stage is stopped in the middle; the second start does the rest alone."""
    checked = jobs.check("retest", job(filled, pair, workers=1))
    listed = retest.tasks(checked, 48)
    done = []

    def some(job, folder, tasks, keep, *, clock, look):
        left = list(tasks)
        done.append([t.name for t in left])
        return real(job, folder, left[:3] if len(done) == 1 else left, keep, clock=clock, look=look)

    real = crew.run
    monkeypatch.setattr(crew, "run", some)
    with pytest.raises(FileNotFoundError):
        retest.run(checked, tmp_path, clock=SystemClock(), progress=quiet)
    found = retest.run(checked, tmp_path, clock=SystemClock(), progress=quiet)
    assert len(done[0]) == len(listed)
    assert len(done[1]) == len(listed) - 3
    assert set(found.reports) == set(pair)


def test_a_model_whose_weights_are_not_numbers_is_counted_and_refused(filled, put):
    damaged = put(brightness(float("nan")))
    report = trial.run(
        jobs.check("trial", filled.job(sha256=damaged, seconds=0.02, device="this-machine")), progress=quiet
    )
    assert (report.not_numbers, report.accuracy.right) == (48, 0)
    assert sum(map(sum, report.confusion)) == 0
    reasons = gate.judge(report, gate.GateLimits(min_holdout=10)).reasons
    assert any("48 of 48 answers (100.0%) are not numbers" in r for r in reasons)


def test_a_candidate_with_other_classes_is_refused_and_the_others_go_on(filled, put, pair, tmp_path):
    strange = put(source.with_metadata(brightness(0.1), {source.CLASSES: '["box", "disc"]'}))
    found = children.run("retest", job(filled, [strange, pair[0]], workers=1), tmp_path / "r", nice=0)
    assert list(found["reports"]) == [pair[0]]
    assert "the model answers with box, disc; this site's classes are disc, box" in found["refused"][strange]


class Slow:
    """A model that its runtime has only a reference kernel for: it must never be run."""

    runtime, takes = "openvino", "float32"

    def kernels(self):
        return {"conv1": ("Convolution", "ref_any_f32")}

    def run(self, batch):
        raise AssertionError("it was run")


def test_a_layer_that_takes_seconds_is_refused_by_name_before_it_is_run(filled, pair, tmp_path, monkeypatch):
    monkeypatch.setattr(trial.engine, "load", lambda *_, **__: Slow())
    checked = jobs.check("retest", filled.job(candidates=[pair[0]], seconds=0.02, device="atom-x5-e3940"))
    with pytest.raises(Refused, match=r"no fast kernel without AVX for its Convolution 'conv1'"):
        trial.measure_speed(filled.model(pair[0]), 32, checked)
    with source.open_source(checked) as store, pytest.raises(Refused, match="'conv1'"):
        task.Bench(checked, store, tmp_path).prepare(pair[0])
    here = jobs.check("retest", job(filled, [pair[0]]))
    with pytest.raises(AssertionError, match="it was run"):  # the control: this machine lacks no instruction
        trial.measure_speed(filled.model(pair[0]), 32, here)


def test_a_busy_box_is_told_with_the_figure():
    assert measure.beside(1.2, 2) == ""  # we are at work ourselves
    assert measure.beside(15.5, 2) == "; this box was busy (load 15.5 on 2 cores), which makes it look slower"


def test_weights_in_another_file_are_refused(filled, put):
    model = onnx.load_model_from_string(brightness(0.1))
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    with pytest.raises(Refused, match="lies in another file"):
        trial.run(jobs.check("trial", filled.job(sha256=put(model.SerializeToString()), seconds=0.02)), progress=quiet)


def test_pinned_pictures_are_looked_at_by_both_models(filled, pair):
    with filled.open(readonly=True) as store:
        held = snapshots.get(store, filled.snapshot)["holdout"]
    pinned = [tuple(p) for p in held[:6]] + [("gate:b-999:0", "disc")]
    report = trial.run(
        jobs.check("trial", filled.job(
            sha256=pair[1], baseline=pair[0], seconds=0.02, device="this-machine", pinned=pinned,
            pins_left_out=["pinned x: its picture is gone"],
        )), progress=quiet,
    )  # fmt: skip
    found = {s: int(i) for (s, _), i in zip(held, _found(filled, pair[1]), strict=True)}
    wrong = tuple(s for s, c in held[:6] if CLASSES[found[s]] != c)
    assert isinstance(report.pinned, Pinned)
    assert (report.pinned.n, report.pinned.right, report.pinned.failed) == (6, 6 - len(wrong), wrong)
    assert set(report.pinned.lost) <= set(wrong)
    assert report.pinned.left_out == (
        "pinned x: its picture is gone", "pinned gate:b-999:0: its picture cannot be read"
    )  # fmt: skip


# who does what next


def board(*tasks):
    kept = {}
    return crew.Board(list(tasks), lambda t, r: kept.update({t.name: r})), kept


def ready(*names):
    return [Task(*n.split()) if len(n.split()) == 2 else Task(*n.split()[:2], int(n.split()[2])) for n in names]


def test_a_candidate_is_prepared_first_and_speed_is_measured_by_one_at_a_time():
    b, kept = board(*ready("answers a 0", "speed a", "speed b", "answers b 0", "prepare a", "prepare b"))
    first, second = b.take(0), b.take(1)
    assert [(t.kind, t.sha256) for t in (first, second)] == [("prepare", "a"), ("prepare", "b")]
    for who in (0, 1):
        b.done(who, Reply(result=b"{}"))
    assert b.take(0).kind == "speed"
    assert b.take(1).kind == "answers"
    assert b.beside == {"a": 1}
    assert len(kept) == 2


def test_speed_is_measured_from_the_first_prepared_candidate_on_and_in_turns():
    b, _ = board(*ready(*[f"{kind} {name}" for kind in ("prepare", "speed") for name in "abc"], "answers a 0"))
    b.take(0)
    b.done(0, Reply(result=b"{}"))
    assert b.take(0) == Task("speed", "a")  # b is not prepared yet
    assert b.take(1) == Task("prepare", "b")
    for who in (0, 1):
        b.done(who, Reply(result=b"{}"))
    assert b.take(0) == Task("prepare", "c")  # the other has a process whose libraries are loaded
    assert b.take(1) == Task("speed", "b")
    for who in (0, 1):
        b.done(who, Reply(result=b"{}"))
    assert b.take(1).kind == "answers"
    b.done(1, Reply(result=b"{}"))
    assert b.take(1) == Task("speed", "c")  # nothing else is left, and nobody waits


def test_no_more_fresh_processes_are_started_than_there_are_measurements_left():
    b, _ = board(*ready("speed a", "answers a 0"))
    assert [b.may_stand_by(who) for who in (0, 1, 0)] == [True, False, False]
    assert b.take(0).kind == "speed"
    assert not b.may_stand_by(1)


def test_two_processes_load_the_pictures_of_a_slice_once_until_the_last_ones():
    b, _ = board(*ready(*[f"answers {name} {n}" for n in range(4) for name in "ab"]))
    took = {0: [], 1: []}
    for _ in range(4):
        for who in (0, 1):
            took[who].append(b.take(who).slice)
        for who in (0, 1):
            b.done(who, Reply(result=b"{}"))
    assert took == {0: [0, 0, 2, 2], 1: [1, 1, 3, 3]}


def test_a_process_keeps_to_as_many_candidates_as_it_can_hold_compiled():
    """Twelve models in slices of two: one that went through all of them slice by slice would compile each again and again."""
    names = [f"answers m{m} {n}" for n in range(2) for m in range(12)]
    b, _ = board(*ready(*names))
    took = []
    for _ in names:
        last = b.take(0)
        b.done(0, Reply(result=b"{}"))
        took.append((last.slice, int(last.sha256[1:])))
    blocks = range(task.ENGINES), range(task.ENGINES, 12)
    assert [sorted(took[:8]), sorted(took[8:16])] == [[(n, m) for m in blocks[0]] for n in range(2)]
    assert sorted(took[16:]) == [(n, m) for n in range(2) for m in blocks[1]]


def test_a_process_that_dies_is_replaced_once_then_its_candidate_is_named():
    b, _ = board(*ready("answers a 0", "answers b 0"))
    for _ in range(2):
        assert b.take(0).sha256 == "a"
        b.died(0, crew.Died(-signal.SIGSEGV))
    assert str(b.refused["a"]) == "the re-test of a ended by SIGSEGV twice, at answers of slice 0"
    assert b.take(0).sha256 == "b"
    b.died(0, crew.Died(-signal.SIGKILL))
    assert b.take(0).sha256 == "b"
    b.died(0, crew.Died(-signal.SIGKILL))
    assert isinstance(b.failed, Unavailable)
    assert b.take(0) is None


def test_a_worker_that_is_killed_in_the_middle_is_replaced(filled, pair, tmp_path):
    """The real processes: the first one that answers is shot."""
    checked = jobs.check("retest", job(filled, pair, workers=2))
    shot = []

    def look():
        for child in [] if shot else _children():
            os.kill(child, signal.SIGKILL)
            shot.append(child)

    kept = {}
    found = crew.run(
        checked,
        tmp_path,
        retest.tasks(checked, 48),
        lambda t, r: kept.update({t.name: r}),
        clock=SystemClock(),
        look=look,
    )
    assert shot
    assert found.refused == {}
    assert set(kept) == {t.name for t in retest.tasks(checked, 48)}


def _children():
    import psutil

    found = []
    for p in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # another test's child, ended and not yet waited for
            if "edged.retrain.worker" in " ".join(p.cmdline()):
                found.append(p.pid)
    return found


def test_the_file_that_is_run_came_out_of_its_packed_form(filled, pair, tmp_path, monkeypatch):
    """The control: a packer that gives back something else is noticed."""
    checked = jobs.check("retest", job(filled, pair))
    with source.open_source(checked) as store:
        bench = task.Bench(checked, store, tmp_path)
        made = bench.prepare(pair[0])
        assert made.size_packed > 0
        assert (tmp_path / f"{pair[0]}.onnx").read_bytes() == filled.model(pair[0])
        (tmp_path / f"{pair[0]}.onnx").write_bytes(filled.model(pair[1]))
        with pytest.raises(Corrupt, match="was changed between its tasks"):
            bench.delivered(pair[0])
        monkeypatch.setattr(task.packed, "unpack", lambda form: b"something else")
        with pytest.raises(Refused, match="does not unpack to the same file"):
            bench.prepare(pair[1])
