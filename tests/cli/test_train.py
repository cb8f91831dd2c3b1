"""`edged train` as somebody uses it: a folder in, a model and its facts out, and words where it cannot work."""

import json

import cv2
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from edged.cli import train as verb
from edged.cli.main import main
from edged.retrain import children, jobs, order, plot, recipes

LENET = ["--model", "lenet-5", "--threads", "1"]


def fill(where, names=("dark", "light"), n=30, seed=1):
    rng = np.random.default_rng(seed)
    for k, name in enumerate(names):
        (where / name).mkdir(parents=True)
        for i in range(n):
            cv2.imwrite(
                str(where / name / f"{i:03}.png"), rng.integers(0, 90, (32, 32, 3), np.uint8) + np.uint8(150 * k)
            )
    return where


@pytest.fixture
def data(tmp_path):
    return fill(tmp_path / "data")


@pytest.fixture
def here(monkeypatch, tmp_path):
    """The stage runs in this process instead of a child, and on a clock that stands still."""
    import torch

    from edged.clock import SystemClock
    from edged.retrain import train

    torch.set_num_threads(1)
    runs = []

    def run(stage, job, job_dir, *, progress, clock, nice):
        if (job_dir / "result.json").exists():
            return json.loads((job_dir / "result.json").read_text())
        runs.append(job)
        found = train.run(jobs.check(stage, job), job_dir, clock=SystemClock(), progress=progress)
        (job_dir / "result.json").write_bytes(msgspec.json.encode(found))
        return msgspec.to_builtins(found)

    monkeypatch.setattr(children, "run", run)
    return runs


def edged(*args):
    """(exit code or error, stdout, stderr) of one command line."""
    result = CliRunner().invoke(main, ["--json", "train", *map(str, args)])
    return result.exit_code, result.stdout, result.stderr


def small(data, out, *more):
    return edged("--data", data, *LENET, "-o", out, "--epochs", "2", *more)


def test_a_folder_becomes_a_model_with_its_facts_and_a_plot(data, tmp_path, here):
    (data / "dark" / "broken.jpg").write_bytes(b"no picture")
    fill(data / "test", n=10, seed=2)
    code, out, err = small(data, tmp_path / "out")
    assert code == 0, err
    facts = json.loads(out)
    assert facts == json.loads((tmp_path / "out" / "facts.json").read_text()) | {"schema_version": 1}
    assert (facts["skipped"], facts["skipped_names"]) == (1, ["dark/broken.jpg"])
    assert "1 pictures could not be read and were left out: dark/broken.jpg" in err
    assert facts["test_samples"] == 20
    assert facts["test_accuracy"] + facts["test_error"] == pytest.approx(1)
    low, high = facts["test_error_95"]
    assert low <= facts["test_error"] <= high
    assert facts["data"]["pictures"]["test"] == {"dark": 10, "light": 10}
    assert {"edged", "torch", "numpy"} <= facts["versions"].keys()
    assert facts["classes"] == ["dark", "light"]
    assert (tmp_path / "out" / "model.onnx").stat().st_size == facts["size"]
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert (tmp_path / "out" / "curve.svg").read_text().startswith("<svg")


def test_an_interrupted_run_says_that_the_same_command_goes_on(data, tmp_path, monkeypatch):
    def run(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(children, "run", run)
    found = CliRunner().invoke(main, ["train", "--data", str(data), *LENET, "-o", str(tmp_path / "out")])
    assert (found.exit_code, "interrupted; the same command goes on" in found.stderr) == (130, True)


def test_where_no_bar_can_be_drawn_how_far_it_is_comes_line_by_line(data, tmp_path, monkeypatch):
    def run(*args, progress, **options):
        for share, epoch, text in ((0.0, 0, "reading"), (0.1, 1, "epoch 1"), (0.12, 1, "epoch 1"), (0.6, 2, "epoch 2")):
            progress(jobs.Progress(share, 90.0 if epoch else None, text, epoch, accuracy=0.5 if epoch else None))
        raise KeyboardInterrupt

    monkeypatch.setattr(children, "run", run)
    asked = ["train", "--data", str(data), *LENET, "-o", str(tmp_path / "out")]
    lines = CliRunner().invoke(main, asked).stderr.splitlines()
    assert lines[:3] == [
        "edged: training lenet-5: reading",
        "edged: training lenet-5: 10%, epoch 1, 50.0%, 1 min 30 s left",
        "edged: training lenet-5: 60%, epoch 2, 50.0%, 1 min 30 s left",
    ]
    assert "training" not in CliRunner().invoke(main, ["--json", *asked]).stderr


def test_reading_the_pictures_is_within_the_minutes_too(data, tmp_path, monkeypatch):
    from edged.clock import SystemClock
    from edged.retrain import train

    class Hasty(SystemClock):
        """Each look at it is a minute later."""

        t = 0.0

        def monotonic(self):
            self.t += 61
            return self.t

    def run(stage, job, job_dir, *, progress, clock, nice):
        train.run(jobs.check(stage, job), job_dir, clock=Hasty(), progress=progress)

    monkeypatch.setattr(children, "run", run)
    code, _, words = small(data, tmp_path / "out", "--minutes", 1)
    error = json.loads(words.splitlines()[-1])["error"]
    assert (code, error["code"]) == (75, "out_of_time")
    assert error["message"].startswith("1 minutes were over while reading the crops: 0 of ")


def test_the_same_command_finishes_once_and_fresh_begins_anew(data, tmp_path, here):
    small(data, tmp_path / "out")
    first = (tmp_path / "out" / "model.onnx").read_bytes()
    code, _, err = small(data, tmp_path / "out")
    assert (code, len(here)) == (0, 1)
    assert "finished already" in err
    code, _, err = small(data, tmp_path / "out", "--fresh")
    assert (code, len(here), err) == (0, 2, "")
    assert (tmp_path / "out" / "model.onnx").read_bytes() == first


def test_a_killed_run_goes_on_also_with_other_threads_and_more_time(data, tmp_path, here, monkeypatch):
    from edged.retrain import fit

    real, saved = fit._save, []

    def save(path, *args):
        real(path, *args)
        saved.append(path)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(fit, "_save", save)
    assert edged("--data", data, *LENET, "-o", tmp_path / "out", "--epochs", "4")[0] == 130  # as Ctrl-C ends it
    assert not (tmp_path / "out" / "model.onnx").exists()
    code, out, err = edged(
        "--data",
        data,
        "--model",
        "lenet-5",
        "--threads",
        "2",
        "--minutes",
        "9",
        "-o",
        tmp_path / "out",
        "--epochs",
        "4",
    )
    assert code == 0, err
    assert "goes on after its last finished epoch" in err
    assert len(saved) == 4
    assert [row[0] for row in json.loads(out)["curve"]] == [1, 2, 3, 4]


def test_data_that_changed_and_settings_that_changed_are_said(data, tmp_path, here):
    small(data, tmp_path / "out")
    old = json.loads((tmp_path / "out" / "facts.json").read_text())
    (data / "dark" / "000.png").write_bytes((data / "dark" / "001.png").read_bytes())
    _, out, err = small(data, tmp_path / "out")
    assert "the data changed since the last run here: training starts afresh" in err
    assert json.loads(out)["data"]["sha256"] != old["data"]["sha256"]
    _, _, err = small(data, tmp_path / "out", "--seed", "2")
    assert "the last run here had other settings (seed)" in err
    assert (tmp_path / "out" / "models" / f"{old['sha256']}.onnx").exists()


def test_shuffled_labels_are_no_better_than_guessing_and_end_with_3(tmp_path, here):
    dice = np.random.default_rng(1)
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(60):
            cv2.imwrite(str(tmp_path / "data" / name / f"{i:03}.png"), dice.integers(0, 256, (32, 32, 3), np.uint8))
    code, out, err = small(tmp_path / "data", tmp_path / "out")
    assert code == 3
    assert "not shown to be better than guessing" in err
    assert [w["code"] for w in json.loads(out)["warnings"]] == ["no_better_than_guessing"]


def refused(*args, **options):
    """The error that a command ended with, and its exit code."""
    code, out, err = edged(*args, **options)
    assert out == ""
    return code, json.loads(err.splitlines()[-1])["error"]


@pytest.mark.parametrize(
    ("names", "n", "code", "words"),
    [
        (("dark",), 30, "one_class", "at least two classes"),
        (("dark", "light"), 3, "too_few", "of at least 40"),
    ],
)
def test_data_that_cannot_teach_are_refused_with_1(tmp_path, here, names, n, code, words):
    exit_code, error = refused(
        "--data", fill(tmp_path / "d", names, n), *LENET, "-o", tmp_path / "out", "--epochs", "1"
    )
    assert (exit_code, error["code"]) == (1, code)
    assert words in error["message"]


def test_a_folder_that_is_not_there_ends_with_4_and_makes_nothing(tmp_path):
    code, error = refused("--data", tmp_path / "none", *LENET, "-o", tmp_path / "out")
    assert (code, error["code"]) == (4, "not_found")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "code"),
    [(["--model", "resnet-50"], "unknown_network"), (["--model", "lenet-5", "--px", "300"], "bad_size")],
)
def test_a_network_that_there_is_not_is_refused_before_anything_is_made(data, tmp_path, more, code):
    exit_code, error = refused("--data", data, "-o", tmp_path / "out", *more)
    assert (exit_code, error["code"]) == (1, code)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("where", ["data", "data/out", "out", "other"])
def test_nothing_that_is_not_its_own_is_removed_or_written_over(data, tmp_path, where):
    out = tmp_path / where
    if where == "out":  # files of somebody else's where the job would work
        (out / "job").mkdir(parents=True)
        (out / "job" / "thesis.txt").write_text("years of work")
    if where == "other":  # a model of somebody else's
        out.mkdir()
        (out / "model.onnx").write_text("years of work")
    before = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    code, error = refused("--data", data, *LENET, "-o", out)
    assert (code, error["code"]) == (1, "in_the_way")
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == before


def test_data_in_the_folder_where_the_job_works_are_refused(tmp_path):
    data = fill(tmp_path / "out" / "job")
    assert refused("--data", data, *LENET, "-o", tmp_path / "out")[1]["code"] == "in_the_way"
    assert len(list(data.rglob("*.png"))) == 60


def test_a_second_one_in_the_same_folder_is_told_to_wait(data, tmp_path):
    asked = order.make(data, tmp_path / "out", recipes.settings("lenet-5", "light"))
    with order.claimed(asked):
        code, error = refused("--data", data, *LENET, "-o", tmp_path / "out")
    assert (code, error["code"]) == (75, "busy")


def test_a_full_disk_at_the_end_is_said_and_the_run_is_not_lost(data, tmp_path, here, monkeypatch):
    import errno

    from edged import durable

    real = durable.write

    def full(path, *args, **options):
        if path.name == "model.onnx":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(durable, "write", full)
    code, error = refused("--data", data, *LENET, "-o", tmp_path / "out", "--epochs", "2")
    assert code == 75
    assert "No space left" in error["message"] or "disk full" in error["message"]
    monkeypatch.setattr(durable, "write", real)
    code, _, _ = small(data, tmp_path / "out")
    assert (code, len(here)) == (0, 1)
    assert (tmp_path / "out" / "model.onnx").exists()


def test_another_batch_moves_the_learning_rate_by_its_root():
    usual = recipes.of("lenet-5")
    assert recipes.settings("lenet-5", "none", batch=4 * usual.batch)["lr"] == pytest.approx(2 * usual.lr)
    assert recipes.settings("lenet-5", "none", batch=256, lr=0.01)["lr"] == 0.01
    assert [recipes.settings(f"mobilenet-{w}", "camera")["zoom"] for w in (0.25, 0.5, 1.0)] == [0.0, 0.2, 0.2]
    assert (recipes.settings("mobilenet-0.5", "light")["zoom"], recipes.zoom("alexnet")) == (0.0, 0.0)
    assert recipes.settings("mobilenet-0.5", "camera")["fill"] == jobs.TrainJob(data_dir="", classes=("a",)).fill


def test_the_plot_is_well_formed_for_any_curve():
    from xml.etree import ElementTree

    for rows in ([], [(1, 0.5, 0.4, 0.9)], [(i, float("nan") if i == 2 else 1 / i, 2.0, i / 9) for i in range(1, 9)]):
        ElementTree.fromstring(plot.curve('<"&>', "a < b", rows, kept=len(rows)))


def test_time_left_is_said_as_people_say_it():
    assert [verb._span(s) for s in (5, 65, 3700)] == ["5 s", "1 min 5 s", "1 h 1 min"]
