"""The format: what is whole is found again, what is not is not."""

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.storage import segment
from edged.storage.segment import PAGE, Body, Record, encode, pages, read, salvage, scan


def record(seed, sizes=(300, 50), document=80):
    rng = random.Random(seed)
    bodies = tuple(
        Body.of(rng.randbytes(16).hex(), "frame" if i == 0 else "crop", rng.randbytes(n)) for i, n in enumerate(sizes)
    )
    return Record(rng.randbytes(16).hex(), f"key-{seed}", rng.randbytes(document), bodies)


def write(fd, groups, *, generation=1, number=7, start=0):
    """Groups of records as the journal lays them; returns where each record ends."""
    offset, ends = start, []
    for group in groups:
        offset = pages(offset)
        for r in group:
            pieces, _ = encode(r, number, generation, offset)
            os.pwrite(fd, b"".join(pieces), offset)
            offset += r.size
            ends.append(offset)
    return ends


@pytest.fixture
def fd(tmp_path):
    fd = os.open(tmp_path / "00000007.seg", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.lists(st.integers(0, 9000), max_size=4), min_size=1, max_size=3), max_size=5))
def test_what_was_written_is_found_again_in_order(tmp_path_factory, shapes):
    path = tmp_path_factory.mktemp("segment") / "s"
    groups = [[record(17 * i + j, sizes) for j, sizes in enumerate(group)] for i, group in enumerate(shapes)]
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        write(fd, groups)
        found = list(scan(fd, 7))
        flat = [r for group in groups for r in group]
        assert [f.id for f in found] == [r.id for r in flat]
        for f, r in zip(found, flat, strict=True):
            assert (f.key_id, f.document, segment.bodies(fd, f.entries)) == (r.key_id, r.document, r.bodies)
        assert salvage(fd, 7) == found
    finally:
        os.close(fd)


def test_a_group_begins_on_a_page_of_its_own(fd):
    ends = write(fd, [[record(1)], [record(2), record(3)]])
    _, second, third = scan(fd, 7)
    assert second.offset == pages(ends[0]) == PAGE
    assert third.offset == second.end


@pytest.mark.parametrize("seed", range(40))
def test_a_torn_group_ends_the_scan_and_nothing_of_it_is_taken(fd, seed):
    """Sectors of 512 bytes, each old or new; the group before stays as it was."""
    rng = random.Random(seed)
    write(fd, [[record(1)], [record(2, (3000, 4000)), record(3)]])
    first, *group = scan(fd, 7)
    before = bytearray(os.pread(fd, 1 << 20, 0))
    start, end = group[0].offset, group[-1].end
    sectors = [s for s in range(start, end, 512) if rng.random() < 0.5] or [start]
    for s in sectors:
        os.pwrite(fd, bytes(min(512, end - s)), s)
    assert next(scan(fd, 7)) == first
    for found in list(scan(fd, 7))[1:]:  # whole ones only
        assert bytes(before[found.offset : found.end]) == os.pread(fd, found.length, found.offset)


def torn(fd):
    """A group of which the disk has the first record and the head of the second; later groups behind the first record."""
    a, b = record(1), record(2, (9000,))
    end, _ = write(fd, [[a, b]])
    os.pwrite(fd, bytes(2 * PAGE), PAGE)
    write(fd, [[record(3)], [record(4, (5000,)), record(5)]], start=end)
    assert read(fd, 7, end) is not None
    return end


def test_what_was_written_after_a_torn_group_is_found_behind_what_is_left_of_it(fd):
    end = torn(fd)
    assert [f.key_id for f in scan(fd, 7)] == ["key-1", "key-3", "key-4", "key-5"]
    assert [f.key_id for f in scan(fd, 7, end, generation=1)] == ["key-3", "key-4", "key-5"]


def test_salvage_finds_what_was_written_on_the_rest_of_a_torn_group(fd):
    torn(fd)
    assert [f.key_id for f in salvage(fd, 7)] == ["key-1", "key-3", "key-4", "key-5"]


def test_salvage_finds_what_was_written_on_the_rest_of_an_older_generation(fd):
    end, _ = write(fd, [[record(1), record(2, (9000,))]], generation=3)
    write(fd, [[record(1)], [record(3)]], generation=4)
    assert read(fd, 7, end).generation == 3
    assert [f.key_id for f in salvage(fd, 7)] == ["key-1", "key-3"]


def test_every_changed_byte_of_a_record_is_noticed(fd):
    write(fd, [[record(1, (40,), 20)]])
    (found,) = scan(fd, 7)
    for at in range(found.length):
        byte = os.pread(fd, 1, at)
        os.pwrite(fd, bytes([byte[0] ^ 0x10]), at)
        assert list(scan(fd, 7)) == [], at
        os.pwrite(fd, byte, at)
    assert list(scan(fd, 7)) == [found]


def test_a_record_elsewhere_or_in_another_segment_is_not_taken(fd):
    write(fd, [[record(1)]])
    raw = os.pread(fd, 1 << 16, 0)
    assert read(fd, 8, 0) is None
    os.pwrite(fd, raw, PAGE)
    assert read(fd, 7, PAGE) is None


def test_what_an_older_generation_left_behind_the_end_is_not_taken(fd):
    write(fd, [[record(n)] for n in range(6)], generation=3)
    write(fd, [[record(10)], [record(11)]], generation=4)
    assert [f.key_id for f in scan(fd, 7)] == ["key-10", "key-11"]
    assert [f.key_id for f in salvage(fd, 7)] == ["key-10", "key-11"]


def test_salvage_goes_on_behind_what_is_damaged(fd):
    write(fd, [[record(n)] for n in range(5)])
    os.pwrite(fd, b"\xff" * 600, 2 * PAGE)
    assert [f.key_id for f in scan(fd, 7)] == ["key-0", "key-1"]
    assert [f.key_id for f in salvage(fd, 7)] == ["key-0", "key-1", "key-3", "key-4"]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=3000))
def test_rubbish_is_no_record(tmp_path_factory, rubbish):
    path = tmp_path_factory.mktemp("segment") / "s"
    path.write_bytes(b"EDR1" + rubbish)
    with path.open("rb") as f:
        assert list(scan(f.fileno(), 7)) == []
        assert salvage(f.fileno(), 7) == []
