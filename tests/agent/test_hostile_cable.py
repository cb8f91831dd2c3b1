"""What a broken or hostile cable can do to an update: delay it, never change it."""

import hashlib
import random

import pytest

from edged.publish import deliver
from edged.wire import topics
from edged.wire.messages import encode


def pieces(model):
    return [(hashlib.sha256(c).hexdigest(), c) for c in deliver.chunks(model)]


@pytest.fixture
def asked(site, make):
    """A site whose camera waits for the eight chunks of a model; asked.send puts bytes under a chunk's name."""
    site.start()
    site.box.serve = False
    site.model = make.classifier(1, padding=30_000)
    site.box.offer(site.box.release(1, site.model))
    site.until(lambda: site.box.wants)

    def send(sha256, data):
        site.box.link.publish(topics.model(make.SITE, f"chunk/{sha256}"), data)

    site.send = send
    return site


def finish(site):
    site.box.serve = True
    site.see(6)
    site.until(lambda: site.box.over("job-1"))
    assert site.box.last.status == "SUCCEEDED", site.box.last
    assert site.agent.active.slots.load().model == site.model


@pytest.mark.parametrize("seed", range(3))
def test_chunks_out_of_order_and_twice(asked, seed):
    mixed = pieces(asked.model) * 2
    random.Random(seed).shuffle(mixed)
    for sha256, data in mixed:
        asked.send(sha256, data)
    asked.run(2)
    finish(asked)
    assert len(asked.box.wants) == 1


@pytest.mark.parametrize("harm", ["truncated", "longer", "empty", "swapped", "zeros"])
def test_chunks_with_other_bytes_never_get_in(asked, harm):
    all_pieces = pieces(asked.model)
    for i, (sha256, data) in enumerate(all_pieces):
        bad = {
            "truncated": data[:-1], "longer": data + b"x", "empty": b"", "zeros": bytes(len(data)),
            "swapped": all_pieces[(i + 1) % len(all_pieces)][1],
        }[harm]  # fmt: skip
        asked.send(sha256, bad)
    asked.run(2)
    assert asked.agent.updater._download.part.have == 0
    assert asked.agent.updater.bad_chunks == 8
    finish(asked)


def test_bytes_changed_on_the_disk_after_they_were_checked_do_not_get_into_a_slot(asked):
    *most, last = pieces(asked.model)
    for sha256, data in most:
        asked.send(sha256, data)
    asked.run(1)
    part = asked.agent.updater._download.part.path
    data = bytearray(part.read_bytes())
    data[100] ^= 1
    part.write_bytes(data)
    asked.send(*last)
    asked.until(lambda: asked.box.over("job-1"))
    assert asked.box.last.status == "REJECTED"
    assert asked.agent.active.slot is None
    assert not list((asked.folder / "state/slots").glob("*/model.onnx"))


def test_a_wish_by_somebody_else_on_the_cable_gets_nothing_unsigned_to_run(site, make):
    """The ACL is one lock, the signature another: here the ACL is open."""
    site.start()
    site.install(1)
    evil = make.classifier(66)
    sha256 = hashlib.sha256(evil).hexdigest()
    site.box.models[sha256] = evil
    wish = type(site.box.release(2, make.classifier(2)))("job-66", "parking", 66, "parking/66.onnx", sha256)
    site.box.offer(wish)
    site.until(lambda: site.box.over("job-66"))
    assert site.box.last.status == "REJECTED"
    assert site.box.last.version == 1


@pytest.mark.parametrize("name", ["timestamp.json", "1.root.json", "9.snapshot.json", "x.json", "root.json"])
@pytest.mark.parametrize("data", [b"{}", b"\xff\xfe", b"[" * 5000, b"null", b'{"signed": 1, "signatures": []}'])
def test_rubbish_under_a_metadata_name_does_not_stop_the_camera(site, make, name, data):
    site.start()
    site.install(1)
    site.box.link.publish(topics.model(make.SITE, f"meta/{name}"), data, retain=True)
    site.box.desire(site.box.release(2, make.classifier(2)))
    site.run(5)
    site.box.publish_metadata()
    site.box.link.publish(topics.cam(make.SITE, make.CAMERA, "model/desired"), b"", retain=True)
    site.see(6)
    site.box.offer(site.box.release(3, make.classifier(3)))
    site.until(lambda: site.box.over("job-3"))
    assert site.box.last.status == "SUCCEEDED", site.box.last


def test_metadata_too_large_to_be_ours_is_dropped(site, make):
    site.start()
    site.box.link.publish(topics.model(make.SITE, "meta/timestamp.json"), b" " * (1024 * 1024 + 1), retain=True)
    site.run(2)
    assert not site.agent.updater.inbox.files


def test_messages_for_another_camera_or_site_are_not_ours(site, make):
    site.start()
    desired = site.box.release(1, make.classifier(1))
    site.box.publish_metadata()
    from edged.wire.link import Message

    for topic in ("edged/1/other/cam/gate/model/desired", "edged/1/plant-a/cam/yard/model/desired"):
        site.agent._link.received.append(Message(topic, encode(desired)))
    site.run(3)
    assert site.agent.updater.record is None
    assert site.agent.refused_total == 2
