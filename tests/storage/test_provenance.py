"""Nothing is learned from, looked at or labelled but regions of stored, that is scrubbed, frames."""

from edged.storage import check, frames, insights, labels, provenance, snapshots
from edged.storage.insights import Insight


def use(store, *ids):
    body = {"classes": ["car"], "train": [[i, "car"] for i in ids[:1]], "tune": [], "holdout": [[i, "car"] for i in ids[1:]],
            "holdout_ratio": 0.2, "block_s": 60.0, "seed": 1}  # fmt: skip
    snapshots.add(store, body)
    insights.add_many(store, [Insight(i, 1) for i in ids])
    labels.add_many(store, [(i, "car") for i in ids], "human", "ada")


def test_every_sample_that_is_used_is_of_a_scrubbed_frame(store, add, frame):
    add(store, 1)
    frames.settle(store, frame(2), "withheld", "timeout")
    frames.settle(store, frame(3), "refused", "bad_jpeg")
    use(store, "gate:boot-1:0", "gate:boot-1:1")
    assert provenance.of(store) == provenance.Provenance(2, 2, 2)


def test_of_a_withheld_frame_there_is_nothing_to_use(store, frame):
    frames.settle(store, frame(2), "withheld", "timeout")
    assert store.value("select count(*) from sample") == 0
    assert provenance.of(store) == provenance.Provenance(0, 0, 0)


def test_control_a_build_that_kept_regions_of_a_withheld_frame_is_named(store, add):
    add(store, 1)
    add(store, 2)
    use(store, "gate:boot-1:0", "gate:boot-2:1")
    store.execute("update frame set status = 'withheld' where id = 'boot-2'")
    found = provenance.of(store)
    assert found.unvouched == (
        ("snapshot", "gate:boot-2:1"), ("insight", "gate:boot-2:1"), ("label", "gate:boot-2:1"),
    )  # fmt: skip
    assert {"lost_frame", "kept_frame"} <= {f.code for f in check.run(store)}


def test_a_snapshot_that_names_what_never_came_in_is_named(store, add):
    add(store, 1)
    use(store, "gate:boot-1:0")
    snapshots.add(store, {"classes": ["car"], "train": [["gate:boot-9:0", "car"]], "tune": [], "holdout": [],
                          "holdout_ratio": 0.2, "block_s": 60.0, "seed": 1})  # fmt: skip
    assert provenance.of(store).unvouched == (("snapshot", "gate:boot-9:0"),)
