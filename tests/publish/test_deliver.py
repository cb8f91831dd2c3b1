"""Chunks: cut, asked for, shared, paced."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import Corrupt, Refused
from edged.publish.deliver import Pacer, Recent, answer, chunks, digests
from edged.wire.messages import CHUNK_BYTES, Want

MODEL = bytes(range(256)) * 200  # 3 full chunks and a rest
SHA = hashlib.sha256(MODEL).hexdigest()


@pytest.fixture
def path(tmp_path):
    file = tmp_path / f"{SHA}.onnx"
    file.write_bytes(MODEL)
    return file


@given(st.integers(0, 3 * CHUNK_BYTES + 5))
def test_chunks_join_to_the_file_and_none_is_too_large(size):
    data = b"x" * size
    pieces = chunks(data)
    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= CHUNK_BYTES for piece in pieces)
    assert digests(data) == [hashlib.sha256(piece).hexdigest() for piece in pieces]


def test_a_camera_gets_the_chunks_it_lacks_in_its_order_and_each_once(path):
    got = list(answer(Want(SHA, (3, 1, 3)), path))
    assert got == [(digests(MODEL)[i], chunks(MODEL)[i]) for i in (3, 1)]


def test_a_chunk_beyond_the_file_is_refused(path):
    with pytest.raises(Refused, match="none numbered 4"):
        answer(Want(SHA, (0, 4)), path)


def test_a_file_that_changed_on_the_disk_is_never_sent(path):
    path.write_bytes(MODEL[:-1] + b"X")
    with pytest.raises(Corrupt):
        answer(Want(SHA, (0,)), path)


def test_a_file_that_goes_away_ends_the_answer(path):
    answers = answer(Want(SHA, (0, 1)), path)
    assert next(answers)[1] == chunks(MODEL)[0]
    path.unlink()
    assert list(answers) == []


def test_a_file_that_is_gone_is_refused(tmp_path):
    with pytest.raises(Refused, match="not on the box"):
        answer(Want(SHA, (0,)), tmp_path / "nothing.onnx")


def test_cameras_that_ask_together_share_one_message_and_late_ones_are_served():
    recent = Recent(window_s=3.0)
    assert recent.first("a", 10.0)
    assert not recent.first("a", 11.0)
    assert recent.first("b", 12.0)
    assert not recent.first("a", 12.9)  # asking again does not lengthen the window
    assert recent.first("a", 13.0)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0, 2)), max_size=60))
def test_a_chunk_is_never_sent_twice_within_the_window(asked):
    recent, now, sent = Recent(window_s=3.0), 0.0, {}
    for name, later in asked:
        now += later
        if recent.first(name, now):
            assert now - sent.get(name, -10.0) >= 3.0
            sent[name] = now
        else:
            assert now - sent[name] < 3.0


def test_the_pacer_keeps_the_average_rate(clock):
    pacer, start = Pacer(1000, clock), clock.now()
    for _ in range(10):
        pacer.wait(500)
    assert clock.now() - start == pytest.approx(4.5)  # the last piece need not be waited for


def test_the_pacer_saves_up_no_credit(clock):
    pacer = Pacer(1000, clock)
    clock.time += 60
    pacer.wait(1000)
    assert not pacer.ready()
    clock.time += 0.99
    assert not pacer.ready()
    clock.time += 0.02
    assert pacer.ready()


def test_a_rate_of_nothing_is_a_bug(clock):
    with pytest.raises(ValueError):
        Pacer(0, clock)
