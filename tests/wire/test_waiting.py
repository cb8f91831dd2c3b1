"""What waits in a link, told without a broker."""

import random

import pytest

from edged.wire.link import Message
from edged.wire.waiting import Arrived, Inbox, Outbox


def arrived(packet_id, payload=b"x", connection=1):
    return Arrived(Message("t", payload), packet_id, 1, connection)


def test_messages_are_taken_in_the_order_they_came():
    inbox = Inbox()
    for n in (3, 1, 2):
        inbox.put(arrived(n))
    assert [inbox.take().packet_id for _ in range(3)] == [3, 1, 2]
    assert (inbox.take(), inbox.bytes, len(inbox)) == (None, 0, 0)


def test_of_the_connection_that_is_up_nothing_is_forgotten():
    inbox = Inbox()
    for n, connection in enumerate((1, 2, 1, 2, 3), 1):
        inbox.put(arrived(n, b"x" * n, connection))
    assert inbox.forget_before(2) == 3
    assert [a.packet_id for a in inbox] == [2, 4]
    assert inbox.bytes == 6


def test_an_answer_that_comes_before_its_packet_id_is_known_leaves_nothing_waiting():
    outbox = Outbox()
    outbox.acknowledged(7)
    outbox.sent(7, 100, 1)
    assert outbox.bytes == 0
    outbox.sent(7, 50, 1)  # the id is used again: this one has no answer yet
    assert outbox.bytes == 50


def test_an_early_answer_of_a_connection_that_is_gone_is_none_for_the_next():
    outbox = Outbox()
    outbox.acknowledged(7)
    outbox.cut()
    outbox.sent(7, 100, 1)
    assert outbox.bytes == 100


def test_what_had_no_receipt_to_wait_for_goes_with_its_connection():
    outbox = Outbox()
    outbox.sent(1, 10, 0)
    outbox.sent(2, 30, 1)
    outbox.cut()
    assert (outbox.bytes, outbox.longest()) == (30, 30)
    outbox.clear()
    assert (outbox.bytes, outbox.longest()) == (0, 0)


@pytest.mark.parametrize("seed", range(8))
def test_the_bytes_are_those_of_what_waits_whatever_happens(seed):
    chance = random.Random(seed)
    outbox, waits, early = Outbox(), {}, set()
    for _ in range(200):
        what, n = chance.choice(["sent", "sent", "acknowledged", "acknowledged", "cut"]), chance.randrange(5)
        if what == "cut":
            outbox.cut()
            waits, early = {n: told for n, told in waits.items() if told[1]}, set()
        elif what == "acknowledged":
            outbox.acknowledged(n)
            if waits.pop(n, None) is None:
                early.add(n)
        elif n not in waits:  # an id is free again only when it was acknowledged
            size, qos = chance.randrange(1, 100), chance.randrange(2)
            outbox.sent(n, size, qos)
            if n in early:
                early.remove(n)
            else:
                waits[n] = (size, qos)
        assert outbox.bytes == sum(size for size, _ in waits.values())
        assert outbox.longest() == max((size for size, _ in waits.values()), default=0)
