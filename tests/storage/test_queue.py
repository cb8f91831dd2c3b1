"""What is asked next: seeded, spread, without near-duplicates, and honest about what was drawn blindly."""

import dataclasses
import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.storage import insights, labels, queue
from edged.storage.insights import Insight
from edged.storage.queue import Candidate
from edged.storage.samples import Sample

SHARE = 0.1


def candidate(n, *, camera="gate", ts=None, margin=0.5, hash=None, frame=None, teacher="", sure=0.0, answer="car"):
    ts = n * 100.0 if ts is None else ts
    s = Sample(f"{camera}:b-{n}:0", camera, frame or f"b-{n}", ts, ts, 0, 0, 9, 9, "m", answer, 0.5, margin, "o")
    return Candidate(s, margin, answer, hash, teacher, sure)


def ids(asked):
    return [a.sample.id for a in asked]


def audited(c):
    return labels.is_audit((c.sample if hasattr(c, "sample") else c).id, SHARE)


def unaudited(n, **options):
    """The first `n` that are not of the audit set."""
    found, i = [], options.pop("start", 0)
    while len(found) < n:
        c = candidate(i, **{k: v(i) if callable(v) else v for k, v in options.items()})
        found += [] if audited(c) else [c]
        i += 1
    return found


def test_the_choice_is_seeded_and_never_repeats():
    candidates = [candidate(n, margin=random.Random(n).random()) for n in range(300)]
    chosen = queue.choose(candidates, 100, 7)
    assert chosen == queue.choose(candidates[::-1], 100, 7)
    assert ids(chosen) != ids(queue.choose(candidates, 100, 8))
    assert len(set(ids(chosen))) == 100


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["gate", "yard"]), st.integers(0, 500), st.floats(0, 1), st.none() | st.integers(-(2**63), 2**63 - 1),
            st.sampled_from(["", "car", "van"]),
        ),
        max_size=80, unique_by=lambda x: x[:2],
    ),
    st.integers(0, 100), st.integers(0, 9), st.sampled_from([0.02, 0.1, 0.5]),
)  # fmt: skip
def test_whatever_waits_is_asked_once_and_the_audit_set_by_lot_alone(rows, limit, seed, share):
    candidates = [candidate(n, camera=c, margin=m, hash=h, teacher=t, sure=m) for c, n, m, h, t in rows]
    chosen = queue.choose(candidates, limit, seed, share=share, drifting=("yard",))
    assert len(chosen) == len(set(ids(chosen))) == min(limit, len(candidates))
    for a in chosen:
        assert labels.is_audit(a.sample.id, share) == (a.lane == "audit")
        assert a.why


def test_one_question_of_ten_is_drawn_by_lot_while_there_are_any():
    candidates = [candidate(n, margin=random.Random(n).random()) for n in range(3000)]
    for seed in range(5):
        lanes = [a.lane for a in queue.choose(candidates, 200, seed)]
        assert lanes.count("audit") == pytest.approx(20, abs=1)
        assert all(
            9 <= b - a <= 11
            for a, b in zip(*[[i for i, x in enumerate(lanes) if x == "audit"][k:] for k in (0, 1)], strict=False)
        )


def test_the_audit_does_not_care_for_margins_or_near_duplicates():
    """All look the same: the audit goes on by lot, else rare looks would weigh more than what cameras mostly see."""
    alike = [candidate(n, margin=n / 3000, hash=5) for n in range(3000)]
    drawn = [a.sample.margin for a in queue.choose(alike, 100, 1) if a.lane == "audit"]
    assert len(drawn) == pytest.approx(10, abs=1)
    assert sum(drawn) / len(drawn) == pytest.approx(0.5, abs=0.2)
    least = [
        a.sample.margin for a in queue.choose(alike, 100, 1) if a.lane != "audit"
    ]  # the control: chosen ones are not
    assert sum(least) / len(least) < 0.1


def test_a_quarter_of_the_choice_are_the_least_sure_and_the_rest_is_spread_over_time_and_cameras():
    # One camera is very unsure for a short while; two others are sure all day.
    unsure = [candidate(n, camera="fog", ts=5000.0 + 10 * n, margin=0.01) for n in range(200)]
    sure = [candidate(n, camera=c, ts=400.0 * n, margin=0.9) for c in ("gate", "yard") for n in range(200)]
    chosen = [a.sample for a in queue.choose(unsure + sure, 100, 1)]
    fog = sum(s.camera == "fog" for s in chosen)
    assert 35 <= fog <= 60
    for camera in ("gate", "yard"):
        times = sorted(s.ts for s in chosen if s.camera == camera)
        assert len(times) >= 10
        assert times[0] < 16_000
        assert times[-1] > 64_000


def test_what_came_since_the_last_labels_is_asked_first_where_the_old_world_is_labelled_well():
    """A day that has a label every 400 s, then a night that has none, as long as a third of it."""
    day, night = unaudited(300, margin=0.9), unaudited(100, margin=0.9, start=400)
    known = {"gate": [200.0 + 400.0 * n for n in range(80)]}
    asked = queue.choose(day + night, 40, 1, known=known)
    assert sum(a.sample.ts >= night[0].sample.ts for a in asked if a.lane == "spread") >= 25
    blind = queue.choose(day + night, 40, 1)  # the control: the share of the night in all that waits
    assert sum(a.sample.ts >= night[0].sample.ts for a in blind if a.lane == "spread") <= 15


def test_among_the_longest_stretches_the_labels_are_spread_evenly():
    line = unaudited(64, margin=0.9)
    asked = queue.choose(line, 30, 3, known={"gate": [], "yard": [7.0]})
    places = sorted(line.index(c) for a in asked if a.lane == "spread" for c in line if c.sample.id == a.sample.id)
    assert max(b - a for a, b in itertools.pairwise([-1, *places, 64])) <= 8


def test_what_no_model_has_answered_is_not_taken_for_what_the_model_is_unsure_of():
    """Crops from before the first model have a margin of 0, since nobody looked."""
    before, since = unaudited(100, margin=0.0, answer=""), unaudited(100, margin=0.4, start=200)
    asked = [a for a in queue.choose(before + since, 40, 1) if a.lane == "margin"]
    assert len(asked) >= 8
    assert {a.why for a in asked} == {"the camera is unsure"}
    first = [a for a in queue.choose(before, 40, 1) if a.lane == "margin"]
    assert {a.why for a in first} == {"no model has an answer yet"}


def test_labels_of_people_that_stand_count_as_known_by_camera_and_time(store, add):
    for n in (3, 1, 2):
        add(store, n, ts=n * 100.0, regions=1)
    labels.add(store, "gate:boot-3:0", "car", "human", "anna")
    labels.add(store, "gate:boot-1:0", "", "human", "anna")
    labels.add(store, "gate:boot-2:0", "car", "teacher", "t", 0.9)
    undone = labels.add(store, "gate:boot-2:0", "car", "human", "anna")
    labels.undo(store, undone, "anna")
    assert queue.labelled(store) == {"gate": [100.0, 300.0]}


def test_teacher_and_camera_disagreeing_is_asked_the_surest_teacher_first():
    agreed = unaudited(200, margin=0.2, teacher="car", sure=0.9)
    apart = unaudited(20, margin=0.9, teacher="van", sure=lambda i: (i % 50) / 50, start=5000)
    chosen = [a for a in queue.choose(agreed + apart, 40, 1) if a.lane == "disagreement"]
    assert len(chosen) == pytest.approx(9, abs=1)
    assert [a.sure for a in chosen] == sorted((c.sure for c in apart), reverse=True)[: len(chosen)]
    assert chosen[0].why == "the teacher says van, the camera car"


def test_a_camera_whose_world_changed_is_asked_about_newest_first():
    calm = unaudited(200, margin=0.1)
    changed = unaudited(50, camera="yard", margin=0.9)
    chosen = queue.choose(calm + changed, 40, 1, drifting=("yard",))
    newest = [a.sample.ts for a in chosen if a.lane == "drift"]
    assert len(newest) == pytest.approx(9, abs=1)
    assert newest == sorted(newest, reverse=True)
    assert "drift" not in {a.lane for a in queue.choose(calm + changed, 40, 1)}


def test_near_duplicates_in_time_come_only_when_nothing_else_is_left():
    burst = unaudited(10, ts=lambda i: 1000.0 + i * 0.1, margin=0.01)
    others = unaudited(5, ts=lambda i: 5000.0 + i * 60, margin=0.8, start=100)
    chosen = queue.choose(burst + others, 6, 1)
    assert sum(a.sample.ts < 1100 for a in chosen) == 1
    assert len(queue.choose(burst + others, 100, 1)) == 15
    assert queue.choose([], 5, 1) == []


def test_what_looks_the_same_is_asked_once_however_far_apart_in_time():
    parked = unaudited(50, margin=0.01, hash=lambda i: 0b111 << (i % 2))
    others = unaudited(9, margin=0.8, hash=lambda i: random.Random(i).getrandbits(64) - 2**63, start=1000)
    chosen = queue.choose(parked + others, 10, 1)
    assert sum(a.sample.margin < 0.1 for a in chosen) == 1
    by_time_alone = queue.choose([candidate(n, margin=0.01) for n in range(50)] + others, 10, 1)  # the control
    assert sum(a.sample.margin < 0.1 for a in by_time_alone) > 1


def test_two_regions_of_one_frame_are_told_apart_by_their_looks_alone():
    a, b = unaudited(2, ts=7.0, frame="f", hash=lambda i: -(i % 2) & 0xFFFF_FFFF)
    c, d = unaudited(2, ts=7.0, frame="f")
    assert {x.lane for x in queue.choose([a, b], 2, 1)} <= {"margin", "spread"}
    assert "rest" in {x.lane for x in queue.choose([c, d], 2, 1)}


def test_the_surveys_margin_and_answer_count_where_there_are_any_and_the_cameras_where_not(store, add):
    for n in range(3):
        add(store, n, ts=n * 100.0, regions=1, margin=0.6)
    insights.add_many(store, [Insight("gate:boot-0:0", 77, "m2", "van", 0.9, 0.05), Insight("gate:boot-1:0", 78)])
    labels.add(store, "gate:boot-2:0", "bus", "teacher", "t", 0.9)
    found = {c.sample.id[-3]: (c.margin, c.answer, c.hash, c.teacher, c.sure) for c in queue.candidates(store)}
    assert found == {
        "0": (0.05, "van", 77, "", 0.0), "1": (0.6, "car", 78, "", 0.0), "2": (0.6, "car", None, "bus", 0.9),
    }  # fmt: skip


def test_a_doubt_is_told_of_the_model_that_has_it(store, add):
    """A camera that runs no model has no answer to be unsure of: the doubt is that of the box's own survey."""
    for n in range(4):
        add(store, n, regions=1)
    insights.add_many(store, [Insight("gate:boot-0:0", 77, "m2", "van", 0.9, 0.05), Insight("gate:boot-1:0", 78)])
    labels.add(store, "gate:boot-0:0", "bus", "teacher", "t", 0.9)
    found = {c.sample.id: c for c in queue.candidates(store)}
    assert (found["gate:boot-0:0"].who, found["gate:boot-1:0"].who) == ("the model on the box", "the camera")
    why = {a.sample.id: a.why for a in queue.choose([dataclasses.replace(c, teacher="") for c in found.values()], 4)}
    assert why["gate:boot-0:0"] == "the model on the box is unsure"
    (apart,) = (a for a in queue.disagreements([found["gate:boot-0:0"]], 1))
    assert apart.why == "the teacher says bus, the model on the box van"
    unsure = queue.choose(unaudited(2), 1)
    assert unsure[0].why == "the camera is unsure"  # the control


def test_a_teachers_word_that_was_taken_back_is_not_told(store, add):
    add(store, 1, regions=1)
    labels.add(store, "gate:boot-1:0", "bus", "teacher", "t", 0.9)
    labels.undo_author(store, "t")
    assert [(c.teacher, c.sure) for c in queue.candidates(store)] == [("", 0.0)]


def test_the_queue_shrinks_as_labels_come_and_grows_back_on_undo(store, add):
    for n in range(5):
        add(store, n, ts=n * 100.0, regions=1)
    asked = labels.queue(store, 3)
    assert len({s.id for s in asked}) == 3
    given = labels.add(store, asked[0], "car", "human", "anna")
    assert asked[0].id not in {s.id for s in labels.queue(store, 10)}
    assert len(labels.queue(store, 10)) == 4
    labels.undo(store, given, "anna")
    assert len(labels.queue(store, 10)) == 5
    store.execute("update sample set object = null where id = ?", (asked[1].id,))
    assert asked[1].id not in {s.id for s in labels.queue(store, 10)}


def test_of_a_large_store_the_whole_day_is_looked_through_and_what_is_left_is_found(store, add, clock, monkeypatch):
    monkeypatch.setattr(queue, "NEWEST", 5)
    monkeypatch.setattr(queue, "DAY_OLD", 10)
    monkeypatch.setattr(queue, "OLDER", 4)
    start = clock.now()
    for n in range(60):
        clock.at = start + n * 3600
        add(store, n, regions=1)
    seen = {c.sample.received for c in queue.candidates(store)}
    assert len(seen) == 20
    assert sum(r > clock.at - 5 * 3600 for r in seen) == 5
    assert sum(r >= clock.at - 86400 for r in seen) == 15 + 1
    for n in range(1, 60):
        labels.add(store, f"gate:boot-{n}:0", "car", "human", "anna")
    assert ids(queue.ask(store, 3)) == ["gate:boot-0:0"]


def test_the_list_of_disagreements_holds_no_audit_sample_and_no_near_duplicates():
    apart = [candidate(n, teacher="van", sure=n / 200, hash=random.Random(n).getrandbits(63)) for n in range(100)]
    alike = [candidate(n, teacher="van", sure=1.0, hash=-1) for n in range(1000, 1050)]
    found = queue.disagreements([*apart, *alike, *unaudited(3, start=2000, teacher="car", sure=1.0)], 8)
    assert len(found) == 8
    assert sum(a.hash == -1 for a in found) == 1
    assert not any(audited(a) for a in found)
    assert all(a.teacher == "van" for a in found)


def test_of_the_least_sure_those_come_first_that_cover_them_best(store, add):
    """Nine of ten unsure crops show one thing; the few others are asked among the first, without features they are not."""
    directions = {}
    for n in range(120):
        add(store, n, ts=n * 100.0, regions=1, margin=0.9)
        turn = 1.5 if n % 12 == 5 else 0.02 * (n % 3)
        directions[f"gate:boot-{n}:0"] = np.array([math.cos(turn), math.sin(turn)], "<f2").tobytes()
    rng = random.Random(2)
    seen = [
        Insight(s, rng.getrandbits(63), "m2", "car", 0.6, 0.3 if n % 12 == 5 else 0.1, look)
        for n, (s, look) in enumerate(directions.items())
    ]
    insights.add_many(store, seen)

    def rare(asked):
        return sum(int(a.sample.frame.split("-")[1]) % 12 == 5 for a in asked if a.lane == "margin")

    found = queue.candidates(store)
    covered = queue.cover(store, found, 30)
    assert int(covered[1].split("-")[1].split(":")[0]) % 12 == 5
    assert len(covered) == len(set(covered))
    assert rare(queue.ask(store, 30, 1)) >= 1
    assert rare(queue.choose(found, 30, 1)) == 0  # the control: by margin alone
    insights.add_many(store, [dataclasses.replace(i, features=None) for i in seen])
    assert queue.cover(store, queue.candidates(store), 30) == []


def test_what_the_survey_has_not_reached_is_among_the_least_sure_by_the_cameras_margin(store, add):
    """Night has just fallen: the camera is unsure, the box has looked at the day alone."""
    for n in range(200):
        add(store, n, ts=n * 100.0, regions=1, margin=0.1 if n >= 150 else 0.9)
    look = np.array([1.0, 0.0], "<f2").tobytes()
    day = [Insight(f"gate:boot-{n}:0", n << 40, "m2", "car", 0.9, 0.8, look) for n in range(150)]
    insights.add_many(store, day)

    def night(asked):
        return [int(a.sample.frame.split("-")[1]) >= 150 for a in asked if a.lane == "margin"]

    covered = queue.cover(store, queue.candidates(store), 40)
    among = [int(s.split("-")[1].split(":")[0]) >= 150 for s in covered]
    assert sum(among[:60]) >= 12
    found = night(queue.ask(store, 60, 1))
    assert sum(found) >= len(found) // 5 > 0
    sure = [
        dataclasses.replace(c, answer="") if int(c.sample.frame.split("-")[1]) >= 150 else c
        for c in queue.candidates(store)
    ]
    assert not any(int(s.split("-")[1].split(":")[0]) >= 150 for s in queue.cover(store, sure, 40))  # the control


def test_farthest_first_takes_every_row_once_and_the_farthest_next():
    rows = np.array([[1, 0], [1, 0.01], [0, 1], [-1, 0], [0, 0], [1, 0]], np.float32)
    order = queue.farthest_first(rows)
    assert sorted(order) == list(range(6))
    assert order[:3] == [0, 3, 2]
    assert queue.farthest_first(np.zeros((0, 0), np.float32)) == []
    broken = np.array([[np.nan, 1], [np.inf, 0], [1, 0], [0, 1], [-np.inf, np.nan]], np.float32)
    assert sorted(queue.farthest_first(broken)) == list(range(5))
