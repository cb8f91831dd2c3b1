"""What a camera must not lose, and what it may."""

import hashlib
import os
import signal
import subprocess
import sys

import pytest

from agent.spool import SEQ_BLOCK, Spool
from edged.errors import Corrupt, Refused
from edged.wire.messages import MAX_FRAME_BYTES, FrameHeader, FrameReceipt, Region

JPEG = b"\xff\xd8" + b"\n\x00binary\n" * 50 + b"\xff\xd9"


def header(seq, boot="boot1"):
    return FrameHeader(f"{boot}-{seq}", 1e9, seq, boot, 320, 240, "", (Region(1, 2, 30, 40, "busy", 0.9, 0.8),))


def add(spool, jpeg=JPEG, kind="frame"):
    h = header(spool.next_seq())
    spool.add(h, jpeg, kind)
    return h


def receipt(h, status="stored", jpeg=JPEG, **more):
    return FrameReceipt(h.id, hashlib.sha256(jpeg).hexdigest(), status, **more)


def ids(spool, now=0.0):
    return [e.id for e in spool.due(now)]


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool", fsync=False)


def test_a_frame_reads_back_as_it_was_added_after_a_restart(spool):
    h = add(spool, kind="roi")
    again = Spool(spool.folder, fsync=False)
    (entry,) = again.due(0)
    head, jpeg = again.read(entry)
    assert (head.header, head.kind, jpeg) == (h, "roi", JPEG)
    assert (len(again), again.bytes) == (1, spool.bytes)


def test_frames_come_in_the_order_they_were_taken(spool):
    want = [add(spool).id for _ in range(12)]
    assert ids(spool) == want
    assert ids(Spool(spool.folder, fsync=False)) == want


def test_a_frame_that_was_sent_is_due_again_only_when_no_receipt_came(spool):
    h = add(spool)
    spool.sent(h.id, 100.0)
    assert spool.in_flight(100.0) == 1
    assert ids(spool, 129.9) == []
    assert ids(spool, 130.0) == [h.id]
    assert spool.in_flight(130.0) == 0


def test_after_a_restart_everything_without_receipt_is_due_at_once(spool):
    h = add(spool)
    spool.sent(h.id, 100.0)
    assert ids(Spool(spool.folder, fsync=False), 100.1) == [h.id]


@pytest.mark.parametrize("status", ["stored", "withheld", "refused"])
def test_a_final_receipt_lets_the_frame_go(spool, status):
    h = add(spool)
    assert spool.receipt(receipt(h, status), 0)
    assert len(spool) == 0
    assert spool.bytes == 0
    assert not list(spool.folder.glob("*.frame"))


def test_retry_keeps_the_frame_until_its_time(spool):
    h = add(spool)
    spool.sent(h.id, 100.0)
    assert not spool.receipt(receipt(h, "retry", retry_after_s=60), 101.0)
    assert ids(spool, 160.9) == []
    assert ids(spool, 161.0) == [h.id]


def test_a_receipt_about_other_bytes_is_ignored_and_counted(spool):
    h = add(spool)
    assert not spool.receipt(receipt(h, jpeg=b"other"), 0)
    assert spool.mismatched_total == 1
    assert ids(spool) == [h.id]


def test_a_second_receipt_for_the_same_frame_is_nothing(spool):
    h = add(spool)
    spool.receipt(receipt(h), 0)
    assert not spool.receipt(receipt(h), 0)


def test_the_oldest_go_when_there_are_too_many(tmp_path):
    spool = Spool(tmp_path / "s", max_frames=3, fsync=False)
    all_ids = [add(spool).id for _ in range(5)]
    assert ids(spool) == all_ids[2:]
    assert spool.dropped_total == 2
    assert len(list(spool.folder.glob("*.frame"))) == 3


def test_the_oldest_go_when_the_bytes_are_too_many(tmp_path):
    one = Spool(tmp_path / "one", fsync=False)
    add(one)
    spool = Spool(tmp_path / "s", max_bytes=3 * one.bytes + 10, fsync=False)
    all_ids = [add(spool).id for _ in range(5)]
    assert ids(spool) == all_ids[2:]
    assert spool.bytes <= spool.max_bytes


def test_a_bound_that_was_lowered_holds_after_the_restart(spool):
    all_ids = [add(spool).id for _ in range(5)]
    again = Spool(spool.folder, max_frames=2, fsync=False)
    assert ids(again) == all_ids[3:]
    assert again.dropped_total == 3


def test_a_frame_larger_than_the_box_takes_is_refused_and_counted(spool):
    with pytest.raises(Refused):
        add(spool, b"x" * (MAX_FRAME_BYTES + 1))
    assert spool.dropped_total == 1
    assert len(spool) == 0


def test_numbers_are_never_given_twice(spool):
    first = [spool.next_seq() for _ in range(3)]
    again = Spool(spool.folder, fsync=False)
    assert again.next_seq() > max(first)
    assert again.next_seq() <= SEQ_BLOCK + 1


def test_numbers_stay_above_what_waits_even_when_the_counter_is_lost(spool):
    h = [add(spool) for _ in range(3)][-1]
    (spool.folder / "next-seq").write_text("rubbish")
    assert Spool(spool.folder, fsync=False).next_seq() > h.seq


@pytest.mark.parametrize("harm", ["flip", "truncate", "empty", "head"])
def test_a_damaged_file_is_set_aside_and_the_rest_goes_on(spool, harm):
    bad, good = add(spool), add(spool)
    path = spool.folder / f"{bad.seq:016d}.frame"
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[-10] ^= 1
    elif harm == "truncate":
        data = data[:-1]
    elif harm == "empty":
        data = bytearray()
    else:
        data[5] = 0xFF
    path.write_bytes(data)
    again = Spool(spool.folder, fsync=False)
    for entry in again.due(0):
        try:
            again.read(entry)
        except Corrupt:
            assert harm == "flip"
    assert ids(again) == [good.id]
    assert again.damaged_total == 1
    assert [p.name for p in (spool.folder / "damaged").iterdir()] == [path.name]


def test_half_written_files_are_swept_away(spool):
    h = add(spool)
    (spool.folder / ".0000000000000009.frame.123.tmp").write_bytes(b"half")
    again = Spool(spool.folder, fsync=False)
    assert ids(again) == [h.id]
    assert not list(spool.folder.glob(".*"))


ADDER = """
import sys
from pathlib import Path
from agent.spool import Spool
from edged.wire.messages import FrameHeader
spool = Spool(Path(sys.argv[1]), fsync=False)
while True:
    seq = spool.next_seq()
    spool.add(FrameHeader(f"{sys.argv[2]}-{seq}", 1.0, seq, sys.argv[2], 8, 8), b"jpeg %d" % seq * 1000)
    print(seq, flush=True)
"""


def test_killed_while_adding_it_has_every_frame_that_add_returned_for(tmp_path):
    folder, acknowledged = tmp_path / "spool", []
    for boot in range(3):
        child = subprocess.Popen([sys.executable, "-c", ADDER, str(folder), f"b{boot}"], stdout=subprocess.PIPE)
        for _ in range(40):
            acknowledged.append((f"b{boot}", int(child.stdout.readline())))
        os.kill(child.pid, signal.SIGKILL)
        acknowledged += [(f"b{boot}", int(line)) for line in child.stdout.read().splitlines()]
        child.stdout.close()
        child.wait()
    spool = Spool(folder, fsync=False)
    found = {}
    for entry in spool.due(0):
        head, jpeg = spool.read(entry)
        assert jpeg == b"jpeg %d" % head.header.seq * 1000
        found[head.header.seq] = head.header.boot
    assert spool.damaged_total == 0
    assert all(found[seq] == boot for boot, seq in acknowledged)
    assert len({seq for _, seq in acknowledged}) == len(acknowledged)
