"""The watch for drift on rows: what it says of steady, drifting, odd and silent cameras."""

import itertools
import math
import random
import re

import numpy as np
import pytest

from edged import health
from edged.drifting import EVERY_S, DriftRules, Watch
from edged.storage import Store, alarms, cameras, drifts, labels, watching
from edged.wire.messages import Reported

NOON = 1_795_262_400.0
OLD, NEW = "a" * 64, "b" * 64
WINDOW = 100


class HandClock:
    def __init__(self):
        self.at = NOON

    def now(self):
        return self.at

    def monotonic(self):
        return self.at

    def sleep(self, seconds):
        self.at += seconds


class Site:
    """Rows of samples, as ingest and survey leave them."""

    def __init__(self, store, clock):
        self.store, self.clock, self.number = store, clock, itertools.count(1)
        self.random = random.Random(4)
        self.dice = np.random.default_rng(4)
        self.watch = Watch(store, DriftRules(WINDOW, 0.001, 0.5), clock)

    def see(self, n, camera="gate", model=OLD, margin=0.8, classes=("busy", "free"), features=0.0, ts=None, every=10.0):
        """`n` answers about `margin`; features are drawn about `features`, None = survey has not looked."""
        made = []
        with self.store.transaction():
            self.store.execute("insert or ignore into camera (id, first_seen, last_seen) values (?, 0, 0)", (camera,))
            for _ in range(n):
                self.clock.at += every
                k = next(self.number)
                sample = f"{camera}:boot-{k}:0"
                made.append(sample)
                value = margin if not math.isfinite(margin) else min(1.0, max(0.0, self.random.gauss(margin, 0.1)))
                self.store.execute(
                    "insert into sample values (?, ?, ?, ?, ?, 0, 0, 9, 9, ?, ?, ?, ?, null)",
                    (sample, camera, f"boot-{k}", self.clock.at if ts is None else ts, self.clock.at, model,
                     self.random.choice(classes), value, value),
                )  # fmt: skip
                if features is not None:
                    vector = self.dice.normal(features, 1, 6).astype("<f2").tobytes()
                    self.store.execute(
                        "insert into insight (sample, hash, model, features, ts) values (?, 0, ?, ?, ?)",
                        (sample, model, vector, self.clock.at),
                    )
        return made

    def look(self):
        self.clock.at += EVERY_S
        return self.watch.step()

    def live(self, n, **seen):
        """As `see`, with a look after each twenty."""
        for _ in range(n // 20):
            self.see(20, **seen)
            self.look()

    def label(self, samples, wrong=0.0):
        with self.store.transaction():
            for s in samples:
                said = self.store.value("select predicted from sample where id = ?", (s,))
                truth = said if self.random.random() >= wrong else {"busy": "free", "free": "busy"}[said]
                labels.add(self.store, s, truth, "human", "ann")


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def store(tmp_path, clock):
    with Store.open(tmp_path / "site", clock=clock, site_key=bytes(32)) as opened:
        yield opened


@pytest.fixture
def site(store, clock):
    return Site(store, clock)


def told(site, test="confidence", class_=""):
    return next(e for e in drifts.latest(site.store) if (e.test, e.class_) == (test, class_))


def test_an_empty_store_and_a_camera_without_a_model_are_no_drift(site):
    assert site.look() == ""
    site.see(60, model="")
    assert site.look() == ""
    assert drifts.latest(site.store) == []


def test_few_samples_are_said_to_be_collected(site):
    site.live(120)
    assert told(site).detail == "gate: collecting answers, 120 of 500"
    assert (told(site).score, told(site).p, told(site).alarm) == (0.0, None, False)
    assert drifts.standing(site.store) == []


def test_a_steady_camera_raises_no_alarm(site):
    site.live(3000)
    assert drifts.standing(site.store) == []
    assert told(site).detail.startswith("gate: answers are as they were, p = ")
    assert told(site, "features").detail.startswith("gate: pictures are as they were")
    assert not alarms.stands(site.store, alarms.DRIFT)


def test_unsure_answers_raise_an_alarm_with_numbers_and_it_falls_when_they_are_sure_again(site):
    site.live(2000)
    site.live(300, margin=0.3)
    (standing,) = drifts.standing(site.store)
    assert re.fullmatch(
        r"gate: answers( called \w+)? differ from those of 21 November, 12:\d\d to \d\d:\d\d: "
        r"median margin 0\.3\d?, before 0\.8\d?; p < [0-9e.-]+ in 2 blocks( \(the model .*\))?",
        standing.sentence,
    )
    assert standing.score >= 1
    assert alarms.stands(site.store, alarms.DRIFT)
    found = health.judge(health.look(site.store, site.clock.now(), daemon=True))
    assert [(r.code, r.severity) for r in found.reasons if r.code == "drift"] == [("drift", "degraded")]
    site.live(400)
    assert drifts.standing(site.store) == []
    assert not alarms.stands(site.store, alarms.DRIFT)


def test_other_pictures_are_noticed_while_the_answers_stay_as_sure(site):
    site.live(2000)
    site.live(200, features=2.0)
    assert told(site, "features").alarm
    assert "pictures differ from those of 21 November" in told(site, "features").detail
    assert "times as far as is usual" in told(site, "features").detail
    assert not told(site).alarm


def test_one_drifting_camera_does_not_accuse_another(site):
    for _ in range(100):
        site.see(20)
        site.see(20, camera="yard")
        site.look()
    for _ in range(12):
        site.see(20)
        site.see(20, camera="yard", margin=0.2)
        site.look()
    assert [s.camera for s in drifts.standing(site.store)] == ["yard"]


def test_a_new_model_begins_anew_and_ends_the_drift(site):
    site.live(2000)
    site.live(200, margin=0.2)
    assert drifts.standing(site.store)
    site.live(40, model=NEW, margin=0.2)
    assert drifts.standing(site.store) == []
    assert told(site).detail == "gate: collecting answers, 40 of 500"
    assert told(site).model == NEW


def test_pictures_kept_from_the_old_model_do_not_bring_it_back(site):
    site.live(600)
    site.live(40, model=NEW)
    site.see(30, model=OLD, ts=NOON)  # the spool of an offline camera
    site.look()
    site.see(20, model=NEW)
    site.look()
    assert told(site).detail == "gate: collecting answers, 60 of 500"


def test_a_camera_whose_clock_fell_back_gets_its_new_model_all_the_same(site):
    site.live(600)
    site.see(80, model=NEW, ts=1000.0)
    site.look()
    assert told(site).model == NEW


def test_constant_answers_then_another_constant_is_a_change(site):
    for _ in range(40):
        site.see(20, margin=1.5)  # all are 1 after clamping
        site.look()
    assert "as they were" in told(site).detail
    site.live(200, margin=1.5)
    assert drifts.standing(site.store) == []


def test_scores_that_are_no_numbers_and_one_class_only_are_survived(site):
    site.live(400, classes=("busy",))
    site.see(1, margin=0.5)
    site.store.execute("update sample set margin = ?", (float("inf"),))
    site.live(300, classes=("busy",), features=None)
    assert {e.class_ for e in drifts.latest(site.store)} <= {""}
    vector = np.full(6, np.nan, "<f2").tobytes()
    site.see(40)
    site.store.execute("update insight set features = ?", (vector,))
    site.look()
    site.see(20, features=0.0)
    site.store.execute("update insight set features = x'0011'")  # of another length
    site.look()
    assert drifts.standing(site.store) == []


def test_a_camera_that_is_silent_for_days_says_nothing_new(site, clock):
    site.live(1000)
    before = drifts.newest(site.store)
    clock.at += 5 * 86400
    assert site.look() == ""
    assert drifts.newest(site.store) == before
    site.live(200)
    assert drifts.standing(site.store) == []


def test_the_clock_may_jump_either_way(site, clock):
    site.live(1000)
    clock.at -= 3 * 86400
    site.watch._next = -math.inf  # the other clock never goes back
    site.live(400)
    clock.at += 400 * 86400
    site.live(400)
    assert drifts.standing(site.store) == []


def test_looks_come_at_most_every_half_minute(site):
    site.see(600)
    assert site.watch.step() != ""
    site.see(100, every=0.01)
    assert site.watch.step() == ""


def test_a_restart_comes_to_the_same_verdict(site):
    site.live(2000)
    site.live(200, margin=0.2)
    before = {(e.test, e.class_): (round(e.score, 6), e.alarm) for e in drifts.latest(site.store) if e.alarm}
    since = drifts.standing(site.store)[0].since
    site.watch = Watch(site.store, DriftRules(WINDOW, 0.001, 0.5), site.clock)
    site.look()
    after = {(e.test, e.class_): (round(e.score, 6), e.alarm) for e in drifts.latest(site.store)}
    assert before.items() <= after.items()
    assert drifts.standing(site.store)[0].since == since


def test_another_network_that_looks_is_not_compared_with_the_last(site):
    site.live(1000)
    site.store.execute("update insight set model = ?, features = ?", (NEW, np.full(6, 9, "<f2").tobytes()))
    site.look()
    assert drifts.standing(site.store) == []


def test_while_survey_looks_again_the_newest_picture_says_who_looks(site):
    seen = site.see(200)
    marks = ", ".join("?" * 50)
    site.store.execute(f"update insight set model = ? where sample in ({marks})", (NEW, *seen[-50:]))
    assert watching.looker(site.store, "gate") == NEW
    assert watching.looker(site.store, "yard") == ""
    assert [f.number for f in watching.features(site.store, "gate", NEW, 0, 9)] == list(range(151, 160))


def test_audit_answers_that_turn_wrong_raise_an_alarm_and_few_are_collected(site):
    def audited(samples):
        return [s for s in samples if labels.is_audit(s, 0.5)]

    site.label(audited(site.see(40, features=None)))
    site.look()
    assert re.fullmatch(r"gate: collecting audit labels, \d+ of 41", told(site, "audit").detail)
    site.label(audited(site.see(200, features=None)), wrong=0.05)
    site.look()
    assert "audit answers were right" in told(site, "audit").detail
    assert not told(site, "audit").alarm
    site.label(audited(site.see(100, features=None)), wrong=0.6)
    site.look()
    assert told(site, "audit").alarm
    assert re.search(
        r"gate: \d+ of the last \d+ audit answers were wrong, \d+% at most is usual", told(site, "audit").detail
    )


def test_a_class_that_is_always_missed_is_found_behind_a_good_accuracy(site):
    seen = site.see(400, classes=("busy",), features=None)
    with site.store.transaction():
        for i, s in enumerate(seen):
            labels.add(site.store, s, "van" if i % 8 == 0 else "busy", "human", "ann")
    site.look()
    van = told(site, "recall", "van")
    assert van.alarm
    assert van.detail.startswith("gate: 0 of ")
    assert not told(site, "recall", "busy").alarm
    assert "of van were answered so, 0%" in drifts.standing(site.store)[0].sentence


def test_labels_taken_back_take_the_alarm_back(site, clock):
    seen = site.see(60, classes=("busy",), features=None)
    with site.store.transaction():
        for s in seen:
            labels.add(site.store, s, "van", "human", "bob")
    site.look()
    assert drifts.standing(site.store)
    labels.undo_author(site.store, "bob")
    site.label(seen[:50])
    site.look()
    assert [e.class_ for e in drifts.latest(site.store) if e.alarm] == []
    assert drifts.standing(site.store) == []
    assert alarms.DRIFT not in {a.code for a in alarms.standing(site.store)}


@pytest.mark.parametrize("restarted", [False, True])
def test_the_last_label_taken_back_ends_what_labels_alone_had_told(site, restarted):
    seen = site.see(60, classes=("busy",), features=None)
    with site.store.transaction():
        for s in seen:
            labels.add(site.store, s, "van", "human", "bob")
    site.look()
    assert "0 of " in drifts.standing(site.store)[0].sentence
    labels.undo_author(site.store, "bob")
    if restarted:
        site.watch = Watch(site.store, DriftRules(WINDOW, 0.001, 0.5), site.clock)
    for _ in range(3):
        site.look()
    assert drifts.standing(site.store) == []
    assert {e.detail for e in drifts.latest(site.store) if e.test == "recall"} == {
        "gate: the labels of van that told of it were taken back"
    }


@pytest.mark.parametrize("restarted", [False, True])
def test_a_camera_that_says_it_runs_a_new_model_begins_anew_without_a_new_picture(site, restarted):
    site.live(2000)
    site.live(200, margin=0.2)
    assert drifts.standing(site.store)
    if restarted:
        site.watch = Watch(site.store, DriftRules(WINDOW, 0.001, 0.5), site.clock)
    cameras.set_reported(site.store, "gate", Reported("m", 1, OLD, "", "SUCCEEDED"))
    site.look()
    assert drifts.standing(site.store)  # the control: the same model is no new one
    cameras.set_reported(site.store, "gate", Reported("m", 1, NEW, "", "SUCCEEDED"))
    site.look()
    assert drifts.standing(site.store) == []
    site.see(30, model=OLD, ts=site.clock.at - 100)  # the spool of the old one does not bring it back
    site.look()
    assert drifts.standing(site.store) == []
    site.live(40, model=NEW, margin=0.2)
    assert told(site).detail == "gate: collecting answers, 40 of 500"
