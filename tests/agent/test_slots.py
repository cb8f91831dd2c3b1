"""Two slots and one pointer: what runs after which accident."""

import hashlib
import json

import pytest

from agent.active import Active, Probation
from agent.selftest import known_answer
from agent.slots import MAX_LOADS, Slot, Slots
from edged.errors import Corrupt, Refused


@pytest.fixture
def stage(tmp_path, make):
    """stage(slots, release, **classifier options) writes a model into the free slot."""

    def put(slots, release, **options):
        model = make.classifier(release, **options)
        answer = known_answer(make.known_answer(model))
        sha256 = hashlib.sha256(model).hexdigest()
        slots.stage(Slot("parking", release, sha256, make.CLASSES, make.PX, answer), model)
        return model

    return put


@pytest.fixture
def slots(tmp_path):
    return Slots(tmp_path / "slots")


def active(slots, **options):
    return Active(slots, runtime="onnxruntime", probation=Probation(frames=2, seconds=30.0), **options)


def committed(slots, stage, release):
    stage(slots, release)
    slots.switch()
    slots.commit()


def test_what_was_verified_is_what_is_loaded(slots, stage):
    model = stage(slots, 1)
    slots.switch()
    assert slots.load().model == model
    assert slots.load().slot.release == 1


def test_a_model_that_was_swapped_on_disk_is_not_loaded(slots, stage, make):
    committed(slots, stage, 1)
    path = slots.folder / slots.pointer.active / "model.onnx"
    path.write_bytes(make.classifier(99))
    with pytest.raises(Corrupt):
        slots.load()


def test_bytes_other_than_the_release_are_not_staged(slots, stage, make):
    stage(slots, 1)
    slots.switch()
    slots.commit()
    with pytest.raises(Refused):
        slots.stage(slots.active(), b"other bytes")


def test_on_probation_nothing_is_staged_over_the_fallback(slots, stage):
    committed(slots, stage, 1)
    stage(slots, 2)
    slots.switch()
    with pytest.raises(Refused):
        stage(slots, 3)
    assert slots.pointer.fallback == "a"
    assert json.loads((slots.folder / "a" / "slot.json").read_bytes())["release"] == 1


def test_a_half_staged_model_cannot_be_switched_to(slots, stage):
    committed(slots, stage, 1)
    stage(slots, 2)
    (slots.folder / "b" / "slot.json").unlink()
    with pytest.raises(Corrupt):
        slots.switch()
    assert slots.active().release == 1


def test_the_pointer_survives_a_restart(slots, stage):
    committed(slots, stage, 1)
    stage(slots, 2)
    slots.switch()
    again = Slots(slots.folder)
    assert again.pointer == slots.pointer
    assert again.pointer.probation


def test_a_model_that_took_the_process_down_twice_is_left_for_the_one_before(slots, stage):
    committed(slots, stage, 1)
    stage(slots, 2)
    slots.switch()
    for _ in range(MAX_LOADS):
        slots = Slots(slots.folder)  # a new process
        assert not slots.worn_out()
        slots.loading()  # ... which dies in the load
    slots = Slots(slots.folder)
    running = active(slots)
    assert "twice" in running.boot(0.0)
    assert running.slot.release == 1
    assert slots.pointer.fallback == ""


def test_dying_once_is_forgiven_when_a_proven_model_answers_then(slots, stage, make, picture):
    committed(slots, stage, 1)
    for _ in range(5):
        slots = Slots(slots.folder)
        slots.loading()
        slots = Slots(slots.folder)
        running = active(slots)
        assert running.boot(0.0) == ""
        running.run(*picture, 0.0)


def test_dying_twice_on_probation_counts_even_when_it_had_answered(slots, stage, picture):
    committed(slots, stage, 1)
    stage(slots, 2)
    slots.switch()
    for _ in range(MAX_LOADS):
        running = active(Slots(slots.folder))
        running.boot(0.0)
        running.run(*picture, 0.0)
        assert running.slot.release == 2
    running = active(Slots(slots.folder))
    running.boot(0.0)
    assert running.slot.release == 1


def test_clean_stops_on_probation_are_no_crashes(slots, stage, picture):
    committed(slots, stage, 1)
    stage(slots, 2)
    slots.switch()
    for _ in range(4):
        running = active(Slots(slots.folder))
        running.boot(0.0)
        running.run(*picture, 0.0)
        running.close()
    assert running.slot.release == 2


def test_a_first_model_that_does_not_load_leaves_the_camera_without_one_but_working(slots, stage, picture):
    stage(slots, 1)
    slots.switch()
    (slots.folder / "a" / "model.onnx").write_bytes(b"rotten")
    running = active(slots)
    assert "does not load" in running.boot(0.0)
    assert running.slot is None
    result = running.run(*picture, 0.0)
    assert [r.label for r in result.regions] == ["", ""]


def test_a_model_that_answers_nan_on_probation_is_left(slots, stage, picture):
    committed(slots, stage, 1)
    stage(slots, 2, nan=True)
    running = active(slots)
    running.boot(0.0)
    assert running.switch(0.0) == ""
    result = running.run(*picture, 0.0)
    assert result.bad == 2
    assert running.verdict(0.0) == (False, "it answers with numbers that are not finite")
    running.roll_back(0.0)
    assert running.slot.release == 1


def test_a_model_with_the_wrong_number_of_classes_fails_on_its_first_picture(slots, stage, picture):
    committed(slots, stage, 1)
    stage(slots, 2, classes=5)
    running = active(slots)
    running.boot(0.0)
    running.switch(0.0)
    assert [r.label for r in running.run(*picture, 0.0).regions] == ["", ""]
    stays, why = running.verdict(0.0)
    assert not stays
    assert "classes" in why


def test_probation_ends_by_pictures_or_by_time(slots, stage, picture):
    stage(slots, 1)
    running = active(slots)
    running.switch(0.0)
    running.run(*picture, 0.0)
    assert running.verdict(29.9) is None
    assert running.verdict(30.0)[0]
    running.run(*picture, 0.0)
    assert running.verdict(1.0)[0]


def test_where_nothing_moves_the_model_is_asked_about_a_picture_of_our_own(slots, stage):
    stage(slots, 1, nan=True)
    running = active(slots)
    running.switch(0.0)
    assert running.verdict(29.0) is None
    assert running.verdict(31.0) == (False, "it answers with numbers that are not finite")


@pytest.fixture
def picture():
    from edged.engine import patterns

    return patterns.picture(3, 256), ((0, 0, 100, 100), (50, 60, 120, 90))
