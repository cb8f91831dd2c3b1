"""The read models of the page."""

from edged.storage import cameras, candidates, cycles, labels, releases, reports, snapshots, verdicts, views
from edged.wire.messages import Reported

HOUR = 3600.0


def label_all(store, frame, class_, regions=2):
    return [labels.add(store, f"{frame.camera}:{frame.header.id}:{i}", class_, "human", "ann") for i in range(regions)]


def release(store, number=1, sha256="m1", candidate=None):
    releases.add(
        store, number=number, name="street", candidate=candidate, sha256=sha256, size=10, target="t", classes=("car",)
    )


def test_an_empty_store_has_a_now_and_empty_lists(store, clock):
    now = views.now(store, clock.now())
    assert (now.cameras, now.cycle, now.release, now.recent.share) == (0, None, None, None)
    assert views.cameras(store, clock.now()) == []
    assert views.cycle(store) is None
    assert views.models(store) == []
    assert views.progress(store) == (0, 0)


def test_a_camera_shows_its_newest_picture_and_what_it_said(store, add, clock):
    add(store, 1)
    clock.sleep(5)
    add(store, 2, label="person")
    release(store, 4, "m1")
    cameras.set_reported(store, "gate", Reported("street", 4, "m1", "release-4", "SUCCEEDED"))
    (camera,) = views.cameras(store, clock.now())
    assert (camera.release, camera.picture.frame) == (4, "boot-2")
    assert [r.label for r in camera.picture.regions] == ["person", "person"]
    assert camera.picture.hidden == {"face": 1, "plate": 0}


def test_a_model_that_no_release_names_has_no_number(store, clock):
    cameras.set_reported(store, "gate", Reported("other", 1, "ff", "x", "SUCCEEDED"))
    (camera,) = views.cameras(store, clock.now())
    assert (camera.model, camera.release, camera.picture) == ("ff", None, None)


def test_recent_and_before_are_of_the_newest_release_only(store, add, clock):
    for n in range(3):
        label_all(store, add(store, n, model="old"), "car")
    release(store, 2, "m1")
    frames = [add(store, 10 + n) for n in range(40)]
    for n, frame in enumerate(frames):
        clock.sleep(1)
        label_all(store, frame, "car" if n < 20 else "person")
    now = views.now(store, clock.now())
    assert now.recent.n == views.RECENT_LABELS
    assert now.recent.n + now.before.n == 80


def test_now_counts_the_last_answers_newest_first(store, add, clock):
    release(store, 1, "m1")
    for n in range(30):
        frame = add(store, n)
        label_all(store, frame, "car" if n < 10 else "person")
        clock.sleep(1)
    now = views.now(store, clock.now())
    assert (now.recent.right, now.recent.n) == (0, 40)
    assert (now.before.right, now.before.n) == (20, 20)


def test_the_ladder_has_every_rung_and_says_where_it_stands(store, clock):
    cycle = cycles.start(store, "asked for by ann")
    cycles.stage_start(store, cycle, "snapshot")
    cycles.stage_finish(store, cycle, "snapshot", {"told": "10 train"})
    assert [r.name for r in views.cycle(store).rungs] == list(cycles.STAGES)
    cycles.stage_start(store, cycle, "train")
    cycles.stage_progress(store, cycle, "train", 0.5, 8.0, {"text": "epoch 4 of 8"})
    rungs = views.cycle(store).rungs
    assert [r.name for r in rungs] == ["snapshot", "train", "compress", "retest", "gate", "release"]  # reuse came later
    assert [r.state for r in rungs] == ["done", "running", "waiting", "waiting", "waiting", "waiting"]
    assert (rungs[0].told, rungs[1].told, rungs[1].progress, rungs[1].eta_s) == ("10 train", "epoch 4 of 8", 0.5, 8.0)
    cycles.finish(store, cycle, "failed", "killed")
    assert views.cycle(store).rungs[1].state == "failed"


def test_refused_candidates_are_listed_with_their_reasons(store, clock):
    cycle = cycles.start(store, "why")
    snapshot = snapshots.add(store, {"classes": ["car"], "train": [], "tune": [], "holdout": []})
    made = candidates.add(store, cycle, name="big", sha256="s1", size=9, snapshot=snapshot, recipe={})
    body = {
        "accuracy": {"right": 9, "n": 10, "accuracy": 0.9, "lower": 0.6, "upper": 0.98},
        "pair": {"n": 10, "right": 9, "baseline_right": 8, "lost": 0, "won": 1},
        "fps_device": {"value": 12.0, "how": "estimated", "basis": ""},
    }
    verdicts.add(store, made, reports.add(store, made, "atom", body), False, ["12 frames/s, 30 are needed"])
    bare = candidates.add(store, cycle, name="new", sha256="s2", size=9, snapshot=snapshot, recipe={})
    release(store, 1, "s2", bare)
    new, big = views.models(store)
    assert (big.passed, big.reasons, big.accuracy, big.before, big.fps) == (
        False, ("12 frames/s, 30 are needed",), 0.9, 0.8, 12.0,
    )  # fmt: skip
    assert (new.passed, new.accuracy, new.release) == (None, None, 1)
