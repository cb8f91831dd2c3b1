"""Chunks: cut, asked for, shared, paced."""

import hashlib
import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import Corrupt, Refused, Unavailable
from edged.publish.deliver import Fanout, Pacer, Recent, answer, chunks, digests
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


class Cable:
    """A broker that takes a chunk `takes` seconds after it went; and what went when."""

    def __init__(self, clock, takes):
        self.clock, self.takes, self.went = clock, takes, []

    def publish(self, sha256, data):
        self.went.append((self.clock.monotonic(), sha256, len(data)))

    def backlog(self):
        return sum(n for at, _, n in self.went if self.clock.monotonic() < at + self.takes)


def fan_out(clock, path, takes, *, cameras=("a",), rest=4.0, seconds=20.0):
    """Everybody asks for all of it; steps every POLL_S as the main loop does."""
    cable = Cable(clock, takes)
    fanout = Fanout(Pacer(1e9, clock), clock, cable.backlog, rest)
    for camera in cameras:
        fanout.ask(camera, Want(sha256_of(path), tuple(range(-(-path.stat().st_size // CHUNK_BYTES)))), path)
    until = clock.monotonic() + seconds
    while fanout.due_in() is not None and clock.monotonic() < until:
        fanout.send(cable.publish)
        clock.sleep(fanout.due_in() or Fanout.POLL_S)
    return cable


def sha256_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def large(tmp_path):
    path = tmp_path / "large.onnx"
    path.write_bytes(random.Random(1).randbytes(40 * CHUNK_BYTES + 5))
    return path


@pytest.mark.parametrize("takes", [0.004, 0.1])
def test_a_chunk_goes_when_the_last_was_taken_and_after_a_rest(clock, large, takes):
    cable = fan_out(clock, large, takes, seconds=60.0)
    gaps = [b[0] - a[0] for a, b in zip(cable.went, cable.went[1:], strict=False)]
    assert len(cable.went) == 41
    assert min(gaps) >= 5 * takes
    assert max(gaps) <= 5 * takes + 6 * Fanout.POLL_S
    assert all(n <= CHUNK_BYTES for _, _, n in cable.went)


def test_the_control_without_waiting_puts_everything_before_the_receipts(clock, large):
    cable = Cable(clock, 1.0)
    fanout = Fanout(Pacer(1e12, clock), clock)
    fanout.ask("a", Want(sha256_of(large), tuple(range(41))), large)
    while fanout.due_in() is not None:
        fanout.send(cable.publish)
        clock.sleep(1e-6)
    assert cable.backlog() == large.stat().st_size


def test_cameras_that_ask_for_the_same_get_each_chunk_once(clock, large):
    cable = fan_out(clock, large, 0.001, cameras=("a", "b", "c"), seconds=2.5)
    assert len({sha for _, sha, _ in cable.went}) == len(cable.went) == 41


def test_a_broker_that_takes_nothing_gets_one_chunk(clock, large):
    cable = fan_out(clock, large, 1e9, seconds=30.0)
    assert len(cable.went) == 1


def test_a_model_that_is_asked_for_much_later_need_not_wait_for_that(clock, large):
    cable = Cable(clock, 0.01)
    fanout = Fanout(Pacer(1e9, clock), clock, cable.backlog)
    fanout.ask("a", Want(sha256_of(large), (0,)), large)
    fanout.send(cable.publish)
    assert fanout.send(cable.publish) == 0
    clock.sleep(100)  # nobody looked meanwhile
    fanout.ask("a", Want(sha256_of(large), (1,)), large)
    assert fanout.due_in() <= Fanout.REST_S
    clock.sleep(Fanout.REST_S)
    assert fanout.send(cable.publish) == CHUNK_BYTES


def test_the_last_chunk_is_watched_until_it_is_taken(clock, large):
    cable = Cable(clock, 0.01)
    fanout = Fanout(Pacer(1e9, clock), clock, cable.backlog)
    fanout.ask("a", Want(sha256_of(large), (0,)), large)
    fanout.send(cable.publish)
    fanout.send(cable.publish)
    assert fanout.due_in() == Fanout.POLL_S
    clock.sleep(0.011)
    fanout.due_in()
    clock.sleep(100)
    fanout.ask("a", Want(sha256_of(large), (1,)), large)
    assert fanout.due_in() == 0


def test_when_the_cable_is_cut_nothing_is_left_to_be_sent(clock, large):
    def cut(sha256, data):
        raise Unavailable("no connection")

    fanout = Fanout(Pacer(1e9, clock), clock)
    fanout.ask("a", Want(sha256_of(large), (0, 1)), large)
    with pytest.raises(Unavailable):
        fanout.send(cut)
    assert fanout.due_in() is None


def test_a_file_that_is_asked_for_again_is_looked_at_again_when_it_changed_or_a_minute_has_passed(clock, large):
    fanout, want = Fanout(Pacer(1e9, clock), clock), Want(sha256_of(large), (0,))
    fanout.ask("a", want, large)
    fanout.ask("b", want, large)
    data = bytearray(large.read_bytes())
    data[7] ^= 1
    stat = large.stat()
    with large.open("r+b") as f:
        f.write(data)
    os.utime(large, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a failing disk would
    fanout.ask("a", want, large)
    clock.sleep(Fanout.CHECK_S)
    with pytest.raises(Corrupt):
        fanout.ask("a", want, large)
    os.utime(large)
    with pytest.raises(Corrupt):
        fanout.ask("b", want, large)
