"""`tune` as a step of a chain: facts with a table, the same answers, int8 left alone, no loser taken."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from edged import chain, engine
from edged.errors import Refused
from edged.retrain import export, methods, rewrite, zoo
from edged.retrain.methods import Lesson, Model, int8
from edged.retrain.pictures import Pictures
from edged.retrain.rewrite import tuner
from edged.retrain.rewrite.measure import Seen

CLASSES = ("disc", "box")
STEP = chain.parse("tune")[0]
real_tune = tuner.tune


def played(models, inputs, *, caps, runtime, seconds, times=2.0):
    """Every rewrite is `times` as fast, and right."""
    return tuple(Seen(cpu_ms=10 if i == 0 else 10 / times, rounds=3) for i in range(len(models)))


@pytest.fixture
def lesson(pics, clock, tmp_path):
    return Lesson(pics(12), pics(8, seed=1), clock, device="this-machine", folder=str(tmp_path))


@pytest.fixture
def squeezenet():
    torch.manual_seed(1)
    return Model(32, CLASSES, onnx=export.to_onnx(zoo.build("squeezenet-1.1", 2, 32).eval(), 32))


def test_winners_stand_in_the_file_and_the_table_in_the_facts(monkeypatch, lesson, squeezenet, tmp_path):
    monkeypatch.setattr(tuner, "tune", partial(real_tune, measurer=played))
    made, facts = methods.apply(squeezenet, STEP, lesson)
    assert made.onnx != squeezenet.onnx
    assert (facts.step, facts.accuracy_after) == ("tune", facts.accuracy_before)
    assert "2.00 times as fast" in facts.note
    assert {row["chosen"] for row in facts.table} - {rewrite.DIRECT}
    assert (tmp_path / "tuning.json").exists()
    batch = next(iter(lesson.train.batches(8)))
    for runtime in engine.runtimes():
        was, now = (engine.load(m.onnx, runtime=runtime).run(batch)[0] for m in (squeezenet, made))
        assert np.abs(was - now).max() <= 1e-4 * np.abs(was).max()


def test_losers_leave_the_file_as_it_is(monkeypatch, lesson, squeezenet):
    monkeypatch.setattr(tuner, "tune", partial(real_tune, measurer=partial(played, times=0.9)))
    made, facts = methods.apply(squeezenet, STEP, lesson)
    assert made.onnx == squeezenet.onnx
    assert "left as it is" in facts.note


def test_quantised_convolutions_are_left_alone(monkeypatch, lesson, squeezenet):
    monkeypatch.setattr(tuner, "tune", partial(real_tune, measurer=played))
    small = replace(squeezenet, onnx=int8.int8(squeezenet.onnx, lesson.train))
    convs = rewrite.convs(small.onnx)
    assert convs
    assert all(conv.quantized and rewrite.candidates(conv) == (rewrite.DIRECT,) for conv in convs)
    assert methods.apply(small, STEP, lesson)[0].onnx == small.onnx


def test_without_pictures_it_is_refused(lesson, squeezenet):
    empty = Pictures(np.empty((0, 32, 32, 3), np.uint8), np.empty(0, np.int64), ())
    with pytest.raises(Refused, match="no pictures"):
        methods.apply(squeezenet, STEP, replace(lesson, train=empty, tune=empty))
