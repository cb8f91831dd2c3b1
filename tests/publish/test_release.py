"""A candidate becomes a release once, whatever dies in between; what is signed is what a camera needs."""

import hashlib
import json
from dataclasses import replace

import pytest

from edged.errors import Misconfigured, Refused
from edged.publish import fleet, release
from edged.publish.release import Description
from edged.publish.rules import Rules
from edged.storage import audit, cameras, deliveries, releases
from edged.wire.messages import CHUNK_BYTES, Reported


@pytest.fixture
def described(known_answer):
    return Description(
        name="vehicle", classes=("a", "b"), px=32, known_answer=known_answer, hardware=("generic",), min_agent="0.1"
    )


@pytest.fixture
def publish(store, repo, described):
    return lambda candidate: release.publish(
        store, repo, candidate=candidate, description=described, author="Ada Lovelace"
    )


def test_a_release_is_numbered_signed_recorded_and_audited(store, repo, rows, publish, camera, known_answer):
    model = bytes(range(256)) * 200
    assert publish(rows.candidate(model)) == 1
    row = releases.latest(store)
    assert (row.number, row.target, row.state, row.classes) == (1, "vehicle/1.onnx", "waiting", ("a", "b"))
    said = repo.targets()["vehicle/1.onnx"].custom
    assert (said["release"], said["name"], said["px"], said["min_agent"]) == (1, "vehicle", 32, "0.1")
    assert said["chunk"] == CHUNK_BYTES
    assert said["chunks"] == [
        hashlib.sha256(model[i : i + CHUNK_BYTES]).hexdigest() for i in range(0, len(model), CHUNK_BYTES)
    ]
    assert json.loads(said["known_answer"]) == known_answer
    entry = audit.rows(store)[0]
    assert (entry.act, entry.subject, entry.actor) == ("release", "1", "Ada Lovelace")
    camera.sees(repo, ("vehicle/1.onnx", model))
    assert camera.take("vehicle/1.onnx") == model


def test_a_candidate_that_did_not_pass_is_not_published(store, repo, rows, publish):
    with pytest.raises(Refused, match=r"accuracy fell by 9\.0 %"):
        publish(rows.candidate(passed=False))
    assert repo.targets() == {}
    assert releases.all(store) == []


def test_releasing_a_candidate_again_gives_the_same_number(store, rows, publish):
    first, second = rows.candidate(b"one" * 99), rows.candidate(b"two" * 99)
    assert [publish(first), publish(second), publish(first)] == [1, 2, 1]
    assert len(releases.all(store)) == 2
    assert len([e for e in audit.rows(store) if e.act == "release"]) == 2


class Kill(BaseException):
    """The process dies here."""


def test_a_kill_between_signing_and_recording_is_mended(store, repo, rows, publish, monkeypatch):
    candidate = rows.candidate()
    with monkeypatch.context() as broken:
        broken.setattr(releases, "add", lambda *_, **__: (_ for _ in ()).throw(Kill))
        with pytest.raises(Kill):
            publish(candidate)
    assert releases.all(store) == []
    signed = repo.files()
    assert publish(candidate) == 1
    assert repo.files() == signed  # nothing was signed twice
    assert [r.number for r in releases.all(store)] == [1]


def test_a_number_that_a_kill_left_signed_is_never_given_to_another_candidate(store, repo, rows, publish, monkeypatch):
    lost, other = rows.candidate(b"lost" * 99), rows.candidate(b"other" * 99)
    with monkeypatch.context() as broken:
        broken.setattr(releases, "add", lambda *_, **__: (_ for _ in ()).throw(Kill))
        with pytest.raises(Kill):
            publish(lost)
    assert publish(other) == 2
    assert releases.latest(store).target == "vehicle/2.onnx"
    assert publish(lost) == 3  # cameras may have gone on to 2: the lost one needs a higher number


def test_a_newer_release_takes_the_place_of_one_that_is_still_rolling_when_it_starts(store, rows, publish):
    publish(rows.candidate(b"one" * 99))
    fleet.start(store, 1, Rules(), "Ada Lovelace")
    for name, status in (("gate", "QUEUED"), ("yard", "IN_PROGRESS"), ("roof", "SUCCEEDED")):
        cameras.seen(store, name)
        deliveries.upsert(store, 1, name, status, offered=1.0)
    publish(rows.candidate(b"two" * 99))
    assert {r.number: r.state for r in releases.all(store)} == {1: "rolling", 2: "waiting"}
    publish(rows.candidate(b"three" * 99))
    assert {r.number: r.state for r in releases.all(store)} == {1: "rolling", 2: "superseded", 3: "waiting"}
    with pytest.raises(Refused, match="release 1 is rolling"):
        fleet.start(store, None, Rules(), "Ada Lovelace")
    fleet.start(store, None, Rules(), "Ada Lovelace", instead=True)
    assert {r.number: r.state for r in releases.all(store)} == {1: "superseded", 2: "superseded", 3: "rolling"}
    assert {d.camera: d.status for d in deliveries.of(store, 1)} == {
        "gate": "CANCELED", "yard": "IN_PROGRESS", "roof": "SUCCEEDED",
    }  # fmt: skip


def test_targets_that_nobody_runs_are_no_longer_signed(store, repo, rows, publish):
    cameras.set_reported(store, "old", Reported("vehicle", 2, "0" * 64, "release-2", "SUCCEEDED"))
    for n in range(1, 7):
        publish(rows.candidate(b"%d" % n * 999))
        releases.set_state(store, n, "halted" if n == 4 else "complete")
    # 2 runs on a camera, 5 is the one before, 6 the newest
    assert sorted(repo.targets()) == ["vehicle/2.onnx", "vehicle/5.onnx", "vehicle/6.onnx"]


def test_a_missing_key_leaves_no_trace(store, repo, rows, described, tmp_path):
    repo._keys = tmp_path / "nowhere"
    with pytest.raises(Misconfigured, match="signing key"):
        release.publish(store, repo, candidate=rows.candidate(), description=described, author="Ada Lovelace")
    assert releases.all(store) == []


def test_metadata_of_the_largest_model_fits_one_message(repo, rows, publish):
    publish(rows.candidate(bytes(6_000_000)))
    assert max(len(data) for data in repo.files().values()) < 64 * 1024


# going back


def test_going_back_is_a_new_number_with_the_old_bytes(store, repo, rows, publish, camera):
    first = b"one" * 99
    publish(rows.candidate(first))
    releases.set_state(store, 1, "complete")
    publish(rows.candidate(b"two" * 99))
    assert release.go_back(store, repo, to=1, author="Ada Lovelace") == 3
    assert releases.latest(store).detail == "returns to release 1"
    assert repo.targets()["vehicle/3.onnx"].custom["release"] == 3
    assert audit.rows(store)[0].act == "roll back"
    camera.sees(repo, ("vehicle/3.onnx", first))
    assert camera.take("vehicle/3.onnx") == first
    assert release.go_back(store, repo, to=1, author="Ada Lovelace") == 3  # it holds these bytes already


@pytest.mark.parametrize("state", ["complete", "rolling"])  # of a rolling one that is superseded the signature goes
def test_a_kill_while_going_back_is_mended(store, repo, rows, publish, monkeypatch, state):
    publish(rows.candidate(b"one" * 99))
    releases.set_state(store, 1, state)
    publish(rows.candidate(b"two" * 99))
    with monkeypatch.context() as broken:
        broken.setattr(releases, "add", lambda *_, **__: (_ for _ in ()).throw(Kill))
        with pytest.raises(Kill):
            release.go_back(store, repo, to=1, author="Ada Lovelace")
    signed = repo.files()
    assert release.go_back(store, repo, to=1, author="Ada Lovelace") == 3
    assert repo.files() == signed


@pytest.mark.parametrize(("to", "words"), [(9, "no release 9"), (1, "was halted")])
def test_one_cannot_go_back_to_what_is_unknown_or_was_halted(store, repo, rows, publish, to, words):
    publish(rows.candidate(b"one" * 99))
    releases.set_state(store, 1, "halted", "canary gate: FAILED")
    publish(rows.candidate(b"two" * 99))
    with pytest.raises(Refused, match=words) as e:
        release.go_back(store, repo, to=to, author="Ada Lovelace")
    assert "`edged rollout status`" in e.value.hint if to == 9 else "`edged cycle run --model " in e.value.hint
    assert ("--untested --reason WHY`" in e.value.hint) == (to == 1)  # where too little is labelled for a cycle
    assert "unblock" not in e.value.hint  # it was halted, not blocked


def test_two_tasks_keep_their_own_targets(store, repo, rows, described):
    for n, name in enumerate(["vehicle", "person"] * 4):
        candidate = rows.candidate(b"%d" % n * 999)
        number = release.publish(
            store, repo, candidate=candidate, description=replace(described, name=name), author="Ada Lovelace"
        )
        releases.set_state(store, number, "complete")
    assert sorted(repo.targets()) == ["person/6.onnx", "person/8.onnx", "vehicle/5.onnx", "vehicle/7.onnx"]
