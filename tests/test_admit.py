"""A flood takes its own share and nobody else's; what waits is bounded. In simulated time: the machine has no say."""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.admit import LONGEST_S, REST, Backoff, Bucket, Limits, Room, Shares
from edged.wire.messages import Frame, FrameHeader

SMALL = Limits(frames_per_s=10, burst=5, bytes_per_s=1000, frames=8, camera_frames=4, bytes=10_000, camera_bytes=5_000)


def frame(camera: str, n: int, size: int = 100) -> Frame:
    return Frame(camera, FrameHeader(f"b-{n}", 1.0, n, "b", 8, 8), bytes(size))


# --- the bucket


def test_a_burst_passes_then_the_rate_holds():
    bucket = Bucket(Limits(frames_per_s=10, burst=5), 0.0)
    assert [bucket.take(1, 0.0) for _ in range(5)] == [0.0] * 5
    assert bucket.take(1, 0.0) == pytest.approx(0.1)
    assert bucket.take(1, 0.11) == 0.0
    assert bucket.take(1, 0.11) > 0


def test_bytes_are_a_bucket_of_their_own():
    limits = Limits(frames_per_s=10, burst=100, bytes_per_s=1e6)
    bucket = Bucket(limits, 0.0)
    big = 2_000_000
    taken = 0
    while bucket.take(big, 0.0) == 0:
        taken += 1
    assert taken == limits.burst_bytes // big == 5
    assert bucket.take(big, 2.0) == 0.0


def test_the_largest_frame_always_passes_a_rested_bucket():
    bucket = Bucket(Limits(frames_per_s=100, burst=1, bytes_per_s=10), 0.0)
    assert bucket.take(2 * 2**20, 0.0) == 0.0


def test_those_turned_away_get_turns_one_after_another_and_pass_when_they_keep_them():
    bucket = Bucket(Limits(frames_per_s=10, burst=5), 0.0)
    for _ in range(5):
        bucket.take(1, 0.0)
    turns = [bucket.take(1, 0.0) for _ in range(8)]
    assert turns == pytest.approx([0.1 * (i + 1) for i in range(8)])
    assert [bucket.take(1, t + 1e-9) for t in turns] == [0.0] * 8


def test_nobody_is_told_to_wait_longer_than_longest():
    bucket = Bucket(Limits(frames_per_s=1, burst=1), 0.0)
    assert max(bucket.take(1, 0.0) for _ in range(1000)) == LONGEST_S


@given(st.lists(st.tuples(st.floats(0, 0.2), st.integers(1, 400)), max_size=50))
def test_no_window_of_time_lets_more_through_than_rate_and_burst(asked):
    bucket, now, passed = Bucket(SMALL, 0.0), 0.0, []
    for later, size in asked:
        now += later
        if bucket.take(size, now) == 0:
            passed.append((now, size))
    for i, (since, _) in enumerate(passed):
        for j in range(i, len(passed)):
            span = passed[j][0] - since
            assert j - i + 1 <= SMALL.burst + span * SMALL.frames_per_s + 1e-6
            assert sum(s for _, s in passed[i : j + 1]) <= SMALL.burst_bytes + span * SMALL.bytes_per_s + 1e-6


# --- shares


def test_cameras_that_nobody_configured_share_one_share_beyond_the_cap():
    shares = Shares(Limits(others=2), known=("gate",))
    assert [shares.of(c) for c in ("a", "b", "c", "d", "gate", "a")] == ["a", "b", REST, REST, "gate", "a"]


def test_thousands_of_names_leave_no_more_traces_than_the_cap():
    limits = Limits(others=3)
    shares, room = Shares(limits), Room(limits, 2)
    for i in range(5_000):
        share = shares.of(f"c{i}")
        shares.take(share, 1, 0.0)
        room.offer(share, frame(f"c{i}", i), 0.0)
    assert len(shares._buckets) == len(room._home) == len(room._share_bytes) == 4
    assert room.frames <= limits.frames


# --- the room


def test_turns_go_round_however_long_one_queue_is():
    room = Room(Limits(), 1)
    for n in range(10):
        room.offer("flood", frame("flood", n), 0.0)
    for camera in ("gate", "yard"):
        room.offer(camera, frame(camera, 0), 0.0)
    assert [room.next(0).camera for _ in range(4)] == ["flood", "gate", "yard", "flood"]


def test_the_frames_of_one_camera_keep_their_order():
    room = Room(Limits(), 1)
    for n in range(5):
        room.offer("gate", frame("gate", n), 0.0)
        room.offer("yard", frame("yard", n), 0.0)
    turns = [room.next(0) for _ in range(10)]
    assert [f.header.seq for f in turns if f.camera == "gate"] == list(range(5))
    assert room.next(0) is None


def test_a_share_keeps_its_lane_and_lanes_are_dealt_in_turn():
    room = Room(Limits(), 2)
    assert [room.lane_of(c) for c in "abcab"] == [0, 1, 0, 0, 1]


def test_a_camera_over_its_part_of_the_room_is_turned_away_itself():
    room = Room(SMALL, 1)
    assert [room.offer("a", frame("a", n), 0.0) for n in range(4)] == [()] * 4
    fifth = frame("a", 4)
    assert room.offer("a", fifth, 0.0) == (fifth,)
    large = frame("b", 0, 5_001)
    assert room.offer("b", large, 0.0) == (large,)


def test_in_a_full_room_the_longest_queue_gives_up_its_newest():
    room = Room(SMALL, 2)
    for n in range(4):
        room.offer("a", frame("a", n), 0.0)
        room.offer("b", frame("b", n), 0.0)
    newcomer = frame("c", 0)
    (gone,) = room.offer("c", newcomer, 0.0)
    assert (gone.camera, gone.header.seq) == ("a", 3)
    assert room.frames == 8
    assert room.held(newcomer) is newcomer
    assert room.held(gone) is None


def test_what_is_under_way_takes_room_until_it_is_answered():
    room = Room(SMALL, 1)
    for n in range(4):
        room.offer("a", frame("a", n, 1200), 0.0)
    assert [room.next(0) for _ in range(4)]
    late = frame("a", 4, 1200)
    assert room.offer("a", late, 0.0) == (late,)
    assert (room.bytes, room.frames) == (4800, 0)
    room.done(room.held(frame("a", 0)))
    assert room.offer("a", late, 0.0) == ()


def test_after_a_bug_only_what_waits_is_held():
    room = Room(SMALL, 1)
    for n in range(3):
        room.offer("a", frame("a", n), 0.0)
    room.next(0)
    room.next(0)
    room.keep(0, {("a", "b-1")})
    assert [room.held(frame("a", n)) is not None for n in range(3)] == [False, True, True]
    assert room.bytes == 200


def test_the_age_is_that_of_the_frame_that_waits_longest():
    room = Room(SMALL, 2)
    assert room.age(5.0) == 0.0
    room.offer("a", frame("a", 0), 1.0)
    room.offer("b", frame("b", 0), 3.0)
    assert room.age(5.0) == 4.0
    room.next(0)
    assert room.age(5.0) == 2.0


@given(st.randoms(use_true_random=False))
def test_whatever_happens_the_bounds_hold_and_the_sums_are_right(chance):
    room, out = Room(SMALL, 2), []
    for n in range(120):
        camera = chance.choice("abcde")
        if chance.random() < 0.6:
            room.offer(camera, frame(camera, n, chance.choice([0, 10, 900, 4000])), float(n))
        elif chance.random() < 0.7:
            out += [f for f in (room.next(chance.randrange(2)),) if f is not None]
        elif out:
            room.done(out.pop(chance.randrange(len(out))))
        held = [h.frame for h in room._held.values()]
        assert room.bytes == sum(len(f.jpeg) for f in held) <= SMALL.bytes
        assert room.frames == sum(room.ahead(lane) for lane in (0, 1)) <= SMALL.frames
        assert len(held) == room.frames + len(out)
        for camera in "abcde":
            mine = [f for f in held if f.camera == camera]
            assert sum(len(f.jpeg) for f in mine) <= SMALL.camera_bytes
    while out:
        room.done(out.pop())
    for lane in (0, 1):
        while (f := room.next(lane)) is not None:
            room.done(f)
    assert (room.bytes, room.frames) == (0, 0)


# --- when nothing can be stored


def test_the_wait_doubles_to_its_most_and_starts_anew_when_it_worked():
    backoff, now, waits = Backoff(1.0, 60.0), 0.0, []
    for _ in range(9):
        waits.append(backoff.failed("disk full", now))
        assert backoff.failed("disk full", now) == waits[-1], "frames that were under way together count once"
        now += waits[-1]
        assert backoff.remaining(now) == 0
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    backoff.worked()
    assert backoff.remaining(now) == 0
    assert backoff.failed("again", now) == 1


# --- the flood


SERVICE_S = 0.05  # of one scrubber for one frame
SECONDS = 20.0
HONEST = ("gate", "yard", "door")


class Fair:
    """edged's own."""

    def __init__(self, seed: int) -> None:
        limits = Limits()
        self.shares, self.room = Shares(limits, HONEST), Room(limits, 1)
        self.chance = random.Random(seed)

    def offer(self, f: Frame, now: float) -> list[tuple[Frame, float]]:
        """Frames turned away, each with the seconds after which it may come again."""
        share = self.shares.of(f.camera)
        if wait := self.shares.take(share, len(f.jpeg), now):
            return [(f, wait * self.chance.uniform(1, 1.5))]
        busy = max(0.2, self.room.ahead(0) * SERVICE_S)
        return [(gone, busy * self.chance.uniform(1, 1.5)) for gone in self.room.offer(share, f, now)]

    def next(self) -> Frame | None:
        if (f := self.room.next(0)) is not None:
            self.room.done(f)
        return f


class Fifo:
    """The negative control: one bounded queue for all, as it was before."""

    def __init__(self, seed: int) -> None:
        self.queue: deque[Frame] = deque()

    def offer(self, f: Frame, now: float) -> list[tuple[Frame, float]]:
        if len(self.queue) >= Limits().frames:
            return [(f, 1.0)]
        self.queue.append(f)
        return []

    def next(self) -> Frame | None:
        return self.queue.popleft() if self.queue else None


@dataclass
class Told:
    taken: dict[str, list[float]] = field(default_factory=dict)  # camera -> seconds from first sending to receipt
    sent: dict[str, int] = field(default_factory=dict)
    retries: int = 0

    def slowest(self) -> float:
        """p99 of the honest cameras."""
        waits = sorted(w for c in HONEST for w in self.taken.get(c, ()))
        return waits[int(len(waits) * 0.99)] if waits else float("inf")


def play(box: Fair | Fifo, *, flood_per_s: float, seed: int) -> Told:
    """Honest cameras, 2 frames/s each, that wait as they are told; one that floods and never waits; one scrubber."""
    chance, told = random.Random(seed), Told()
    events: list[tuple[float, int, str, Frame | None]] = []
    n = 0

    def at(when: float, what: str, f: Frame | None = None) -> None:
        nonlocal n
        n += 1
        heapq.heappush(events, (when, n, what, f))

    born: dict[tuple[str, int], float] = {}
    for camera in HONEST:
        for i in range(int(SECONDS * 2)):
            when = i / 2 + chance.random() / 4
            born[camera, i] = when
            at(when, "send", frame(camera, i))
    for i in range(int(SECONDS * flood_per_s)):
        at(i / flood_per_s, "send", frame("flood", i))
    at(0.0, "idle")
    while events and events[0][0] < SECONDS:
        now, _, what, f = heapq.heappop(events)
        if what == "send":
            assert f is not None
            told.sent[f.camera] = told.sent.get(f.camera, 0) + 1
            for gone, wait in box.offer(f, now):
                if gone.camera != "flood":
                    told.retries += 1
                    at(now + wait, "send", gone)
        elif what == "done":
            assert f is not None
            told.taken.setdefault(f.camera, []).append(now - born.get((f.camera, f.header.seq), now))
            at(now, "idle")
        else:
            nxt = box.next()
            at(now + (SERVICE_S if nxt else 0.001), "done" if nxt else "idle", nxt)
    return told


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_thousand_frames_a_second_from_one_camera_cost_the_others_nothing(seed):
    calm = play(Fair(seed), flood_per_s=1, seed=seed)
    flooded = play(Fair(seed), flood_per_s=1000, seed=seed)
    due = sum(1 for _ in HONEST) * int(SECONDS * 2)
    honest = sum(len(flooded.taken[c]) for c in HONEST)
    print(f"seed {seed}: {honest} of {due} honest frames, p99 {flooded.slowest():.3f} s (calm {calm.slowest():.3f} s)")
    print(f"  {len(flooded.taken['flood'])} of {flooded.sent['flood']} of the flood")
    assert honest >= due - len(HONEST), "the last of each may be under way at the end"
    assert flooded.retries == 0
    assert flooded.slowest() <= 2 * calm.slowest()
    assert len(flooded.taken["flood"]) > 0.9 * (SECONDS / SERVICE_S - due), "what is left over is the flood's"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_control_one_queue_for_all_starves_the_honest(seed):
    flooded = play(Fifo(seed), flood_per_s=1000, seed=seed)
    honest = sum(len(flooded.taken.get(c, ())) for c in HONEST)
    print(f"seed {seed}: {honest} of {len(HONEST) * int(SECONDS * 2)} honest frames, p99 {flooded.slowest():.1f} s")
    assert honest < 0.5 * len(HONEST) * SECONDS * 2
