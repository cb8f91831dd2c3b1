"""The camera's side of a box that has no room: it halves, waits as told, and widens slowly again."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.window import Window


def test_a_window_of_receipts_widens_it_by_one():
    window = Window(16)
    window.retry(0.0, 0.0, 1.0)
    assert window.width == 8
    for _ in range(9):
        window.receipted()
    assert window.width == 9


def test_frames_sent_together_and_turned_away_together_halve_it_once():
    window = Window(8)
    for _ in range(8):
        window.retry(sent_at=10.0, after_s=0.1, now=11.0)
    assert window.width == 4
    window.retry(sent_at=12.0, after_s=0.1, now=13.0)
    assert window.width == 2


def test_nothing_goes_until_the_time_the_box_named_last():
    window = Window(8)
    window.retry(0.0, 5.0, 10.0)
    window.retry(0.0, 2.0, 11.0)
    assert window.room(0, 14.9) == 0
    assert window.room(0, 15.0) == 4
    assert window.room(3, 15.0) == 1
    assert window.room(9, 15.0) == 0


@given(st.lists(st.one_of(st.none(), st.floats(0, 10)), max_size=100), st.integers(1, 50))
def test_it_is_never_wider_than_most_and_never_narrower_than_one(events, most):
    window, now = Window(most), 0.0
    for event in events:
        now += 1.0
        if event is None:
            window.receipted()
        else:
            window.retry(now - 0.5, event, now)
        assert 1 <= window.width <= most


def test_a_camera_told_to_come_again_keeps_everything_waits_and_halves(site):
    site.options = {"window": 8, "resend_after_s": 1000.0}
    site.box.receipt_status = None
    site.start()
    site.see(20)
    site.run(25)
    assert len(site.box.frames) == 8
    for frame in site.box.frames[:8]:
        site.box.receipt(frame, "retry", retry_after_s=30.0)
    site.box.frames.clear()
    site.run(20, seconds=1.0)
    assert site.box.frames == [], "not even those that were not sent yet"
    assert len(site.agent.spool) == 20
    site.run(12, seconds=1.0)
    assert [f.header.seq for f in site.box.frames] == [0, 1, 2, 3], "half of the window, the oldest first"


def test_it_widens_again_and_everything_arrives_in_order(site):
    site.options = {"window": 8, "resend_after_s": 1000.0}
    site.box.receipt_status = "retry"
    site.start()
    site.see(60)
    site.run(3)
    assert site.agent.spool.window.width < 8
    site.box.frames.clear()
    site.box.receipt_status = "stored"
    site.until(lambda: len(site.agent.spool) == 0 and not site.shots)
    seqs = [f.header.seq for f in site.box.frames]
    assert seqs == sorted(seqs)
    assert len(set(seqs)) == 60
    assert site.agent.spool.window.width == 8


@pytest.mark.parametrize("status", ["stored", "withheld", "refused"])
def test_every_last_word_makes_room(site, status):
    site.options = {"window": 2}
    site.box.receipt_status = status
    site.start()
    site.see(6)
    site.run(10)
    assert [f.header.seq for f in site.box.frames] == list(range(6))


@pytest.mark.parametrize("seed", range(5))
def test_whatever_the_box_answers_no_frame_is_lost_and_the_window_holds(site, seed):
    """G3: stored, turned away, silence and a cut cable, at random; what is stored is stored once its receipt arrives."""
    chance, shots = random.Random(seed), 40
    site.options = {"window": 6, "resend_after_s": 5.0}
    site.box.receipt_status = None
    site.start()
    site.see(shots)
    stored, sent, resent = set(), 0, 0
    for _ in range(4000):
        site.run(1, seconds=0.1)
        assert site.agent.spool.in_flight(site.clock.monotonic()) <= 6
        for frame in site.box.frames:
            sent += 1
            resent += frame.header.seq in stored
            draw = chance.random()
            if draw < 0.6:
                stored.add(frame.header.seq)  # durable, but the receipt may get lost
                if draw < 0.55:
                    site.box.receipt(frame, "stored")
            elif draw < 0.9:
                site.box.receipt(frame, "retry", retry_after_s=chance.random() * 3)
        site.box.frames.clear()
        if chance.random() < 0.02:
            site.agent._link.drop()
            site.run(2)
            site.box.frames.clear()
            site.agent._link.reconnect()
        if not site.shots and not len(site.agent.spool):
            break
    print(f"seed {seed}: {sent} sent for {shots} frames, {resent} of them stored before")
    assert stored == set(range(shots))
    assert site.agent.spool.dropped_total == 0
