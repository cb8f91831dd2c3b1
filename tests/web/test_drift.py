"""The section Drift: timelines, words and numbers, and crops only of a camera that drifts."""

import re

from prometheus_client.parser import text_string_to_metric_families as families

from edged.storage import alarms, cycles, drift_views, drifts
from edged.storage.drifts import Evaluation
from edged.web import driftplot
from tests.web.conftest import NOON


def look(camera="north", test="confidence", score=0.2, alarm=False, detail=None, p=0.4, **more):
    return Evaluation(camera, test, "m" * 64, 500, score, p, alarm, detail or f"{camera}: as they were", **more)


def a_past(store, clock, drifting=True):
    for i in range(40):
        clock.at += 600
        drifts.add(store, [look(score=0.1 + 0.01 * i), look("south"), look(test="features", score=0.3)])
    if drifting:
        clock.at += 600
        said = (
            "north: answers differ from those of 14-16 November: median margin 0.41, before 0.83; p < 0.001 in 2 blocks"
        )
        drifts.add(store, [look(score=1.6, alarm=True, detail=said, p=1e-5)])


def test_without_any_look_it_says_what_it_waits_for(client):
    assert "No camera was looked at yet" in client.get("/drift").text


def test_a_drifting_camera_comes_first_with_its_sentence_table_and_crops(client, store, clock, past, plain):
    past.meet("north", "south")
    past.frame("north", plain, model="m" * 64)
    a_past(store, clock)
    text = client.get("/drift").text
    assert text.index("North gate") < text.index("South gate")
    assert "median margin 0.41, before 0.83; p &lt; 0.001 in 2 blocks" in text
    assert len(re.findall(r'<img src="/crop/north:', text)) == 2
    assert "/crop/south:" not in text
    assert "1.60" in text
    assert "<svg" in text
    assert client.get("/").text.count('id="drift"') == 1


def test_collecting_and_steady_cameras_are_told_apart(client, store):
    drifts.add(
        store, [look("north", detail="north: collecting answers, 120 of 2500", p=None, score=0.0), look("south")]
    )
    text = client.get("/drift").text
    assert "North: collecting answers, 120 of 2500" in text
    assert "collecting" in text
    assert "as before" in text


def test_names_and_sentences_stay_text(client, store):
    drifts.add(store, [look("x", detail="<script>alert(1)</script>", class_="<b>")])
    assert "<script>alert" not in client.get("/drift").text
    assert "<b>" not in client.get("/drift").text


def test_cycles_and_releases_are_marked_inside_the_frame(store, clock):
    a_past(store, clock, drifting=False)
    cycles.start(store, "drift")
    clock.at += 60
    drifts.add(store, [look(score=9.0)])
    (camera, _) = drift_views.drift(store)
    assert [m.text for m in camera.marks] == ["cycle 1"]
    for width in (860, 350):
        t = driftplot.timeline(camera, width, 160)
        numbers = [tuple(map(float, p.split(","))) for line in t.lines for p in re.findall(r"[ML](\S+)", line.path)]
        assert all(t.left <= x <= t.right and t.top <= y <= t.bottom for x, y in numbers)
        assert t.top < t.line < t.bottom


def test_a_long_past_is_thinned_without_losing_its_peak(store, clock):
    for i in range(400):
        clock.at += 1
        drifts.add(store, [look(score=3.0 if i == 171 else 0.1)])
    (camera,) = drift_views.drift(store)
    assert len(camera.lines["confidence"]) <= drift_views.POINTS
    assert max(s for _, s in camera.lines["confidence"]) == 3.0
    assert camera.start == NOON + 1


def test_metrics_give_the_highest_score_of_each_test_and_who_drifts(client, store, clock):
    a_past(store, clock)
    drifts.add(store, [look(score=0.7, class_="vehicle")])
    alarms.sound(store, alarms.DRIFT, "north drifts")
    told = {f.name: f for f in families(client.get("/metrics").text)}
    scores = {(s.labels["camera"], s.labels["test"]): s.value for s in told["edged_drift_score"].samples}
    assert scores["north", "confidence"] == 1.6
    assert {s.labels["camera"]: s.value for s in told["edged_drift_alarm"].samples} == {"north": 1.0, "south": 0.0}
    assert any(s.labels["code"] == "drift" and s.value for s in told["edged_health_reason"].samples)
