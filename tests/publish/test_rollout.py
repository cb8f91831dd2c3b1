"""The plan, told as stories and as any sequence of events at all."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import Refused
from edged.publish.rollout import (
    ACTS,
    AWS_STATUS,
    CAMERA_SAYS,
    STANDS,
    TRANSITIONS,
    Camera,
    Complete,
    Delivery,
    Expire,
    Halt,
    Offer,
    Rules,
    after,
    desired,
    ended,
    is_final,
    job_of,
    number_of,
    on_reported,
    plan,
)
from edged.wire.messages import Health, Reported

RULES = Rules(canary=1, wait_s=100, timeout_s=50, steps=(0.5, 1.0))


@dataclass(frozen=True)
class Release:
    number: int = 7
    name: str = "vehicle"
    sha256: str = "0" * 64
    target: str = "vehicle/7.onnx"
    state: str = "rolling"


def says(status, number=7, version=None, **more):
    version = (number if status == "SUCCEEDED" else number - 1) if version is None else version
    return Reported("vehicle", version, "1" * 64, job_of(number), status, **more)


class Site:
    """Cameras and deliveries of one release, with the plan carried out as the daemon would."""

    def __init__(self, *names, rules=RULES):
        self.rules, self.now, self.release = rules, 0.0, Release()
        self.cameras = {name: Camera(name, True, 0.0) for name in names}
        self.deliveries, self.offers, self.log = {}, [], []

    def step(self):
        for action in plan(
            self.release, list(self.deliveries.values()), list(self.cameras.values()), self.now, self.rules
        ):
            self.log.append(action)
            match action:
                case Offer(name, _):
                    assert name not in self.deliveries
                    self.offers.append(action)
                    self.deliveries[name] = Delivery(7, name, "QUEUED", self.now, self.now)
                case Expire(name, detail):
                    self.end(name, "TIMED_OUT", detail)
                case Halt(_, cancel):
                    for name in cancel:
                        self.end(name, "CANCELED", "halted")
                    self.release = replace(self.release, state="halted")
                case Complete():
                    self.release = replace(self.release, state="complete")
        return self

    def end(self, name, status, detail):
        before = self.deliveries[name]
        after = ended(before, status, detail, self.now)
        assert after.status in TRANSITIONS[before.status]
        self.deliveries[name] = after

    def hear(self, name, status, **more):
        before = self.deliveries[name]
        heard = on_reported(before, says(status, **more), self.now)
        assert heard.delivery.status == before.status or heard.delivery.status in TRANSITIONS[before.status]
        self.deliveries[name] = heard.delivery
        return heard

    def wait(self, seconds):
        self.now += seconds
        return self.step()

    def online(self, name, online=True):
        self.cameras[name] = Camera(name, online, self.now)

    def told(self):
        return sorted(self.deliveries)


def test_one_canary_is_told_first_and_nobody_else_until_it_is_well_and_the_wait_is_over():
    site = Site("a", "b", "c", "d").step()
    assert site.told() == ["a"]
    site.hear("a", "IN_PROGRESS")
    site.wait(20)
    site.hear("a", "SUCCEEDED")
    site.wait(99)
    assert site.told() == ["a"]
    site.wait(1)
    assert site.told() == ["a", "b"]  # the step of one half
    site.hear("b", "SUCCEEDED")
    site.step()
    assert site.told() == ["a", "b", "c", "d"]
    for name in "cd":
        site.hear(name, "SUCCEEDED")
    site.step()
    assert site.log[-1] == Complete(succeeded=4, waiting=0)


@pytest.mark.parametrize("status", ["FAILED", "REJECTED"])
def test_a_canary_that_does_not_take_it_halts_the_release(status):
    site = Site("a", "b").step()
    site.hear("a", status, detail="self-test: 3 of 8 answers differ")
    site.step()
    assert site.log[-1] == Halt(f"canary a: {status} (self-test: 3 of 8 answers differ)", ())
    assert site.wait(10_000).told() == ["a"]


def test_a_canary_that_began_and_fell_silent_times_out_and_halts():
    site = Site("a", "b").step()
    site.hear("a", "IN_PROGRESS")
    site.wait(51)
    assert isinstance(site.log[-2], Expire)
    assert isinstance(site.log[-1], Halt)
    assert site.deliveries["a"].status == "TIMED_OUT"


def test_progress_keeps_a_slow_camera_alive():
    site = Site("a").step()
    for i in range(10):
        site.hear("a", "IN_PROGRESS", progress=i / 10)
        site.wait(40)
    assert site.deliveries["a"].status == "IN_PROGRESS"


def test_a_canary_that_is_there_and_never_begins_halts():
    site = Site("a", "b").step()
    site.wait(50)
    assert site.deliveries["a"].status == "QUEUED"
    site.wait(1)
    assert site.deliveries["a"].status == "TIMED_OUT"
    assert site.release.state == "halted"


def test_a_canary_that_went_away_before_it_began_is_replaced():
    site = Site("a", "b", "c").step()
    site.online("a", False)
    site.wait(50)
    assert site.told() == ["a"]
    site.wait(1)
    assert site.told() == ["a", "b"]
    assert site.deliveries["a"].status == "QUEUED"
    assert site.log[-1] == Offer("b", canary=True)


def test_an_offline_camera_comes_last_waits_and_holds_up_nobody():
    site = Site("a", "b", "z", rules=replace(RULES, steps=(1.0,)))
    site.online("a", False)
    site.step()
    assert site.told() == ["b"]
    site.hear("b", "SUCCEEDED")
    site.wait(100)
    assert site.told() == ["a", "b", "z"]
    site.hear("z", "SUCCEEDED")
    site.wait(10_000)
    assert site.log[-1] == Complete(succeeded=2, waiting=1)
    assert site.deliveries["a"].status == "QUEUED"


def test_a_camera_that_comes_back_after_days_has_its_time_to_begin():
    site = Site("a", "b").step()
    site.hear("a", "SUCCEEDED")
    site.online("b", False)
    site.wait(100)
    assert site.told() == ["a", "b"]
    site.wait(1_000_000)
    site.online("b")
    site.wait(49)
    assert site.deliveries["b"].status == "QUEUED"
    site.wait(2)
    assert site.deliveries["b"].status == "TIMED_OUT"


def test_nobody_is_a_canary_when_all_are_offline():
    site = Site("a", "b")
    for name in "ab":
        site.online(name, False)
    assert site.wait(10_000).told() == []


def test_a_latecomer_gets_the_complete_release():
    site = Site("a").step()
    site.hear("a", "SUCCEEDED")
    site.wait(100)
    assert site.release.state == "complete"
    site.online("new")
    site.step()
    assert site.log[-1] == Offer("new", canary=False)


@pytest.mark.parametrize(("status", "offered"), [("QUEUED", False), ("SUCCEEDED", False), ("FAILED", True)])
def test_a_camera_that_has_or_awaits_a_newer_release_is_left_alone(status, offered):
    newer = Delivery(8, "a", status, 0.0, 0.0)
    actions = plan(Release(state="complete"), [newer], [Camera("a", True, 0.0)], 1.0, RULES)
    assert bool(actions) == offered


@pytest.mark.parametrize("state", ["halted", "superseded"])
def test_a_release_that_is_over_is_offered_to_nobody(state):
    assert plan(Release(state=state), [], [Camera("a", True, 0.0)], 1.0, RULES) == []


def test_too_many_failures_after_the_canary_halt_the_rest():
    names = [f"c{i}" for i in range(10)]
    site = Site(*names, rules=replace(RULES, steps=(0.5, 1.0))).step()
    site.hear("c0", "SUCCEEDED")
    site.wait(100)
    assert len(site.told()) == 5
    site.hear("c1", "SUCCEEDED")
    site.hear("c2", "FAILED")
    site.step()
    assert site.release.state == "halted"
    assert "1 of 3 cameras" in site.log[-1].reason
    assert site.log[-1].cancel == ("c3", "c4")
    assert site.deliveries["c3"].status == "CANCELED"


def test_an_illegal_report_is_ignored_and_named():
    site = Site("a").step()
    assert not site.hear("a", "FAILED").ignored
    assert site.hear("a", "SUCCEEDED").ignored == "FAILED never becomes SUCCEEDED"
    assert site.deliveries["a"].status == "FAILED"


def test_a_repeated_last_word_changes_nothing_and_is_no_offence():
    site = Site("a").step()
    site.hear("a", "SUCCEEDED")
    before = site.deliveries["a"]
    site.now += 5
    assert site.hear("a", "SUCCEEDED").ignored == ""
    assert site.deliveries["a"] == before


def test_success_counts_only_for_the_version_that_runs():
    site = Site("a").step()
    assert "runs version 6" in site.hear("a", "SUCCEEDED", version=6).ignored
    assert site.deliveries["a"].status == "QUEUED"


@pytest.mark.parametrize("status", sorted(set(TRANSITIONS) - CAMERA_SAYS))
def test_the_box_s_words_are_not_for_cameras(status):
    site = Site("a").step()
    assert "not for a camera" in site.hear("a", status).ignored
    assert site.deliveries["a"].status == "QUEUED"


@pytest.mark.parametrize("state", ["halted", "superseded"])
def test_who_is_in_the_middle_of_a_release_that_is_over_may_end_it_or_is_given_up(state):
    deliveries = [Delivery(7, "a", "IN_PROGRESS", 0.0, 0.0), Delivery(7, "b", "QUEUED", 0.0, 0.0)]
    cameras = [Camera("a", True, 0.0), Camera("b", True, 0.0)]
    assert plan(Release(state=state), deliveries, cameras, 50.0, RULES) == []
    assert [a.camera for a in plan(Release(state=state), deliveries, cameras, 51.0, RULES)] == ["a"]


def test_a_report_on_another_job_is_not_this_delivery_s():
    heard = on_reported(Delivery(7, "a", "QUEUED", 0, 0), says("FAILED", number=6), 1.0)
    assert heard.delivery.status == "QUEUED"
    assert "release-6" in heard.ignored


def test_what_a_camera_is_told_names_the_signed_target():
    said = desired(Release())
    assert (said.job, said.version, said.target) == ("release-7", 7, "vehicle/7.onnx")


def test_final_words_lead_nowhere():
    assert {s for s in TRANSITIONS if is_final(s)} == {
        "SUCCEEDED", "FAILED", "REJECTED", "TIMED_OUT", "CANCELED", "REMOVED",
    }  # fmt: skip
    assert all(not is_final(s) or s == "SUCCEEDED" for s in STANDS)


NAMES = ["a", "b", "c", "d", "e"]
EVENTS = st.one_of(
    st.tuples(st.just("wait"), st.floats(0, 120)),
    st.tuples(st.just("online"), st.sampled_from(NAMES), st.booleans()),
    st.tuples(
        st.just("hear"), st.sampled_from(NAMES), st.sampled_from(sorted(TRANSITIONS)), st.sampled_from([5, 6, 7, 8])
    ),
    st.tuples(st.just("well"), st.sampled_from(NAMES)),
)


@given(st.lists(EVENTS, max_size=80), st.integers(1, 3), st.integers(1, 5), st.sampled_from([(1.0,), (0.5, 1.0), ()]))
def test_no_sequence_of_events_leaves_the_table_or_passes_by_the_canary(events, canary, fleet, steps):
    site = Site(*NAMES[:fleet], rules=Rules(canary=canary, wait_s=60, timeout_s=50, steps=steps))
    over = None
    for event in events:
        match event:
            case ("online", name, online):
                if name in site.cameras and site.cameras[name].online != online:
                    site.online(name, online)
            case ("hear", name, status, version):
                if name in site.deliveries:
                    site.hear(name, status, version=version)
            case ("well", name):
                if name in site.deliveries:
                    site.hear(name, "SUCCEEDED")
            case ("wait", seconds):
                site.now += seconds
        told_before, state_before = dict(site.deliveries), site.release.state
        offers_before = len(site.offers)
        site.step()

        assert over is None or (site.release.state == over and len(site.offers) == offers_before)
        if site.release.state == "halted":
            over = "halted"
            assert len(site.offers) == offers_before
        needed = min(canary, fleet)
        well = sorted(d.updated for d in told_before.values() if d.status == "SUCCEEDED")
        opened = len(well) >= needed and site.now - well[needed - 1] >= 60
        for offer in site.offers[offers_before:]:
            assert offer.canary or opened or state_before == "complete"
            assert not (offer.canary and not site.cameras[offer.camera].online)
        new = site.offers[offers_before:]
        if new and not opened and state_before == "rolling":
            begun = [d for d in told_before.values() if d.status in ("IN_PROGRESS", "SUCCEEDED")]
            ready = [d for d in told_before.values() if d.status == "QUEUED" and site.cameras[d.camera].online]
            assert len(begun) + len(ready) + len(new) <= needed
        if state_before == "rolling" and site.release.state == "complete":
            assert all(is_final(d.status) or not site.cameras[d.camera].online for d in site.deliveries.values())


@given(st.lists(st.sampled_from(NAMES), max_size=30), st.integers(1, 5), st.sets(st.sampled_from(NAMES), max_size=4))
def test_cameras_that_work_always_end_in_a_complete_release(order, canary, away):
    site = Site(*NAMES, rules=replace(RULES, canary=canary))
    for name in away:
        site.online(name, False)
    for _ in range(40):
        site.step()
        for name in [*order, *NAMES]:
            if name in site.deliveries and site.cameras[name].online:
                site.hear(name, "SUCCEEDED")
        site.now += 30
    there = set(NAMES) - away
    if len(there) >= canary:
        assert site.release.state == "complete"
        assert {n for n, d in site.deliveries.items() if d.status == "SUCCEEDED"} == there
    else:
        assert set(site.deliveries) == there


# the table of a release's states


STATES = ("waiting", "rolling", "paused", "complete", "halted", "superseded")
ALLOWED = {
    ("waiting", "start"): "rolling", ("waiting", "abort"): "halted", ("waiting", "replace"): "superseded",
    ("rolling", "pause"): "paused", ("rolling", "halt"): "halted", ("rolling", "abort"): "halted",
    ("rolling", "complete"): "complete", ("rolling", "replace"): "superseded",
    ("paused", "resume"): "rolling", ("paused", "halt"): "halted", ("paused", "abort"): "halted",
    ("paused", "replace"): "superseded", ("complete", "abort"): "halted",
}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("act", ACTS)
def test_every_pair_of_a_state_and_an_act_is_allowed_or_refused_in_words(state, act):
    if (state, act) in ALLOWED:
        assert after(7, state, act) == ALLOWED[state, act]
    else:
        with pytest.raises(Refused, match=f"release 7 is {state}") as e:
            after(7, state, act)
        mine = [
            a for a in ("start", "resume", "pause", "abort") if (state, a) in ALLOWED
        ]  # what the box does is left out
        commands = ", ".join(f"`edged rollout {a} 7`" for a in mine)
        assert e.value.hint == f"what can be done with it: {commands or 'nothing more, it has ended for good'}"


def test_a_release_that_was_halted_or_superseded_never_becomes_anything_else():
    assert {state for before, _ in ACTS.values() for state in before} == {"waiting", "rolling", "paused", "complete"}


def test_every_state_has_a_word_of_aws():
    assert set(AWS_STATUS) == set(STATES)


@pytest.mark.parametrize(
    ("job", "number"), [("release-7", 7), ("", 0), ("release-", 0), ("release-7x", 0), ("job-7", 0)]
)
def test_a_job_names_its_release(job, number):
    assert number_of(job) == number
    assert number_of(job_of(12)) == 12


# quality, pauses, ways back


def test_a_canary_that_runs_it_and_is_not_well_halts():
    site = Site("a", "b").step()
    site.hear("a", "SUCCEEDED", health=Health(20, 8.0, 8.0, 0.1, 0.2, 40))
    site.step()
    assert site.log[-1] == Halt(
        "canary a: SUCCEEDED (it agrees with the model before on 10% of 40 regions (at least 30%))", ()
    )
    assert site.wait(10_000).told() == ["a"]


def test_a_canary_that_leaves_the_model_again_while_it_is_watched_halts():
    site = Site("a", "b").step()
    site.hear("a", "SUCCEEDED")
    site.wait(50)
    site.hear("a", "SUCCEEDED", version=6)
    site.step()
    assert site.log[-1] == Halt("canary a: SUCCEEDED (it left the model again and runs version 6)", ())


def test_cameras_that_are_not_well_count_among_the_failed():
    site = Site(*"abcdefgh", rules=replace(RULES, steps=(1.0,), abort_failed=0.2)).step()
    site.hear("a", "SUCCEEDED")
    site.wait(100)
    for name in "bc":
        site.hear(name, "SUCCEEDED", health=Health(20, 1.0, 8.0))
    site.step()
    assert isinstance(site.log[-1], Halt)
    assert site.log[-1].reason.startswith("2 of 3 cameras")


def test_a_paused_release_is_offered_to_nobody_and_goes_on_where_it_was():
    site = Site("a", "b", "c").step()
    site.hear("a", "SUCCEEDED")
    site.release = replace(site.release, state="paused")
    assert site.wait(1000).told() == ["a"]
    site.release = replace(site.release, state="rolling")
    assert site.step().told() == ["a", "b"]


def test_a_canary_that_fails_while_it_is_paused_halts():
    site = Site("a", "b").step()
    site.release = replace(site.release, state="paused")
    site.hear("a", "FAILED")
    site.step()
    assert isinstance(site.log[-1], Halt)


@pytest.mark.parametrize("state", ["waiting", "halted", "superseded"])
def test_what_does_not_roll_is_offered_to_nobody(state):
    site = Site("a", "b")
    site.release = replace(site.release, state=state)
    assert site.wait(10).log == []


def test_a_camera_that_runs_these_very_bytes_by_another_number_is_left_alone():
    site = Site("a", "b", rules=RULES.rescuing())
    site.cameras["b"] = Camera("b", True, 0.0, runs=site.release.sha256)
    assert site.step().told() == ["a"]
    site.hear("a", "SUCCEEDED")
    site.step()
    assert site.log[-1] == Complete(succeeded=1, waiting=0)


def test_when_every_camera_runs_these_bytes_the_release_is_complete():
    site = Site("a")
    site.cameras["a"] = Camera("a", True, 0.0, runs=site.release.sha256)
    assert site.step().log == [Complete(0, 0)]


def test_a_way_back_from_a_halted_release_is_offered_to_all_at_once_and_nothing_halts_it():
    site = Site(*"abcde", rules=RULES.rescuing()).step()
    assert site.told() == list("abcde")
    for name in "abcd":
        site.hear(name, "FAILED")
    site.step()
    site.hear("e", "SUCCEEDED")
    assert site.step().log[-1] == Complete(succeeded=1, waiting=0)


def test_a_removed_camera_holds_up_nobody():
    site = Site("a", "b", "c", rules=replace(RULES, steps=(1.0,))).step()
    site.hear("a", "SUCCEEDED")
    site.wait(100)
    del site.cameras["b"]
    site.end("b", "REMOVED", "it is no longer part of the site")
    site.hear("c", "SUCCEEDED")
    assert site.step().log[-1] == Complete(succeeded=2, waiting=0)


def test_other_bytes_than_the_releases_are_no_success():
    heard = on_reported(Delivery(7, "a", "IN_PROGRESS", 0, 0), says("SUCCEEDED"), 5.0, sha256="f" * 64)
    assert heard.ignored == f"says SUCCEEDED but runs {'1' * 12}, not {'f' * 12}"
