"""The camera's loop against a scripted box, by steps of a fake clock."""

import hashlib

import msgspec
import pytest

from edged.wire import messages, topics
from edged.wire.messages import CameraInfo, CameraStats


def said(site, leaf):
    return [payload for kind, payload in site.box.said if kind == leaf]


def switch(site, make, which, payload):
    site.box.link.publish(topics.cam(make.SITE, make.CAMERA, which), payload)


def test_pictures_arrive_with_their_regions_and_leave_the_spool_by_receipt(site, make):
    site.start()
    site.see(3)
    site.run(6)
    frames = site.box.frames
    assert [f.header.seq for f in frames] == [0, 1, 2]
    assert [f.header.id for f in frames] == ["boot1-0", "boot1-1", "boot1-2"]
    assert frames[0].jpeg[:2] == b"\xff\xd8"
    assert (frames[0].header.w, frames[0].header.h) == (320, 240)
    assert [(r.x, r.y, r.w, r.h, r.label) for r in frames[0].header.regions] == [
        (10, 20, 100, 80, ""),
        (150, 60, 120, 120, ""),
    ]
    assert len(site.agent.spool) == 0


def test_a_jpeg_that_the_source_had_travels_unchanged(site):
    from agent import pipeline
    from edged.engine import patterns

    picture = patterns.picture(1, 224)
    jpeg = pipeline.encode(picture, 60)
    site.start()
    site.see(1, jpeg=jpeg, kind="roi", regions=((0, 0, 224, 224),))
    site.run(3)
    frame = site.box.frames[0]
    assert (frame.kind, frame.jpeg) == ("roi", jpeg)


def test_a_roi_is_one_region_and_that_is_all_of_it(site):
    site.start()
    site.see(1, kind="roi", regions=None)
    site.run(3)
    (region,) = site.box.frames[0].header.regions
    assert (region.x, region.y, region.w, region.h) == (0, 0, 320, 240)


def test_without_receipts_no_more_than_a_window_is_in_flight_and_nothing_is_lost(site):
    site.options = {"window": 4, "resend_after_s": 30.0}
    site.box.receipt_status = None
    site.start()
    site.see(10)
    site.run(20)
    assert len(site.box.frames) == 4
    site.run(4, seconds=10.0)  # half a minute later the same four once more
    assert [f.header.seq for f in site.box.frames] == [0, 1, 2, 3, 0, 1, 2, 3]
    for frame in site.box.frames[:4]:
        site.box.receipt(frame, "stored")
    site.box.receipt_status = "stored"
    site.run(20)
    assert sorted({f.header.seq for f in site.box.frames}) == list(range(10))
    assert len(site.agent.spool) == 0


def test_a_receipt_for_other_bytes_frees_nothing(site):
    site.box.receipt_status = None
    site.start()
    site.see()
    site.run(3)
    frame = site.box.frames[0]
    site.box.receipt(messages.Frame(frame.camera, frame.header, b"other"), "stored")
    site.run(2)
    assert len(site.agent.spool) == 1
    assert site.agent.spool.mismatched_total == 1


def test_frames_taken_while_the_cable_was_cut_arrive_later_in_order(site):
    site.start()
    site.agent._link.drop()
    site.see(5)
    site.run(8)
    assert not site.box.frames
    site.agent._link.reconnect()
    site.run(8)
    assert [f.header.seq for f in site.box.frames] == [0, 1, 2, 3, 4]


def test_what_was_in_flight_when_the_cable_was_cut_goes_out_again_as_soon_as_it_is_back(site):
    site.box.receipt_status = None
    site.start()
    site.see(2)
    site.run(4)
    site.agent._link.drop()
    site.run(1)
    site.agent._link.reconnect()
    site.run(2)
    assert [f.header.seq for f in site.box.frames] == [0, 1, 0, 1]


def test_frames_survive_the_agents_death_and_ids_are_never_reused(site):
    site.box.receipt_status = None
    site.start()
    site.see(3)
    site.run(6)
    site.kill()
    site.box.frames.clear()
    site.box.receipt_status = "stored"
    site.start()
    site.see(2)
    site.run(8)
    ids = [f.header.id for f in site.box.frames]
    assert ids[:3] == ["boot1-0", "boot1-1", "boot1-2"]
    assert len(set(ids)) == 5
    assert ids[3].startswith("boot2-")
    assert len(site.agent.spool) == 0


def test_a_full_spool_drops_the_oldest_and_says_so(site):
    site.options = {"spool_frames": 4, "stats_every_s": 1.0}
    site.box.receipt_status = None
    site.start()
    site.see(10)
    site.run(15)
    stats = messages.decode(said(site, "stats")[-1], CameraStats)
    assert (stats.spool_frames, stats.dropped_total) == (4, 6)


def test_birth_state_and_goodbye(site, make):
    site.start()
    site.run(2)
    info = messages.decode(said(site, "info")[-1], CameraInfo)
    assert (info.boot, info.hw, info.model) == ("boot1", make.HARDWARE, "")
    assert "onnxruntime" in info.runtimes
    state = topics.cam(make.SITE, make.CAMERA, "state")
    assert site.broker.retained[state].payload == b"online"
    site.agent._link.drop()
    assert site.broker.retained[state].payload == b"offline"
    site.agent._link.reconnect()
    site.run(1)
    assert site.broker.retained[state].payload == b"online"
    site.agent.close()
    assert site.broker.retained[state].payload == b"offline"


def test_the_birth_message_names_the_new_model_after_an_update(site):
    site.start()
    model = site.install(1)
    info = messages.decode(said(site, "info")[-1], CameraInfo)
    assert (info.model, info.model_name, info.model_version) == (hashlib.sha256(model).hexdigest(), "parking", 1)


def test_stats_have_all_stages(site):
    site.options = {"stats_every_s": 5.0}
    site.start()
    site.install(1)
    site.see(10)
    site.run(80)
    stats = messages.decode(said(site, "stats")[-1], CameraStats)
    assert set(stats.stages_ms) == {"acquire", "to_float", "marshal", "infer", "decode", "overlay"}
    assert stats.model == site.agent.active.slot.sha256
    assert stats.mem_bytes > 0


def test_capture_switched_off_stays_off_over_a_restart(site, make):
    site.start()
    switch(site, make, "capture/set", b"OFF")
    site.see(3)
    site.run(5)
    site.kill()
    site.start()
    site.run(5)
    assert not site.box.frames
    assert site.broker.retained[topics.cam(make.SITE, make.CAMERA, "capture/state")].payload == b"OFF"
    switch(site, make, "capture/set", b"ON")
    site.run(8)
    assert len(site.box.frames) == 3


def test_enabled_switched_off_sends_pictures_without_labels(site, make):
    site.start()
    site.install(1)
    switch(site, make, "enabled/set", b"OFF")
    site.see()
    site.run(4)
    header = site.box.frames[-1].header
    assert header.model == ""
    assert [r.label for r in header.regions] == ["", ""]


@pytest.mark.parametrize(
    ("leaf", "payload"),
    [
        ("receipt", b"not json"),
        ("receipt", b"[" * 10_000),
        ("model/desired", b'{"job":"x"}'),
        ("capture/set", b"MAYBE"),
    ],
)
def test_a_message_that_makes_no_sense_is_counted_and_the_loop_goes_on(site, make, leaf, payload):
    site.start()
    site.box.link.publish(topics.cam(make.SITE, make.CAMERA, leaf), payload)
    site.see()
    site.run(4)
    assert site.agent.refused_total == 1
    assert len(site.box.frames) == 1


def test_known_truth_is_written_beside_the_frame_ids(site):
    site.start()
    site.see(2, truth=("busy", "free"))
    site.see(1)
    site.run(6)
    assert site.truth.read_text().splitlines() == [
        "boot1-0,0,busy",
        "boot1-0,1,free",
        "boot1-1,0,busy",
        "boot1-1,1,free",
    ]


def test_the_preview_is_drawn_only_when_asked(site):
    import cv2
    import numpy as np

    from agent import pipeline

    preview = site.folder / "preview.jpg"
    site.options = {"preview": preview, "preview_every_s": 0.0}
    site.start()
    site.see()
    plain = site.shots[0].image.copy()
    site.run(3)
    drawn = cv2.imread(str(preview))
    assert drawn.shape == plain.shape
    assert np.abs(drawn.astype(int) - plain).max() > 100
    assert site.box.frames[0].jpeg == pipeline.encode(plain)  # what is sent has nothing drawn on it


def test_a_frame_damaged_on_disk_is_set_aside_and_the_others_go_out(site):
    site.box.receipt_status = None
    site.options = {"window": 1}
    site.start()
    site.see(3)
    site.run(4)
    path = sorted((site.folder / "state/spool").glob("*.frame"))[1]
    path.write_bytes(path.read_bytes()[:-5] + b"xxxxx")
    site.box.receipt_status = "stored"
    site.box.receipt(site.box.frames[0], "stored")
    site.run(5)
    assert [f.header.seq for f in site.box.frames] == [0, 2]
    assert site.agent.spool.damaged_total == 1


def test_the_source_may_end_and_the_loop_goes_on_until_all_is_receipted(site):
    agent = site.start()
    agent._source = iter([None])
    site.see(2)
    shots = list(site.shots)
    agent._source = iter(shots)
    steps = []

    def stop():
        site.box.step()
        steps.append(1)
        return len(steps) > 100

    agent.run(stop, once=True)
    assert len(site.box.frames) == 2
    assert len(steps) < 20


def test_a_model_that_breaks_on_probation_is_rolled_back_and_reported(site, make):
    site.start()
    site.install(1)
    broken = make.classifier(2)
    site.box.offer(site.box.release(2, broken))
    site.until(lambda: site.agent.updater.record.phase == "probation")

    class Broken:
        runtime, takes = "onnxruntime", "float32"

        def run(self, batch):
            return (batch[:, :2, 0, 0] * float("nan"),)

    from dataclasses import replace

    site.agent.active.pipeline = replace(site.agent.active.pipeline, model=Broken())
    site.see()
    site.until(lambda: site.box.over("job-2"))
    assert site.box.last.status == "FAILED"
    assert "not finite" in site.box.last.detail
    assert site.box.last.version == 1
    site.see()
    site.run(3)
    assert site.box.frames[-1].header.regions[0].label


def test_killed_twice_while_the_new_model_loads_the_third_start_runs_the_old_one(site, make, monkeypatch):
    import agent.active

    site.start()
    site.install(1)
    site.box.offer(site.box.release(2, make.classifier(2)))
    load = agent.active.load

    class PowerCut(Exception):
        pass

    def fatal(*args, **kwargs):
        raise PowerCut

    monkeypatch.setattr(agent.active, "load", fatal)
    with pytest.raises(PowerCut):
        site.run(50)
    site.kill()
    with pytest.raises(PowerCut):
        site.start()
    monkeypatch.setattr(agent.active, "load", load)
    site.start()
    site.run(5)
    assert site.agent.active.slot.release == 1
    assert (site.box.last.status, site.box.last.version) == ("FAILED", 1)
    assert "twice" in site.box.last.detail


def test_killed_on_probation_once_it_goes_on_and_succeeds(site, make):
    site.start()
    site.install(1)
    site.box.offer(site.box.release(2, make.classifier(2)))
    site.until(lambda: site.agent.updater.record.phase == "probation")
    site.kill()
    site.start()
    site.see(6)
    site.until(lambda: site.box.over("job-2"))
    assert (site.box.last.status, site.box.last.version) == ("SUCCEEDED", 2)
    assert not site.agent.active.slots.pointer.probation


def test_two_cameras_share_the_chunks_that_one_of_them_asked_for(site, make):
    """A chunk is published once for all; a camera takes what it lacks whoever asked."""
    site.start()
    desired = site.box.release(1, make.classifier(1, padding=30_000))
    site.box.serve = False
    site.box.offer(desired)
    site.until(lambda: site.box.wants)
    site.box.answer(messages.Want(desired.sha256, tuple(range(8))))  # as if another camera had asked
    site.run(2)
    assert site.agent.updater.record.phase in ("self_test", "probation")


def test_job_words_survive_json(site):
    site.start()
    site.install(1)
    assert msgspec.json.decode(messages.encode(site.box.last))["status"] == "SUCCEEDED"


def test_a_source_that_can_wait_waits_instead_of_having_pictures_dropped(site):
    site.options = {"spool_frames": 8, "window": 2, "patient": True}
    site.start()
    site.agent._link.drop()
    site.see(20)
    site.run(20)
    assert len(site.agent.spool) == 4
    site.agent._link.reconnect()
    site.run(60)
    assert [f.header.seq for f in site.box.frames] == list(range(20))
    assert site.agent.spool.dropped_total == 0


def test_an_error_that_nobody_foresaw_still_says_goodbye(site, make):
    agent = site.start()
    site.run(1)

    def broken():
        raise ZeroDivisionError
        yield

    agent._source = broken()
    with pytest.raises(ZeroDivisionError):
        agent.run(lambda: False)
    assert site.broker.retained[topics.cam(make.SITE, make.CAMERA, "state")].payload == b"offline"
