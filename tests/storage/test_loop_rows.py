"""The rows of a turn of the loop: cycles, candidates, reports, verdicts, releases, deliveries, outbox, cameras, counters."""

import pytest

from edged.errors import Corrupt, Refused
from edged.storage import (
    cameras,
    candidates,
    counters,
    cycles,
    deliveries,
    models,
    objects,
    outbox,
    releases,
    reports,
    snapshots,
    verdicts,
)
from edged.wire.messages import CameraInfo, Reported


@pytest.fixture
def snapshot(store):
    return snapshots.add(store, snapshots.build([], ["a"], holdout_ratio=0.2, block_s=900, seed=1))


def test_a_cycle_resumes_at_the_stage_without_an_outcome(store, open_store, clock):
    cycle = cycles.start(store, "300 new labels")
    cycles.stage_start(store, cycle, "snapshot")
    cycles.stage_finish(store, cycle, "snapshot", {"id": "abc"})
    clock.at += 1
    cycles.stage_start(store, cycle, "train")
    cycles.stage_progress(store, cycle, "train", 0.4, 12.0, {"epoch": 3})
    store.close()  # and so the process died

    again = open_store()
    assert cycles.running(again).id == cycle
    assert cycles.outcome(again, cycle, "snapshot") == {"id": "abc"}
    assert cycles.outcome(again, cycle, "train") is None
    with pytest.raises(Refused):
        cycles.stage_start(again, cycle, "snapshot")
    cycles.stage_start(again, cycle, "train")
    stages = cycles.stages(again, cycle)
    assert [(s.name, s.progress, s.eta_s, s.detail) for s in stages] == [
        ("snapshot", 1.0, 0.0, {"id": "abc"}), ("train", 0.0, None, {"starts": 2}),
    ]  # fmt: skip
    cycles.stage_finish(again, cycle, "train", {"sha256": "x"})
    cycles.stage_progress(again, cycle, "train", 0.1, 5, {"late": True})  # a straggler changes nothing
    assert cycles.outcome(again, cycle, "train") == {"sha256": "x"}
    cycles.finish(again, cycle, "released", "release 1")
    cycles.finish(again, cycle, "failed", "too late")
    assert (cycles.latest(again).state, cycles.latest(again).detail) == ("released", "release 1")
    assert cycles.running(again) is None


def test_only_one_cycle_runs_at_a_time(store):
    first = cycles.start(store, "a")
    with pytest.raises(Refused):
        cycles.start(store, "b")
    cycles.finish(store, first, "failed", "x")
    assert cycles.start(store, "b") == first + 1
    assert [c.why for c in cycles.all(store)] == ["b", "a"]


def test_a_candidate_of_a_stage_that_ran_twice_is_one_candidate(store, snapshot):
    cycle = cycles.start(store, "a")
    facts = {"name": "m-int8", "sha256": "0" * 64, "size": 9, "snapshot": snapshot, "recipe": {"px": 96}}
    one = candidates.add(store, cycle, **facts)
    assert candidates.add(store, cycle, **facts) == one
    assert candidates.get(store, one).recipe == {"px": 96}
    assert [c.id for c in candidates.all(store)] == [c.id for c in candidates.all(store, cycle)] == [one]
    assert candidates.all(store, cycle + 1) == []
    assert candidates.find(store, "0" * 64).id == one
    with pytest.raises(Refused):
        candidates.get(store, 99)


def test_reports_and_verdicts_are_kept_and_the_newest_verdict_counts(store, snapshot):
    candidate = candidates.add(
        store, cycles.start(store, "a"), name="m", sha256="0" * 64, size=9, snapshot=snapshot, recipe={}
    )
    report = reports.add(store, candidate, "atom-x5-e3940", {"fps": 31.5})
    later = reports.add(store, candidate, "atom-x5-e3940", '{"fps":32}')
    assert [r.id for r in reports.of(store, candidate)] == [later, report]
    assert reports.get(store, report).body == '{"fps":31.5}'
    assert verdicts.of(store, candidate) is None
    verdicts.add(store, candidate, report, False, ["31 of 50 samples"])
    verdicts.add(store, candidate, later, True, [])
    assert verdicts.of(store, candidate).passed is True


def test_release_numbers_only_grow(store):
    def add(number):
        return releases.add(
            store,
            number=number,
            name="m",
            candidate=None,
            sha256="0" * 64,
            size=9,
            target=f"m/{number}.onnx",
            classes=["a", "b"],
        )

    assert releases.latest(store) is None
    assert add(releases.next_number(store)) == 1
    assert add(7) == 7
    for old in (7, 3):
        with pytest.raises(Refused):
            add(old)
    assert releases.next_number(store) == 8
    releases.set_state(store, 7, "halted", "canary failed")
    halted = releases.latest(store)
    assert (halted.number, halted.state, halted.detail, halted.classes) == (7, "halted", "canary failed", ("a", "b"))
    assert halted.ended == store.clock.now()
    assert releases.get(store, 1).state == "rolling"
    assert releases.get(store, 2) is None


def test_a_delivery_is_one_row_for_each_camera_and_keeps_when_it_was_offered(store, clock):
    cameras.seen(store, "gate")
    releases.add(store, number=1, name="m", candidate=None, sha256="0" * 64, size=9, target="m/1.onnx", classes=["a"])
    deliveries.upsert(store, 1, "gate", "QUEUED", offered=clock.now())
    clock.at += 5
    deliveries.upsert(store, 1, "gate", "IN_PROGRESS", progress=0.5, detail="3 of 6 chunks")
    (row,) = deliveries.of(store, 1)
    assert (row.status, row.progress, row.detail) == ("IN_PROGRESS", 0.5, "3 of 6 chunks")
    assert (row.offered, row.updated) == (clock.now() - 5, clock.now())


def test_the_outbox_takes_a_key_once_and_retries_until_sent(store):
    one = outbox.add(store, "metrics", "m/1.json", "inline", 2, b"{}")
    two = outbox.add(store, "models", "m/2.onnx", "model:" + "0" * 64, 9)
    assert outbox.add(store, "metrics", "m/1.json", "inline", 2, b"{}") is None
    outbox.mark(store, one, "queued", detail="connection refused")
    assert [p.id for p in outbox.due(store)] == [two, one]
    outbox.mark(store, one, "sent", etag='"abc"')
    outbox.mark(store, two, "refused", detail="no rule")
    assert outbox.due(store) == []
    sent = outbox.all(store)[1]
    assert (sent.state, sent.tries, sent.etag, sent.body, sent.sent) == ("sent", 2, '"abc"', None, store.clock.now())
    assert outbox.add(store, "metrics", "m/1.json", "inline", 2, b"{}") is None


def test_cameras_keep_their_last_words(store, clock):
    info = CameraInfo(boot="b1", agent="1.0", hw="generic", runtimes=("onnxruntime",), mem_bytes=1)
    cameras.set_online(store, "gate", True)
    cameras.set_info(store, "gate", info)
    cameras.set_reported(store, "gate", Reported(name="m", version=1, sha256="x", job="j", status="SUCCEEDED"))
    heard = clock.now()
    clock.at += 60
    cameras.set_online(store, "gate", False)  # the broker says so, not the camera
    camera = cameras.get(store, "gate")
    assert (camera.online, camera.last_seen, camera.info, camera.stats) == (False, heard, info, None)
    assert camera.reported.status == "SUCCEEDED"
    assert cameras.get(store, "yard") is None


def test_counters_add_up(store):
    counters.bump(store, "duplicate")
    counters.bump(store, "bytes", 500)
    counters.bump(store, "bytes", 12)
    assert counters.all(store) == {"bytes": 512, "duplicate": 1}
    assert (counters.get(store, "bytes"), counters.get(store, "none")) == (512, 0)


def test_a_model_is_named_by_its_hash_only(store, tmp_path):
    for bad in ("../../etc/passwd", "0" * 63, "A" * 64, ""):
        with pytest.raises(Refused):
            models.model_path(store, bad)
    with pytest.raises(Refused):
        models.put_model(store, b"x", ".pkl")
    with pytest.raises(Corrupt):
        objects.plain_path(store, "../../etc/passwd")
