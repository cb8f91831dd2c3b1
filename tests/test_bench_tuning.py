"""The bench of tuning: its rows, its table, and that a rewrite which computes something else shows in them."""

import pytest

from bench.compression import tuning
from edged.retrain import rewrite
from edged.retrain.rewrite import winograd

SMALL = {"small": (8, 64, 12, 3, 1, 1)}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(tuning, "SHAPES", SMALL)
    monkeypatch.setattr(tuning, "settings", lambda: (("onnxruntime", "all"),))


def test_a_row_has_times_and_errors_of_all_that_was_measured(small):
    (row,) = tuning.rows(["small"], seconds=0.01, batch=2)
    assert row["times"]["direct"] == 1
    assert "winograd-4" in row["times"]
    assert row["times"].keys() == row["error"].keys()
    assert max(row["error"].values()) < 1e-4
    assert "small (8x12x12 -> 64, 3x3 / 1, pads 1 1 1 1) | onnxruntime, all |" in " ".join(tuning.table([row]).split())


def test_control_a_wrong_matrix_shows_as_an_error(small, monkeypatch):
    right = winograd.matrices
    monkeypatch.setattr(winograd, "matrices", lambda m, r: (right(m, r)[0] * 1.01, *right(m, r)[1:]))
    (row,) = tuning.rows(["small"], seconds=0.01, batch=2)
    assert row["error"]["winograd-4"] > 1e-3


def test_the_shapes_are_those_of_the_zoos_networks():
    found = {
        tuning.rewrite.convs(tuning.layer(tuning.SHAPES[name]))[0].shape for name in ("AlexNet conv1", "AlexNet conv2")
    }
    assert found == {"3x224x224 -> 64, 11x11 / 4, pads 2 2 2 2", "64x27x27 -> 192, 5x5 / 1, pads 2 2 2 2"}
    assert rewrite.DIRECT in rewrite.ALGORITHMS
