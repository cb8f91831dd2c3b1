import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest

from edged.errors import Misconfigured, Refused, Unavailable
from edged.storage import cameras, check, frames, samples


def test_an_added_frame_is_answered_by_its_hash_and_reads_back(store, frame, scrubbed):
    f = frame(1)
    s = scrubbed(f)
    receipt = frames.add(store, f, s)
    assert (receipt.id, receipt.sha256, receipt.status) == ("boot-1", sha256(f.jpeg).hexdigest(), "stored")
    assert frames.last_picture(store, "gate") == s.jpeg
    assert [samples.crop(store, f"gate:boot-1:{i}") for i in range(2)] == list(s.crops)
    assert check.run(store) == []


def test_samples_carry_what_the_camera_said(store, frame, scrubbed, clock):
    f = frame(1, ts=123.5, label="van", margin=0.25, model="abc")
    clock.at += 7
    frames.add(store, f, scrubbed(f))
    s = samples.get(store, "gate:boot-1:1")
    assert (s.camera, s.frame, s.ts, s.received) == ("gate", "boot-1", 123.5, f.received)
    assert (s.x, s.y, s.w, s.h) == (1, 2, 50, 60)
    assert (s.model, s.predicted, s.score, s.margin) == ("abc", "van", 0.7, 0.25)


def test_a_duplicate_gets_the_same_receipt_and_adds_nothing(store, frame, scrubbed, files):
    f = frame(1)
    first = frames.add(store, f, scrubbed(f))
    before = files()
    assert frames.add(store, f, scrubbed(f)) == first
    assert frames.find_receipt(store, "gate", "boot-1") == first
    assert files() == before
    assert samples.count(store) == 2


def test_an_id_that_comes_back_with_other_bytes_is_refused_and_the_first_stays(store, frame, scrubbed, files):
    f = frame(1)
    frames.add(store, f, scrubbed(f))
    other = frame(1, jpeg=b"something else")
    before = files()
    for again in (
        lambda: frames.add(store, other, scrubbed(other)),
        lambda: frames.settle(store, other, "withheld", ""),
    ):
        with pytest.raises(Refused) as e:
            again()
        assert e.value.code == "id_reused"
    assert frames.last_picture(store, "gate") == scrubbed(f).jpeg
    assert files() == before


def test_two_cameras_may_use_the_same_id(store, add):
    add(store, 1, camera="gate")
    add(store, 1, camera="yard")
    assert frames.count(store) == 2


def test_a_withheld_frame_leaves_a_row_and_no_picture_and_stays_withheld(store, frame, scrubbed, files):
    f = frame(1)
    receipt = frames.settle(store, f, "withheld", "detector: late")
    assert (receipt.status, receipt.detail) == ("withheld", "detector: late")
    assert frames.add(store, f, scrubbed(f)) == receipt
    assert frames.settle(store, f, "refused", "") == receipt
    assert files() == []
    assert frames.last_picture(store, "gate") is None
    assert samples.count(store) == 0
    assert check.run(store) == []


def test_a_region_sent_alone_is_one_sample_and_kept_once(store, frame, scrubbed, files):
    from dataclasses import replace

    f = frame(1, kind="roi", regions=1)
    s = scrubbed(f)
    frames.add(store, f, replace(s, crops=(s.jpeg,)))
    assert samples.crop(store, "gate:boot-1:0") == s.jpeg == frames.last_picture(store, "gate")
    assert len(files()) == 1
    f = frame(2, kind="roi", regions=0)
    frames.add(store, f, scrubbed(f, crops=1))
    sample = samples.get(store, "gate:boot-2:0")
    assert (sample.x, sample.y, sample.w, sample.h, sample.predicted) == (0, 0, 1280, 720, "")
    assert check.run(store) == []


def test_crops_that_do_not_fit_the_header_are_refused(store, frame, scrubbed, files):
    f = frame(1, regions=3)
    with pytest.raises(Refused) as e:
        frames.add(store, f, scrubbed(f, crops=2))
    assert e.value.code == "bad_regions"
    assert files() == []


def test_the_camera_is_known_from_its_first_frame_and_its_times_never_go_back(store, add, clock):
    add(store, 1)
    first = cameras.get(store, "gate")
    clock.at -= 500
    add(store, 2)
    again = cameras.get(store, "gate")
    assert (first.first_seen, first.last_seen, first.last_frame) == (first.last_frame,) * 3
    assert (again.last_seen, again.last_frame) == (first.last_seen, first.last_frame)


def test_below_the_reserve_the_camera_is_told_to_try_again(open_store, frame, scrubbed, files):
    store = open_store(min_free=1 << 60)
    f = frame(1)
    with pytest.raises(Unavailable) as e:
        frames.add(store, f, scrubbed(f))
    assert e.value.code == "disk_full"
    assert files() == []
    assert frames.find_receipt(store, "gate", "boot-1") is None
    frames.settle(store, frame(2), "withheld", "rows still fit")


def test_without_the_key_nothing_is_stored(open_store, frame, scrubbed, files):
    f = frame(1)
    with pytest.raises(Misconfigured):
        frames.add(open_store(site_key=None), f, scrubbed(f))
    assert files() == []


def test_a_frame_that_another_thread_stored_meanwhile_gets_its_receipt(store, frame, scrubbed, files, monkeypatch):
    f = frame(1)
    receipts, real = [], frames._append

    def late(*args):
        monkeypatch.setattr(frames, "_append", real)
        receipts.append(frames.add(store, f, scrubbed(f)))
        return real(*args)

    monkeypatch.setattr(frames, "_append", late)
    receipts.append(frames.add(store, f, scrubbed(f)))
    assert receipts[0] == receipts[1]
    assert len(files()) == 3
    assert check.run(store) == []


def test_only_one_process_takes_frames_the_others_are_told_so(store, open_store, frame, scrubbed):
    f, other = frame(1), open_store()
    receipt = frames.add(store, f, scrubbed(f))
    assert frames.add(other, f, scrubbed(f)) == receipt  # that needs no writing
    with pytest.raises(Unavailable) as e:
        frames.add(other, frame(2), scrubbed(frame(2)))
    assert e.value.code == "busy"
    store.close()
    frames.add(other, frame(2), scrubbed(frame(2)))
    assert check.run(other) == []


def test_many_threads_adding_the_same_frames_store_each_once(store, frame, scrubbed, files):
    all_frames = [frame(n) for n in range(12)] * 3
    start = threading.Barrier(6)

    def work(part):
        start.wait()
        return [frames.add(store, f, scrubbed(f)) for f in part]

    with ThreadPoolExecutor(6) as pool:
        receipts = [r for rs in pool.map(work, [all_frames[i::6] for i in range(6)]) for r in rs]
    assert len({r.sha256 for r in receipts}) == 12
    assert frames.count(store) == 12
    assert len(files()) == 12 * 3
    assert check.run(store) == []
