"""Rollouts on real rows: what is written, what each camera's retained message must say, after a kill too."""

import pytest

from edged.publish import fleet, release
from edged.publish.release import Description
from edged.publish.rollout import Rules, job_of
from edged.storage import audit, cameras, counters, deliveries, releases
from edged.wire.messages import CameraInfo, Reported

RULES = Rules(canary=1, wait_s=60, timeout_s=50, steps=(1.0,))


class Fleet:
    def __init__(self, store, repo, rows, clock, known_answer):
        self.store, self.repo, self.rows, self.clock = store, repo, rows, clock
        self.presence = fleet.Presence()
        self.description = Description("vehicle", ("a", "b"), 32, known_answer, ("generic",))

    def online(self, *names, online=True):
        for name in names:
            cameras.set_online(self.store, name, online)
            cameras.set_info(self.store, name, CameraInfo("b", "1.0", "generic", (), 1))

    def release(self, content):
        candidate = self.rows.candidate(content)
        return release.publish(
            self.store, self.repo, candidate=candidate, description=self.description, author="Ada Lovelace"
        )

    def tick(self, seconds=0.0):
        self.clock.time += seconds
        return fleet.advance(self.store, self.presence, RULES, self.clock.now())

    def says(self, camera, status, number):
        version = number if status == "SUCCEEDED" else number - 1
        row = releases.get(self.store, version)
        sha256 = row.sha256 if row else ""
        return fleet.record(
            self.store, camera, Reported("vehicle", version, sha256, job_of(number), status), self.clock.now()
        )

    def standing(self):
        return {c: d.version if d else None for c, d in fleet.standing(self.store).items()}

    def roll(self, number, *names):
        self.tick()
        for name in names:
            self.says(name, "SUCCEEDED", number)
            self.tick(60 if name == names[0] else 0)

    def state(self, number):
        return releases.get(self.store, number).state


@pytest.fixture
def site(store, repo, rows, clock, known_answer):
    return Fleet(store, repo, rows, clock, known_answer)


def test_nothing_is_released_and_nobody_is_told(site):
    site.online("a")
    assert site.tick() == []
    assert site.standing() == {"a": None}


def test_the_canary_then_the_rest_then_complete(site):
    site.online("a", "b")
    site.release(b"one" * 99)
    assert site.tick() == ["release 1 is offered to a as canary"]
    assert site.standing() == {"a": 1, "b": None}
    site.says("a", "IN_PROGRESS", 1)
    site.says("a", "SUCCEEDED", 1)
    assert site.tick(59) == []
    assert site.tick(1) == ["release 1 is offered to b"]
    site.says("b", "SUCCEEDED", 1)
    assert site.tick() == ["release 1 is complete: 2 cameras took it"]
    assert site.state(1) == "complete"
    assert site.tick() == []


def test_a_failed_canary_leaves_everybody_on_what_they_had(site, store):
    site.online("a", "b")
    site.release(b"one" * 99)
    site.roll(1, "a", "b")
    site.release(b"two" * 99)
    site.tick()
    assert site.standing() == {"a": 2, "b": 1}
    site.says("a", "FAILED", 2)
    assert site.tick() == ["release 2 is halted: canary a: FAILED"]
    assert site.state(2) == "halted"
    assert site.standing() == {"a": 1, "b": 1}
    assert audit.rows(store)[0].act == "halt"


def test_a_latecomer_gets_the_complete_release_while_a_newer_one_is_with_its_canary(site):
    site.online("a")
    site.release(b"one" * 99)
    site.roll(1, "a")
    site.release(b"two" * 99)
    site.tick()
    site.online("new")
    assert site.tick() == ["release 1 is offered to new"]
    assert site.standing() == {"a": 2, "new": 1}


def test_a_camera_canceled_from_a_halted_release_gets_the_complete_one(site, store):
    site.online("a")
    site.release(b"one" * 99)
    site.roll(1, "a")
    site.online("b")
    site.release(b"two" * 99)
    deliveries.upsert(store, 2, "b", "CANCELED", offered=site.clock.now())
    releases.set_state(store, 2, "halted", "by hand")
    assert site.tick() == ["release 1 is offered to b"]


def test_a_camera_in_the_middle_of_a_halted_release_is_told_to_stop_and_its_word_is_heard(site, store):
    site.online("a", "b", "c")
    site.release(b"one" * 99)
    site.roll(1, "a", "b", "c")
    site.release(b"two" * 99)
    site.tick()
    site.says("a", "SUCCEEDED", 2)
    site.tick(60)
    site.says("b", "IN_PROGRESS", 2)
    assert site.standing() == {"a": 2, "b": 2, "c": 2}
    releases.set_state(store, 2, "halted", "by hand")
    site.tick()
    assert site.standing() == {"a": 2, "b": 1, "c": 1}
    site.says("b", "CANCELED", 2)
    assert {d.camera: d.status for d in deliveries.of(store, 2)}["b"] == "CANCELED"


def test_an_offer_takes_the_place_of_an_older_one_that_was_never_begun(site, store):
    site.online("a")
    site.online("b", online=False)
    site.release(b"one" * 99)
    site.roll(1, "a")
    site.tick()
    assert site.state(1) == "complete"
    assert site.standing() == {"a": 1, "b": 1}
    site.release(b"two" * 99)
    site.roll(2, "a")
    site.tick()
    assert site.standing() == {"a": 2, "b": 2}
    assert [d.status for d in deliveries.all(store) if d.camera == "b"] == ["CANCELED", "QUEUED"]


def test_a_halted_release_is_no_longer_signed(site, store, repo):
    site.online("a")
    site.release(b"one" * 99)
    site.roll(1, "a")
    site.release(b"two" * 99)
    site.tick()
    assert release.withdraw(store, repo) == []
    site.says("a", "FAILED", 2)
    site.tick()
    assert release.withdraw(store, repo) == ["vehicle/2.onnx"]
    assert release.withdraw(store, repo) == []
    assert list(repo.targets()) == ["vehicle/1.onnx"]


def test_what_stands_is_read_from_rows_so_a_new_process_says_the_same(site):
    site.online("a", "b")
    site.release(b"one" * 99)
    site.tick()
    before = site.standing()
    site.presence = fleet.Presence()  # the daemon was killed before it published
    assert site.tick() == []
    assert site.standing() == before == {"a": 1, "b": None}


def test_a_camera_that_never_begins_times_out(site):
    site.online("a")
    site.release(b"one" * 99)
    site.tick()
    said = site.tick(51)
    assert "timed out on a" in said[0]
    assert "halted" in said[1]
    assert site.standing() == {"a": None}


def test_a_report_on_something_never_told_is_named_and_harmless(site, store):
    site.online("a")
    site.release(b"one" * 99)
    assert "never told" in site.says("a", "SUCCEEDED", 1)
    site.tick()
    site.says("a", "FAILED", 1)
    assert site.says("a", "SUCCEEDED", 1) == "FAILED never becomes SUCCEEDED"
    assert counters.get(store, "reported:ignored") == 1
    assert deliveries.of(store, 1)[0].status == "FAILED"


def test_a_camera_without_a_job_says_nothing_wrong(site, store, clock):
    site.online("a")
    assert fleet.record(store, "a", Reported("", 0, "", "", "QUEUED"), clock.now()) == ""
