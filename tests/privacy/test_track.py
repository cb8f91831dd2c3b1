"""What was once found stays covered for a while, before and after, wherever it went in between."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.privacy.stream import Stream
from edged.privacy.talk import Spot
from edged.privacy.track import Rules, Tracker

RULES = Rules(hold=10, back=5)


def face(x: float, y: float = 100, size: float = 40, *, sure: bool = True) -> Spot:
    return Spot("face", x, y, size, size, sure)


def covers(spots, spot: Spot, margin: float = 0.25) -> bool:
    """Whether one of the boxes, grown as the scrubber grows them, holds all of `spot`."""
    return any(
        s.kind == spot.kind
        and s.x - s.w * margin <= spot.x
        and s.y - s.h * margin <= spot.y
        and s.x + s.w * (1 + margin) >= spot.x + spot.w
        and s.y + s.h * (1 + margin) >= spot.y + spot.h
        for s in spots
    )


def play(found, shifts=None, rules: Rules = RULES):
    """What is covered in each frame; `found` is what the detector says of each frame."""
    stream: Stream[int] = Stream(rules)
    out = []
    for i, spots in enumerate(found):
        out += stream.push(i, spots, shifts[i] if shifts else (0.0, 0.0))
    out += stream.cut()
    assert [i for i, _ in out] == list(range(len(found)))
    return [spots for _, spots in out]


def test_a_face_that_is_lost_stays_covered_for_ten_frames_and_no_longer():
    covered = play([[face(100)]] * 3 + [[]] * 20)
    assert [covers(spots, face(100)) for spots in covered] == [True] * 13 + [False] * 10


def test_the_cover_grows_while_nobody_sees_the_face():
    covered = play([[face(100)]] * 3 + [[]] * 10)
    widest = [max(s.w for s in spots) for spots in covered]
    assert widest[3:] == sorted(widest[3:])
    assert widest[-1] > 2 * 40


def test_a_new_face_was_covered_five_frames_before_it_was_found():
    covered = play([[]] * 8 + [[face(100)]] * 2)
    assert [covers(spots, face(100)) for spots in covered] == [False] * 3 + [True] * 7


def test_a_walking_face_is_covered_back_along_its_way():
    path = [face(100 + 12 * i) for i in range(14)]
    covered = play([[] if i < 6 else [path[i]] for i in range(14)])
    assert all(covers(covered[i], path[i]) for i in range(2, 14))


def test_frames_between_two_looks_are_covered_all_the_way():
    path = [face(100 + 25 * i) for i in range(13)]
    covered = play([[path[i]] if i % 3 == 0 else None for i in range(13)])
    assert all(covers(covered[i], path[i]) for i in range(13))


def test_a_face_that_turns_back_while_unseen_is_found_again_as_the_same():
    path = [100, 110, 120, 130, 120, 110, 100, 90]
    covered = play([[face(x)] if i not in (3, 4, 5) else [] for i, x in enumerate(path)])
    assert all(covers(covered[i], face(x)) for i, x in enumerate(path))


def test_a_pan_is_followed_by_the_scenes_own_shift():
    path = [face(900 - 60 * i, size=20) for i in range(13)]
    shifts = [(-60.0, 0.0)] * 13
    looked = [[path[i]] if i % 3 == 0 and i >= 3 else (None if i % 3 else []) for i in range(13)]
    covered = play(looked, shifts)
    assert all(covers(covered[i], path[i]) for i in range(13))


def test_an_unsure_box_prolongs_a_track_and_starts_none():
    alone = play([[face(100, sure=False)]] * 5)
    assert not any(alone)
    after = play([[face(100)]] + [[face(100 + 3 * i, sure=False)] for i in range(1, 30)])
    assert all(covers(after[i], face(100 + 3 * i)) for i in range(30))


def test_a_face_never_becomes_a_plate():
    plate = Spot("plate", 100, 100, 40, 40)
    covered = play([[face(100)], [plate], [], []])
    assert all({s.kind for s in spots} == {"face", "plate"} for spots in covered)


def test_two_faces_that_cross_are_both_covered():
    paths = [[face(100 + 10 * i) for i in range(20)], [face(300 - 10 * i) for i in range(20)]]
    found = [[a, b] if i not in (9, 10, 11) else [a] for i, (a, b) in enumerate(zip(*paths, strict=True))]
    covered = play(found)
    assert all(covers(covered[i], path[i]) for path in paths for i in range(20))


def test_nothing_is_followed_any_more_after_a_cut():
    stream: Stream[int] = Stream(RULES)
    stream.push(0, [face(100)])
    assert stream.live()
    assert [i for i, _ in stream.cut()] == [0]
    assert not stream.live()
    stream.push(1, [])
    assert stream.cut() == [(1, ())]


def test_never_more_than_the_delay_waits():
    stream: Stream[int] = Stream(RULES)
    out = []
    for i in range(40):
        out += stream.push(i, [])
        assert len(stream) <= RULES.back
    assert [i for i, _ in out] == list(range(35))
    assert stream.oldest() == 35
    assert [i for i, _ in stream.release()] == [35]


def test_without_a_delay_each_frame_comes_out_at_once():
    stream: Stream[str] = Stream(Rules(back=0, hold=0))
    assert stream.push("a", [face(1)]) == [("a", (face(1),))]
    assert stream.push("b", []) == [("b", ())]


@given(
    st.lists(
        st.one_of(
            st.none(),
            st.lists(
                st.builds(face, st.floats(0, 1200), st.floats(0, 700), st.floats(4, 200), sure=st.booleans()),
                max_size=4,
            ),
        ),
        max_size=30,
    )
)
def test_whatever_was_surely_found_is_covered_where_it_was_found(found):
    for spots, seen in zip(play(found), found, strict=True):
        for spot in seen or ():
            assert not spot.sure or spot in spots


def test_a_tracker_reaches_no_further_back_than_it_may():
    tracker = Tracker(RULES)
    for i in range(20):
        for ago, _ in tracker.step([face(100 + 5 * i)] if i % 7 == 0 else []):
            assert 0 <= ago <= RULES.back


@pytest.mark.parametrize("jump", [400, -400])
def test_a_face_far_away_is_another_face(jump):
    covered = play([[face(500)]] * 3 + [[face(500 + jump)]] * 3)
    assert covers(covered[4], face(500)), "the first may still be there"
    assert covers(covered[4], face(500 + jump))


def test_a_face_that_comes_in_where_another_one_leaves_was_covered_before_it_was_found():
    pan = [(-24.0, 0.0)] * 12
    found = [[face(400 - 24 * i)] if i < 6 else [face(440 - 24 * i)] if i == 8 else None for i in range(12)]
    found[7] = []
    covered = play(found, pan)
    for i in range(3, 9):
        assert covers(covered[i], face(440 - 24 * i)), i
