"""The stages on a real store: what they leave in it, and how the child that runs them ends."""

import contextlib
import json
import os
import subprocess
import sys

import msgspec
import numpy as np
import psutil
import pytest
import torch

from edged import engine
from edged.clock import SystemClock
from edged.engine import patterns, preprocess
from edged.errors import Corrupt, Refused, Unavailable
from edged.retrain import children, compress, device, export, gate, jobs, measure, source, task, train, trial, zoo
from edged.retrain.report import Report

SMALL = {"arch": {"name": "lenet-5", "input_px": 32}, "epochs": 10, "lr": 0.003, "epoch_least": 400}


def quiet(_):
    pass


@pytest.fixture(scope="module")
def trained(filled, tmp_path_factory):
    """One LeNet-5 trained on the filled site."""
    job = jobs.check("train", filled.job(**SMALL))
    return train.run(job, tmp_path_factory.mktemp("job"), clock=filled.clock, progress=quiet)


@pytest.fixture(scope="module")
def smaller(filled, trained, tmp_path_factory):
    job = jobs.check("compress", filled.job(sha256=trained.sha256, calibration=40))
    return compress.run(job, tmp_path_factory.mktemp("job"), clock=filled.clock, progress=quiet)


def try_out(site, **more):
    return trial.run(jobs.check("trial", site.job(seconds=0.05, **more)), progress=quiet)


def test_training_leaves_a_model_and_its_weights_in_the_store(filled, trained):
    assert trained.tune_accuracy >= 0.85
    assert (trained.train_samples, trained.tune_samples, trained.skipped) == (144, 48, 0)
    model = filled.model(trained.sha256)
    assert len(model) == trained.size
    assert source.metadata(model)[source.WEIGHTS] == trained.weights_sha256
    assert (filled.dir / "models" / f"{trained.weights_sha256}.safetensors").exists()


def test_compressing_beside_the_version_before_says_what_it_kept(filled, trained, smaller, tmp_path):
    job = jobs.check("compress", filled.job(sha256=trained.sha256, calibration=40, previous=smaller.sha256))
    again = compress.run(job, tmp_path, clock=filled.clock, progress=quiet)
    assert (again.sha256, again.previous, again.note) == (smaller.sha256, smaller.sha256, "")
    assert again.facts[0].near.kept == again.facts[0].near.weights
    assert (
        "weights are those of the version before (kept within 2 steps); 0.0% of the bytes changed"
        in again.facts[0].note
    )


def test_a_version_before_that_is_gone_or_was_changed_is_told_and_the_file_is_the_usual_one(
    filled, trained, smaller, tmp_path
):
    place = filled.dir / "models"
    damaged = bytearray((place / f"{smaller.sha256}.onnx").read_bytes())
    damaged[1000] ^= 1
    (place / f"{'c' * 64}.onnx").write_bytes(bytes(damaged))
    try:
        for sha256 in ("b" * 64, "c" * 64):
            job = jobs.check("compress", filled.job(sha256=trained.sha256, calibration=40, previous=sha256))
            made = compress.run(job, tmp_path / sha256[0], clock=filled.clock, progress=quiet)
            assert made.sha256 == smaller.sha256
            assert made.previous == ""
            assert made.note.startswith("nothing is kept of the version before: ")
    finally:
        (place / f"{'c' * 64}.onnx").unlink()


@pytest.mark.parametrize("name", ["trained", "smaller"])
def test_training_can_start_from_any_file_that_was_made_here(filled, name, request, tmp_path):
    start = request.getfixturevalue(name).sha256
    job = jobs.check("train", filled.job(**SMALL | {"start": start, "epochs": 1, "lr": 1e-6}))
    again = train.run(job, tmp_path, clock=filled.clock, progress=quiet)
    assert again.start == start
    assert again.tune_accuracy >= 0.85


def test_int8_is_smaller_and_answers_alike_under_both_runtimes(filled, trained, smaller):
    assert smaller.size < trained.size / 2
    assert smaller.accuracy_after >= smaller.accuracy_before - 0.1
    model = filled.model(smaller.sha256)
    assert source.metadata(model)["edged.method"] == "int8"
    assert measure.input_px(model) == 32
    batch = preprocess.marshal(preprocess.to_float([patterns.picture(s, 32) for s in range(8)], 32))
    answers = [engine.load(model, runtime=name).run(batch)[0] for name in engine.runtimes()]
    assert np.abs(answers[0] - answers[-1]).max() < 0.05 * np.abs(answers[0]).max()


def test_a_trial_reports_the_hold_out_under_the_device(filled, trained, smaller):
    report = try_out(filled, sha256=smaller.sha256, baseline=trained.sha256)
    assert (report.n, report.size, report.baseline) == (48, smaller.size, trained.sha256)
    assert sum(map(sum, report.confusion)) == 48
    assert {k: s.n for k, s in report.per_camera.items()} == {"gate": 24, "yard": 24}
    assert {k: s.n for k, s in report.per_class.items()} == {"disc": 24, "box": 24}
    pair = report.pair
    assert pair.right - pair.baseline_right == pair.won - pair.lost
    assert report.fps_here.how == "measured"
    assert report.fps_device.lower <= report.fps_device.value <= report.fps_device.upper
    assert report.power_w.how == "estimated"
    assert report.not_covered
    assert report.memory_bytes.value > 10e6
    json_round_trip = msgspec.json.decode(msgspec.json.encode(report), type=Report)
    assert json_round_trip == report
    assert gate.judge(report, gate.GateLimits()).reasons[0].startswith("refused for lack of evidence: 48 of 50")


def test_the_known_answer_is_what_every_runtime_computes_and_another_model_does_not(filled, trained, smaller):
    model = filled.model(smaller.sha256)
    known = measure.known_answer(model, 32)
    batch = preprocess.marshal(preprocess.to_float([patterns.picture(s, known["px"]) for s in known["seeds"]], 32))
    for name in engine.runtimes():
        (logits,) = engine.load(model, runtime=name).run(batch)
        assert np.abs(logits - np.array(known["logits"])).max() <= known["tolerance"]
    torch.manual_seed(9)
    (logits,) = engine.load(export.to_onnx(zoo.build("lenet-5", 2, 32), 32)).run(batch)
    assert np.abs(logits - np.array(known["logits"])).max() > known["tolerance"]


def test_a_baseline_made_for_other_classes_is_judged_by_name():
    """The old model knew the classes in another order; its answers must not be taken by their number."""
    assert task.in_classes(("box", "gone"), np.array([0, 1, 0, -1]), ("disc", "box")).tolist() == [1, -1, 1, -2]
    assert task.in_classes(("disc", "box"), np.array([0, 1]), ("disc", "box")).tolist() == [0, 1]


def test_this_machine_is_measured_not_estimated(filled, trained):
    report = try_out(filled, sha256=trained.sha256, device="this-machine")
    assert (report.fps_device.how, report.power_w, report.pair) == ("measured", None, None)
    assert report.fps_device.value == report.fps_here.value


def test_damaged_crops_in_a_snapshot_are_skipped_and_counted(site, tmp_path):
    site.fill(30, damaged=9)
    job = jobs.check("train", site.job(**SMALL | {"epochs": 1}))
    done = train.run(job, tmp_path, clock=site.clock, progress=quiet)
    assert done.skipped > 0
    assert done.train_samples + done.tune_samples + done.skipped == 96


def test_a_model_that_is_not_there_is_refused_and_a_changed_one_is_corrupt(site):
    site.fill(5)
    with pytest.raises(Refused):
        try_out(site, sha256="0" * 64)
    (site.dir / "models").mkdir(exist_ok=True)
    (site.dir / "models" / f"{'1' * 64}.onnx").write_bytes(b"something else")
    with pytest.raises(Corrupt):
        try_out(site, sha256="1" * 64)


@pytest.mark.parametrize(
    ("here", "runtime", "how", "figures"),
    [
        ("AMD EPYC 9999", "openvino", "estimated", (71, 71 / 1.2, 71 * 1.2)),
        ("Some other", "openvino", "estimated", (71, 71 / 1.5, 71 * 1.5)),
        ("AMD EPYC 9999", "onnxruntime", "estimated", (71, 71 / 5, 71 * 5)),
        ("Intel(R) Atom(TM) Processor E3940 @ 1.60GHz", "openvino", "measured", (100, 100, 400)),
    ],
)
def test_an_estimate_is_as_wide_as_its_doubts(monkeypatch, here, runtime, how, figures):
    """A foreign processor, or AVX that could not be switched off, must not make a device look fast."""
    monkeypatch.setattr(device, "processor", lambda: here)
    monkeypatch.setattr(device, "flags", lambda: frozenset({"avx"}))
    found = device.find("atom-x5-e3940").estimate(100, runtime)
    assert (found.likely, found.lower, found.upper) == pytest.approx(figures)
    assert found.how == how


def test_an_unknown_device_is_refused_with_the_known_ones():
    with pytest.raises(Refused, match=r"known: atom-x5-e3930, atom-x5-e3940, .*this-machine"):
        device.find("toaster")


def test_every_profile_says_what_it_does_not_cover():
    for profile in device.PROFILES:
        assert profile.covered
        assert profile.not_covered
        assert set(profile.environment()) <= device.CAPS


# the child


def test_a_trial_in_its_child_runs_capped_on_one_core_and_is_not_run_twice(filled, trained, tmp_path, monkeypatch):
    told = []
    job = filled.job(sha256=trained.sha256, seconds=0.2)
    result = children.run("trial", job, tmp_path / "t", progress=told.append)
    report = msgspec.convert(result, Report)
    assert report.accuracy.accuracy > 0.8
    assert told[-1].fraction > 0.3
    assert json.loads((tmp_path / "t/job.json").read_text())["device"] == "atom-x5-e3940"
    monkeypatch.setattr(subprocess, "Popen", None)  # a second child would fail here
    assert children.run("trial", job, tmp_path / "t") == result


def test_another_job_in_the_same_directory_starts_clean(site, tmp_path):
    site.fill(4)
    for sha in ("1" * 64, "2" * 64):
        with pytest.raises(Refused, match=sha[:12]):
            children.run("trial", site.job(sha256=sha), tmp_path / "t")
    assert json.loads((tmp_path / "t/error.json").read_text())["family"] == "Refused"


def test_a_refusal_in_the_child_is_a_refusal_here(site, tmp_path):
    site.fill(12)
    with pytest.raises(Refused, match=r"too few labelled crops to train on: \d+ of at least 40") as e:
        children.run("train", site.job(**SMALL), tmp_path / "t")
    assert e.value.code == "too_few"
    assert "label more" in e.value.hint


def test_a_job_that_makes_no_sense_never_starts_a_child(filled, tmp_path):
    with pytest.raises(Refused, match="epochs"):
        children.run("train", filled.job(epochs=0), tmp_path / "t")
    with pytest.raises(Refused, match="known: train, learn, survey, reuse, compress, search, trial"):
        children.run("dance", filled.job(), tmp_path / "t")
    with pytest.raises(Refused, match="toaster"):
        children.run("trial", filled.job(sha256="0" * 64, device="toaster"), tmp_path / "t")


@pytest.mark.parametrize(
    ("code", "family", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", Unavailable, "killed by SIGKILL"),
        ("raise ZeroDivisionError('a bug')", Corrupt, "exit code 1: ZeroDivisionError: a bug"),
        ("raise SystemExit(0)", Corrupt, "exit code 0"),
    ],
)
def test_a_child_that_ends_badly_is_told_in_words(filled, tmp_path, monkeypatch, code, family, words):
    fake(monkeypatch, tmp_path, code)
    with pytest.raises(family, match=words):
        children.run("train", filled.job(), tmp_path / "t")


def test_a_child_that_does_not_end_is_killed_at_the_limit(filled, tmp_path, monkeypatch):
    fake(
        monkeypatch,
        tmp_path,
        "import os, pathlib, signal\npathlib.Path('{pid}').write_text(str(os.getpid()))\nsignal.pause()",
    )
    monkeypatch.setattr(children, "MINUTES_OF_GRACE", 0.0)
    with pytest.raises(Unavailable, match="stopped after"):
        children.run("train", filled.job(), tmp_path / "t", max_minutes=1 / 60)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_progress_callback_that_fails_takes_the_child_with_it(filled, tmp_path, monkeypatch):
    progress = "pathlib.Path('{job}/progress.json').write_text('{{\"fraction\": 0.5}}')"
    fake(
        monkeypatch,
        tmp_path,
        f"import os, pathlib, signal\npathlib.Path('{{pid}}').write_text(str(os.getpid()))\n{progress}\nsignal.pause()",
    )

    def fail(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        children.run("train", filled.job(), tmp_path / "t", progress=fail)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_the_child_dies_with_its_parent(filled, tmp_path):
    job = jobs.check("train", filled.job(**SMALL | {"epochs": 1000, "patience": 1000}))
    (tmp_path / "job.json").write_bytes(msgspec.json.encode(job))
    code = (
        "import os, subprocess, sys\n"
        f"argv = [sys.executable, '-m', 'edged.retrain', 'train', {str(tmp_path)!r}, '--parent', str(os.getpid())]\n"
        "child = subprocess.Popen(argv)\nprint(child.pid, flush=True)\nchild.wait()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child = psutil.Process(int(parent.stdout.readline()))
    while not (tmp_path / "progress.json").exists():
        assert child.is_running()
        SystemClock().sleep(0.05)
    parent.kill()
    parent.communicate()
    with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is dead enough: reaping it is not ours
        while child.status() != psutil.STATUS_ZOMBIE:
            SystemClock().sleep(0.05)


def fake(monkeypatch, tmp_path, code):
    """A stand-in for the child's program."""
    code = code.format(pid=tmp_path / "pid", job=tmp_path / "t") if "{" in code else code
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda argv, **more: real([sys.executable, "-c", code], **more))


def test_nothing_that_the_daemon_imports_loads_torch_or_pixels():
    code = (
        "import sys; import edged.retrain.children, edged.retrain.gate, edged.retrain.report, edged.retrain.device;"
        "print([m for m in ('torch', 'cv2', 'onnx', 'openvino', 'onnxruntime', 'numpy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_no_pickle_is_reachable_from_training():
    """torch.load and torch.save unpickle and pickle; nothing of ours may call them."""
    folder = os.path.dirname(jobs.__file__)
    for name in os.listdir(folder):
        if name.endswith(".py"):
            with open(os.path.join(folder, name)) as f:
                text = f.read()
            assert not any(word in text for word in ("torch.load", "torch.save", "import pickle", "joblib")), name


@pytest.mark.slow
def test_a_killed_training_child_goes_on_where_it_was(filled, tmp_path):
    job = filled.job(**SMALL | {"epochs": 12, "epoch_least": 2000, "patience": 40})
    folder = tmp_path / "t"

    class Enough(Exception):
        pass

    def kill(p):
        if p.epoch >= 3:
            raise Enough

    with pytest.raises(Enough):
        children.run("train", job, folder, progress=kill)
    assert (folder / "checkpoint.safetensors").exists()
    epochs = []
    result = children.run("train", job, folder, progress=lambda p: epochs.append(p.epoch))
    assert result["epochs"] == 12
    assert min(e for e in epochs if e) >= 3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_mobilenet_learns_from_scratch_and_passes_the_gate(site, tmp_path):
    site.fill(150)
    made = children.run("train", site.job(arch={"name": "mobilenet-0.25", "input_px": 64}), tmp_path / "train")
    assert made["tune_accuracy"] >= 0.95
    small = children.run("compress", site.job(sha256=made["sha256"]), tmp_path / "compress")
    report = msgspec.convert(children.run("trial", site.job(sha256=small["sha256"]), tmp_path / "trial"), Report)
    assert gate.judge(report, gate.GateLimits()).passed, gate.judge(report, gate.GateLimits()).reasons
