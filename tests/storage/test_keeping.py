"""Model files that nothing needs any more go, all others stay, whatever dies or is asked for meanwhile."""

import os

import pytest

from edged.errors import Corrupt, Refused, Unavailable
from edged.storage import (
    alarms,
    audit,
    blocked,
    brought,
    cameras,
    candidates,
    check,
    cycles,
    keeping,
    models,
    releases,
    requests,
    snapshots,
)
from edged.wire.messages import CameraInfo

from .dying import steps_of


class Site:
    """`old` and `young` files by content; rows that name some of them."""

    def __init__(self, store):
        self.store = store
        body = {"train": [], "tune": [], "holdout": [], "classes": ["a", "b"], "seed": 0}
        self.snapshot = snapshots.add(store, body | {"holdout_ratio": 0.2, "block_s": 900.0})

    def put(self, name, suffix=".onnx", age=10 * 86400.0):
        sha = models.put_model(self.store, name.encode(), suffix)
        at = self.store.clock.now() - age
        os.utime(self.store.models_dir / f"{sha}{suffix}", (at, at))
        return sha

    def candidate(self, name, cycle, **recipe):
        return candidates.add(
            self.store, cycle, name=name, sha256=self.put(name), size=1, snapshot=self.snapshot, recipe=recipe
        )

    def cycle(self):
        number = cycles.start(self.store, "test")
        cycles.finish(self.store, number, "released")
        return number

    def here(self):
        return {p.read_bytes().decode() for p in self.store.models_dir.iterdir() if not p.name.startswith(".")}


def rows_for(store):
    """Every kind of row that needs a file, and twelve cycles of which the first four have been left behind."""
    site = Site(store)
    for n in range(12):
        made = site.candidate(
            f"made {n}", site.cycle(), weights=site.put(f"weights {n}", ".safetensors"),
            start=site.put(f"start {n}", ".safetensors"),
        )  # fmt: skip
        if n == 1:
            releases.add(
                store, number=1, name="m", candidate=made, sha256=site.put("made 1"), size=1, target="m/1.onnx",
                classes=("a", "b"), state="halted",
            )  # fmt: skip
    releases.add(
        store, number=2, name="t", candidate=None, sha256=site.put("teacher"), size=1, target="t/2.onnx", classes=("a", "b"),
        kind="teacher", state="superseded",
    )  # fmt: skip
    kept = brought.add(
        store, "candidate", sha256=site.put("brought"), name="b", classes=("a", "b"), px=32, author="ann",
        weights=site.put("brought weights", ".safetensors"),
    )  # fmt: skip
    brought.retire(store, kept.sha256, "ann")
    blocked.add(store, site.put("blocked"), release=1, reason="it failed", author="ann")
    cameras.seen(store, "gate", store.clock.now())
    cameras.set_info(
        store, "gate", CameraInfo(boot="b", agent="1", hw="x", runtimes=(), mem_bytes=1, model=site.put("on a camera"))
    )
    requests.add(store, "cycle", {"model": site.put("asked for")}, "ann")
    site.put("just put", age=3600.0)
    site.put("signed")
    site.put("a way", ".epk")
    return site


SIGNED = {
    1: frozenset({models.hashlib.sha256(b"signed").hexdigest(), models.hashlib.sha256(b"a way").hexdigest()}),
}
LEFT_BEHIND = {f"{what} {n}" for what in ("made", "weights", "start") for n in (0, 2, 3)}


def test_what_nothing_names_goes_and_all_else_stays_and_the_store_is_sound(store):
    site = rows_for(store)
    site.put("nobody's")
    site.put("a way that is signed no more", ".epd")
    before = site.here()
    planned = keeping.unneeded(store, SIGNED)
    assert site.here() == before  # looking takes nothing
    gone = keeping.prune(store, SIGNED, "ann")
    assert gone == planned
    assert before - site.here() == LEFT_BEHIND | {"nobody's", "a way that is signed no more"}
    entry = audit.rows(store)[0]
    assert (entry.act, entry.actor) == ("model.prune", "ann")
    assert [f for f in check.run(store) if f.code.startswith("model")] == []
    assert keeping.prune(store, SIGNED, "ann") == []
    assert audit.rows(store)[0] == entry


def test_a_file_that_is_needed_and_lost_is_still_found(store):
    """The control of the check: it is not blind to what went by another hand."""
    site = rows_for(store)
    (store.models_dir / f"{models.hashlib.sha256(b'made 11').hexdigest()}.onnx").unlink()
    assert [f.code for f in check.run(store) if f.code.startswith("model")] == ["model_lost"]
    assert "made 11" not in site.here()


def test_killed_anywhere_nothing_needed_is_gone_and_the_next_one_ends_it(data_dir, open_store):
    store = open_store()
    site = rows_for(store)
    stays = site.here() - LEFT_BEHIND
    store.close()

    def act():
        found = open_store()
        keeping.prune(found, SIGNED, "ann")
        found.close()

    deaths = 0
    for _ in steps_of(act, every=3):
        found = open_store()
        assert stays <= Site(found).here()
        assert [f for f in check.run(found) if f.code.startswith("model")] == []
        found.close()
        deaths += 1
    print(f"{deaths} deaths")
    assert deaths > 5
    found = open_store()
    assert Site(found).here() == stays


def test_brought_again_a_file_that_was_about_to_go_stays(store):
    site = Site(store)
    sha = site.put("nobody's")
    assert len(keeping.unneeded(store, {})) == 1
    models.put_model(store, b"nobody's")
    os.utime(store.models_dir / f"{sha}.onnx", (store.clock.now(), store.clock.now()))
    assert keeping.prune(store, {}, "ann") == []


def test_putting_a_file_again_makes_it_young(store):
    site = Site(store)
    path = store.models_dir / f"{site.put('nobody')}.onnx"
    was = path.stat().st_mtime
    models.put_model(store, b"nobody")
    assert path.stat().st_mtime != was


def test_nothing_goes_in_a_cycle_after_a_rebuild_or_while_rows_are_missing(store):
    site = rows_for(store)
    before = site.here()
    with pytest.raises(Unavailable, match="does not know it"):
        keeping.prune(store, SIGNED | {9: frozenset({"f" * 64})}, "ann")
    running = cycles.start(store, "test")
    with pytest.raises(Unavailable, match="has not ended"):
        keeping.prune(store, SIGNED, "ann")
    cycles.finish(store, running, "failed")
    alarms.sound(store, alarms.CATALOGUE_REBUILT, "it was damaged")
    with pytest.raises(Refused, match="rebuilt"):
        keeping.prune(store, SIGNED, "ann")
    assert site.here() == before


def test_nothing_goes_while_what_a_camera_said_does_not_read_and_the_store_is_checked_all_the_same(store):
    site = rows_for(store)
    before = site.here()
    store.execute("update camera set info = 'torn' where id = (select min(id) from camera)")
    with pytest.raises(Corrupt, match="does not read back"):
        keeping.prune(store, SIGNED, "ann")
    assert site.here() == before
    assert check.run(store) == []
