"""The three walks on a simulated site: real parts, one clock, no sockets."""

import msgspec
import pytest

from edged import health
from edged.clock import iso
from edged.errors import Corrupt, Refused, Unavailable
from edged.privacy.scrub import Withheld
from edged.site import issue_camera
from edged.storage import (
    alarms,
    audit,
    candidates,
    check,
    counters,
    cycles,
    frames,
    releases,
    requests,
    samples,
    verdicts,
)
from edged.wire import topics
from tests.site import CLASSES, SITE, SimulatedSite, shots

DAY = 1_799_990_000.0


@pytest.fixture
def site(tmp_path):
    made = SimulatedSite(
        tmp_path / "site",
        {"gate": shots(60, DAY, 1), "yard": shots(60, DAY, 2)},
        camera=[{"id": "gate"}, {"id": "yard"}],
    )
    yield made
    made.close()


def test_what_the_cameras_saw_is_on_disk_scrubbed_sealed_and_forgotten_by_them(site):
    site.until(lambda: frames.count(site.store) == 120)
    site.turn(3)
    assert [len(a.spool) for a in site.agents.values()] == [0, 0]
    assert samples.count(site.store) == 120
    assert frames.last_picture(site.store, "gate")[:2] == b"\xff\xd8"
    assert check.run(site.store) == []
    assert not any(b"JFIF" in p.read_bytes() for p in (site.folder / "segments").iterdir())


def test_a_loop_from_labels_to_a_release_on_every_camera(site):
    site.until(lambda: frames.count(site.store) == 120)
    site.label_all()
    assert site.loop.why() == "120 new human labels"
    assert site.loop.run_once("120 new human labels") == "released"
    release = releases.latest(site.store)
    site.until(lambda: releases.get(site.store, release.number).state == "complete")
    assert {a.active.slot.sha256 for a in site.agents.values()} == {release.sha256}
    assert [e.act for e in reversed(audit.rows(site.store))][-3:] == ["release", "rollout.start", "complete"]
    assert site.loop.why() == ""


def test_after_the_switch_the_cameras_answer_with_the_new_model(tmp_path):
    site = SimulatedSite(tmp_path / "site", {"gate": shots(200, DAY, 1)})
    site.until(lambda: frames.count(site.store) >= 80)
    site.label_all()
    site.loop.run_once("labels")
    release = releases.latest(site.store)
    site.until(lambda: any(s.model == release.sha256 for s in samples.recent(site.store, "gate", 10)))
    answered = [s for s in samples.recent(site.store, "gate", 100) if s.model == release.sha256]
    assert {s.predicted for s in answered} <= set(CLASSES)
    assert all(s.score > 0.5 for s in answered)
    site.close()


def test_a_candidate_that_the_gate_refuses_is_shown_and_never_reaches_a_camera(site):
    site.until(lambda: frames.count(site.store) == 120)
    site.label_all()
    site.learn.threshold = 0.0  # calls everything light
    assert site.loop.run_once("labels") == "refused"
    (candidate,) = candidates.all(site.store)
    verdict = verdicts.of(site.store, candidate.id)
    assert not verdict.passed
    assert "always naming the most frequent class" in verdict.reasons[0]
    assert releases.latest(site.store) is None
    site.turn(10)
    assert all(a.active.slot is None for a in site.agents.values())


def test_a_frame_that_privacy_cannot_vouch_for_leaves_nothing_but_a_count(site):
    site.scrubber.fault = Withheld("the detector was late", code="timeout")
    site.until(lambda: frames.count(site.store, "withheld") > 10)
    assert frames.count(site.store) == 0
    assert samples.count(site.store) == 0
    assert check.run(site.store) == []
    assert counters.get(site.store, "withheld:timeout") == frames.count(site.store, "withheld")


def test_while_the_store_is_away_the_cameras_keep_their_frames(site, monkeypatch):
    def busy(*_):
        raise Unavailable("disk full", code="disk_full")

    with monkeypatch.context() as m:
        m.setattr(frames, "add", busy)
        site.turn(4)
        assert {r.status for r in site.answered} == {"retry"}
        kept = [len(a.spool) for a in site.agents.values()]
        assert all(kept)
    site.until(lambda: frames.count(site.store) == 120, turns=400)
    site.turn(2)
    assert [len(a.spool) for a in site.agents.values()] == [0, 0]


def test_the_daemon_killed_between_commit_and_receipt_stores_nothing_twice(site, monkeypatch):
    monkeypatch.setattr(site.box, "answer", lambda *_: None)  # committed, but the camera never hears
    site.turn(3)
    stored = frames.count(site.store)
    assert stored > 0
    site.kill_box()
    site.open_box()
    site.until(lambda: frames.count(site.store) == 120, turns=400)
    site.turn(20)
    assert counters.get(site.store, "duplicate") >= stored
    assert samples.count(site.store) == 120
    assert [len(a.spool) for a in site.agents.values()] == [0, 0]


def test_the_broker_restarted_without_memory_loses_no_frame_and_no_model(site):
    site.turn(5)
    site.broker.stop()
    site.turn(3)
    site.broker.start()
    site.until(lambda: frames.count(site.store) == 120, turns=400)
    site.label_all()
    site.loop.run_once("labels")
    site.broker.stop()
    site.broker.start()
    site.until(lambda: releases.latest(site.store).state == "complete")


@pytest.mark.parametrize("stage", ["train", "retest"])
def test_a_killed_child_is_started_again_and_the_cycle_ends_well(site, stage):
    site.until(lambda: frames.count(site.store) == 120)
    site.label_all()
    site.learn.fail[stage] = [Unavailable("the child was killed by SIGKILL", code="child_killed")]
    assert site.loop.run_once("labels") == "released"
    assert site.learn.ran.count(stage) == 2


@pytest.mark.parametrize("stage", ["train", "retest"])
def test_the_daemon_killed_in_a_cycle_goes_on_where_it_was(site, stage):
    site.until(lambda: frames.count(site.store) == 120)
    site.label_all()
    site.learn.fail[stage] = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        site.loop.run_once("labels")
    before = cycles.running(site.store)
    site.kill_box()
    site.open_box()
    assert site.loop.why() == "interrupted before"
    assert site.loop.run_once("interrupted before") == "released"
    assert cycles.latest(site.store).id == before.id
    assert ("train" in site.learn.ran) == (stage == "train")


def test_a_request_of_the_page_starts_one_cycle(site):
    site.until(lambda: frames.count(site.store) == 120)
    site.label_all()
    requests.add(site.store, "cycle", {}, "ann")
    assert site.loop.why() == "asked for by ann"
    assert site.loop.run_once("asked for by ann") == "released"
    assert requests.pending(site.store) == []
    assert requests.latest(site.store)[0].result == "cycle 1"
    assert site.loop.why() == ""


def test_too_few_labels_end_the_cycle_in_words(site):
    site.turn(2)
    assert site.loop.run_once("asked for by ann") == "refused"
    assert cycles.latest(site.store).detail.startswith(
        "refused for lack of evidence: 0 of 4 hold-out samples (label more"
    )
    assert site.learn.ran == []


def test_what_a_stage_refuses_ends_the_cycle_in_its_words(site):
    site.until(lambda: frames.count(site.store) == 120)
    site.label_all()
    site.learn.fail["train"] = [Refused("3 of 40 samples to train on")]
    assert site.loop.run_once("asked for by ann") == "refused"
    assert cycles.latest(site.store).detail == "3 of 40 samples to train on"


def test_a_corrupt_store_stops_the_daemon(site):
    site.box.alarm(Corrupt("the audit chain is broken"))
    with pytest.raises(Corrupt, match="audit chain"):
        site.box.step(0)


def test_a_bug_in_a_worker_is_counted_and_the_daemon_goes_on(site):
    site.box.alarm(RuntimeError("a bug"))
    site.box.step(0)
    assert counters.get(site.store, "bug") == 1


def test_rubbish_on_the_wire_is_counted_and_dropped(site):
    other = site.broker.link("stranger")
    other.publish(f"edged/1/{'plant-a'}/cam/gate/frame", b"no header")
    other.publish("edged/1/plant-a/cam/gate/stats", b"{not json")
    other.publish("edged/1/plant-a/cam/gate/model/want", b'{"sha256": "x", "chunks": []}')
    site.turn(2)
    assert counters.get(site.store, "refused:bad_header") == 1
    assert counters.get(site.store, "refused:bad_message") == 2
    other.close()


def test_nobody_can_speak_for_the_planted_camera(site):
    stranger = site.broker.link("planted")
    for leaf, payload in (("frame", b"\xff\xd8"), ("state", b"online"), ("model/want", b"{}")):
        stranger.publish(topics.cam(SITE, "planted", leaf), payload)
    site.turn(3)
    assert counters.get(site.store, "refused:reserved_name") == 3
    assert site.store.value("select count(*) from camera where id = 'planted'") == 0
    assert site.store.value("select count(*) from frame where camera = 'planted'") == 0
    with pytest.raises(Refused, match="planted"):
        issue_camera(site.folder, "planted", site.clock)


def test_health_is_retained_and_follows_the_alarms(site):
    def said():
        message = site.broker.link("reader")
        message.subscribe(topics.server(SITE, "edge-1", "health"))
        return msgspec.json.decode(message.receive(0).payload)

    site.turn(3)
    assert said() == {"verdict": "ok", "reasons": []}
    alarms.sound(site.store, "privacy_leak", "a face leaked")
    since = iso(site.clock.now())
    site.turn(3)
    hint = health.KNOWN["privacy_leak"][1]
    reason = {"code": "privacy_leak", "text": "a face leaked", "since": since, "hint": hint}
    assert said() == {"verdict": "failed", "reasons": [reason]}
    alarms.clear(site.store, "privacy_leak")
    site.turn(3)
    assert said()["verdict"] == "ok"


def test_two_rounds_in_a_row(site):
    site.until(lambda: frames.count(site.store) == 120)
    site.label_all()
    site.loop.run_once("labels")
    site.until(lambda: releases.latest(site.store).state == "complete")
    site.learn.threshold = 110.0
    assert site.loop.run_once("again") == "released"
    site.until(lambda: releases.latest(site.store).number == 2 and releases.latest(site.store).state == "complete")
    assert {a.active.slot.release for a in site.agents.values()} == {2}
