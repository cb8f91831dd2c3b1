"""The whole story of an update over a cable that is a dictionary, and everything that can go wrong in it."""

import hashlib
import json

import pytest

from agent.selftest import Child
from edged.wire import topics
from edged.wire.messages import Want


def statuses(site):
    return [r.status for r in site.box.reports]


def test_a_signed_release_comes_to_run_on_the_camera(site, make):
    site.start()
    model = site.install(1, make.classifier(1, padding=30_000))  # 120 kB: eight chunks
    sha256 = hashlib.sha256(model).hexdigest()
    last = site.box.last
    assert (last.status, last.version, last.sha256, last.progress) == ("SUCCEEDED", 1, sha256, 1.0)
    assert statuses(site)[0] == "IN_PROGRESS"
    progress = [r.progress for r in site.box.reports]
    assert progress == sorted(progress)
    site.see()
    site.run(5)
    frame = site.box.frames[-1]
    assert frame.header.model == sha256
    assert {r.label for r in frame.header.regions} <= set(make.CLASSES)
    assert all(r.label and 0 < r.score <= 1 for r in frame.header.regions)
    assert site.agent.active.slots.pointer.probation is False


def test_the_second_release_goes_to_the_other_slot_and_the_first_stays_as_fallback(site, make):
    site.start()
    first, _second = site.install(1), site.install(2)
    pointer = site.agent.active.slots.pointer
    assert {pointer.active, pointer.fallback} == {"a", "b"}
    kept = (site.folder / "state/slots" / pointer.fallback / "model.onnx").read_bytes()
    assert kept == first


def test_after_a_restart_the_model_runs_and_the_finished_job_is_not_done_again(site):
    site.start()
    site.install(1)
    wants = len(site.box.wants)
    site.kill()
    site.start()
    site.run(20)
    assert site.agent.active.slot.release == 1
    assert len(site.box.wants) == wants
    assert site.box.last.status == "SUCCEEDED"


@pytest.mark.parametrize("self_test", ["inline", "child"])
def test_a_model_that_answers_otherwise_than_on_the_box_fails_its_self_test_and_the_old_one_runs(site, make, self_test):
    site.start()
    site.install(1)
    if self_test == "child":
        site.agent.updater._self_test = Child
    wrong = make.classifier(9)
    site.box.offer(site.box.release(2, wrong, answer=make.known_answer(wrong, shift=5.0)))
    if self_test == "child":
        site.until(lambda: site.agent.updater._running is not None)
        site.agent.updater._running._process.wait(60)
    site.until(lambda: site.box.over("job-2"))
    assert site.box.last.status == "FAILED"
    assert "differ" in site.box.last.detail
    assert site.box.last.version == 1
    assert site.agent.active.slot.release == 1


def test_a_damaged_chunk_is_asked_for_again(site, make):
    site.start()
    site.box.spoil = {1, 3}
    site.install(1, make.classifier(1, padding=30_000))
    assert site.agent.updater.bad_chunks == 2
    assert site.box.wants[0].chunks == tuple(range(8))
    assert set(site.box.wants[1].chunks) == {1, 3}


def test_chunks_that_nobody_asked_for_are_ignored(site, make):
    site.start()
    site.box.link.publish(topics.model(make.SITE, "chunk/" + "0" * 64), b"x" * 100)
    site.run(3)
    site.install(1)


def test_metadata_that_was_tampered_with_is_rejected_and_nothing_is_downloaded(site, make):
    site.start()
    desired = site.box.release(1, make.classifier(1))

    def change(name, data):
        return data.replace(b'"px":32', b'"px":33') if name.endswith("targets.json") else data

    site.box.publish_metadata(change)
    site.box.desire(desired)
    site.until(lambda: site.box.reports and site.box.last.status == "REJECTED")
    assert "signed" in site.box.last.detail
    assert not site.box.wants
    assert site.agent.active.slot is None


def test_metadata_without_signatures_is_rejected(site, make):
    site.start()
    desired = site.box.release(1, make.classifier(1))

    def change(name, data):
        document = json.loads(data)
        if name == "timestamp.json":
            document["signatures"] = []
        return json.dumps(document).encode()

    site.box.publish_metadata(change)
    site.box.desire(desired)
    site.until(lambda: site.box.reports and site.box.last.status == "REJECTED")
    assert "not signed by the site's keys" in site.box.last.detail


def test_another_sites_keys_are_worth_nothing(site, make, tmp_path):
    site.start()
    stranger = type(site)(tmp_path / "other") if (tmp_path / "other").mkdir() is None else None
    stranger.box.link = site.box.link
    desired = stranger.box.release(1, make.classifier(1))
    stranger.box.offer(desired)
    site.until(lambda: site.box.reports and site.box.last.status == "REJECTED")
    assert not site.box.wants


def test_expired_metadata_is_rejected_and_the_camera_goes_on(site, make):
    site.start()
    site.install(1)
    desired = site.box.release(2, make.classifier(2))
    site.clock.t += 8 * 86400  # the timestamp lives seven days
    site.box.offer(desired)
    site.until(lambda: site.box.last.status == "REJECTED")
    assert "expired" in site.box.last.detail
    assert site.agent.active.slot.release == 1
    site.see()
    site.run(5)
    assert site.box.frames[-1].header.regions[0].label


def test_a_clock_that_falls_back_makes_nothing_valid_again(site, make):
    site.start()
    began = site.clock.t
    first = site.box.release(1, make.classifier(1))
    site.clock.t = began + 6.9 * 86400
    site.box.offer(first)  # the camera has now seen a time at which the next timestamp is over
    site.see(6)
    site.until(lambda: site.box.over("job-1"))
    site.kill()
    site.clock.t = began - 86400
    second = site.box.release(2, make.classifier(2))  # a timestamp until began + 6 days
    site.clock.t = began
    site.start()
    site.box.offer(second)
    site.until(lambda: site.box.over("job-2"))
    assert site.box.last.status == "REJECTED"
    assert "expired" in site.box.last.detail


def test_when_the_clocks_of_box_and_camera_were_far_ahead_and_are_right_again_updates_go_on(site, make):
    site.start()
    began = site.clock.t
    site.clock.t = began + 300 * 86400
    site.install(1)
    site.clock.t = began
    site.install(2)
    site.clock.t = began - 86400  # from now on the floor is there again
    third = site.box.release(3, make.classifier(3))
    site.clock.t = began + 6.5 * 86400
    site.box.offer(third)
    site.until(lambda: site.box.over("job-3"))
    assert site.box.last.status == "REJECTED"
    assert "expired" in site.box.last.detail
    assert site.agent.active.slot.release == 2


def test_older_metadata_than_was_trusted_before_is_rejected(site, make):
    site.start()
    desired = site.box.release(1, make.classifier(1))
    old = site.box.repository.files()
    site.box.release(5, make.classifier(5))
    site.install(6)
    for name, data in old.items():
        site.box.link.publish(topics.model(make.SITE, f"meta/{name}"), data, retain=True)
    site.box.desire(desired)
    site.until(lambda: site.box.last.job == "job-1")
    site.until(lambda: site.box.last.status != "IN_PROGRESS")
    assert site.box.last.status == "REJECTED"
    assert "older" in site.box.last.detail
    assert site.agent.active.slot.release == 6


def test_a_lower_release_number_is_rejected_even_when_it_is_signed(site, make):
    site.start()
    site.install(7)
    site.box.offer(site.box.release(3, make.classifier(3)))
    site.until(lambda: site.box.over("job-3"))
    assert site.box.last.status == "REJECTED"
    assert "not newer than 7" in site.box.last.detail
    assert site.box.last.version == 7


def test_old_bytes_come_back_as_a_new_release(site, make):
    site.start()
    first = site.install(1)
    site.install(2)
    site.install(3, first)
    assert site.agent.active.slot.release == 3
    assert site.box.last.sha256 == hashlib.sha256(first).hexdigest()


@pytest.mark.parametrize(
    ("custom", "word"),
    [
        ({"hardware": ["other-cam"]}, "other-cam"),
        ({"min_agent": "99.0"}, "99.0"),
        ({"classes": ["a", "b", "c"]}, "classes"),
        ({"chunks": ["0" * 64, "1" * 64]}, "chunks"),
        ({"release": 4}, "release 4"),
        ({"px": 64}, "size of the picture"),
    ],
)
def test_a_signed_release_that_is_not_for_this_camera_is_rejected_with_a_sentence(
    site, make, custom, word, monkeypatch
):
    monkeypatch.setattr("edged.publish.signing.check_custom", lambda *_: None)  # a signer that signs anything
    site.start()
    site.box.offer(site.box.release(1, make.classifier(1), **custom))
    site.until(lambda: site.box.reports and site.box.last.status == "REJECTED")
    assert word in site.box.last.detail
    assert not site.box.wants


def test_a_model_larger_than_the_camera_takes_is_rejected_before_a_byte_is_asked_for(site, make):
    from agent.updater import Limits

    site.options = {"limits": Limits(max_bytes=1000)}
    site.start()
    site.box.offer(site.box.release(1, make.classifier(1, padding=1000)))
    site.until(lambda: site.box.reports and site.box.last.status == "REJECTED")
    assert not site.box.wants


def test_desired_bytes_that_the_signed_release_does_not_name_are_rejected(site, make):
    from msgspec.structs import replace

    site.start()
    desired = site.box.release(1, make.classifier(1))
    site.box.offer(replace(desired, sha256="0" * 64))
    site.until(lambda: site.box.reports and site.box.last.status == "REJECTED")
    assert "vouch" in site.box.last.detail


def test_killed_in_the_middle_of_the_download_it_asks_only_for_what_it_lacks(site, make):
    site.start()
    site.box.serve = False
    site.box.offer(site.box.release(1, make.classifier(1, padding=30_000)))
    site.until(lambda: site.box.wants)
    site.box.answer(site.box.wants[-1], limit=5)
    site.run(2)
    site.kill()
    site.box.wants.clear()
    site.box.serve = True
    site.start()
    site.see(6)
    site.until(lambda: site.box.last.status == "SUCCEEDED")
    assert site.box.wants == [Want(site.box.last.sha256, (5, 6, 7))]


def test_what_a_kill_left_of_a_chunk_is_found_by_its_hash(site, make):
    site.start()
    site.box.serve = False
    site.box.offer(site.box.release(1, make.classifier(1, padding=30_000)))
    site.until(lambda: site.box.wants)
    site.box.answer(site.box.wants[-1], limit=5)
    site.run(2)
    site.kill()
    part = next((site.folder / "state/update/staging").glob("*.part"))
    data = bytearray(part.read_bytes())
    data[2 * 16384 + 100] ^= 1
    part.write_bytes(data)
    site.box.wants.clear()
    site.start()
    site.until(lambda: site.box.wants)
    assert site.box.wants[0].chunks == (2, 5, 6, 7)


def test_more_chunks_than_fit_into_one_question_are_asked_for_in_turns(site, make):
    site.start()
    site.install(1, make.classifier(1, padding=1_100_000))  # 4.4 MB: 269 chunks
    assert [len(w.chunks) for w in site.box.wants] == [256, 13]


def test_a_camera_that_lost_the_cable_goes_on_downloading_when_it_is_back(site, make):
    site.start()
    site.box.serve = False
    site.box.offer(site.box.release(1, make.classifier(1, padding=30_000)))
    site.until(lambda: site.box.wants)
    site.agent._link.drop()
    site.run(20, seconds=100.0)  # longer than any patience
    assert site.box.last.status == "IN_PROGRESS"
    site.box.serve = True
    site.agent._link.reconnect()
    site.see(6)
    site.until(lambda: site.box.last.status == "SUCCEEDED")


def test_a_download_that_nobody_serves_is_given_up(site, make):
    site.start()
    site.box.serve = False
    site.box.offer(site.box.release(1, make.classifier(1)))
    site.until(lambda: site.box.reports and site.box.last.status == "TIMED_OUT", seconds=10)
    assert len(site.box.wants) > 5


def test_metadata_that_never_comes_is_given_up(site, make):
    site.start()
    site.box.desire(site.box.release(1, make.classifier(1)))
    site.until(lambda: site.box.reports and site.box.last.status == "TIMED_OUT", seconds=10)
    assert "did not arrive" in site.box.last.detail


def test_metadata_may_come_after_the_wish(site, make):
    site.start()
    site.box.desire(site.box.release(1, make.classifier(1)))
    site.run(20)
    assert site.box.last.status == "IN_PROGRESS"
    site.box.publish_metadata()
    site.see(6)
    site.until(lambda: site.box.last.status == "SUCCEEDED")


def test_a_withdrawn_wish_is_canceled(site, make):
    site.start()
    site.box.serve = False
    site.box.offer(site.box.release(1, make.classifier(1)))
    site.until(lambda: site.box.wants)
    site.box.desire(None)
    site.until(lambda: site.box.last.status == "CANCELED")
    assert site.agent.active.slot is None


def test_a_withdrawn_wish_that_comes_again_begins_anew(site, make):
    site.start()
    site.box.serve = False
    site.box.offer(site.box.release(1, make.classifier(1)))
    site.until(lambda: site.box.wants)
    wish = site.agent.updater.record.desired
    site.box.desire(None)
    site.until(lambda: site.box.last.status == "CANCELED")
    site.box.serve = True
    site.box.desire(wish)
    site.see(12)
    site.until(lambda: site.box.last.status == "SUCCEEDED")
    assert site.agent.active.slot.release == 1


def test_a_second_job_for_what_runs_already_is_done_at_once(site, make):
    from msgspec.structs import replace

    site.start()
    site.install(1)
    wants = len(site.box.wants)
    site.box.desire(replace(site.agent.updater.record.desired, job="job-again"))
    site.until(lambda: site.box.over("job-again"))
    assert (site.box.last.status, len(site.box.wants)) == ("SUCCEEDED", wants)


def test_a_wish_that_comes_during_probation_waits_for_its_end(site, make):
    site.start()
    site.box.offer(site.box.release(1, make.classifier(1)))
    site.until(lambda: site.agent.active.slots.pointer.probation)
    site.box.offer(site.box.release(2, make.classifier(2)))
    site.run(5)
    assert site.box.last.job == "job-1"
    site.see(12)
    site.until(lambda: site.box.over("job-2"))
    assert ("job-1", "SUCCEEDED") in [(r.job, r.status) for r in site.box.reports]
    assert (site.box.last.status, site.box.last.version) == ("SUCCEEDED", 2)


def test_a_newer_wish_takes_the_place_of_one_that_is_under_way(site, make):
    site.start()
    site.box.serve = False
    site.box.offer(site.box.release(1, make.classifier(1)))
    site.until(lambda: site.box.wants)
    site.box.serve = True
    site.install(2)
    assert site.agent.active.slot.release == 2
    assert not list((site.folder / "state/update/staging").iterdir())  # nothing is left of the first


def test_every_phase_change_is_in_the_table():
    from typing import get_args

    from agent.updater import NEXT, Phase

    assert set(NEXT) == set(get_args(Phase))
    assert all(after in NEXT for nexts in NEXT.values() for after in nexts)


def test_what_becomes_of_a_release_stands_in_the_log_once(site, make, caplog):
    caplog.set_level("INFO", "edged.agent")
    site.start()
    site.install(1)
    site.box.offer(site.box.release(2, make.classifier(2), hardware=["another"]))
    site.until(lambda: site.box.over("job-2"))
    site.run(30)
    said = [record.message for record in caplog.records if record.message.startswith("release ")]
    assert sum(line.startswith("release 1 of parking, done SUCCEEDED") for line in said) == 1
    assert [line for line in said if "REJECTED" in line] == [
        "release 2 of parking, done REJECTED: release 2 is for another; this camera is test-cam"
    ]
