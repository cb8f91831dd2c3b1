"""The search over chains, with trials that are made up: what is tried, what goes on, what is handed on."""

import msgspec
import numpy as np
import pytest

from edged.clock import SystemClock
from edged.errors import Refused
from edged.retrain import jobs, methods, search
from edged.retrain.pictures import Pictures
from edged.retrain.search import Point

# chain -> accuracy with whole effort, packed bytes, frames/s
WORLD = {
    "none": (0.95, 800_000, 35), "int8": (0.95, 220_000, 60), "qat": (0.951, 220_000, 60),
    "channels=0.25 int8": (0.93, 130_000, 80), "channels=0.25 qat": (0.948, 130_000, 80),
    "channels=0.5 int8": (0.80, 70_000, 110), "channels=0.5 qat": (0.94, 70_000, 110),
    "channels=0.7 qat": (0.85, 40_000, 150), "prune=0.5 qat": (0.948, 150_000, 60), "prune=0.8 qat": (0.935, 90_000, 60),
    "channels=0.5 prune=0.5 qat": (0.93, 50_000, 110), "prune=0.8 share=32": (0.94, 85_000, 35),
    "lowrank=0.6 int8": (0.92, 150_000, 70), "lowrank=0.6 qat": (0.94, 150_000, 70),
}  # fmt: skip


class Made:
    """A bench whose trials are looked up. Little effort costs accuracy where there is retraining."""

    def __init__(self, world, clock=None, cost=0.0):
        self.original, self.weights, self.kind = b"x" * 900_000, b"w", "mobilenet-0.25"
        empty = Pictures(np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, np.int64), ("a",) * 4)
        self.lesson = methods.Lesson(empty, empty, SystemClock())
        self.world, self.tried, self.clock, self.cost = world, [], clock, cost

    def trial(self, text, effort):
        self.tried.append((text, effort))
        if self.clock:
            self.clock.now += self.cost
        found = self.world[text]
        if isinstance(found, str):
            return Point(method=text, effort=effort, refused=found)
        accuracy, size, fps = found
        lost = 0.02 * (1 - effort) * (text not in ("none", "int8"))
        return Point(method=text, effort=effort, accuracy=accuracy - lost, size=size, packed=size, fps=fps, how="estimated",
                     memory_bytes=90 << 20, sha256=text)  # fmt: skip


class Ticking:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def look(monkeypatch, tmp_path):
    def look(bench, clock=None, **job):
        monkeypatch.setattr(search.Bench, "open", classmethod(lambda cls, job: bench))
        monkeypatch.setattr(search.measure, "accuracy", lambda *_: 0.95)
        asked = jobs.check("search", {"data_dir": str(tmp_path), "classes": ["a", "b"], "sha256": "0" * 64, **job})
        said = []
        found = search.run(asked, tmp_path, clock=clock or SystemClock(), progress=said.append)
        return found, said

    return look


def test_the_search_hands_on_what_keeps_to_the_limits_and_nothing_beats(look):
    bench = Made(WORLD)
    found, said = look(bench, max_loss=0.012, min_fps=30)
    assert {p.method for p in found.kept} <= set(found.front)
    assert all(p.accuracy >= 0.95 - 0.012 and p.effort == 1.0 for p in found.kept)
    assert found.kept[0].method == "channels=0.5 qat"  # the smallest within 1.2 points
    assert [p.packed for p in found.kept] == sorted(p.packed for p in found.kept)
    assert said[-1].fraction <= 1
    assert len(found.points) == len(WORLD)


def test_effort_goes_to_fewer_and_fewer_chains(look):
    bench = Made(WORLD)
    look(bench, max_loss=0.012)
    by_effort = [sum(e == effort for _, e in bench.tried) for effort in search.EFFORTS]
    assert by_effort[0] == len(WORLD)
    assert by_effort[0] > by_effort[1] > by_effort[2] >= 3


def test_a_killed_search_goes_on_where_it_was(look, tmp_path):
    first = Made(WORLD)
    once, _ = look(first, max_loss=0.012)
    again = Made(WORLD)
    twice, _ = look(again, max_loss=0.012)
    assert again.tried == []
    assert twice.kept == once.kept
    next((tmp_path / "points").iterdir()).write_bytes(b"half a fi")  # killed while it was written
    third = Made(WORLD)
    look(third, max_loss=0.012)
    assert len(third.tried) == 1


def test_a_chain_that_is_refused_is_a_point_with_its_reason(look):
    found, _ = look(Made(WORLD | {"qat": "there is no room for it"}))
    assert next(p for p in found.points if p.method == "qat").refused == "there is no room for it"
    assert "qat" not in {p.method for p in found.kept}


def test_where_every_chain_is_refused_the_search_is_too(look):
    with pytest.raises(Refused, match="int8: no layer"):
        look(Made(dict.fromkeys(WORLD, "no layer")))


def test_the_budget_ends_the_search_and_what_was_asked_for_comes_first(look):
    clock = Ticking()
    bench = Made(WORLD, clock, cost=60)
    found, _ = look(bench, clock, max_minutes=8, methods=("prune=0.8 share=32", "int8"))
    assert [text for text, _ in bench.tried[:2]] == ["prune=0.8 share=32", "int8"]
    assert len(found.points) < len(WORLD)
    untried = len(WORLD) - len(found.points)
    assert f"no time to try {untried} of {len(WORLD)} chains with 15% of the effort" in found.note
    assert found.kept
    assert clock.now <= 8 * 60


def test_a_file_without_weights_is_tried_as_a_file_only(look):
    bench = Made({"none": (0.95, 9, 9), "int8": (0.94, 3, 9), "int8 tune": (0.94, 3, 9), "tune": (0.95, 9, 9)})
    bench.weights, bench.kind = b"", ""
    found, _ = look(bench, methods=("prune=0.9",))
    assert {p.method for p in found.points} == {"none", "int8", "int8 tune", "tune"}


def test_an_unknown_speed_neither_helps_nor_throws_out(look, monkeypatch):
    bench = Made(WORLD)
    known = bench.trial

    def unknown(text, effort):
        return msgspec.structs.replace(known(text, effort), fps=0.0, how="unknown")

    bench.trial = unknown
    found, _ = look(bench, max_loss=0.012)
    assert found.kept[0].method == "channels=0.5 qat"


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_a_real_search_on_a_folder_makes_files_that_answer(tmp_path, monkeypatch, threads):
    from edged.retrain import measure, train
    from tests.cli.test_train import fill

    monkeypatch.undo()
    data = fill(tmp_path / "data", n=40)
    (tmp_path / "out").mkdir()
    base = {"data_dir": str(tmp_path / "out"), "folder": str(data), "classes": ["dark", "light"]}
    job = {**base, "epochs": 2, "min_samples": 8, "epoch_least": 64, "arch": {"name": "lenet-5", "input_px": 32}}
    made = train.run(jobs.check("train", job), tmp_path / "out", clock=SystemClock(), progress=lambda _: None)
    monkeypatch.setattr(search, "chains", lambda kind: ("none",))
    asked = {
        **base,
        "sha256": made.sha256,
        "threads": threads,
        "max_minutes": 10,
        "methods": ["int8", "prune=0.5 share=8"],
    }
    (tmp_path / "job").mkdir()
    found = search.run(jobs.check("search", asked), tmp_path / "job", clock=SystemClock(), progress=lambda _: None)
    by_name = {p.method: p for p in found.points}
    assert set(by_name) == {"int8", "prune=0.5 share=8", "none"}
    assert not any(p.refused for p in found.points)
    assert by_name["prune=0.5 share=8"].packed < by_name["none"].packed / 3
    assert by_name["int8"].how == "estimated"
    assert by_name["int8"].fps_likely > by_name["int8"].fps > 0
    files = {p.method: (tmp_path / "out" / "models" / f"{p.sha256}.onnx").read_bytes() for p in found.kept}
    for method, data_ in files.items():
        assert measure.input_px(data_) == 32
        assert by_name[method].size == len(data_)
