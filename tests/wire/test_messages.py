"""What a hostile camera writes into a header or a document is Refused, never anything else; what is whole survives."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edged.errors import Refused
from edged.wire import messages, topics
from edged.wire.messages import FrameHeader, Region, frame_of

WHOLE = FrameHeader("b-1", 1_800_000_000.5, 7, "b", 1280, 720, "", (Region(1, 2, 3, 4, "car", 0.5, 0.25),))
GOOD = WHOLE.to_properties()
NAMES = tuple(GOOD)

any_text = st.text(st.characters(exclude_categories=()), max_size=200)  # lone surrogates and control characters, too
number_like = st.one_of(
    st.integers().map(str),
    st.floats().map(repr),
    st.floats().map(json.dumps),
    st.sampled_from(["1e308", "-0", "0x10", "1_0", "١", "+1", "1e400", "9" * 5000, "true", "null", "", "1\n", "NaN"]),
)
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
region_like = st.fixed_dictionaries(
    {},
    optional={k: json_like for k in ("x", "y", "w", "h", "label", "score", "margin")},
)
value = st.one_of(any_text, number_like, json_like.map(json.dumps), st.lists(region_like, max_size=6).map(json.dumps))
mutated = st.dictionaries(st.sampled_from(NAMES), value, max_size=4).map(lambda changed: GOOD | changed)


def header_of(properties: Mapping[str, str]) -> FrameHeader | None:
    """None = refused. Anything else that escapes fails the test."""
    try:
        return frame_of("gate", "frame", tuple(properties.items()), b"x", 1.0).header
    except Refused as e:
        str(e).encode()  # it goes into the log and into rows
        return None


def check_within(h: FrameHeader) -> None:
    numbers = [h.ts, *(v for r in h.regions for v in (r.score, r.margin))]
    assert all(math.isfinite(n) for n in numbers)
    assert 0 <= h.ts <= 1e11
    assert 0 <= h.seq <= 2**53
    assert len(h.regions) <= messages.MAX_REGIONS
    for text in (h.id, h.boot, h.model, *(r.label for r in h.regions)):
        text.encode()
    assert h.id == h.id.strip()
    assert h.boot == h.boot.strip()


@given(mutated)
@example(GOOD | {"regions": "[" * 10_000})
@example(GOOD | {"regions": '{"a":' * 10_000})
@example(GOOD | {"id": "b-1\n"})
@example(GOOD | {"boot": "b\n"})
@example(GOOD | {"model": "\ud800"})
@example(GOOD | {"seq": "9" * 100_000})
@example({})
def test_a_mutated_header_is_within_the_limits_or_refused(properties):
    header = header_of(properties)
    if header is not None:
        check_within(header)
        assert FrameHeader.from_properties(header.to_properties()) == header


@given(st.dictionaries(any_text, any_text, max_size=20))
def test_properties_that_are_none_of_ours_are_refused(properties):
    header_of(properties)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ts", "nan"), ("ts", "NaN"), ("ts", "inf"), ("ts", "-inf"), ("ts", "Infinity"), ("ts", "1e308"), ("ts", "-1"),
        ("ts", "1e11000"), ("ts", "true"), ("seq", "-1"), ("seq", "1.5"), ("seq", str(2**53 + 1)), ("seq", "1_0"),
        ("seq", "١٢"), ("w", "0"), ("h", "16385"), ("id", "b-1\n"), ("id", "../b"), ("id", ""), ("boot", "b\n"),
        ("regions", "null"), ("regions", "{}"), ("regions", '[{"x":1e999,"y":0,"w":1,"h":1}]'),
        ("regions", '[{"x":0,"y":0,"w":1,"h":1,"score":1.5}]'), ("regions", '[{"x":"0","y":0,"w":1,"h":1}]'),
    ],
)  # fmt: skip
def test_numbers_that_are_absurd_are_refused(name, text):
    assert header_of(GOOD | {name: text}) is None


def test_five_regions_are_one_too_many():
    five = [{"x": 0, "y": 0, "w": 1, "h": 1}] * 5
    assert header_of(GOOD | {"regions": json.dumps(five)}) is None
    assert header_of(GOOD | {"regions": json.dumps(five[:4])}) is not None


def test_a_property_that_comes_twice_is_refused_and_a_strangers_is_not():
    pairs = tuple(GOOD.items())
    with pytest.raises(Refused, match="twice"):
        frame_of("gate", "frame", (*pairs, ("seq", "8")), b"x", 1.0)
    assert frame_of("gate", "frame", (*pairs, ("note", "a"), ("note", "b")), b"x", 1.0).header == WHOLE


def test_a_payload_beyond_the_limit_is_refused_unread():
    with pytest.raises(Refused) as caught:
        frame_of("gate", "frame", (), bytes(messages.MAX_FRAME_BYTES + 1), 1.0)
    assert caught.value.code == "too_large"


@given(st.floats(0, 1e11), st.integers(0, 2**53))
def test_any_time_and_number_in_range_survives_the_cable(ts, seq):
    header = FrameHeader("b-1", ts, seq, "b", 1, 1)
    assert FrameHeader.from_properties(header.to_properties()) == header


KINDS = (
    messages.FrameReceipt, messages.CameraInfo, messages.CameraStats, messages.Desired, messages.Reported, messages.Want,
    messages.Probed,
)  # fmt: skip


@given(st.sampled_from(KINDS), st.one_of(st.binary(max_size=200), json_like.map(lambda j: json.dumps(j).encode())))
@example(messages.CameraStats, b"[" * 60_000)
@example(messages.Want, b'{"sha256":"' + b"a" * 64 + b'","chunks":[' + b"9" * 5000 + b"]}")
@example(messages.CameraInfo, b'"\xff\xfe"')
def test_a_document_is_what_it_should_be_or_refused(kind, payload):
    try:
        messages.encode(messages.decode(payload, kind))
    except Refused as e:
        str(e).encode()


@given(any_text | st.lists(any_text, max_size=8).map("/".join))
@example("edged/1/plant-a/cam/gate\n/frame")
@example("edged/1/plant-a/cam/../frame")
@example("edged/1/plant-a/cam/gate/\0")
def test_a_topic_is_of_the_tree_or_refused(topic):
    try:
        address = topics.parse(topic)
    except Refused:
        return
    assert topics.is_level(address.site)
    assert address.branch == "model" or topics.is_level(address.id)
