"""Shorter ways to a release: real ones, walked before they are signed, and never one that saves nothing."""

import hashlib
import json

import numpy as np
import pytest
from msgspec import convert

from agent import offer
from edged import packed
from edged.packed import delta
from edged.publish import deliver, release, ways
from edged.publish.release import Description
from edged.storage import cameras, models, releases
from edged.wire.messages import CHUNK_BYTES, MOST_CHUNK_BYTES, Reported, Way
from tests.packed.made import model
from tests.packed.pairs import trained, weights


def grown(seed=1):
    rng = np.random.default_rng(seed)
    return weights(seed) | {"wide": rng.normal(0, 0.05, (120, 80)).astype(np.float32)}


OLD = model(**grown())
NEW = model(**trained(grown(), 0.01))
HEAD = model(**trained(grown(), 0.01, only="head.w"))


def sha(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def kept(store):
    """Puts files into the store, as releases before were; returns their hashes."""
    return lambda *files: [models.put_model(store, data) for data in files]


@pytest.fixture
def publish(store, repo, rows, known_answer):
    described = Description("vehicle", ("a", "b"), 32, known_answer, ("generic",))

    def do(data):
        number = release.publish(
            store, repo, candidate=rows.candidate(data), description=described, author="Ada Lovelace"
        )
        return repo.targets()[f"vehicle/{number}.onnx"]

    return do


def walked(store, way, new=NEW):
    """The file at the end of a way, from what the store holds."""
    data = models.read_model(store, way.sha256, ways._SUFFIXES[way.form])
    assert (len(data), way.chunks) == (way.bytes, tuple(deliver.digests(data)))
    if way.form == "packed":
        return packed.unpack(data)
    return delta.rebuild(models.read_model(store, way.source), data)


def test_every_way_leads_to_the_very_bytes_and_is_shorter(store, kept):
    (source,) = kept(OLD)
    found = ways.make(store, NEW, [source], chunk=CHUNK_BYTES)
    assert [(w.form, w.source) for w in found] == [("packed", ""), ("delta", source)]
    assert len(NEW) > found[0].bytes > found[1].bytes
    assert all(walked(store, way) == NEW for way in found)
    assert all(models.sent_path(store, way.sha256).read_bytes() for way in found)


def test_a_delta_no_shorter_than_the_packed_form_is_left_out(store, kept):
    other = model(**grown(9))
    (source,) = kept(other)
    assert [w.form for w in ways.make(store, NEW, [source], chunk=CHUNK_BYTES)] == ["packed"]
    assert not list(store.models_dir.glob("*.epd"))


def test_what_no_way_makes_shorter_goes_whole(store, kept):
    noise = model(w=np.frombuffer(np.random.default_rng(1).bytes(40_000), np.uint8))
    assert ways.make(store, noise, kept(OLD), chunk=CHUNK_BYTES) == []
    assert ways.make(store, np.random.default_rng(2).bytes(9000), kept(OLD), chunk=CHUNK_BYTES) == []  # no model
    small = model(w=np.ones(300, np.float32))
    assert len(packed.pack(small)) < len(small) - 900
    assert [w.form for w in ways.make(store, small, [], chunk=CHUNK_BYTES)] == ["packed"]
    little = model(w=np.ones(80, np.float32))
    assert len(packed.pack(little)) < len(little)
    assert ways.make(store, little, [], chunk=CHUNK_BYTES) == [], "saves less than its own description takes"


def test_at_most_so_many_deltas_and_none_from_a_file_that_is_gone_damaged_or_the_release_itself(store, kept):
    near = [model(**trained(grown(), 0.01, seed=i)) for i in range(6)]
    sources = kept(*near)
    (store.models_dir / f"{sources[1]}.onnx").write_bytes(b"damaged")
    (store.models_dir / f"{sources[2]}.onnx").unlink()
    models.put_model(store, NEW)
    found = ways.make(store, NEW, [sha(NEW), *sources, sources[0]], chunk=CHUNK_BYTES)
    assert [w.source for w in found if w.form == "delta"] == [sources[0], sources[3], sources[4]]


def test_a_way_that_the_disk_has_no_room_for_is_not_signed(store, kept, monkeypatch):
    sources = kept(OLD)
    real = models.put_model

    def full(to, data, suffix=".onnx"):
        if suffix == ".epd":
            raise ways.EdgedError("disk full")
        return real(to, data, suffix)

    monkeypatch.setattr(models, "put_model", full)
    assert [w.form for w in ways.make(store, NEW, sources, chunk=CHUNK_BYTES)] == ["packed"]


def test_a_way_that_leads_elsewhere_is_never_signed(store, kept, monkeypatch):
    """The control: a coder that is wrong, and does not notice."""
    other = model(**grown(5))
    wrong = [packed.pack(other), delta.make(OLD, other)]
    monkeypatch.setattr(ways, "_made", lambda data, olds: wrong)
    assert ways.make(store, NEW, kept(OLD), chunk=CHUNK_BYTES) == []
    monkeypatch.setattr(ways, "_made", lambda data, olds: [b"EPK\x01rubbish", b"EPD"])
    assert ways.make(store, NEW, kept(OLD), chunk=CHUNK_BYTES) == []


def test_what_a_child_made_before_its_time_was_over_is_used(store, kept, monkeypatch, tmp_path):
    slow = tmp_path / "slow.py"
    way = packed.pack(NEW)
    slow.write_text(
        "import sys, time\n"
        f"sys.stdout.buffer.write({len(way).to_bytes(8, 'little')!r} + {way!r} + b'half')\n"
        "sys.stdout.flush(); time.sleep(60)\n"
    )
    monkeypatch.setattr(ways, "SECONDS", 1.5)
    real = ways.subprocess.run
    monkeypatch.setattr(ways.subprocess, "run", lambda command, **more: real([command[0], str(slow)], **more))
    assert [w.form for w in ways.make(store, NEW, kept(OLD), chunk=CHUNK_BYTES)] == ["packed"]


@pytest.mark.parametrize("command", [["/nowhere/python"], ["/bin/false"]])
def test_a_child_that_does_not_start_or_ends_leaves_the_whole_file(store, kept, monkeypatch, command):
    real = ways.subprocess.run
    monkeypatch.setattr(ways.subprocess, "run", lambda _, **more: real(command, **more))
    assert ways.make(store, NEW, kept(OLD), chunk=CHUNK_BYTES) == []


def test_a_release_signs_ways_from_what_cameras_run_and_drops_those_of_releases_that_are_gone(store, repo, publish):
    first = publish(OLD)
    assert [w["form"] for w in first.custom["ways"]] == ["packed"]
    for i in range(3):
        cameras.seen(store, f"gate-{i}")
        cameras.set_reported(store, f"gate-{i}", Reported("vehicle", 1, sha(OLD), "release-1", "SUCCEEDED"))
    second = publish(NEW)
    assert [(w["form"], w["source"]) for w in second.custom["ways"]] == [("packed", ""), ("delta", sha(OLD))]
    for i in range(3):
        cameras.set_reported(store, f"gate-{i}", Reported("vehicle", 2, sha(NEW), "release-2", "SUCCEEDED"))
    for i in range(2):
        third = publish(model(**trained(grown(), 0.01, seed=20 + i)))
    assert "vehicle/1.onnx" not in repo.targets()
    signed = {w["sha256"] for t in repo.targets().values() for w in t.custom["ways"]}
    assert {path.stem for path in store.models_dir.glob("*.ep[kd]")} == signed
    assert {w["sha256"] for w in third.custom["ways"]} <= signed


def test_a_way_back_makes_none_and_keeps_those_that_are_still_here(store, repo, publish, monkeypatch):
    """It is signed by the thread that answers cameras."""
    first = publish(OLD)
    releases.set_state(store, 1, "complete", "all have it")
    publish(NEW)
    monkeypatch.setattr(ways, "_made", lambda *_: pytest.fail("a child was started"))
    number = release.go_back(store, repo, to=1, author="Ada Lovelace")
    back = repo.targets()[f"vehicle/{number}.onnx"]
    assert back.custom["ways"] == first.custom["ways"] != []
    assert walked(store, convert(back.custom["ways"][0], Way), OLD) == OLD
    releases.set_state(store, number, "complete", "all have it")
    (store.models_dir / f"{back.custom['ways'][0]['sha256']}.epk").unlink()
    again = release.go_back(store, repo, to=2, author="Ada Lovelace")
    assert [w["form"] for w in repo.targets()[f"vehicle/{again}.onnx"].custom["ways"]] == ["packed", "delta"]
    releases.set_state(store, again, "complete", "all have it")
    last = release.go_back(store, repo, to=number, author="Ada Lovelace")
    assert repo.targets()[f"vehicle/{last}.onnx"].custom["ways"] == []


def test_a_camera_reads_the_ways_that_are_signed(repo, publish):
    publish(OLD)
    target = publish(NEW)
    said = offer.describe(
        "vehicle/2.onnx", target.length, {"sha256": target.sha256}, json.loads(json.dumps(target.custom))
    )
    assert [w.form for w in said.custom.ways] == ["packed", "delta"]
    assert said.custom.ways[1].source == sha(OLD)


def test_a_large_file_has_larger_chunks_so_that_its_metadata_stays_small():
    sizes = {n: deliver.chunk_bytes(n * 2**20) for n in (0, 1, 16, 17, 64, 200, 1024)}
    assert sizes[0] == sizes[1] == sizes[16] == CHUNK_BYTES
    assert sizes[17] == 2 * CHUNK_BYTES
    assert sizes[64] == 4 * CHUNK_BYTES
    assert sizes[1024] == MOST_CHUNK_BYTES
    for mebibytes in (1, 17, 64, 80, 250):
        assert mebibytes * 2**20 / sizes.get(mebibytes, deliver.chunk_bytes(mebibytes * 2**20)) <= deliver.MOST_CHUNKS


def test_seven_releases_of_the_largest_kind_fit_into_one_metadata_file():
    """Hashes of the file and of its ways, a known answer, and room to spare below 1 MiB."""
    hashes = deliver.MOST_CHUNKS + ways.MOST_HASHES
    assert 7 * (hashes * ways.HASH_BYTES + 4 * ways.WAY_BYTES + 8192) < 2**20
