"""The shortest way that this camera can go, and nothing but the signed length at its end."""

import hashlib

import numpy as np
import pytest
from msgspec import to_builtins

from agent import ways
from edged import packed
from edged.errors import Corrupt, Refused
from edged.packed import delta
from edged.publish import deliver
from edged.wire.messages import CHUNK_BYTES, Way
from tests.packed.made import model
from tests.packed.pairs import trained, weights

OLD, NEW = model(**weights()), model(**trained(weights(), 0.01))
OTHER = model(**weights(5))
PACKED, DELTA = packed.pack(NEW), delta.make(OLD, NEW)


def sha(data):
    return hashlib.sha256(data).hexdigest()


def way(form, data, source=""):
    return Way(form, sha(data), len(data), (sha(data),), source)


WAYS = (way("packed", PACKED), way("delta", DELTA, sha(OLD)))


def test_a_camera_that_has_the_source_takes_the_delta_another_the_packed_form():
    assert ways.choose(WAYS, len(NEW), sha(OLD)).form == "delta"
    assert ways.choose(WAYS, len(NEW), sha(OTHER)).form == "packed"
    assert ways.choose(WAYS, len(NEW), "").form == "packed"
    assert ways.choose(WAYS[1:], len(NEW), sha(OTHER)) is None
    assert ways.choose((), len(NEW), sha(OLD)) is None


def test_no_way_that_is_not_shorter_is_gone():
    assert ways.choose(WAYS, WAYS[1].bytes, sha(OLD)) is None
    assert ways.choose(WAYS, WAYS[1].bytes + 1, sha(OLD)).form == "delta"
    longer = Way("delta", sha(b"x"), len(PACKED), (), sha(OLD))
    assert ways.choose((longer, WAYS[0]), len(NEW), sha(OLD)).form == "packed"


def test_a_delta_without_a_source_is_for_nobody():
    assert ways.choose((Way("delta", sha(b"x"), 5, (), ""),), len(NEW), "") is None


def test_both_ways_lead_to_the_file():
    assert ways.rebuild(WAYS[0], PACKED, None, len(NEW)) == NEW
    assert ways.rebuild(WAYS[1], DELTA, OLD, len(NEW)) == NEW


@pytest.mark.parametrize("old", [None, OTHER, b"", NEW])
def test_a_delta_from_what_is_not_here_is_refused(old):
    with pytest.raises(Refused):
        ways.rebuild(WAYS[1], DELTA, old, len(NEW))


def test_what_came_damaged_is_refused_before_it_is_read():
    for w, data in zip(WAYS, (PACKED, DELTA), strict=True):
        for bad in (data[:-1], data + b"\0", b"", data[:9] + b"?" + data[10:]):
            with pytest.raises(Corrupt, match="not what was signed"):
                ways.rebuild(w, bad, OLD, len(NEW))


def test_a_bomb_makes_no_more_than_the_signed_length():
    huge = model(w=np.zeros(2_000_000, np.float32))
    for form, data in (("packed", packed.pack(huge)), ("delta", delta.make(OLD, huge))):
        assert len(data) < 4000
        with pytest.raises(Corrupt, match="allowed"):
            ways.rebuild(way(form, data, sha(OLD)), data, OLD, len(NEW))


def test_a_way_to_a_shorter_file_is_refused():
    small = model(w=np.ones(40, np.float32))
    for form, data in (("packed", packed.pack(small)), ("delta", delta.make(OLD, small))):
        with pytest.raises(Corrupt, match="are signed"):
            ways.rebuild(way(form, data, sha(OLD)), data, OLD, len(NEW))


def test_without_memory_the_whole_file_is_still_there(monkeypatch):
    def none_left(*_, **__):
        raise MemoryError

    monkeypatch.setattr(ways.delta, "rebuild", none_left)
    with pytest.raises(Refused, match="memory"):
        ways.rebuild(WAYS[1], DELTA, OLD, len(NEW))


def test_a_camera_that_runs_the_version_before_fetches_the_delta_alone(site, make):
    """Over the whole path: a real delta between two signed models, in larger chunks than usual."""
    site.start()
    old = site.install(1, make.classifier(1, padding=20_000))
    at = old.index(b"B\x01wJ") + 5  # raw_data of the tensor "w"
    new = old[:at] + bytes([old[at] ^ 1]) + old[at + 1 :]
    data = delta.make(old, new)
    assert len(data) < 200
    offered = Way("delta", sha(data), len(data), (sha(data),), sha(old))
    site.box.models[sha(data)] = data
    site.box.wants.clear()
    chunk = 4 * CHUNK_BYTES
    more = {"chunk": chunk, "chunks": deliver.digests(new, chunk), "ways": [to_builtins(offered)]}
    site.box.offer(site.box.release(2, new, **more))
    site.see(20)
    site.until(lambda: site.box.over("job-2"))
    assert site.box.last.status == "SUCCEEDED", site.box.last
    assert site.agent.active.slots.load().model == new
    assert {(w.sha256, w.chunk) for w in site.box.wants} == {(sha(data), chunk)}
    third = make.classifier(3, padding=20_000)
    site.box.wants.clear()
    site.box.offer(site.box.release(3, third, chunk=chunk, chunks=deliver.digests(third, chunk)))
    site.see(20)
    site.until(lambda: site.box.over("job-3"))
    assert site.box.last.status == "SUCCEEDED", site.box.last
    assert {(w.sha256, w.chunk) for w in site.box.wants} == {(sha(third), chunk)}
