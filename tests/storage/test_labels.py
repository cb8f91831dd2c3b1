import random

import pytest

from edged.errors import Refused
from edged.storage import audit, labels, samples
from edged.storage.samples import Sample


def sample(n, *, camera="gate", ts=None, margin=0.5):
    ts = n * 100.0 if ts is None else ts
    return Sample(f"{camera}:b-{n}:0", camera, f"b-{n}", ts, ts, 0, 0, 9, 9, "m", "car", 0.5, margin, "o")


def test_the_newest_label_counts_until_it_is_undone(store, add):
    add(store, 1, regions=1)
    labels.add(store, "gate:boot-1:0", "car", "human", "anna")
    second = labels.add(store, samples.get(store, "gate:boot-1:0"), "van", "human", "anna")
    assert [(s.id, c) for s, c in labels.effective(store)] == [("gate:boot-1:0", "van")]
    assert labels.undo(store, second, "anna") == "gate:boot-1:0"
    assert [c for _, c in labels.effective(store)] == ["car"]
    assert [(label.class_, label.undone is None) for label in labels.of(store, "gate:boot-1:0")] == [
        ("van", False), ("car", True),
    ]  # fmt: skip


def test_sources_are_kept_apart_and_the_one_named_first_wins(store, add):
    for n in (1, 2):
        add(store, n, regions=1)
        labels.add(store, f"gate:boot-{n}:0", "bus", "teacher", "teacher-1")
    labels.add(store, "gate:boot-1:0", "car", "human", "anna")
    labels.add(store, "gate:boot-1:0", "van", "teacher", "teacher-1")
    assert [c for _, c in labels.effective(store)] == ["car"]
    assert [c for _, c in labels.effective(store, ("human", "teacher"))] == ["car", "bus"]
    assert [c for _, c in labels.effective(store, ("teacher", "human"))] == ["van", "bus"]
    assert (labels.count(store), labels.count(store, "teacher")) == (1, 3)


def test_cannot_say_leaves_the_queue_and_never_trains(store, add):
    add(store, 1, regions=1)
    labels.add(store, "gate:boot-1:0", "", "human", "anna")
    labels.add(store, "gate:boot-1:0", "car", "teacher", "t")
    assert labels.queue(store, 10) == []
    assert labels.effective(store, ("human", "teacher")) == []
    assert labels.accuracy(store, None, 0, 1e12) == (0, 0)


def test_only_the_author_takes_a_label_back(store, add):
    add(store, 1, regions=2)
    mine = labels.add(store, "gate:boot-1:0", "car", "human", "anna")
    labels.add(store, "gate:boot-1:1", "car", "human", "anna")
    with pytest.raises(Refused) as e:
        labels.undo(store, mine, "ben")
    assert e.value.code == "not_yours"
    assert labels.undo_author(store, "anna") == 2
    assert labels.effective(store) == []
    assert audit.rows(store)[0].act == "label.undo"


def test_a_label_for_nothing_or_from_nowhere_is_refused(store, add):
    add(store, 1)
    with pytest.raises(Refused) as e:
        labels.add(store, "gate:boot-9:0", "car", "human", "anna")
    assert e.value.exit_code == 4
    with pytest.raises(Refused):
        labels.add(store, "gate:boot-1:0", "car", "rumour", "anna")
    with pytest.raises(Refused):
        labels.undo(store, 99, "anna")


def test_an_import_is_all_or_nothing_and_audited(store, add):
    add(store, 1)
    with pytest.raises(Refused):
        labels.add_many(store, [("gate:boot-1:0", "car"), ("gate:boot-7:0", "car")], "human", "anna")
    assert (labels.count(store), audit.verify(store)) == (0, 0)
    assert labels.add_many(store, [("gate:boot-1:0", "car"), ("gate:boot-1:1", "van")], "human", "anna") == 2
    assert (labels.count(store), audit.verify(store)) == (2, 1)


def test_accuracy_counts_the_cameras_answers_against_people_by_camera_time_and_model(store, add, clock):
    start = clock.now()
    for n, (camera, said, truth, model) in enumerate(
        [
            ("gate", "car", "car", "old"),
            ("gate", "car", "van", "old"),
            ("gate", "van", "van", "new"),
            ("yard", "car", "van", "old"),
        ]
    ):
        clock.at = start + n
        add(store, n, camera=camera, label=said, model=model, regions=1)
        labels.add(store, f"{camera}:boot-{n}:0", truth, "human", "anna")
        labels.add(store, f"{camera}:boot-{n}:0", "bus", "teacher", "t")
    add(store, 9, label="", regions=1)  # the camera had no model
    labels.add(store, "gate:boot-9:0", "car", "human", "anna")
    assert labels.accuracy(store, None, 0, 1e12) == (2, 4)
    assert labels.accuracy(store, "gate", 0, 1e12) == (2, 3)
    assert labels.accuracy(store, "gate", start + 1, start + 2) == (0, 1)
    assert labels.accuracy(store, "gate", 0, 1e12, "new") == (1, 1)
    assert labels.accuracy(store, "nobody", 0, 1e12) == (0, 0)


def test_the_queue_shrinks_as_labels_come_and_grows_back_on_undo(store, add, clock):
    for n in range(5):
        add(store, n, ts=n * 100.0, regions=1)
    asked = labels.queue(store, 3)
    assert len({s.id for s in asked}) == 3
    given = labels.add(store, asked[0], "car", "human", "anna")
    assert asked[0].id not in {s.id for s in labels.queue(store, 10)}
    assert len(labels.queue(store, 10)) == len(samples.unlabelled(store)) == 4
    labels.undo(store, given, "anna")
    assert len(labels.queue(store, 10)) == 5
    store.execute("update sample set object = null where id = ?", (asked[1].id,))
    assert asked[1].id not in {s.id for s in labels.queue(store, 10)}


def test_the_choice_is_seeded_and_never_repeats():
    candidates = [sample(n, margin=random.Random(n).random()) for n in range(300)]
    chosen = labels.choose(candidates, 100, 7, 2.0)
    assert chosen == labels.choose(candidates[::-1], 100, 7, 2.0)
    assert chosen != labels.choose(candidates, 100, 8, 2.0)
    assert len({s.id for s in chosen}) == 100


def test_about_half_of_the_choice_are_the_least_sure_and_the_rest_is_spread_over_time_and_cameras():
    # One camera is very unsure for a short while; two others are sure all day.
    unsure = [sample(n, camera="fog", ts=5000.0 + 10 * n, margin=0.01) for n in range(200)]
    sure = [sample(n, camera=c, ts=400.0 * n, margin=0.9) for c in ("gate", "yard") for n in range(200)]
    chosen = labels.choose(unsure + sure, 100, 1, 2.0)
    fog = sum(s.camera == "fog" for s in chosen)
    assert 50 <= fog <= 75
    for camera in ("gate", "yard"):
        times = sorted(s.ts for s in chosen if s.camera == camera)
        assert len(times) >= 10
        assert times[0] < 16_000
        assert times[-1] > 64_000


def test_one_of_ten_is_drawn_blindly_so_that_sure_samples_are_audited_too():
    # A spread by time alone would find camera "b" too, so there is one camera and one moment: only chance finds the sure.
    rng = random.Random(3)
    candidates = [sample(n, ts=n * 10.0, margin=rng.random()) for n in range(2000)]
    picks = [labels.choose(candidates, 1, seed, 2.0)[0] for seed in range(200)]
    least_sure = min(candidates, key=lambda s: s.margin)
    blind = [p for p in picks if p.id != least_sure.id]
    assert 5 <= len(blind) <= 40
    assert len({p.id for p in blind}) > len(blind) // 2


def test_near_duplicates_in_time_come_only_when_nothing_else_is_left():
    burst = [sample(n, ts=1000.0 + n * 0.1, margin=0.01) for n in range(10)]
    others = [sample(100 + n, ts=5000.0 + n * 60, margin=0.8) for n in range(5)]
    chosen = labels.choose(burst + others, 6, 1, 2.0)
    assert sum(s in burst for s in chosen) == 1
    assert len(labels.choose(burst + others, 100, 1, 2.0)) == 15
    assert labels.choose([], 5, 1, 2.0) == []
