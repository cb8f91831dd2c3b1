"""Models from outside: brought, found, retired, brought again; each with its row in the audit log."""

import pytest

from edged.errors import Corrupt, Refused
from edged.storage import audit, brought, cameras, models, releases
from edged.wire.messages import CameraInfo


@pytest.fixture
def bring(store, clock):
    def one(data=b"model", kind="candidate", **more):
        clock.at += 1
        given = {"name": "parking", "classes": ("free", "busy"), "px": 64, "author": "ann"} | more
        return brought.add(store, kind, sha256=models.put_model(store, data), **given)

    return one


def test_a_model_from_outside_is_kept_with_its_card_and_its_arrival_is_on_record(store, bring):
    weights = models.put_model(store, b"weights", ".safetensors")
    made = bring(weights=weights, card={"licence": "CC0-1.0"})
    assert brought.get(store, made.sha256) == made
    assert (made.classes, made.weights, made.card, made.retired) == (
        ("free", "busy"), weights, {"licence": "CC0-1.0"}, None,
    )  # fmt: skip
    assert [(e.actor, e.act, e.subject) for e in audit.rows(store)][:1] == [("ann", "model.import", made.sha256)]


def test_the_teacher_that_is_asked_is_the_newest_or_the_one_that_is_named(store, bring):
    old = bring(b"old", "teacher", name="big")
    new = bring(b"new", "teacher", name="bigger")
    bring(b"other")
    assert brought.teacher(store) == new
    assert brought.teacher(store, "big") == old
    assert brought.teacher(store, old.sha256[:8]) == old
    assert brought.teacher(store, old.sha256[:5]) is None
    assert brought.teacher(store, "parking") is None  # is here, but is no teacher
    assert len(brought.all(store)) == 3


def test_a_retired_model_is_not_used_until_it_is_brought_again(store, bring):
    first = bring(b"one", "teacher")
    brought.retire(store, first.sha256, "bob")
    assert brought.teacher(store) is None
    assert [b.sha256 for b in brought.all(store, retired=True)] == [first.sha256]
    with pytest.raises(Refused, match="retired before"):
        brought.retire(store, first.sha256, "bob")
    again = bring(b"one", "candidate", name="second")
    assert (again.retired, again.kind, again.name) == (None, "candidate", "second")
    assert [e.act for e in audit.rows(store)][:3] == ["model.import", "model.retire", "model.import"]


def test_a_row_never_names_a_file_that_is_not_there(store, bring):
    with pytest.raises(Refused, match="no model file"):
        brought.add(store, "teacher", sha256="0" * 64, name="x", classes=("a", "b"), px=64, author="ann")
    with pytest.raises(Refused, match="no model file"):
        bring(weights="0" * 64)
    path = models.model_path(store, models.put_model(store, b"changed"))
    path.write_bytes(b"c")
    with pytest.raises(Corrupt):
        brought.add(store, "teacher", sha256=path.stem, name="x", classes=("a", "b"), px=64, author="ann")
    assert brought.all(store) == []
    assert audit.rows(store) == []


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[31m", "x" * 81])
def test_a_name_that_could_spoil_a_log_or_a_page_is_refused(bring, name):
    with pytest.raises(Refused, match="printable"):
        bring(name=name)


def test_an_unknown_model_is_not_found(store):
    for act in (lambda: brought.get(store, "0" * 64), lambda: brought.retire(store, "0" * 64, "ann")):
        with pytest.raises(Refused) as e:
            act()
        assert e.value.exit_code == 4


def test_a_model_in_use_does_not_become_another_in_silence(store, bring):
    first = bring(b"one", name="net", card={"licence": "CC0-1.0", "list": ("a",)})
    assert bring(b"one", name="net", card={"licence": "CC0-1.0", "list": ("a",)}).card == first.card
    with pytest.raises(
        Refused, match=r"kind from candidate to teacher; its px from 64 to 96; its card .licence, list."
    ):
        bring(b"one", "teacher", name="net", px=96)
    with pytest.raises(Refused, match="classes from free, busy to busy, free"):
        bring(b"one", name="net", classes=("busy", "free"), card=first.card)
    assert brought.get(store, first.sha256).kind == "candidate"
    assert bring(b"one", "teacher", name="net", replace=True).kind == "teacher"


def test_a_model_that_is_on_its_way_to_cameras_or_that_one_runs_is_not_retired(store, bring):
    made = bring()
    releases.add(
        store, number=1, name="parking", candidate=None, sha256=made.sha256, size=5, target="parking/1.onnx",
        classes=("free", "busy"),
    )  # fmt: skip
    for state in ("waiting", "rolling", "paused"):
        releases.set_state(store, 1, state)
        with pytest.raises(Refused, match=f"is in use: its release 1 is {state}") as e:
            brought.retire(store, made.sha256, "bob")
        assert (e.value.code, "`edged rollout abort 1`" in e.value.hint) == ("in_use", True)
    releases.set_state(store, 1, "complete")
    cameras.set_info(store, "gate", CameraInfo("b", "1", "x", (), 1, model=made.sha256))
    with pytest.raises(Refused, match="is in use: gate runs it") as e:
        brought.retire(store, made.sha256, "bob")
    assert e.value.code == "in_use"
    assert brought.get(store, made.sha256).retired is None
    cameras.set_info(store, "gate", CameraInfo("b", "1", "x", (), 1, model="0" * 64))
    brought.retire(store, made.sha256, "bob")
    assert brought.get(store, made.sha256).retired is not None
