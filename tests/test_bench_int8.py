"""The benches of int8 and of the Atom on a small drawn set: what they count is right, and what must fail fails."""

import cv2
import numpy as np
import pytest
import torch

from bench.compression import atom, int8, parts
from bench.compression import zoo as speeds
from edged.engine import patterns
from edged.retrain import export, measure, zoo


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes that light and texture tell apart, 60 pictures each."""
    root = tmp_path_factory.mktemp("set")
    for k, name in enumerate(("dark", "light")):
        (root / name).mkdir()
        for i in range(60):
            picture = (patterns.picture(2 * i + k, 32) * 0.5 + 90 * k).astype(np.uint8)
            cv2.imwrite(str(root / name / f"{i:03}.png"), picture)
    return root


@pytest.fixture(scope="module")
def found(folder):
    return parts.load([folder], 32)


def test_what_is_held_out_is_neither_trained_nor_tuned_on(found):
    assert found.classes == ("dark", "light")
    assert len(found.train) + len(found.tune) + len(found.held) == 120
    assert len(found.held) >= 12
    ids = [set(zip(p.labels.tolist(), p.ids, strict=True)) for p in (found.train, found.tune, found.held)]
    assert not ids[0] & ids[1]
    assert not (ids[0] | ids[1]) & ids[2]


def test_a_row_counts_pairs_and_its_loss_is_what_was_lost_less_what_was_won(folder, found, tmp_path, monkeypatch):
    monkeypatch.setattr(int8, "SECONDS", 0.05)
    (row,) = int8.rows([folder], ["lenet-5@32"], [1], 1, 0.2, keep=tmp_path)
    assert list(tmp_path.glob("*.safetensors"))
    assert row["held"] == len(found.held)
    for kind in ("float", "int8", "qat"):
        f = row[kind]
        assert f["loss"] == pytest.approx((f["lost"] - f["won"]) / row["held"], abs=1e-5)
        assert f["right"] == row["float"]["right"] - f["lost"] + f["won"]
        assert f["wilson"][0] <= f["accuracy"] <= f["wilson"][1]
    assert row["qat"]["bytes"] < row["float"]["bytes"] / 3
    assert sum(right for right, _ in row["cameras"].values()) == row["float"]["right"]
    assert len(int8.table([row])[1]) == 3


def test_control_a_file_that_always_says_the_same_loses_and_is_counted_so(found):
    net = zoo.build("lenet-5", 2, 32)
    with torch.no_grad():
        net[-1].weight.zero_()
        net[-1].bias.copy_(torch.tensor([1.0, 0.0]))
    same = export.to_onnx(net, 32)
    right = measure.answers(same, found.held) == found.held.labels
    told = int8.told(same, found.held, right, np.ones(len(right), bool))
    print(f"lost {told['lost']}, won {told['won']}, n {len(right)}")
    assert (told["lost"], told["won"], told["loss"]) == (len(right) // 2, 0, 0.5)
    assert told["loss"] > int8.GOAL


def test_the_speed_of_a_file_is_an_estimate_with_bounds_and_decoding_counts():
    torch.manual_seed(0)
    row = atom.speed(export.to_onnx(zoo.build("lenet-5", 2, 32), 32), 32)
    assert row["how"] in ("estimated", "measured")
    assert row["fps_lower"] <= row["fps"]
    assert row["share"] < row["share_with_decode"]


def test_control_a_network_that_is_too_slow_is_said_to_be_and_by_how_much():
    row = {"net": "vgg-16", "px": 224, "precision": "float", "fps": 1.0, "fps_lower": 0.8, "share": 37.5}
    (line,) = speeds.table([row | {"share_with_decode": 37.6}])[1]
    assert line[-1] == "no: 53.7 times too slow"
    (line,) = speeds.table([row | {"share_with_decode": 0.7}])[1]
    assert line[-1] == "yes"


def test_candidates_are_a_network_a_side_and_a_chain():
    assert atom.parsed("mobilenet-0.5@96; lenet-5@32 channels=0.3 qat") == [
        ("mobilenet-0.5", 96, "none"), ("lenet-5", 32, "channels=0.3 qat"),
    ]  # fmt: skip
