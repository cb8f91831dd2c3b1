"""The bench of updates' bytes on a small drawn set: two worlds that differ, and rows whose deltas shrink as more is kept."""

import cv2
import numpy as np
import pytest

from bench.compression import keeping
from edged.engine import patterns


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes that light and texture tell apart, 100 pictures each."""
    root = tmp_path_factory.mktemp("set")
    for k, name in enumerate(("dark", "light")):
        (root / name).mkdir()
        for i in range(100):
            picture = (patterns.picture(2 * i + k, 32) * 0.5 + 90 * k).astype(np.uint8)
            cv2.imwrite(str(root / name / f"{i:03}.png"), picture)
    return root


def test_a_plain_set_gives_a_world_and_others_of_its_pictures_at_dusk(folder):
    old, new = keeping.load(folder, 32)
    assert len(old.held)
    assert len(new.held)
    assert new.train.pixels.mean() < 0.7 * old.train.pixels.mean()
    assert not np.array_equal(old.train.pixels[:5], new.train.pixels[:5])


@pytest.mark.slow
def test_rows_have_a_delta_that_shrinks_as_more_is_kept(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "RETRAININGS", ("all, low rate",))
    monkeypatch.setattr(keeping, "recipe", lambda *_: {"epochs": 2, "epoch_least": 64})
    before, row = keeping.rows(folder, "lenet-5", 32, 40, 1, 1, keep=tmp_path)
    assert before["retraining"] == "before"
    sizes = [row["files"][kind]["delta"] for kind in ("fresh", "0", "1", "2")]
    print(sizes, row["files"]["2"]["near"])
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]
    assert row["files"]["2"]["near"]["kept"] >= row["files"]["1"]["near"]["kept"]
    floats = [f["delta"] for f in row["floats"].values()]
    assert floats == sorted(floats, reverse=True)
    (header, lines), _ = keeping.tables([before, row]).values()
    assert all(len(line) == len(header) for line in lines)
    assert sum("(chosen)" in line[1] for line in lines) == 1


def test_control_floats_that_may_not_move_at_all_are_the_new_ones(folder):
    from edged.retrain import export, zoo

    net = zoo.build("lenet-300-100", 2, 32).eval()
    one = export.to_onnx(net, 32)
    for p in net.parameters():
        p.data += 0.01
    other = export.to_onnx(net, 32)
    assert alike(keeping.kept_floats(other, one, 0.0), other)
    assert alike(keeping.kept_floats(other, one, 9.0), one, weights=True)
    assert not alike(other, one, weights=True)


def alike(one, other, weights=False):
    from onnx import numpy_helper

    from edged.retrain import source

    a, b = ({t.name: numpy_helper.to_array(t) for t in source.parse(x).graph.initializer} for x in (one, other))
    return all(np.array_equal(a[k], b[k]) for k in a if a[k].ndim > 1 or not weights)
