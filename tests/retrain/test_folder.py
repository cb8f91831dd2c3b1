"""Training on a plain folder, as `edged train` does."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from edged.errors import Refused
from edged.retrain import folder


def fill(where, names=("dark", "light"), n=40):
    rng = np.random.default_rng(1)
    for k, name in enumerate(names):
        (where / name).mkdir(parents=True)
        for i in range(n):
            image = rng.integers(0, 90, (40, 40, 3), np.uint8) + np.uint8(150 * k)
            cv2.imwrite(str(where / name / f"{i:03}.png"), image)


def test_classes_are_the_folders_with_pictures(tmp_path):
    fill(tmp_path)
    (tmp_path / "empty").mkdir()
    assert folder.classes(tmp_path) == ("dark", "light")


def test_one_class_is_refused_in_words(tmp_path):
    fill(tmp_path, names=("dark",))
    with pytest.raises(Refused, match="at least two classes"):
        folder.classes(tmp_path)


def test_the_last_fifth_of_each_class_is_kept_for_tuning_and_nothing_is_in_both(tmp_path):
    fill(tmp_path, n=10)
    source = folder.Folder(tmp_path, tmp_path / "out", ("dark", "light"))
    train, tune = ({c.id for c in source.crops(p)} for p in ("train", "tune"))
    assert len(train) == 16
    assert tune == {"dark/008.png", "dark/009.png", "light/008.png", "light/009.png"}
    assert not train & tune


@pytest.mark.slow
def test_edged_train_leaves_a_model_and_its_facts(tmp_path):
    fill(tmp_path / "data")
    (tmp_path / "data" / "dark" / "broken.jpg").write_bytes(b"no picture")
    command = [sys.executable, "-m", "edged", "--json", "train", "--data", tmp_path / "data", "--model", "lenet-5"]
    done = subprocess.run(
        [*map(str, command), "-o", str(tmp_path / "out"), "--epochs", "4", "--threads", "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["tune_accuracy"] > 0.9
    assert facts["skipped"] == 1
    assert (tmp_path / "out" / "model.onnx").stat().st_size == facts["size"]
    assert json.loads((tmp_path / "out" / "facts.json").read_text())["classes"] == ["dark", "light"]


def test_an_unknown_network_is_refused_before_anything_is_made(tmp_path):
    fill(tmp_path / "data", n=4)
    command = [
        sys.executable,
        "-m",
        "edged",
        "train",
        "--data",
        tmp_path / "data",
        "--model",
        "lenet-5",
        "--epochs",
        "0",
    ]
    done = subprocess.run(
        [*map(str, command), "-o", str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert not (tmp_path / "out").exists()
