"""The bench of packed ratios: one row per network, of the file that was packed and unpacked again; a large one is not hidden."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from bench.compression import ratios
from edged.errors import Misconfigured
from edged.retrain import export, source


@pytest.fixture
def shapes(tmp_path):
    dice = np.random.default_rng(1)
    for name in ("box", "disc"):
        (tmp_path / "shapes" / name).mkdir(parents=True)
        for i in range(30):
            image = dice.integers(0, 70, (28, 28, 3), np.uint8)
            if name == "box":
                cv2.rectangle(image, (4, 10), (24, 16), (220, 220, 220), -1)
            else:
                cv2.circle(image, (14, 14), 8, (220, 220, 220), -1)
            cv2.imwrite(str(tmp_path / "shapes" / name / f"{i:02}.png"), image)
    return tmp_path / "shapes"


def test_a_row_says_sizes_and_the_accuracy_of_the_decoded_file_and_the_second_run_takes_the_kept_weights(
    shapes, tmp_path, capsys
):
    asked = ["--data", str(shapes), "--model", "lenet-300-100", "--epochs", "8", "--keep", str(tmp_path / "keep")]
    asked += ["--results", str(tmp_path / "results"), "--effort", "1"]
    assert ratios.main(asked) == 0
    (path,) = (tmp_path / "results").glob("*-compress-ratios.json")
    (row,) = json.loads(path.read_text())["measured"]
    assert row["float_bytes"] == 4 * row["parameters"] == 4 * 265_802
    assert row["ratio"] == pytest.approx(row["float_bytes"] / row["packed_bytes"], abs=0.01)
    assert row["packed"]["n"] == row["float"]["n"] > 0
    assert row["packed"]["right"] == row["float"]["right"] - row["lost"] + row["won"]
    assert all(values <= 17 for _, _, values in row["tensors"].values())
    assert str(tmp_path) not in path.read_text()
    assert "lenet-300-100, 28 px" in path.with_suffix(".md").read_text()
    assert ratios.main([*asked, "--chain", "none"]) == 0
    (plain,) = json.loads(path.read_text())["measured"]
    assert plain["float_cpu_s"] == 0
    assert plain["ratio"] < 2, "a network that nothing was done to packs no better than floats do"
    assert not plain["met"]
    capsys.readouterr()


def test_the_smallest_file_that_loses_nothing_on_the_tune_split_is_taken_and_the_last_where_all_lose(
    shapes, tmp_path, monkeypatch
):
    walked, real = [], ratios.compress.walk

    def walk(original, weights, steps, lesson, tell):
        """At `prune=0.99` a network that knows one class; else nothing is done."""
        walked.append(str(steps[0]))
        if steps[0].amount == 0.99:
            net = ratios.compress.network(weights)[0]
            net[-1].weight.data.zero_()
            net[-1].bias.data.copy_(torch.tensor([1.0, 0.0]))
            original = source.with_metadata(export.to_onnx(net, 28), source.metadata(original))
        return real(original, b"", (), lesson, tell)

    monkeypatch.setattr(ratios.compress, "walk", walk)
    monkeypatch.setattr(ratios, "packed", SimpleNamespace(pack=bytes, unpack=bytes))  # not what is looked at, and slow
    found = []
    for chains in (("prune=0.99", "prune=0.9", "prune=0.5"), ("prune=0.99",)):
        (row,) = ratios.rows([shapes], ["lenet-300-100"], chains=chains, epochs=8, keep=tmp_path / "keep")
        found.append(row)
    assert [row["chain"] for row in found] == ["prune=0.9", "prune=0.99"]
    assert [one["chain"] for one in found[0]["tried"]] == ["prune=0.99", "prune=0.9"]
    assert found[0]["tried"][0]["tune_after"] < found[0]["tune_before"]
    assert walked == ["prune=0.99", "prune=0.9"], "what was kept is not made again"


def test_a_network_without_a_chain_is_refused(shapes):
    with pytest.raises(Misconfigured, match="no chain is written down"):
        ratios.rows([shapes], ["squeezenet-1.1"])
