from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import Corrupt
from edged.storage import audit, check
from edged.storage.audit import GENESIS, Entry, Head

texts = st.text(max_size=8)


def chain(acts):
    entries, prev = [], GENESIS
    for n, (actor, act, subject) in enumerate(acts, 1):
        h = audit.hash_of(prev, n, 0.5 * n, actor, act, subject, "{}")
        entries.append(Entry(n, 0.5 * n, actor, act, subject, "{}", prev, h))
        prev = h
    return entries


chains = st.lists(st.tuples(texts, texts, texts), min_size=2, max_size=12).map(chain)


def verdict(entries, published=None):
    try:
        audit.verify_chain(entries, published)
    except Corrupt:
        return "broken"
    return "whole"


@given(chains)
def test_an_untouched_chain_is_whole(entries):
    last = Head(entries[-1].n, entries[-1].hash)
    assert audit.verify_chain(entries, last) == len(entries)
    assert audit.verify_chain(entries, Head(entries[0].n, entries[0].hash)) == len(entries)


@given(chains, st.data())
def test_any_edit_deletion_swap_or_cut_is_noticed(entries, data):
    head = Head(entries[-1].n, entries[-1].hash)
    i = data.draw(st.integers(0, len(entries) - 1))
    field = data.draw(st.sampled_from(["actor", "act", "subject", "detail", "ts", "prev", "hash", "n"]))
    e = entries[i]
    changed = replace(e, **{field: getattr(e, field) + ("x" if isinstance(getattr(e, field), str) else 1)})
    assert verdict([*entries[:i], changed, *entries[i + 1 :]]) == "broken"
    forged = replace(e, actor=e.actor + "x")
    forged = replace(forged, hash=audit.hash_of(e.prev, e.n, e.ts, forged.actor, e.act, e.subject, e.detail))
    assert verdict([*entries[:i], forged, *entries[i + 1 :]], head) == "broken"
    if i < len(entries) - 1:
        assert verdict([*entries[:i], forged, *entries[i + 1 :]]) == "broken"
    assert verdict(entries[:i] + entries[i + 1 :], head) == "broken"
    j = data.draw(st.integers(0, len(entries) - 1).filter(lambda j: j != i))
    swapped = list(entries)
    swapped[i], swapped[j] = swapped[j], swapped[i]
    assert verdict(swapped) == "broken"
    assert verdict(entries[: data.draw(st.integers(0, len(entries) - 1))], head) == "broken"


@given(chains)
def test_cut_off_rows_are_not_noticed_without_a_published_head(entries):
    """Why the head must be published."""
    assert verdict(entries[:-1]) == "whole"


def test_words_cannot_slide_from_one_column_into_the_next():
    assert audit.hash_of(GENESIS, 1, 0.0, "ab", "c", "", "{}") != audit.hash_of(GENESIS, 1, 0.0, "a", "bc", "", "{}")


def test_acts_are_chained_in_the_store_and_a_change_is_found(store):
    assert audit.head(store) == Head(0, GENESIS)
    for i in range(5):
        head = audit.append(store, "anna", "release", f"release-{i}", {"b": 2, "a": "ä"})
    assert audit.verify(store, head) == 5
    assert audit.head(store) == head
    assert audit.rows(store, 1)[0].detail == '{"a":"ä","b":2}'
    store.execute("update audit set actor = 'ben' where n = 3")
    with pytest.raises(Corrupt, match="row 3"):
        audit.verify(store)
    assert [f.code for f in check.run(store)] == ["audit_broken"]


def test_an_act_that_is_rolled_back_leaves_no_gap(store):
    def act():
        with store.transaction():
            audit.append(store, "anna", "a", "x")
            raise ValueError

    with pytest.raises(ValueError):
        act()
    audit.append(store, "anna", "b", "y")
    assert audit.verify(store) == 1


def test_a_gap_that_a_later_row_names_is_honest_and_any_other_is_not(store):
    for n in range(6):
        audit.append(store, "anna", "release", str(n))
    store.execute("delete from audit where n in (3, 4)")
    with pytest.raises(Corrupt, match="row 3 is missing"):
        audit.verify(store)
    audit.append(store, "edged", audit.REBUILT, "edged.db", {"audit_missing": [[3, 4]]})
    assert audit.verify(store) == 5
    store.execute("delete from audit where n = 2")
    with pytest.raises(Corrupt, match="row 2 is missing"):
        audit.verify(store)
