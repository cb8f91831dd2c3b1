"""The subscription tree against the plain matcher."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edged.broker.acl import covers
from edged.broker.trie import TopicTrie, valid_filter
from edged.wire.topics import matches

LEVEL = st.sampled_from(["a", "b", "", "$x", "cam"])
TOPIC = st.lists(LEVEL, min_size=1, max_size=5).map("/".join).filter(bool)
FILTER = st.tuples(
    st.lists(st.one_of(LEVEL, st.just("+")), min_size=0, max_size=4), st.sampled_from(["#", "+", "a", ""])
).map(lambda parts: "/".join([*parts[0], parts[1]]))
FILTERS = FILTER.filter(bool)


@given(st.lists(st.tuples(FILTERS, st.integers(0, 3)), max_size=20), TOPIC)
def test_the_tree_finds_exactly_what_the_matcher_finds(subscriptions, topic):
    trie = TopicTrie()
    for topic_filter, key in subscriptions:
        trie.add(topic_filter, key, topic_filter)
    wanted = sorted({(key, f) for f, key in subscriptions if matches(f, topic)})
    assert sorted(trie.match(topic)) == wanted


@given(st.lists(st.tuples(FILTERS, st.integers(0, 3)), max_size=20), st.randoms(use_true_random=False), TOPIC)
def test_what_is_removed_is_found_no_more_and_leaves_no_branch(subscriptions, random, topic):
    trie = TopicTrie()
    for topic_filter, key in subscriptions:
        trie.add(topic_filter, key, None)
    gone = list(dict.fromkeys(subscriptions))
    random.shuffle(gone)
    while gone:
        topic_filter, key = gone.pop()
        trie.remove(topic_filter, key)
        left = sorted(k for f, k in gone if matches(f, topic))
        assert sorted(k for k, _ in trie.match(topic)) == left
    assert not trie
    trie.remove("never/there", 0)


@given(FILTERS, FILTERS, TOPIC)
def test_a_filter_that_covers_another_matches_all_that_it_matches(outer, inner, topic):
    if covers(outer, inner) and matches(inner, topic) and not topic.startswith("$"):
        assert matches(outer, topic)


@given(FILTERS)
def test_a_filter_covers_itself_and_what_is_narrower(topic_filter):
    assert covers(topic_filter, topic_filter)
    assert covers("#", topic_filter)
    assert covers(topic_filter + "/#", topic_filter) or topic_filter.endswith("#")


def test_a_wildcard_does_not_reach_the_brokers_own_topics():
    trie = TopicTrie()
    for topic_filter in ("#", "+/b", "$x/#", "$x/+"):
        trie.add(topic_filter, topic_filter, None)
    assert sorted(key for key, _ in trie.match("$x/b")) == ["$x/#", "$x/+"]


def test_only_well_formed_filters_are_valid():
    assert all(valid_filter(f) for f in ("a", "a/b", "+", "#", "a/+/#", "/", "+/+", "$SYS/#"))
    assert not any(valid_filter(f) for f in ("", "a#", "#/a", "a/b+", "a\0", "/".join("a" * 65)))
