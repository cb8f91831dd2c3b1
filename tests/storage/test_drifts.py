"""What the drift tests said, and which cameras stand under an alarm."""

from edged.storage import drifts
from edged.storage.drifts import Evaluation


def look(camera="gate", test="confidence", score=0.2, alarm=False, detail="as before", **more):
    return Evaluation(camera, test, "m" * 64, 500, score, 0.5, alarm, detail, **more)


def test_a_store_without_evaluations_has_no_drift(store):
    assert drifts.standing(store) == []
    assert drifts.latest(store) == []
    assert drifts.cameras(store) == []


def test_a_drift_stands_from_its_first_alarm_until_a_look_without(store, clock):
    drifts.add(store, [look()])
    clock.at += 60
    drifts.add(store, [look(score=1.4, alarm=True, detail="answers differ"), look("yard", score=0.1)])
    began = clock.at
    clock.at += 60
    drifts.add(store, [look(score=1.9, alarm=True, detail="answers differ more")])
    assert drifts.standing(store) == [("gate", began, 1.9, "answers differ more")]
    drifts.add(store, [look(score=0.3)])
    assert drifts.standing(store) == []


def test_the_strongest_of_several_tests_speaks_and_the_earliest_dates(store, clock):
    drifts.add(store, [look(score=1.1, alarm=True, detail="answers")])
    began = clock.at
    clock.at += 5
    drifts.add(store, [look(test="recall", score=2.0, alarm=True, detail="busy is missed", class_="busy")])
    assert drifts.standing(store) == [("gate", began, 2.0, "busy is missed")]
    drifts.add(store, [look(test="recall", score=0.5, class_="free")])  # another class says nothing about this one
    assert len(drifts.standing(store)) == 1


def test_old_evaluations_go_but_not_the_one_that_began_the_drift(store, clock, monkeypatch):
    monkeypatch.setattr(drifts, "KEPT", 20)
    drifts.add(store, [look(test="audit")])
    for i in range(60):
        clock.at += 1
        drifts.add(store, [look(score=1.5 if i > 5 else 0.1, alarm=i > 5)])
    kept = drifts.history(store, "gate")
    assert len(kept) == 22  # and the only word of the audit
    assert drifts.standing(store)[0].since == clock.at - 53
    assert [e.ts for e in kept] == sorted(e.ts for e in kept)
    drifts.add(store, [look("yard")])
    assert len(drifts.history(store, "gate")) == 22
