"""Whole rollouts on real rows and real signatures: people who start, pause and abort, what is halted and brought back,
daemons that die between any two steps.
"""

import json
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from edged.errors import Refused, Unavailable
from edged.publish import conduct, fit, fleet, release, rollout
from edged.publish.conduct import Conductor
from edged.publish.release import Description
from edged.publish.rules import Rules
from edged.storage import alarms, audit, blocked, cameras, cycles, deliveries, releases, reports, requests, snapshots
from edged.wire.messages import CameraInfo, Health, Reported

RULES = Rules(canary=1, wait_s=60, timeout_s=500, steps=(1.0,))
WELL = Health(20, 8.0, 8.0, 0.9, 0.1, 40)
BLIND = Health(20, 8.0, 8.0, 0.1, 0.1, 40)  # it agrees with nothing that the model before said


class Site:
    """Cameras as their words, the box's rows, a daemon that can die. A camera runs what it last said SUCCEEDED to."""

    def __init__(self, store, repo, rows, clock, known_answer):
        self.store, self.repo, self.rows, self.clock = store, repo, rows, clock
        self.description = Description("vehicle", ("a", "b"), 32, known_answer, ("generic",))
        self.rules, self.auto, self.restarts = RULES, True, False
        self.conductor = None
        self.runs = {}

    def online(self, *names, online=True):
        for name in names:
            cameras.set_online(self.store, name, online)
            cameras.set_info(self.store, name, CameraInfo("b", "1.0", "generic", (), 1))

    def release(self, content):
        candidate = self.rows.candidate(content)
        return release.publish(self.store, self.repo, candidate=candidate, description=self.description, author="gate")

    def tick(self, seconds=0.0):
        self.clock.time += seconds
        if self.conductor is None or self.restarts:
            self.conductor = Conductor(self.store, self.repo, self.rules, self.auto)
        return self.conductor.turn(self.clock.now())

    def says(self, camera, status, number, health=None, **more):
        """What a camera reports; it runs the release from SUCCEEDED on."""
        if status == "SUCCEEDED":
            self.runs[camera] = number
        version = self.runs.get(camera, 0)
        row = releases.get(self.store, version)
        reported = Reported(
            "vehicle" if row else "",
            version,
            row.sha256 if row else "",
            rollout.job_of(number),
            status,
            health=health,
            **more,
        )
        cameras.set_reported(self.store, camera, reported)
        return fleet.record(self.store, camera, reported, self.clock.now(), self.rules)

    def take(self, number, *names, health=WELL):
        """The whole rollout of a release on these cameras, the first as canary."""
        self.tick()
        for name in names:
            self.says(name, "IN_PROGRESS", number)
            self.tick()
            self.says(name, "SUCCEEDED", number, health)
            self.tick(60)
        self.tick()

    def state(self, number):
        return releases.get(self.store, number).state

    def states(self):
        return {r.number: r.state for r in releases.all(self.store)}

    def standing(self):
        return {c: d.version if d else None for c, d in fleet.standing(self.store).items()}

    def statuses(self, number):
        return {d.camera: d.status for d in deliveries.of(self.store, number)}


@pytest.fixture
def site(store, repo, rows, clock, known_answer):
    return Site(store, repo, rows, clock, known_answer)


@pytest.fixture
def grown(site):
    """Three cameras that run release 1."""
    site.online("a", "b", "c")
    site.release(b"one" * 99)
    site.take(1, "a", "b", "c")
    assert site.states() == {1: "complete"}
    return site


# people


def test_without_auto_a_release_waits_for_a_person(site, store):
    site.auto = False
    site.online("a")
    site.release(b"one" * 99)
    assert site.tick(1e6).said == ()
    assert (site.state(1), site.standing()) == ("waiting", {"a": None})
    row = fleet.start(store, None, RULES, "Ada")
    assert (row.state, row.actor, row.started) == ("rolling", "Ada", site.clock.now())
    assert site.tick().said == ("release 1 is offered to a as canary",)
    assert ("rollout.start", "Ada") in {(r.act, r.actor) for r in audit.rows(store)}
    with pytest.raises(Refused, match="no release is waiting"):
        fleet.start(store, None, RULES, "Ada")
    with pytest.raises(Refused, match="release 1 is rolling"):
        fleet.start(store, 1, RULES, "Ada")


def test_of_two_that_wait_the_newer_one_stays(site):
    site.auto = False
    site.release(b"one" * 99)
    site.release(b"two" * 99)
    assert site.states() == {1: "superseded", 2: "waiting"}


def test_a_paused_rollout_goes_on_where_it_was(grown, store):
    grown.release(b"two" * 99)
    grown.take(2, "a")
    fleet.pause(store, None, "Ada")
    grown.tick(100)
    assert set(grown.statuses(2)) == {"a", "b", "c"}  # they had been told
    grown.says("b", "SUCCEEDED", 2)
    grown.tick()
    assert grown.state(2) == "paused"
    fleet.resume(store, 2, "Ada")
    grown.says("c", "SUCCEEDED", 2)
    grown.tick()
    assert grown.state(2) == "complete"
    with pytest.raises(Refused, match="release 2 is complete: pause needs one that is rolling"):
        fleet.pause(store, 2, "Ada")


def test_a_release_that_comes_while_one_is_paused_waits_and_takes_its_place_once_that_goes_on(grown, store):
    grown.release(b"two" * 99)
    grown.tick()
    fleet.pause(store, 2, "Ada")
    grown.release(b"three" * 99)
    grown.tick(100)
    assert grown.states() == {1: "complete", 2: "paused", 3: "waiting"}
    fleet.start(store, 3, RULES, "Ada", instead=True)
    assert grown.states() == {1: "complete", 2: "superseded", 3: "rolling"}


def test_what_is_aborted_is_blocked_no_longer_signed_and_cameras_that_wait_are_told_to_stop(grown, store, repo):
    grown.release(b"two" * 99)
    grown.tick()
    assert grown.standing()["a"] == 2
    fleet.abort(store, None, "Ada", "the night shift saw ghosts")
    turn = grown.tick()
    assert turn.halted == ((2, "aborted by Ada: the night shift saw ghosts"),)
    assert list(repo.targets()) == ["vehicle/1.onnx"]
    assert grown.standing() == {"a": 1, "b": 1, "c": 1}
    assert grown.statuses(2) == {"a": "CANCELED"}
    assert [b.reason for b in blocked.all(store)] == ["aborted by Ada: the night shift saw ghosts"]
    assert grown.tick().halted == ()


def test_a_complete_release_that_is_aborted_sends_everybody_back_at_once(grown, store):
    grown.release(b"two" * 99)
    grown.take(2, "a", "b", "c")
    assert grown.state(2) == "complete"
    fleet.abort(store, 2, "Ada")
    assert "release 3 brings cameras back from one that was halted" in grown.tick().said
    grown.tick()
    assert grown.standing() == {"a": 3, "b": 3, "c": 3}
    assert releases.get(store, 3).sha256 == releases.get(store, 1).sha256
    for name in "abc":
        grown.says(name, "SUCCEEDED", 3)
    grown.tick()
    assert grown.states() == {1: "complete", 2: "halted", 3: "complete"}


def test_a_person_who_is_quicker_than_the_daemon_is_not_overruled(grown, store, monkeypatch):
    grown.release(b"two" * 99)
    plan = rollout.plan

    def slowly(release_, *rest):
        actions = plan(release_, *rest)
        if actions and release_.state == "rolling":
            monkeypatch.setattr(rollout, "plan", plan)
            fleet.pause(store, 2, "Ada")
        return actions

    monkeypatch.setattr(rollout, "plan", slowly)
    grown.tick()
    assert (grown.state(2), grown.statuses(2)) == ("paused", {})


@pytest.mark.parametrize("act", [fleet.pause, fleet.resume, fleet.abort])
def test_what_is_not_there_is_said_with_exit_code_4(store, act):
    for number in (None, 9):
        with pytest.raises(Refused) as e:
            act(store, number, "Ada")
        assert e.value.exit_code == 4


def test_a_change_of_the_configuration_does_not_change_a_rollout_that_runs(grown, store):
    grown.release(b"two" * 99)
    grown.tick()
    grown.conductor = None
    grown.rules = replace(RULES, wait_s=0, canary=3, min_agreement=0)
    grown.says("a", "SUCCEEDED", 2, BLIND)
    grown.tick()
    assert grown.state(2) == "halted"  # by the agreement that stood when it started
    assert releases.get(store, 2).rules["wait_s"] == 60


def test_a_new_model_may_disagree_with_one_that_the_re_test_found_mostly_wrong(grown, store):
    number = grown.release(b"two" * 99)
    found = reports.of(store, releases.get(store, number).candidate)[0]
    body = json.loads(found.body) | {"pair": {"n": 100, "right": 95, "baseline_right": 18, "lost": 1, "won": 78}}
    store.execute("update report set body = ? where id = ?", (json.dumps(body), found.id))
    grown.tick()
    assert releases.get(store, number).rules["min_agreement"] == pytest.approx(0.07)
    grown.says("a", "SUCCEEDED", number, BLIND)
    grown.tick()
    assert grown.state(number) == "rolling"


@pytest.mark.parametrize(
    ("new", "won", "least"),
    [
        (
            40,
            30,
            0.05,
        ),  # night fell: 34 of 150 are not right for both, at worst all of the 40 that came: 6 of 40 less 0.1
        (40, 4, RULES.min_agreement),  # little differs
        (RULES.min_regions - 1, 30, RULES.min_agreement),  # too few have come to say what cameras see now
        (0, 30, RULES.min_agreement),
    ],
)
def test_what_cameras_see_now_is_what_came_since_the_model_before(grown, store, new, won, least):
    before, number = releases.all(store)[-1].number, grown.release(b"two" * 99)
    old = [[f"gate:b-{i}:0", "a"] for i in range(150 - new)]
    came = [[f"gate:n-{i}:0", "a"] for i in range(new)]
    for release_number, held in ((before, old), (number, old + came)):
        body = {"classes": ["a", "b"], "train": [], "tune": [], "holdout": sorted(held)}
        candidate = releases.get(store, release_number).candidate
        store.execute("update candidate set snapshot = ? where id = ?", (snapshots.add(store, body), candidate))
    found = reports.of(store, releases.get(store, number).candidate)[0]
    pair = {"n": 150, "right": 146, "baseline_right": 116, "lost": 0, "won": won}
    store.execute(
        "update report set body = ? where id = ?", (json.dumps(json.loads(found.body) | {"pair": pair}), found.id)
    )
    grown.tick()
    assert releases.get(store, number).rules["min_agreement"] == pytest.approx(least)


def test_what_came_is_counted_from_the_model_that_cameras_run_not_from_one_that_was_halted(grown, store):
    halted = grown.release(b"two" * 99)
    releases.set_state(store, halted, "halted")
    number = grown.release(b"three" * 99)
    old, came = [[f"gate:b-{i}:0", "a"] for i in range(110)], [[f"gate:n-{i}:0", "a"] for i in range(40)]
    for release_number, held in ((1, old), (halted, old + came), (number, old + came)):
        body = {"classes": ["a", "b"], "train": [], "tune": [], "holdout": sorted(held)}
        candidate = releases.get(store, release_number).candidate
        store.execute("update candidate set snapshot = ? where id = ?", (snapshots.add(store, body), candidate))
    found = reports.of(store, releases.get(store, number).candidate)[0]
    pair = {"n": 150, "right": 146, "baseline_right": 116, "lost": 0, "won": 30}
    store.execute(
        "update report set body = ? where id = ?", (json.dumps(json.loads(found.body) | {"pair": pair}), found.id)
    )
    grown.tick()
    assert releases.get(store, number).rules["min_agreement"] == pytest.approx(0.05)


def test_a_handful_of_samples_says_nothing_of_how_far_a_new_model_may_disagree(grown, store):
    number = grown.release(b"two" * 99)
    found = reports.of(store, releases.get(store, number).candidate)[0]
    few = RULES.min_regions - 1
    body = json.loads(found.body) | {"pair": {"n": few, "right": 1, "baseline_right": few, "lost": few - 1, "won": 0}}
    store.execute("update report set body = ? where id = ?", (json.dumps(body), found.id))
    grown.tick()
    assert releases.get(store, number).rules["min_agreement"] == RULES.min_agreement


# what was halted


def test_a_release_that_halts_on_health_brings_its_canary_back_and_is_never_offered_again(grown, store, repo):
    grown.release(b"two" * 99)
    grown.tick()
    grown.says("a", "IN_PROGRESS", 2)
    grown.says("a", "SUCCEEDED", 2, BLIND)
    turn = grown.tick()
    assert "canary a: SUCCEEDED (it agrees with the model before on 10%" in turn.halted[0][1]
    assert grown.states() == {1: "complete", 2: "halted", 3: "waiting"}
    assert grown.tick().said == ("release 3 is offered to a",)  # b and c run these bytes already
    assert grown.standing() == {"a": 3, "b": 1, "c": 1}
    grown.says("a", "SUCCEEDED", 3, BLIND)  # the good one agrees with the bad one as little
    assert grown.tick().said == ("release 3 is complete: 1 camera took it",)
    assert grown.tick(1e6).said == ()
    assert releases.get(store, 3).detail == "1 camera took it"
    assert [b.release for b in blocked.all(store)] == [2]
    again = grown.rows.candidate(b"two" * 99, name="the same bytes once more")
    with pytest.raises(Refused, match="is blocked since release 2 was halted: canary a") as e:
        release.publish(store, repo, candidate=again, description=grown.description, author="gate")
    assert "edged rollout unblock" in e.value.hint
    blocked.remove(store, releases.get(store, 2).sha256, "Ada")
    assert release.publish(store, repo, candidate=again, description=grown.description, author="gate") == 4


def test_a_canary_that_was_on_probation_when_its_release_was_aborted_is_brought_back_too(grown, store):
    grown.release(b"two" * 99)
    grown.tick()
    grown.says("a", "IN_PROGRESS", 2)
    fleet.abort(store, 2, "Ada")
    assert grown.tick().halted
    assert grown.states() == {1: "complete", 2: "halted"}  # it may still go back by itself
    grown.says("a", "SUCCEEDED", 2)
    assert "release 3 brings cameras back from one that was halted" in grown.tick().said
    grown.tick()
    assert grown.standing()["a"] == 3


def test_a_way_back_that_fails_on_the_camera_is_not_made_again_and_its_bytes_stay_good(grown, store):
    grown.release(b"two" * 99)
    grown.tick()
    grown.says("a", "SUCCEEDED", 2, BLIND)
    grown.tick()
    grown.tick()
    grown.says("a", "FAILED", 3)
    for _ in range(5):
        grown.tick(1000)
    assert grown.states() == {1: "complete", 2: "halted", 3: "complete"}
    assert [b.release for b in blocked.all(store)] == [2]


def test_a_camera_that_was_away_with_a_halted_release_finds_the_way_back_weeks_later(grown, store):
    grown.release(b"two" * 99)
    grown.take(2, "a", "b", "c")
    grown.online("c", online=False)
    fleet.abort(store, 2, "Ada")
    grown.tick()
    grown.tick()
    for name in "ab":
        grown.says(name, "SUCCEEDED", 3)
    grown.tick()
    assert grown.state(3) == "complete"
    grown.release(b"three" * 99)
    grown.take(4, "a", "b")
    grown.tick(21 * 86400)
    assert grown.state(4) == "complete"
    grown.online("c")
    grown.tick()
    assert grown.standing()["c"] == 4  # the newest, not each one in between
    assert {n: grown.statuses(n).get("c") for n in (2, 3, 4)} == {2: "SUCCEEDED", 3: "CANCELED", 4: "QUEUED"}


def test_the_first_release_of_all_has_no_way_back_and_an_alarm_says_so(site, store):
    site.online("a")
    site.release(b"one" * 99)
    site.tick()
    site.says("a", "SUCCEEDED", 1, BLIND)
    site.tick()
    site.tick()
    [alarm] = alarms.standing(store)
    assert alarm.code == alarms.NO_WAY_BACK
    assert alarm.text == "a runs release 1, which was halted, and there is no earlier one to return to"
    site.release(b"two" * 99)
    site.take(2, "a")
    site.tick()
    assert (alarms.standing(store), site.states()) == ([], {1: "halted", 2: "complete"})


def test_bytes_that_were_halted_unblocked_and_released_again_are_no_longer_those_of_the_halted_one(site, store):
    """Cameras that run them are left alone: by their delivery they still run the halted release."""
    site.online("a", "b")
    site.release(b"one" * 99)
    site.take(1, "a", "b")
    sha256 = fleet.abort(store, 1, "Ada").sha256
    site.tick()
    site.tick()
    [alarm] = alarms.standing(store)
    assert alarm.text == "a and b run release 1, which was halted, and there is no earlier one to return to"
    blocked.remove(store, sha256, "Ada")
    cycles.finish(store, cycles.running(store).id, "released", "")
    site.release(b"one" * 99)
    assert [r.number for _, r in fleet.astray(store)] == [1, 1]  # the second one waits
    site.tick()
    site.tick()
    site.tick()
    assert site.states() == {1: "halted", 2: "complete"}
    assert (fleet.astray(store), alarms.standing(store)) == ([], [])
    fleet.abort(store, 2, "Ada")
    assert [(camera, r.number) for camera, r in fleet.astray(store)] == [("a", 1), ("b", 1)]


def test_when_the_last_good_model_is_damaged_the_one_before_is_returned_to(grown, store):
    grown.online("d")
    grown.tick()
    grown.says("d", "SUCCEEDED", 1)  # it stays with release 1, which therefore stays signed
    grown.rules, grown.conductor = replace(RULES, abort_failed=1.0), None
    grown.release(b"two" * 99)
    grown.take(2, "a", "b", "c")
    grown.says("d", "FAILED", 2)
    grown.tick()
    assert grown.state(2) == "complete"
    grown.release(b"three" * 99)
    grown.tick()
    (store.models_dir / f"{releases.get(store, 2).sha256}.onnx").write_bytes(b"rot")
    grown.says("a", "SUCCEEDED", 3, BLIND)
    grown.tick()
    assert [(r.number, r.returns_to) for r in releases.all(store)][3:] == [(4, 1)]


# going back by hand


def ask(store, to, author="Ada"):
    return requests.add(store, conduct.ROLLBACK, {"to": to}, author)


def test_a_rollback_is_a_new_release_with_the_old_bytes_and_starts_even_without_auto(grown, store):
    grown.release(b"two" * 99)
    grown.take(2, "a", "b", "c")
    grown.auto, grown.conductor = False, None
    number = ask(store, 1)
    grown.tick()
    assert requests.get(store, number).result == "release 3"
    grown.tick()
    assert (grown.state(3), releases.get(store, 3).returns_to) == ("rolling", 1)
    assert list(grown.statuses(3).values()) == ["QUEUED"]  # a canary, then all the others at once
    grown.says(next(iter(grown.statuses(3))), "SUCCEEDED", 3)
    grown.tick()
    assert len(grown.statuses(3)) == 3
    assert [r.actor for r in audit.rows(store) if r.act == "roll back"] == ["Ada"]


@pytest.mark.parametrize(
    ("to", "words"), [(9, "there is no release 9"), (2, "release 2 was halted"), ("x", "there is no release 0")]
)
def test_a_rollback_that_cannot_be_is_answered_in_words(grown, store, to, words):
    grown.release(b"two" * 99)
    grown.tick()
    fleet.abort(store, 2, "Ada")
    number = ask(store, to)
    grown.tick()
    assert requests.get(store, number).result.startswith(f"refused: {words}")
    assert requests.pending(store) == []


def test_a_kill_between_the_way_back_and_its_answer_makes_no_second_one(grown, store, monkeypatch):
    grown.release(b"two" * 99)
    grown.take(2, "a", "b", "c")
    number = ask(store, 1)

    class Kill(BaseException):
        pass

    def die(*_):
        raise Kill

    with monkeypatch.context() as broken:
        broken.setattr(requests, "done", die)
        with pytest.raises(Kill):
            grown.tick()
    grown.conductor = None
    grown.tick()
    assert requests.get(store, number).result == "release 3"
    assert len(releases.all(store)) == 3


# daemons that die


def test_two_rounds_in_a_row_with_a_new_daemon_at_every_step_go_as_with_one(grown):
    grown.restarts = True
    for number, content in ((2, b"two" * 99), (3, b"three" * 99)):
        grown.release(content)
        grown.take(number, "a", "b", "c")
    assert grown.states() == {1: "complete", 2: "complete", 3: "complete"}
    assert grown.standing() == {"a": 3, "b": 3, "c": 3}
    assert [grown.statuses(n) for n in (2, 3)] == [dict.fromkeys("abc", "SUCCEEDED")] * 2


def test_a_new_daemon_at_every_step_brings_back_what_was_halted_once(grown, store):
    grown.restarts = True
    grown.release(b"two" * 99)
    grown.tick()
    grown.says("a", "SUCCEEDED", 2, BLIND)
    for _ in range(6):
        grown.tick(1)
    grown.says("a", "SUCCEEDED", 3)
    for _ in range(3):
        grown.tick(1)
    assert grown.states() == {1: "complete", 2: "halted", 3: "complete"}


def test_a_camera_that_goes_away_in_the_middle_holds_up_nobody(grown):
    grown.release(b"two" * 99)
    grown.take(2, "a")
    grown.online("b", online=False)
    grown.says("c", "SUCCEEDED", 2)
    grown.tick()
    assert grown.state(2) == "complete"
    grown.online("b")
    grown.tick()
    assert grown.standing()["b"] == 2


def test_a_key_that_is_away_holds_up_what_has_to_be_signed_and_nothing_else(grown, store, repo, tmp_path, monkeypatch):
    from edged.errors import Misconfigured

    def away(*_, **__):
        raise Misconfigured("the stick is not in")

    grown.release(b"two" * 99)
    grown.tick()
    grown.says("a", "SUCCEEDED", 2, BLIND)
    with monkeypatch.context() as broken:
        broken.setattr(repo, "remove_target", away)
        turn = grown.tick()
        assert turn.said[-1] == "a rollout waits, since nothing can be signed: the stick is not in"
        assert grown.state(2) == "halted"
        assert grown.tick(1).said == ()  # it is not tried twice a second
    assert "vehicle/2.onnx is no longer signed" in grown.tick(conduct.AGAIN_S).said
    assert list(repo.targets()) == ["vehicle/1.onnx", "vehicle/3.onnx"]


def test_a_signer_that_takes_its_time_holds_up_no_turn(grown, store, repo, monkeypatch):
    grown.release(b"two" * 99)
    grown.tick()
    grown.conductor.beside()
    signing, go_on, sign = threading.Event(), threading.Event(), repo.remove_target

    def slowly(path):
        signing.set()
        assert go_on.wait(30)
        return sign(path)

    monkeypatch.setattr(repo, "remove_target", slowly)
    grown.says("a", "SUCCEEDED", 2, BLIND)
    assert grown.tick().halted
    assert signing.wait(30)
    for _ in range(3):
        assert grown.tick(1).said == ()
    go_on.set()
    said = []
    while "release 3 brings cameras back from one that was halted" not in said:  # pytest's limit ends it
        said += grown.tick().said
    grown.conductor.close()


def test_years_of_releases_do_not_make_a_turn_slow(site, store):
    """Counted in what is read, not in time: of a thousand old deliveries a turn reads those that stand."""
    site.online(*(f"c{i}" for i in range(10)))
    with store.transaction():
        for number in range(1, 101):
            releases.add(
                store, number=number, name="vehicle", candidate=None, sha256=f"{number:064x}", size=1,
                target=f"vehicle/{number}.onnx", classes=["a"], state="complete",
            )  # fmt: skip
            for i in range(10):
                deliveries.upsert(store, number, f"c{i}", "SUCCEEDED")
    plan = store.rows(
        "explain query plan select d.release from delivery d join release r on r.number = d.release where d.camera = 'c1'"
        " and d.status in ('QUEUED', 'IN_PROGRESS', 'SUCCEEDED') order by d.release desc limit 1"
    )
    assert any("delivery_standing" in str(tuple(row)) for row in plan)
    assert {d.release for d in deliveries.standing(store, halted=True)} == {100}
    assert deliveries.open_releases(store) == set()


# when rows are looked at


@pytest.fixture
def looks(monkeypatch):
    """Times at which rows were looked at."""
    seen, advance = [], fleet.advance
    monkeypatch.setattr(fleet, "advance", lambda *args, **more: seen.append(args[3]) or advance(*args, **more))
    return seen


def test_while_nothing_changes_rows_are_looked_at_now_and_then(grown, looks):
    grown.tick(0.5)
    looks.clear()
    turns = [grown.tick(0.5) for _ in range(60)]
    assert len(looks) == sum(t.looked for t in turns) == 30 / conduct.LOOK_S


def test_frames_and_progress_do_not_make_it_look_and_a_camera_that_ends_does(grown, store, looks):
    grown.release(b"two" * 99)
    grown.tick()
    grown.says("a", "IN_PROGRESS", 2)
    grown.tick()
    looks.clear()
    for i in range(8):
        grown.says("a", "IN_PROGRESS", 2, progress=i / 10)
        cameras.seen(store, "b", stored=True)
        grown.tick(0.5)
    assert looks == []
    grown.says("a", "SUCCEEDED", 2, WELL)
    grown.tick(0.1)
    assert looks == [grown.clock.now()]


def test_what_another_process_does_is_followed_at_once(grown, store):
    grown.release(b"two" * 99)
    grown.tick()
    grown.tick(0.1)
    assert not grown.tick(0.1).looked
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(\"insert into blocked values (?, 1, 'r', 'Ada', 5)\","
        " [sys.argv[2]]); c.execute(\"update release set state = 'halted' where number = 2\"); c.commit()"
    )
    subprocess.run([sys.executable, "-c", code, str(store.path), "b" * 64], check=True, timeout=60)
    turn = grown.tick(0.1)
    assert [number for number, _ in turn.halted] == [2]
    assert not [grown.tick(0.1) for _ in range(3)][-1].looked


def test_time_alone_ends_a_wait_and_gives_up_who_is_silent(grown):
    grown.release(b"two" * 99)
    grown.tick()
    grown.says("a", "SUCCEEDED", 2, WELL)
    offered = None
    for i in range(2 * 70):
        if (turn := grown.tick(0.5)).said:
            offered = i / 2
            break
    assert offered is not None
    assert RULES.wait_s <= offered <= RULES.wait_s + conduct.LOOK_S, turn
    assert set(turn.said) == {"release 2 is offered to b", "release 2 is offered to c"}
    said = [s for _ in range(2 * 510) for s in grown.tick(0.5).said]
    assert "release 2 timed out on b: was online and did not begin" in " ".join(said)


def test_a_short_wait_is_not_made_longer_by_looking_seldom(site):
    site.rules = replace(RULES, wait_s=0.5)
    site.online("a", "b")
    site.release(b"one" * 99)
    site.tick()
    site.says("a", "SUCCEEDED", 1, WELL)
    said = [s for _ in range(4) for s in site.tick(0.5).said]
    assert said == ["release 1 is offered to b"]


def test_a_turn_that_fails_looks_again(grown, monkeypatch):
    grown.release(b"two" * 99)
    with monkeypatch.context() as busy:
        busy.setattr(fleet, "advance", lambda *args, **more: (_ for _ in ()).throw(Unavailable("busy", code="busy")))
        with pytest.raises(Unavailable):
            grown.tick()
    assert grown.tick().said == ("release 2 is offered to a as canary",)


def test_a_clock_that_was_set_back_is_no_reason_to_wait(grown, looks):
    grown.tick()
    looks.clear()
    grown.tick(-3600.0)
    assert len(looks) == 1


# whom a release does not fit


def is_(site, camera, hw="generic", agent="1.0", **more):
    cameras.set_info(site.store, camera, CameraInfo("b", agent, hw, (), 1, **more))


def left_out(site, number=2):
    row = releases.get(site.store, number)
    return {c.id: why for c in cameras.all(site.store) if (why := fit.why_not(row, c.info))}


@pytest.mark.parametrize(
    ("unlike", "why"),
    [
        ({"hw": "atom"}, "it is atom, the release is for generic"),
        ({"agent": "0.9.9"}, "its agent is 0.9.9, the release needs 0.10"),
        ({"classes": ("a", "c")}, "it expects the classes a, c, the release tells apart a, b"),
        ({"takes": "plates"}, "it takes models called plates, this is vehicle"),
        ({"most_bytes": 100}, "it takes 100 bytes at most, the release has 297"),
    ],
)
def test_a_camera_that_cannot_take_a_release_is_not_offered_it_and_halts_nothing(grown, unlike, why):
    grown.description = replace(grown.description, min_agent="0.10")
    grown.online("a", "b", "c")
    is_(grown, "a", **unlike)
    grown.release(b"two" * 99)
    grown.take(2, "b", "c")
    assert (grown.state(2), grown.statuses(2)) == ("complete", {"b": "SUCCEEDED", "c": "SUCCEEDED"})
    assert releases.get(grown.store, 2).detail == "2 cameras took it, 1 cannot take it"
    assert left_out(grown) == {"a": why}
    assert grown.standing() == {"a": 1, "b": 2, "c": 2}
    is_(grown, "a")  # it was mended: a newcomer like any other
    assert grown.tick().said == ("release 2 is offered to a",)


def test_a_camera_that_has_not_said_what_it_is_is_not_made_the_canary_and_is_offered_it_when_it_has(site, store):
    cameras.set_online(store, "a", True)
    site.release(b"one" * 99)
    assert site.tick().said == ()
    assert left_out(site, 1) == {"a": fit.SILENT}
    assert alarms.standing(store) == []
    is_(site, "a")
    assert site.tick().said == ("release 1 is offered to a as canary",)


def test_what_a_camera_was_offered_is_taken_back_when_it_changes_and_offered_again_when_it_changes_back(grown, store):
    grown.release(b"two" * 99)
    assert grown.tick().said == ("release 2 is offered to a as canary",)
    is_(grown, "a", hw="atom")
    said = grown.tick().said
    assert said == ("release 2 is taken back from a: it is atom, the release is for generic",
                    "release 2 is offered to b as canary")  # fmt: skip
    assert (grown.standing()["a"], grown.statuses(2)["a"], grown.state(2)) == (1, "CANCELED", "rolling")
    grown.says("b", "SUCCEEDED", 2, WELL)
    is_(grown, "a")
    grown.tick(60)
    assert grown.statuses(2) == {"a": "QUEUED", "b": "SUCCEEDED", "c": "QUEUED"}
    grown.says("a", "SUCCEEDED", 2, WELL)
    grown.says("c", "SUCCEEDED", 2, WELL)
    grown.tick()
    assert grown.state(2) == "complete"


def test_a_camera_that_changed_but_has_begun_goes_on_and_is_judged(grown):
    grown.release(b"two" * 99)
    grown.tick()
    grown.says("a", "IN_PROGRESS", 2)
    is_(grown, "a", hw="atom")
    assert grown.tick().said == ()
    grown.says("a", "REJECTED", 2)
    grown.tick()
    assert grown.state(2) == "halted"


def test_a_release_that_fits_nobody_is_not_complete_and_an_alarm_says_why_until_it_fits_one(grown, store):
    for camera in "abc":
        is_(grown, camera, hw="atom")
    grown.release(b"two" * 99)
    [said] = grown.tick().said
    assert said == "release 2 fits none of 3 cameras: a: it is atom, the release is for generic"
    assert grown.tick(1000).said == ()
    assert [(a.code, a.text) for a in alarms.standing(store)] == [(alarms.FITS_NOBODY, said)]
    assert (grown.state(2), grown.statuses(2)) == ("rolling", {})
    is_(grown, "c")
    grown.take(2, "c")
    assert (grown.state(2), alarms.standing(store)) == ("complete", [])


def test_a_camera_that_no_release_fits_is_an_alarm_while_it_is_there_without_a_model(grown, store):
    grown.online("d")
    is_(grown, "d", hw="pi-zero")
    grown.tick(conduct.LOOK_S)
    [alarm] = alarms.standing(store)
    assert (alarm.code, alarm.text) == (
        alarms.LEFT_OUT, "d has no model: release 1 does not fit it (it is pi-zero, the release is for generic)"
    )  # fmt: skip
    is_(grown, "d", hw="pi-zero", model="e" * 64)  # one of its own works there
    grown.tick(conduct.LOOK_S)
    assert alarms.standing(store) == []
    is_(grown, "d", hw="pi-zero")
    grown.tick(conduct.LOOK_S)
    assert [a.code for a in alarms.standing(store)] == [alarms.LEFT_OUT]
    cameras.set_online(store, "d", False)
    grown.tick(conduct.LOOK_S)
    assert alarms.standing(store) == []


def test_of_many_that_no_release_fits_the_alarm_counts_the_rest(grown, store):
    grown.online("d", "e", "f")
    for camera in "def":
        is_(grown, camera, hw="pi-zero")
    grown.tick()
    [alarm] = alarms.standing(store)
    assert alarm.text == (
        "d has no model: release 1 does not fit it (it is pi-zero, the release is for generic); nor have 2 other cameras"
    )


def test_the_only_camera_that_a_release_does_not_fit_is_named_alone(site, store):
    site.online("a")
    is_(site, "a", hw="atom")
    site.release(b"one" * 99)
    [said] = site.tick().said
    assert said == "release 1 does not fit a: it is atom, the release is for generic"
    assert [a.code for a in alarms.standing(store)] == [alarms.FITS_NOBODY]


# one release in place of another


def test_one_that_rolls_is_replaced_only_if_that_is_said(grown, store):
    grown.auto = False
    grown.release(b"two" * 99)
    fleet.start(store, 2, RULES, "Ada")
    grown.tick()
    grown.release(b"three" * 99)
    with pytest.raises(Refused, match="release 2 is rolling: release 3 would take its place") as e:
        fleet.start(store, 3, RULES, "Ada")
    assert "--replace" in e.value.hint
    assert grown.states() == {1: "complete", 2: "rolling", 3: "waiting"}
    fleet.start(store, 3, RULES, "Ada", instead=True)
    assert grown.states() == {1: "complete", 2: "superseded", 3: "rolling"}
    assert grown.statuses(2) == {"a": "CANCELED"}


def test_where_none_was_ever_complete_cameras_go_back_to_what_worked_on_them(site, store):
    site.online("a", "b")
    site.release(b"one" * 99)
    site.tick()
    site.says("a", "SUCCEEDED", 1, WELL)
    site.release(b"two" * 99)
    site.tick()
    assert site.states() == {1: "superseded", 2: "rolling"}
    site.says("a", "SUCCEEDED", 2, WELL)
    fleet.abort(store, 2, "Ada")
    site.tick()
    site.tick()
    assert (site.standing()["a"], releases.get(store, 3).returns_to) == (3, 1)
    assert alarms.standing(store) == []


def test_the_control_what_was_replaced_and_did_not_do_is_not_returned_to(site, store):
    site.online("a", "b")
    site.rules = replace(RULES, canary=2)
    site.release(b"one" * 99)
    site.tick()
    site.says("a", "IN_PROGRESS", 1)
    site.release(b"two" * 99)
    site.tick()
    site.says("a", "SUCCEEDED", 2, WELL)
    fleet.abort(store, 2, "Ada")
    site.tick()
    assert [a.code for a in alarms.standing(store)] == [alarms.NO_WAY_BACK]
