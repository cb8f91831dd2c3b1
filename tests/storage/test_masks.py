"""Masks painted for a camera: what may be painted, how long it holds, who did it, and how the scrubbers hear of it."""

import json
import math
import sqlite3
from contextlib import closing
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import Corrupt, Refused
from edged.storage import audit, check, masks, schema
from edged.storage.masks import Painted

STREET = ((0.0, 0.4), (0.3, 0.4), (0.3, 1.0), (0.0, 1.0))
WINDOW = ((0.5, 0.1), (0.6, 0.1), (0.55, 0.2))


def test_a_mask_holds_from_its_painting_to_its_removal_and_both_are_in_the_audit_log(store, clock):
    made = masks.paint(store, "gate", "  street ", STREET, "anna")
    assert (made.name, made.polygon, round(made.area, 9)) == ("street", STREET, 0.18)
    assert masks.holding(store, "gate") == [made]
    assert masks.holding(store, "yard") == []
    clock.sleep(60)
    gone = masks.remove(store, "gate", made.id, "ben")
    assert gone.removed == made.created + 60
    assert masks.holding(store) == []
    assert store.value("select count(*) from mask") == 1  # who hid what, and when, stays known
    second, first = audit.rows(store)
    assert [(e.actor, e.act, e.subject) for e in (first, second)] == [
        ("anna", "mask.paint", "gate"),
        ("ben", "mask.remove", "gate"),
    ]
    assert json.loads(first.detail) == {"mask": made.id, "corners": 4, "area": 0.18}
    assert "street" not in first.detail  # a name may be a person's, and the log outlives erasure
    assert audit.verify(store) == 2
    assert check.run(store) == []


def test_a_mask_is_removed_once_and_only_from_its_own_camera(store):
    made = masks.paint(store, "gate", "street", STREET, "anna")
    for camera, number in (("yard", made.id), ("gate", made.id + 1), ("gate", -1)):
        with pytest.raises(Refused) as e:
            masks.remove(store, camera, number, "ben")
        assert e.value.code == "not_found"
    masks.remove(store, "gate", made.id, "ben")
    with pytest.raises(Refused):
        masks.remove(store, "gate", made.id, "ben")
    assert [e.act for e in audit.rows(store)] == ["mask.remove", "mask.paint"]


@pytest.mark.parametrize(
    "polygon",
    [
        [],
        [(0, 0), (1, 0)],
        [(0, 0), (1, 0), (1, 0), (0, 0)],  # two different ones
        [(0.1, 0.1), (0.5, 0.5), (0.9, 0.9)],  # a line
        [(0, 0), (1.01, 0), (1, 1)],
        [(0, -0.01), (1, 0), (1, 1)],
        [(0, math.nan), (1, 0), (1, 1)],
        [(0, math.inf), (1, 0), (1, 1)],
        [(0, 0, 0), (1, 0), (1, 1)],
        [(0, 0), (1, 1), (1, 0), (0, 1)],  # two triangles that cancel out
        [(0, 0), (1, 1), (1, 0), (0, 0.9)],  # its sides cross
        [(0, 0), (1, 0), (1, 1), (0.5, 0), (0, 1)],  # a corner on another side
        [(0, 0), (1, 0), (1, 1), (0.5, 0.5), (0.5, 1), (0.5, 0.2), (0, 1)],  # back over a side
        [(0.5 + 0.4 * math.cos(i * 2.4), 0.5 + 0.4 * math.sin(i * 2.4)) for i in range(5)],  # a star
        [(0.5 + 0.4 * math.cos(i / 33 * 6.28), 0.5 + 0.4 * math.sin(i / 33 * 6.28)) for i in range(33)],
    ],
)
def test_what_is_no_mask_is_refused_and_leaves_no_trace(store, polygon):
    with pytest.raises(Refused) as e:
        masks.paint(store, "gate", "street", polygon, "anna")
    assert e.value.code == "bad_polygon"
    assert masks.holding(store) == []
    assert audit.rows(store) == []


@pytest.mark.parametrize("name", ["", "   ", "x" * 61, "a\nb", "a\x00b", "\u202egate"])
def test_a_name_can_be_read(store, name):
    with pytest.raises(Refused) as e:
        masks.paint(store, "gate", name, STREET, "anna")
    assert e.value.code == "bad_name"


def test_a_camera_has_at_most_thirty_two_masks_at_a_time(store):
    made = [masks.paint(store, "gate", f"{i}", STREET, "anna") for i in range(masks.MOST)]
    with pytest.raises(Refused) as e:
        masks.paint(store, "gate", "one more", STREET, "anna")
    assert e.value.code == "too_many"
    masks.paint(store, "yard", "another camera's", STREET, "anna")
    masks.remove(store, "gate", made[0].id, "anna")
    masks.paint(store, "gate", "one more", STREET, "anna")


def test_thirty_two_corners_are_enough_and_repeated_ones_count_once():
    ring = [(0.5 + 0.4 * math.cos(i / 32 * 6.283), 0.5 + 0.4 * math.sin(i / 32 * 6.283)) for i in range(32)]
    twice = [corner for corner in ring for _ in (0, 1)]
    assert masks.check_polygon(twice[:64] + ring[:1]) == tuple(ring)


def test_corners_as_text_are_read_back_as_they_were():
    assert masks.parse_polygon(" 0.5,0.1\n0.6,.1  0.55,2e-1 ") == WINDOW
    assert masks.parse_polygon(masks.format_polygon(STREET)) == STREET
    for text in ("", "0.1,0.2", "a,b c,d e,f", "0,0 1,0 1", "0,0 1,0 1,nan", "0,0;1,0;1,1", "0,0 1,0 1,1 " * 1000):
        with pytest.raises(Refused) as e:
            masks.parse_polygon(text)
        assert e.value.code == "bad_polygon"


shares = st.floats(0, 1)


@given(st.lists(st.tuples(shares, shares), max_size=40))
def test_whatever_is_painted_either_is_refused_or_reads_back(corners):
    try:
        checked = masks.check_polygon(corners)
    except Refused:
        return
    assert masks.check_polygon(checked) == checked
    assert 3 <= len(checked) <= 32
    assert 0 < masks.area(checked) <= 1


def test_scrubbers_hear_of_a_mask_within_a_second_whoever_painted_it(store, open_store, clock):
    painted, page = Painted(store), open_store(site_key=None)
    assert painted.of("gate") == ()
    made = masks.paint(page, "gate", "street", STREET, "anna")
    masks.paint(page, "yard", "window", WINDOW, "anna")
    clock.sleep(1.0)
    assert (painted.of("gate"), painted.of("yard"), painted.of("roof")) == ((STREET,), (WINDOW,), ())
    masks.remove(page, "gate", made.id, "anna")
    clock.sleep(1.0)
    assert (painted.of("gate"), painted.of("yard")) == ((), (WINDOW,))


def test_asking_for_every_frame_costs_one_look_a_second_and_no_reading_while_nothing_changes(store, clock, monkeypatch):
    masks.paint(store, "gate", "street", STREET, "anna")
    asked = []
    for name in ("row", "rows"):
        real = getattr(store, name)
        monkeypatch.setattr(store, name, lambda *a, real=real, name=name: (asked.append(name), real(*a))[1])
    painted = Painted(store)
    for _ in range(100):
        assert painted.of("gate") == (STREET,)
        clock.sleep(0.1)
    assert asked.count("rows") == 1
    assert 9 <= asked.count("row") <= 11


def test_a_mask_that_does_not_read_back_stops_who_asks_for_it(store):
    made = masks.paint(store, "gate", "street", STREET, "anna")
    for text in ("[[0, 0], [1, 0]]", "[[0, 0], [1, 0], [2, 1]]", "nonsense", "null"):
        store.execute("update mask set polygon = ? where id = ?", (text, made.id))
        with pytest.raises(Corrupt) as e:
            Painted(store).of("yard")
        assert e.value.code == "mask_damaged"
    assert [f.code for f in check.run(store)] == ["mask_damaged"]


def test_a_store_of_the_first_version_gets_the_table_and_keeps_what_it_had(data_dir, open_store):
    data_dir.mkdir(mode=0o700)
    first = resources.files("edged.storage").joinpath("schema.sql").read_text()
    with closing(sqlite3.connect(data_dir / "edged.db", isolation_level=None)) as conn:
        conn.executescript(first)
        conn.execute("insert into counter values ('n', 7)")
        conn.executescript(
            "create table _sqlite_migrations (id integer primary key, migration_set text, name text, applied_at text);"
            "insert into _sqlite_migrations (migration_set, name, applied_at) values ('edged', '0001_first', '')"
        )
        conn.execute("pragma user_version = 1")
    store = open_store()
    assert store.value("pragma user_version") == schema.VERSION
    assert store.value("select n from counter where name = 'n'") == 7
    masks.paint(store, "gate", "street", STREET, "anna")
    assert [m.name for m in masks.holding(store)] == ["street"]
