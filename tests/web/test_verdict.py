"""The sentence at the top of the page: the most urgent thing first, nothing that is wrong left out."""

import dataclasses

import pytest

from edged.storage.alarms import Alarm
from edged.storage.cycles import STAGES
from edged.storage.deliveries import DeliveryRow
from edged.storage.views import CycleView, Now, ReleaseView, Rung, Score
from edged.web.verdict import falling, judge, sentence

AT = 1000.0


def delivery(camera, status):
    return DeliveryRow(2, camera, status, 1.0, "", AT, AT)


RELEASE = ReleaseView(
    2, "street", "complete", 276_000, AT, AT, "", (delivery("a", "SUCCEEDED"), delivery("b", "SUCCEEDED"))
)
CALM = Now(
    at=AT, cameras=2, online=2, offline=(), samples=900, labels=300, cycle=None, asked=False, release=RELEASE, running=2,
    recent=Score(38, 40), before=Score(150, 160), withheld=0, withheld_why="",
)  # fmt: skip


def facts(**changes):
    return dataclasses.replace(CALM, **changes)


def cycle(state, detail="", running="", progress=0.0, eta=None):
    rungs = tuple(Rung(s, "running" if s == running else "waiting", AT, None, progress, eta, "") for s in STAGES)
    return CycleView(3, state, "asked for", detail, AT, None if state == "running" else AT, rungs)


def test_all_is_well():
    assert sentence(CALM) == (
        "Good. 2 of 2 cameras online; all run release 2 and were right on 95 % of the last 40 labelled samples."
    )
    assert judge(CALM).level == "good"


def test_before_the_first_camera():
    assert sentence(facts(cameras=0, online=0, release=None)) == "Waiting. No camera has spoken yet."


def test_a_configured_camera_that_never_spoke_is_named_and_counted():
    verdict = judge(facts(online=1, silent=("gate",)), {"gate": "Front gate"})
    assert verdict.sentence == "Waiting. 1 of 2 cameras online; Front gate has not spoken yet."
    assert (verdict.level, verdict.reasons) == ("warn", ())
    both = judge(facts(cameras=3, online=0, offline=(("a", AT - 20),), silent=("gate", "yard")))
    assert both.word == "Blind"
    assert [r.text for r in both.reasons] == ["gate and yard have not spoken yet"]


def test_while_no_configured_camera_has_spoken_they_are_named():
    assert sentence(facts(cameras=2, online=0, release=None, silent=("gate", "yard"))) == (
        "Waiting. No camera has spoken yet: gate and yard are awaited."
    )


LEAK = Alarm("privacy_leak", "1 of the last 2 easy planted faces leaked", AT - 60)
SILENCE = Alarm("privacy_unmeasured", "no planted picture came back for 31 minutes", AT - 60)


def test_a_leak_comes_before_everything():
    away = facts(alarms=(SILENCE, LEAK), online=0, offline=(("a", AT - 60), ("b", AT - 90)))
    verdict = judge(away)
    assert (verdict.level, verdict.word) == ("bad", "Leaking")
    assert verdict.sentence == "Leaking. 0 of 2 cameras online; 1 of the last 2 easy planted faces leaked."
    assert [r.word for r in verdict.reasons] == ["Blind", "Unmeasured"]
    assert verdict.reasons[1].section == "privacy"


def test_a_leak_is_said_before_the_first_camera_too():
    verdict = judge(facts(cameras=0, online=0, release=None, alarms=(LEAK,)))
    assert verdict.sentence == "Leaking. 1 of the last 2 easy planted faces leaked."
    assert [r.word for r in verdict.reasons] == ["Waiting"]


def test_that_nobody_knows_what_leaks_is_said():
    verdict = judge(facts(alarms=(SILENCE,)))
    assert (verdict.level, verdict.word) == ("warn", "Unmeasured")


def test_an_alarm_that_the_page_does_not_know_breaks_nothing():
    assert sentence(facts(alarms=(Alarm("of-a-newer-edged", "something", AT),))) == sentence(CALM)


def test_without_a_model_it_collects():
    text = sentence(facts(release=None, running=0, recent=Score(0, 0), before=Score(0, 0), samples=40, labels=1))
    assert text == "Collecting. 2 of 2 cameras online; there is no model yet: 40 regions and 1 label so far."


def test_a_running_cycle_says_its_stage_and_what_is_left():
    text = sentence(facts(cycle=cycle("running", running="train", progress=0.64, eta=20)))
    assert text == "Learning. 2 of 2 cameras online; the cycle is training (64 %, 20 s left)."


def test_a_cycle_between_two_stages_claims_none():
    assert "the cycle is between two stages" in sentence(facts(cycle=cycle("running")))


def test_a_request_that_waits():
    assert sentence(facts(asked=True)).startswith("Starting. ")


def test_one_camera_away_is_named_with_how_long():
    verdict = judge(facts(online=1, offline=(("dock", AT - 180),)), {"dock": "Dock 4"})
    assert verdict.sentence == "Partly blind. 1 of 2 cameras online; Dock 4 has been away for 3 min."
    assert verdict.level == "warn"


def test_no_camera_there_comes_before_a_running_cycle():
    verdict = judge(facts(online=0, offline=(("a", AT - 50), ("b", AT - 20)), cycle=cycle("running", running="gate")))
    assert verdict.sentence == "Blind. No camera is online; the last was heard of 20 s ago."
    assert verdict.level == "bad"
    assert [r.word for r in verdict.reasons] == ["Learning"]


def test_learning_does_not_hide_that_accuracy_fell():
    verdict = judge(facts(cycle=cycle("running", running="train"), recent=Score(28, 40)))
    assert verdict.word == "Learning"
    assert verdict.level == "warn"
    assert [r.text for r in verdict.reasons] == ["accuracy fell from 94 % to 70 % (last 40 labelled samples)"]


def test_a_cycle_that_never_came_to_the_gate():
    text = sentence(facts(cycle=cycle("refused", "one class only (free).")))
    assert (
        text == "Holding. 2 of 2 cameras online; the last cycle made no model: one class only (free); release 2 stays."
    )


def test_refused_candidates_and_what_stays():
    judged = cycle("refused", "24 frames/s, 30 are needed")
    judged = dataclasses.replace(
        judged, rungs=tuple(dataclasses.replace(r, state="done") if r.name == "gate" else r for r in judged.rungs)
    )
    text = sentence(facts(cycle=judged))
    assert text == "Holding. 2 of 2 cameras online; the gate refused the last candidates; release 2 stays."


def test_a_failed_cycle_says_why():
    verdict = judge(facts(cycle=cycle("failed", "the training child was killed.")))
    assert verdict.sentence == "Stuck. 2 of 2 cameras online; the last cycle failed: the training child was killed."
    assert verdict.level == "bad"


def test_what_a_release_runs_on_is_what_the_cameras_run():
    """As the tile beside it and the cameras' cards say, whatever stands in its deliveries."""
    rolling = dataclasses.replace(RELEASE, state="rolling", deliveries=(delivery("a", "IN_PROGRESS"),))
    assert "release 2 runs on 1 of 2 cameras" in sentence(facts(release=rolling, running=1))


def test_a_halted_rollout_comes_before_everything_but_blindness():
    halted = dataclasses.replace(RELEASE, state="halted", detail="canary a: FAILED")
    verdict = judge(facts(release=halted, cycle=cycle("running", running="train")))
    assert verdict.sentence == "Halted. 2 of 2 cameras online; release 2 was halted: canary a: FAILED."
    assert verdict.level == "bad"


def test_a_rollout_counts_the_cameras_that_have_it():
    rolling = dataclasses.replace(
        RELEASE, state="rolling", deliveries=(delivery("a", "SUCCEEDED"), delivery("b", "QUEUED"))
    )
    assert (
        sentence(facts(release=rolling, running=1))
        == "Rolling out. 2 of 2 cameras online; release 2 runs on 1 of 2 cameras."
    )


def test_the_verb_goes_with_how_many_run_it():
    assert sentence(facts(running=1)).startswith("Good. 2 of 2 cameras online; 1 of them runs release 2")
    assert "2 of them run release 2" in sentence(facts(cameras=3, online=3, running=2))


def test_withheld_frames_are_said():
    text = sentence(facts(withheld=12, withheld_why="timeout"))
    assert text.startswith("Careful. 2 of 2 cameras online; 12 frames withheld in the last 10 minutes")
    assert "(timeout)" in text


@pytest.mark.parametrize(
    ("recent", "before", "falls"),
    [
        (Score(28, 40), Score(150, 160), True),
        (Score(10, 15), Score(150, 160), False),  # too few to say
        (Score(28, 40), Score(15, 16), False),
        (Score(36, 40), Score(150, 160), False),  # 90 % of 40 after 94 %: chance
        (Score(40, 40), Score(80, 160), False),
        (Score(0, 0), Score(0, 0), False),
    ],
)
def test_a_fall_is_large_and_more_than_chance(recent, before, falls):
    assert falling(recent, before) is falls
