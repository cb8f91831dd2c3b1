"""What the survey saw: written, found, and gone with the picture."""

import struct

import pytest

from edged.storage import (
    check,
    copies,
    disk,
    erasure,
    insights,
    labels,
    objects,
    overwrite,
    pruning,
    recover,
    retention,
)
from edged.storage.erasure import What
from edged.storage.insights import Insight


def seen(sample, model="m1", hash_=7, features=(1.0, -2.0)):
    return Insight(sample, hash_, model, "car", 0.9, 0.8, struct.pack(f"<{len(features)}e", *features))


def test_an_insight_is_read_back_as_it_was_written(store, add, clock):
    add(store)
    assert (
        insights.add_many(store, [seen("gate:boot-1:0", hash_=-(2**63)), seen("gate:boot-1:1", hash_=2**63 - 1)]) == 2
    )
    found = insights.of(store, ["gate:boot-1:0", "gate:boot-1:1", "gate:none:0"])
    assert found["gate:boot-1:0"] == Insight(
        "gate:boot-1:0", -(2**63), "m1", "car", 0.9, 0.8, struct.pack("<2e", 1, -2), clock.now()
    )
    assert insights.hashes(store) == {"gate:boot-1:0": -(2**63), "gate:boot-1:1": 2**63 - 1}
    assert insights.hashes(store, ["gate:boot-1:1"]) == {"gate:boot-1:1": 2**63 - 1}


def test_another_model_writes_over_what_the_last_one_saw(store, add):
    add(store)
    insights.add_many(store, [seen("gate:boot-1:0")])
    insights.add_many(store, [seen("gate:boot-1:0", model="m2", features=(3.0,))])
    assert insights.of(store, ["gate:boot-1:0"])["gate:boot-1:0"].model == "m2"
    assert insights.features(store, ["gate:boot-1:0"], "m1")[0] == []
    ids, found = insights.features(store, ["gate:boot-1:0"], "m2")
    assert ids == ["gate:boot-1:0"]
    assert found.tolist() == [[3.0]]


def test_features_come_in_the_order_asked_for_and_only_of_one_model(store, add):
    add(store, 1)
    add(store, 2)
    insights.add_many(store, [seen("gate:boot-1:0", features=(1, 2)), seen("gate:boot-2:0", features=(3, 4))])
    insights.add_many(store, [seen("gate:boot-2:1", model="m2", features=(5,))])
    insights.add_many(store, [Insight("gate:boot-1:1", 3, "m1")])
    ids, found = insights.features(store, ["gate:boot-2:0", "gate:boot-2:1", "gate:boot-1:1", "gate:boot-1:0"], "m1")
    assert ids == ["gate:boot-2:0", "gate:boot-1:0"]
    assert found.tolist() == [[3, 4], [1, 2]]


def test_what_is_missing_is_named_newest_first_and_only_where_there_is_a_picture(store, add, clock):
    for n in (1, 2, 3):
        add(store, n, regions=1)
        clock.sleep(10)
    assert insights.missing(store, 10, "m1") == ["gate:boot-3:0", "gate:boot-2:0", "gate:boot-1:0"]
    assert insights.waiting(store, "m1") == (3, clock.now() - 30)
    insights.add_many(store, [seen("gate:boot-3:0")])
    with store.transaction():
        objects.forget(store, [store.value("select object from sample where id = 'gate:boot-2:0'")])
    assert insights.missing(store, 10, "m1") == ["gate:boot-1:0"]
    assert insights.missing(store, 10, "m2") == ["gate:boot-3:0", "gate:boot-1:0"]
    assert insights.missing(store, 10) == ["gate:boot-1:0"]
    assert insights.waiting(store) == (1, clock.now() - 30)
    assert insights.missing(store, 10, "m2", window=1) == ["gate:boot-3:0"]
    assert insights.missing(store, 1, "m2") == ["gate:boot-3:0"]
    assert insights.waiting(store, "m1") == (1, clock.now() - 30)


def test_nothing_waits_in_an_empty_store(store):
    assert insights.waiting(store) == (0, 0.0)
    assert insights.missing(store, 5) == []
    assert insights.hashes(store) == {}


def test_a_labelled_sample_of_any_age_is_hashed(store, add, clock):
    add(store, 1)
    clock.sleep(1)
    add(store, 2)
    labels.add(store, "gate:boot-1:0", "car", "human", "ada")
    undone = labels.add(store, "gate:boot-2:0", "car", "human", "ada")
    labels.undo(store, undone, "ada")
    assert insights.unhashed(store, 10) == ["gate:boot-1:0"]
    insights.add_many(store, [Insight("gate:boot-1:0", 5)])
    assert insights.unhashed(store, 10) == []


def test_an_insight_goes_with_its_crop_and_none_is_written_after_it(store, add):
    add(store)
    insights.add_many(store, [seen("gate:boot-1:0"), seen("gate:boot-1:1")])
    with store.transaction():
        objects.forget(store, [store.value("select object from sample where id = 'gate:boot-1:0'")])
    assert list(insights.hashes(store)) == ["gate:boot-1:1"]
    assert insights.add_many(store, [seen("gate:boot-1:0")]) == 0
    assert list(insights.hashes(store)) == ["gate:boot-1:1"]


def test_more_samples_than_one_statement_takes(store, add):
    for n in range(6):
        add(store, n, regions=100)
    ids = [f"gate:boot-{n}:{i}" for n in range(6) for i in range(100)]
    assert insights.add_many(store, [seen(i) for i in ids]) == 600
    assert len(insights.of(store, ids)) == len(insights.hashes(store, ids)) == 600
    assert insights.features(store, ids, "m1")[0] == ids


def test_what_no_model_looked_at_does_not_take_the_place_of_what_one_did(store, add):
    add(store)
    insights.add_many(store, [Insight("gate:boot-1:0", 1), seen("gate:boot-1:1")])
    assert insights.add_many(store, [Insight("gate:boot-1:0", 2), Insight("gate:boot-1:1", 2)]) == 1
    found = insights.of(store, ["gate:boot-1:0", "gate:boot-1:1"])
    assert [(found[i].hash, found[i].model) for i in sorted(found)] == [(2, ""), (7, "m1")]


def test_a_teacher_is_not_asked_again_for_a_label_that_was_taken_back(store, add, clock):
    add(store, 1)
    clock.sleep(1)
    add(store, 2, regions=1)
    labels.add_many(store, [("gate:boot-1:0", "car", 0.9), ("gate:boot-1:1", "", 0.4)], "teacher", "teacher:vgg")
    labels.add(store, "gate:boot-2:0", "car", "human", "ada")
    labels.undo_author(store, "teacher:vgg")
    everything = ["gate:boot-1:0", "gate:boot-1:1", "gate:boot-2:0"]
    assert insights.unasked(store, "teacher:vgg", 10) == ["gate:boot-2:0"]
    assert insights.asked(store, "teacher:vgg", everything) == {"gate:boot-1:0", "gate:boot-1:1"}
    assert insights.unasked(store, "teacher:other", 10, window=1) == ["gate:boot-2:0"]
    assert insights.asked(store, "teacher:other", everything) == set()


def test_the_marker_grows_with_samples_and_labels(store, add):
    before = insights.marker(store)
    add(store)
    after = insights.marker(store)
    labels.add(store, "gate:boot-1:0", "car", "human", "ada")
    assert before == (0, 0)
    assert before < after < insights.marker(store)


MARK = bytes(range(200, 232)) * 2  # features that stand nowhere by chance


def marked(store, *samples):
    insights.add_many(store, [Insight(s, 5, "m1", "car", 0.9, 0.8, s.encode() + MARK) for s in samples])


def left(folder, *samples):
    """Files under the data directory in which features of these samples stand."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            found += [(path.name, s) for s in samples if s.encode() + MARK in content]
    return found


GONE, KEPT = ("gate:boot-1:0", "gate:boot-1:1"), ("gate:boot-2:0", "yard:boot-1:0")


@pytest.mark.parametrize(
    "what",
    [
        What(samples=GONE[:1]), What(samples=GONE), What(frames=(("gate", "boot-1"),)),
        What(camera="gate", first="2026-11-21", last="2026-11-21"), What(samples=GONE[:1], drop_labels=True),
    ],
    ids=["a sample", "two samples", "a frame", "a day", "with labels"],
)  # fmt: skip
def test_after_an_erasure_nothing_that_was_seen_is_left_in_any_file(store, add, clock, data_dir, what):
    recover.run(store)
    add(store, 1)
    add(store, 1, camera="yard")
    marked(store, *GONE, "yard:boot-1:0")
    copies.make(data_dir, clock)
    clock.at += 86400
    add(store, 2)
    marked(store, "gate:boot-2:0")
    going = GONE if what.frames or what.camera else what.samples
    assert left(data_dir, *going)
    erasure.run(store, erasure.promise(store, what, "ada"))
    assert left(data_dir, *going) == []
    assert set(insights.hashes(store)) == {*GONE, *KEPT} - set(going)
    assert {s for _, s in left(data_dir, *KEPT)} == set(KEPT)
    assert check.run(store) == []


def test_control_an_erasure_that_leaves_the_rows_is_seen(store, add, data_dir):
    recover.run(store)
    add(store, 1)
    marked(store, *GONE)
    store.execute("drop trigger insight_out")
    erasure.run(store, erasure.promise(store, What(samples=GONE[:1]), "ada"))
    assert left(data_dir, GONE[0])


def test_retention_takes_insights_with_the_pictures(store, add, clock, data_dir):
    for n in range(4):
        add(store, n, regions=1)
        marked(store, f"gate:boot-{n}:0")
        clock.sleep(3600)
    rules = retention.Rules(max_bytes=1 << 40, max_age_s=2.5 * 3600, max_share=1.0)
    retention.run(store, rules)
    assert sorted(insights.hashes(store)) == ["gate:boot-2:0", "gate:boot-3:0"]
    store.rows("pragma wal_checkpoint(truncate)")
    assert {s for _, s in left(data_dir, *(f"gate:boot-{n}:0" for n in range(4)))} == {"gate:boot-2:0", "gate:boot-3:0"}


def test_pruned_rows_take_what_hangs_on_them(store, add, clock):
    for n in range(3):
        add(store, n, regions=1)
    marked(store, "gate:boot-0:0")
    with store.transaction():
        objects.forget(store, [r[0] for r in store.rows("select id from object")])
    clock.at += 400 * 86400
    pruning.run(store, clock.now(), young=clock.now())
    assert store.value("select count(*) from sample") == 1
    assert insights.hashes(store) == {}
    assert [f for f in check.run(store) if f.code == "dangling"] == []


def test_no_copy_of_the_catalogue_holds_what_was_seen(store, add, data_dir, clock):
    add(store, 1)
    marked(store, *GONE)
    made = copies.make(data_dir, clock)
    assert MARK not in made.read_bytes()
    assert copies.sound(made)
    assert left(data_dir, *GONE)
    assert [p.name for p in made.parent.iterdir()] == [made.name]


def test_a_copy_of_an_older_schema_is_made_all_the_same(store, add, data_dir, clock):
    add(store, 1)
    store.execute("drop trigger insight_out")
    store.execute("drop table insight")
    assert copies.sound(copies.make(data_dir, clock))


def test_the_log_is_overwritten_while_others_read_and_write(store, open_store, add):
    add(store, 1)
    marked(store, *GONE)
    other = open_store()
    add(store, 2)
    assert overwrite.log(store)
    assert other.value("select count(*) from insight") == 2
    other.execute("update camera set info = '{\"a\": 1}'")
    assert overwrite.log(other)
    assert store.path.with_name("edged.db-wal").stat().st_size == 0
    assert check.run(store) == []


def test_a_log_that_another_process_still_reads_is_left_and_said(store, open_store, add, caplog):
    add(store, 1)
    other = open_store()
    with other.transaction():
        pass
    other._conn.execute("begin")
    other.value("select count(*) from frame")
    marked(store, *GONE)
    assert not overwrite.log(store)
    assert "may still hold" in caplog.text
    other._conn.execute("commit")
    assert overwrite.log(store)


def test_on_a_full_disk_the_log_is_cut_at_least(store, add, monkeypatch):
    add(store, 1)
    monkeypatch.setattr(disk, "free", lambda _: 0)
    assert not overwrite.log(store)
    assert store.path.with_name("edged.db-wal").stat().st_size == 0
