"""Chunks: cut, asked for, shared, paced."""

import hashlib
import json
import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import Corrupt, Refused, Unavailable
from edged.publish import fanout
from edged.publish.deliver import Pacer, Recent, chunks, digests, piece, require
from edged.publish.fanout import GATHER_MOST_S, GATHER_S, Fanout
from edged.wire.messages import CHUNK_BYTES, Want, decode, encode

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


def test_a_chunk_goes_under_the_hash_that_was_signed(path):
    assert [piece(path, CHUNK_BYTES, i) for i in range(4)] == list(zip(digests(MODEL), chunks(MODEL), strict=True))


def test_a_camera_names_the_size_of_the_chunks_that_were_signed(path):
    size = 2 * CHUNK_BYTES
    require(Want(SHA, (0, 1), size), path)
    assert [piece(path, size, i) for i in (0, 1)] == list(zip(digests(MODEL, size), chunks(MODEL, size), strict=True))
    with pytest.raises(Refused, match="none numbered 2"):
        require(Want(SHA, (2,), size), path)
    assert decode(encode(Want(SHA, (0,))), Want).chunk == CHUNK_BYTES
    for wrong in (0, 1, 1023, 17 * CHUNK_BYTES, 2**40, "16384"):
        with pytest.raises(Refused):
            decode(json.dumps({"sha256": SHA, "chunks": [0], "chunk": wrong}).encode(), Want)


def test_a_chunk_beyond_the_file_is_refused(path):
    with pytest.raises(Refused, match="none numbered 4"):
        require(Want(SHA, (0, 4)), path)


def test_a_file_that_changed_on_the_disk_is_never_sent(path):
    path.write_bytes(MODEL[:-1] + b"X")
    with pytest.raises(Corrupt):
        require(Want(SHA, (0,)), path)


def test_a_file_that_goes_away_ends_its_pass(clock, path):
    went, fanout = [], Fanout(Pacer(1e9, clock), clock, gather=0)
    fanout.ask("a", Want(SHA, (0, 1, 2)), path)
    while not went:
        fanout.send(lambda sha256, data: (went.append(data), path.unlink()))
    while (due := fanout.due_in()) is not None:
        clock.sleep(due or Fanout.POLL_S)
        assert fanout.send(lambda sha256, data: went.append(data)) == 0
    assert went == chunks(MODEL)[:1]


def test_a_file_that_is_gone_is_refused(tmp_path):
    with pytest.raises(Refused, match="not on the box"):
        require(Want(SHA, (0,)), tmp_path / "nothing.onnx")


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
    fanout = Fanout(Pacer(1e9, clock), clock, cable.backlog, rest, gather=0)
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
    fanout = Fanout(Pacer(1e12, clock), clock, gather=0)
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
    fanout = Fanout(Pacer(1e9, clock), clock, cable.backlog, gather=0)
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
    fanout = Fanout(Pacer(1e9, clock), clock, cable.backlog, gather=0)
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

    fanout = Fanout(Pacer(1e9, clock), clock, gather=0)
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


class Fleet:
    """Cameras that hold what went since they asked first, and ask again for what they lack when nothing came for 5 s."""

    def __init__(self, clock, path, *, gather=GATHER_S, window=256, rate=1e6):
        self.clock, self.path, self.window = clock, path, window
        self.sha256, self.hashes = sha256_of(path), digests(path.read_bytes())
        self.fanout = Fanout(Pacer(rate, clock), clock, gather=gather)
        self.lacks, self.moved, self.went = {}, {}, []

    def join(self, camera):
        self.lacks[camera] = set(range(len(self.hashes)))
        self.ask(camera)

    def ask(self, camera):
        self.moved[camera] = self.clock.monotonic()
        wanted = tuple(sorted(self.lacks[camera])[: self.window])
        self.outstanding = getattr(self, "outstanding", {}) | {camera: set(wanted)}
        self.fanout.ask(camera, Want(self.sha256, wanted), self.path)

    def publish(self, sha256, data):
        self.went.append(sha256)
        index = self.hashes.index(sha256)
        for camera, lacks in self.lacks.items():
            if index in lacks:
                lacks.discard(index)
                self.moved[camera] = self.clock.monotonic()

    def step(self, seconds=0.005):
        self.fanout.send(self.publish)
        for camera, lacks in self.lacks.items():
            waited = self.clock.monotonic() - self.moved[camera] >= 5
            if lacks and (waited or not self.outstanding[camera] & lacks):
                self.ask(camera)
        self.clock.sleep(seconds)

    def run(self, until_s=60.0):
        end = self.clock.monotonic() + until_s
        while any(self.lacks.values()) and self.clock.monotonic() < end:
            self.step()
        assert not any(self.lacks.values())
        return len(self.went) / len(self.hashes)


def trickle(clock, large, **more):
    """A hundred cameras that have verified what they were told one after the other, 30 ms apart."""
    fleet = Fleet(clock, large, **more)
    for i in range(100):
        fleet.join(f"cam-{i}")
        for _ in range(6):
            fleet.step()
    return fleet.run()


def test_cameras_that_come_one_after_the_other_are_waited_for_and_get_each_chunk_once(clock, large):
    assert trickle(clock, large) == 1.0


def test_a_window_smaller_than_the_file_costs_nothing_more(clock, large):
    assert trickle(clock, large, window=8) == 1.0


def test_the_control_without_waiting_sends_much_again(clock, large):
    assert trickle(clock, large, gather=0) > 1.5


def test_who_comes_late_costs_one_pass_more_and_the_others_no_time(clock, large):
    fleet = Fleet(clock, large, rate=2e5)
    fleet.join("early")
    while len(fleet.went) < 20:
        fleet.step()
    fleet.join("late")
    assert fleet.run() <= 1.5 + 1 / 41
    assert fleet.went[:41] == fleet.hashes


def test_when_all_have_asked_again_nobody_is_waited_for(clock, large):
    fleet = Fleet(clock, large, window=8, rate=1e9)
    fleet.join("a")
    began = clock.monotonic()
    fleet.run()
    assert clock.monotonic() - began < GATHER_S + 2.0  # each of the six windows waited for would take six


def test_cameras_that_join_for_ever_do_not_hold_up_the_first(clock, large):
    fleet = Fleet(clock, large)
    fleet.join("first")
    began = clock.monotonic()
    while not fleet.went:
        fleet.join(f"cam-{len(fleet.lacks)}")
        fleet.step(0.5)
    assert clock.monotonic() - began <= GATHER_MOST_S + 1.0


def test_a_file_that_nobody_wants_any_more_no_longer_goes(clock, large, path):
    fanout, went = Fanout(Pacer(1e5, clock), clock, gather=0), []
    for camera in ("a", "b"):
        fanout.ask(camera, Want(sha256_of(large), tuple(range(41))), large)
    fanout.send(lambda sha256, data: went.append(sha256))
    fanout.ask("a", Want(SHA, (0,)), path)
    fanout.ask("b", Want(SHA, (3,)), path)
    while (due := fanout.due_in()) is not None:
        clock.sleep(due or 0.01)
        fanout.send(lambda sha256, data: went.append(sha256))
    assert went == [digests(large.read_bytes())[0], digests(MODEL)[0], digests(MODEL)[3]]


def test_a_camera_that_asks_without_end_has_each_chunk_sent_once_in_three_seconds(clock, large):
    fanout, went = Fanout(Pacer(1e9, clock), clock), []
    for _ in range(1200):
        fanout.ask("greedy", Want(sha256_of(large), tuple(range(41))), large)
        fanout.send(lambda sha256, data: went.append(sha256))
        clock.sleep(0.01)
    assert len(went) <= 41 * (12 / 3 + 1)


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.onnx"
    path.write_bytes(random.Random(2).randbytes(2 * CHUNK_BYTES + 5))
    return path


def late_by(clock, path, seconds):
    """Seconds until a camera has a file that went to another one so long before it asked, and copies sent."""
    fleet = Fleet(clock, path)
    fleet.join("early")
    fleet.run()
    for _ in range(round(seconds / 0.005)):
        fleet.step()
    began = clock.monotonic()
    fleet.join("late")
    copies = fleet.run()
    return clock.monotonic() - began, copies


@pytest.mark.parametrize("seconds", [0.7, 1.5, 2.9, 4.0])
def test_who_asks_first_after_a_small_file_went_need_not_ask_twice(clock, small, seconds):
    took, copies = late_by(clock, small, seconds)
    assert (took < GATHER_S + 0.2, copies) == (True, 2.0)


def test_the_control_a_build_that_cannot_tell_who_is_new_takes_until_the_second_question(clock, small, monkeypatch):
    monkeypatch.setattr(fanout, "SETTLE_S", 1e9)
    assert late_by(clock, small, 1.5)[0] >= 5.0


def test_what_may_still_be_on_its_way_to_who_asks_is_not_sent_again_at_once(clock, small):
    took, _copies = late_by(clock, small, 0.3)
    assert took >= 3.0


def test_a_crowd_on_a_slow_cable_of_which_some_come_late_costs_one_pass_more(clock, large):
    fleet = Fleet(clock, large, rate=2e5)  # 3.3 s for the file
    for i in range(50):
        fleet.join(f"cam-{i}")
    for i in range(20):  # one after the other, while it goes and for some time after
        for _ in range(60):
            fleet.step()
        fleet.join(f"late-{i}")
    assert fleet.run() <= 3.0
