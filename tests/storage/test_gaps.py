"""What never came shows; what comes late fills its hole, in whatever order and from whichever boot."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from edged.storage import frames, gaps, views
from edged.storage.gaps import BOOTS, GRACE_S, HOLES, SHOWN_S, Hole, Numbers, taken


def after(*seqs: int, at: float = 0.0) -> Numbers:
    numbers = None
    for i, seq in enumerate(seqs):
        numbers = taken(numbers, seq, at + i)
    assert numbers is not None
    return numbers


def test_numbers_in_a_row_leave_no_hole():
    assert after(5, 6, 7) == Numbers(5, 7)


def test_a_jump_is_a_hole_and_says_when_it_was_noticed():
    assert after(0, 4).holes == (Hole(1, 3, 1.0),)


def test_a_late_frame_splits_a_hole_and_the_last_one_closes_it():
    assert after(0, 6, 3).holes == (Hole(1, 2, 1.0), Hole(4, 5, 1.0))
    assert after(0, 6, 3, 1, 2, 5, 4).holes == ()


def test_a_frame_from_before_the_first_widens_the_range():
    assert after(5, 2) == Numbers(2, 5, (Hole(3, 4, 1.0),))
    assert after(5, 2, 4, 3).holes == ()


def test_a_number_that_comes_twice_changes_nothing():
    assert after(0, 3, 3, 0) == after(0, 3)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=60))
def test_in_any_order_the_holes_are_what_was_not_seen(seqs):
    numbers = after(*seqs)
    missing = {n for h in numbers.holes for n in range(h.first, h.last + 1)}
    assert missing == set(range(min(seqs), max(seqs) + 1)) - set(seqs)
    assert list(numbers.holes) == sorted(numbers.holes, key=lambda h: h.first)
    assert all(a.last + 1 < b.first for a, b in zip(numbers.holes, numbers.holes[1:], strict=False))
    assert numbers.lost == 0


@given(st.lists(st.integers(0, 2**53), min_size=1, max_size=200))
def test_whatever_a_camera_claims_the_row_stays_small(seqs):
    numbers = reduce(lambda known, seq: taken(known, seq, 0.0), seqs, None)
    assert len(numbers.holes) <= HOLES
    assert numbers.lost >= 0


def test_beyond_the_most_the_oldest_holes_are_only_counted():
    numbers = after(*range(0, 4 * HOLES, 2))
    assert len(numbers.holes) == HOLES
    assert numbers.lost == 2 * HOLES - 1 - HOLES


def answer(store, frame, scrubbed, n: int, *, boot: str = "boot1", camera: str = "gate", status: str = "stored"):
    f = frame(camera=camera, n=n)
    f = replace(f, header=structs.replace(f.header, id=f"{boot}-{n}", boot=boot))
    if status == "stored":
        frames.add(store, f, scrubbed(f))
    else:
        frames.settle(store, f, status, "dark")


def test_frames_that_the_camera_had_to_drop_are_missing_until_they_come(store, frame, scrubbed, clock):
    for n in (1, 2, 6):
        answer(store, frame, scrubbed, n)
    noticed = clock.now()
    assert gaps.missing(store, clock.now()) == {}, "they may be on their way"
    clock.sleep(GRACE_S)
    assert gaps.missing(store, clock.now()) == {"gate": gaps.Missing(3, noticed)}
    (camera,) = views.cameras(store, clock.now())
    assert camera.missing == gaps.Missing(3, noticed)
    answer(store, frame, scrubbed, 4)
    assert gaps.missing(store, clock.now())["gate"].frames == 2
    for n in (3, 5):
        answer(store, frame, scrubbed, n)
    assert gaps.missing(store, clock.now()) == {}


def test_a_frame_that_was_withheld_is_not_missing(store, frame, scrubbed, clock):
    answer(store, frame, scrubbed, 1)
    answer(store, frame, scrubbed, 2, status="withheld")
    answer(store, frame, scrubbed, 3)
    clock.sleep(GRACE_S)
    assert gaps.missing(store, clock.now()) == {}


def test_a_new_boot_starts_anew_and_what_the_old_one_left_in_the_spool_still_counts_for_it(
    store, frame, scrubbed, clock
):
    answer(store, frame, scrubbed, 1, boot="one")
    answer(store, frame, scrubbed, 3, boot="one")
    answer(store, frame, scrubbed, 1024, boot="two")
    answer(store, frame, scrubbed, 1025, boot="two")
    clock.sleep(GRACE_S)
    assert gaps.missing(store, clock.now())["gate"].frames == 1
    answer(store, frame, scrubbed, 2, boot="one")
    assert gaps.missing(store, clock.now()) == {}


def test_a_day_later_it_is_no_news(store, frame, scrubbed, clock):
    answer(store, frame, scrubbed, 1)
    answer(store, frame, scrubbed, 3)
    clock.sleep(SHOWN_S + 1)
    assert gaps.missing(store, clock.now()) == {}


def test_a_camera_that_boots_for_ever_leaves_few_rows(store, frame, scrubbed, clock):
    for n in range(3 * BOOTS):
        clock.sleep(1)
        answer(store, frame, scrubbed, n, boot=f"boot{n}")
        answer(store, frame, scrubbed, n, boot="boot0", camera="yard")
    assert [r["boot"] for r in store.rows("select boot from sequence where camera = 'gate' order by updated")] == [
        f"boot{n}" for n in range(2 * BOOTS, 3 * BOOTS)
    ]
    assert store.value("select count(*) from sequence where camera = 'yard'") == 1
