"""Pinned pictures: who may pin what, what becomes of them, and that nothing is learned from them."""

import pytest

from edged import plan
from edged.errors import Refused
from edged.storage import audit, erasure, insights, labels, objects, pins, samples, snapshots

CLASSES = ("car", "van")


def labelled(store, add, n=1, class_="car", **options):
    add(store, n, regions=1, **options)
    labels.add(store, f"gate:boot-{n}:0", class_, "human", "anna")
    return f"gate:boot-{n}:0"


def test_a_pin_follows_what_people_say_of_the_picture(store, add):
    sample = labelled(store, add)
    assert pins.add(store, [sample, sample], "ben", "a van at dusk") == 1
    assert pins.add(store, [sample], "anna") == 0
    (pin,) = pins.all(store)
    assert (pin.author, pin.note, pin.class_, pin.predicted, pin.gone) == ("ben", "a van at dusk", "car", "car", False)
    labels.add(store, sample, "van", "human", "ben")
    assert pins.standing(store, CLASSES).pairs == ((sample, "van"),)
    assert (audit.rows(store)[0].actor, audit.rows(store)[0].act) == ("ben", "pin.add")


def test_what_cannot_be_tested_on_is_not_pinned(store, add):
    add(store, 1, regions=1)
    for sample, code in (("gate:boot-1:0", "no_label"), ("gate:boot-9:0", "not_found")):
        with pytest.raises(Refused) as e:
            pins.add(store, [labelled(store, add, 2), sample], "ben")
        assert e.value.code == code
    with pytest.raises(Refused, match="200 characters"):
        pins.add(store, ["gate:boot-2:0"], "ben", "x" * 201)
    assert pins.all(store) == []


def test_a_pin_is_taken_away_once(store, add):
    sample = labelled(store, add)
    pins.add(store, [sample], "ben")
    with pytest.raises(Refused):
        pins.remove(store, [sample, "gate:boot-2:0"], "ben")
    assert pins.remove(store, [sample], "ben") == 1
    with pytest.raises(Refused, match="not pinned"):
        pins.remove(store, [sample], "ben")
    assert audit.rows(store)[0].act == "pin.remove"


def test_a_pin_whose_picture_or_label_is_gone_is_left_out_and_said(store, add):
    one, two, three, four = (labelled(store, add, n) for n in (1, 2, 3, 4))
    pins.add(store, [one, two, three, four], "ben")
    objects.forget(store, [samples.get(store, one).object])
    labels.undo_author(store, "anna", sample=two)
    labels.add(store, three, "tram", "human", "anna")
    found = pins.standing(store, CLASSES)
    assert found.pairs == ((four, "car"),)
    assert found.left_out == (
        f"pinned {one}: its picture is gone",
        f"pinned {two} has no human label any more",
        f"pinned {three} is labelled tram, which is no class of this site",
    )


def test_an_erased_picture_is_pinned_no_more(store, add):
    sample = labelled(store, add)
    pins.add(store, [sample], "ben")
    erasure.run(store, erasure.promise(store, erasure.What(samples=(sample,)), "ben"))
    assert pins.standing(store, CLASSES).pairs == ()


def split(**more):
    return plan.Split(CLASSES, 0.2, 100.0, 1, **more)


def test_a_pinned_picture_and_what_shows_the_same_are_not_learned_from(store, add, clock):
    ids = [labelled(store, add, n, ts=clock.now() + 40 * n, class_=CLASSES[n % 2]) for n in range(40)]
    before = plan.body(store, split())
    train = [s for s, _ in before["train"]]
    pinned, twin = train[0], train[1]
    insights.add_many(
        store, [insights.Insight(s, 0 if s in (pinned, twin) else (i + 1) * 0x9E3779B97F4A7C15 % 2**63)
                for i, s in enumerate(ids)],
    )  # fmt: skip
    pins.add(store, [pinned], "ben")
    after = plan.body(store, split())
    known = {s for part in snapshots.PARTS for s, _ in after[part]}
    assert pinned not in known
    assert twin not in known
    assert len(known) == len(ids) - 2
