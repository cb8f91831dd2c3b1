"""What people say now against what the champion learned."""

import pytest

from edged.storage import labels, overturned, snapshots
from edged.storage.overturned import Overturned

N = 40


@pytest.fixture
def learned(store, add):
    """Samples and a snapshot as anna labelled them, "car" all."""
    for n in range(N):
        add(store, n, regions=1)
    ids = [f"gate:boot-{n}:0" for n in range(N)]
    labels.add_many(store, [(s, "car") for s in ids], "human", "anna")
    body = snapshots.build(labels.effective(store), ["car", "van"], holdout_ratio=0.2, block_s=60.0, seed=1)
    return ids, snapshots.add(store, body)


def test_labels_that_contradict_what_was_learned_are_counted_by_author(store, learned):
    ids, snapshot = learned
    assert overturned.since(store, snapshot) == Overturned(0, N, {})
    labels.add_many(store, [(s, "van") for s in ids[:15]], "human", "mallory")
    labels.add_many(store, [(s, "van") for s in ids[15:21]], "human", "ben")
    found = overturned.since(store, snapshot)
    assert found == Overturned(21, N, {"mallory": 15, "ben": 6})
    assert found.told == "21 of 40 labels that the present model learned now say another class: 15 by mallory, 6 by ben"
    labels.undo_author(store, "ben")
    assert overturned.since(store, snapshot).told == ""  # 15 are too few to be surprised


def test_what_was_learned_from_labels_that_were_taken_back_contradicts_nothing(store, learned):
    """Else a site that undid the wrong labels could not learn the right ones again."""
    ids, _ = learned
    labels.add_many(store, [(s, "van") for s in ids], "human", "mallory")
    body = snapshots.build(labels.effective(store), ["car", "van"], holdout_ratio=0.2, block_s=60.0, seed=1)
    wrong = snapshots.add(store, body)
    assert overturned.since(store, wrong).n == 0
    labels.undo_author(store, "mallory")
    assert {c for _, c in labels.effective(store)} == {"car"}
    assert overturned.since(store, wrong).n == 0


def test_a_person_who_corrects_the_teacher_contradicts_nobody(store, learned):
    ids, snapshot = learned
    body = {**snapshots.get(store, snapshot)}
    body["teacher"] = sorted(s for s, _ in body["train"])
    taught = snapshots.add(store, body)
    labels.add_many(store, [(s, "van") for s in ids], "human", "ben")
    found = overturned.since(store, taught)
    assert found.of == N - len(body["train"]) == found.n
    assert overturned.since(store, "").of == 0
