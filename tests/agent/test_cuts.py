"""A download that is cut at 200 places and goes on, and one in which each chunk comes damaged once: what it costs."""

import hashlib
from contextlib import suppress

import numpy as np
import pytest

from agent.download import Download, Limits
from agent.offer import Custom, Offer
from agent.selftest import KnownAnswer
from edged.errors import Refused
from edged.publish import deliver
from edged.wire.messages import CHUNK_BYTES, Way

CUTS = 200
SIZE = 100 * CHUNK_BYTES + 777  # 1.6 MB


class Sender:
    """A box that answers each question in order, and counts; `cut` bytes on, the cable is cut."""

    def __init__(self, files):
        self.pieces = {hashlib.sha256(f).hexdigest(): deliver.chunks(f) for f in files}
        self.sent = 0
        self.spoil = set()  # indexes to damage, once each

    def answer(self, download, want, now, room=1 << 40):
        """Sends until `room` bytes are gone; what a cut leaves of a message never reaches the camera."""
        for i in want.chunks:
            data = self.pieces[want.sha256][i]
            sha256 = hashlib.sha256(data).hexdigest()
            self.sent += min(len(data), room)
            room -= len(data)
            if room < 0:
                return
            if i in self.spoil:
                self.spoil.discard(i)
                data = data[:7] + bytes([data[7] ^ 1]) + data[8:]
            with suppress(Refused):
                download.put(sha256, data, now)


def released(model, ways=()):
    custom = Custom(
        release=1, name="m", classes=("a",), px=32, hardware=("x",), min_agent="", chunk=CHUNK_BYTES,
        chunks=tuple(deliver.digests(model)), known_answer=None, ways=tuple(ways),
    )  # fmt: skip
    return Offer(custom, hashlib.sha256(model).hexdigest(), len(model), KnownAnswer((1,), 32, ((0.0,),), 0.1))


@pytest.fixture(scope="module")
def model():
    return np.random.default_rng(4).bytes(SIZE)


def fetch(folder, offer, sender, have="", cut=None):
    """Until it is complete; `cut`: bytes after which the process is gone, once. Returns the finished download."""
    now, questions = 0.0, []
    download = Download(folder, offer, have, Limits(), now)
    for _ in range(10_000):
        if download.complete:
            return download
        assert download.step(now, True, questions.append) == ""
        for want in questions:
            room = 1 << 40 if cut is None else cut - sender.sent
            sender.answer(download, want, now, room)
            if room < (1 << 40) and sender.sent >= cut:
                cut, download = None, Download(folder, offer, have, Limits(), now)  # a new process, what is on disk
                break
        questions.clear()
        now += 1.0
    raise AssertionError("it never ended")


def test_cut_at_each_of_200_offsets_it_resumes_and_what_is_sent_again_is_less_than_a_chunk(tmp_path, model):
    offer, sent = released(model), 0
    for i in range(CUTS):
        cut = 1 + i * (SIZE - 1) // CUTS + (i * 37) % 4096  # within chunks, not at their ends
        sender = Sender([model])
        download = fetch(tmp_path / str(i % 2), offer, sender, cut=cut)
        assert download.read(lambda: None) == model
        download.part.path.unlink()
        assert sender.sent - SIZE <= CHUNK_BYTES, cut
        sent += sender.sent
    share = sent / (CUTS * SIZE)
    print(f"{CUTS} cuts of a file of {SIZE} bytes: {share:.4f} times its bytes were sent")
    assert share <= 1.02


def test_cut_again_and_again_in_one_download(tmp_path, model):
    """Each life brings about one chunk; only what was on its way is sent again."""
    offer, sender = released(model), Sender([model])
    lives = 0
    while True:
        download = Download(tmp_path, offer, "", Limits(), 0.0)
        if download.complete:
            break
        questions = []
        download.step(0.0, True, questions.append)
        sender.answer(download, questions[0], 0.0, room=CHUNK_BYTES + 300)  # the second is cut after 300 bytes
        lives += 1
    assert lives == 101
    assert download.read(lambda: None) == model
    print(f"{lives} lives: {sender.sent / SIZE:.4f} times its bytes were sent")
    assert sender.sent <= 1.02 * SIZE


def test_one_corrupt_byte_in_each_chunk_is_found_and_only_that_chunk_comes_again(tmp_path, model):
    offer = released(model)
    total = len(offer.custom.chunks)
    sent = 0
    for i in range(total):
        sender = Sender([model])
        sender.spoil = {i}
        assert fetch(tmp_path, offer, sender).read(lambda: None) == model
        (tmp_path / f"{offer.sha256}.part").unlink()
        assert sender.sent - SIZE <= CHUNK_BYTES
        sent += sender.sent
    print(f"{total} downloads with one damaged chunk each: {sent / (total * SIZE):.4f} times the bytes")
    assert sent <= 1.02 * total * SIZE


def test_a_corrupt_byte_on_the_disk_in_each_chunk_is_found_by_the_next_process(tmp_path, model):
    offer, sender = released(model), Sender([model])
    path = fetch(tmp_path, offer, sender).part.path
    spoilt = bytearray(path.read_bytes())
    for at in range(5, SIZE, CHUNK_BYTES):
        spoilt[at] ^= 0x10
        path.write_bytes(spoilt)
        found = Download(tmp_path, offer, "", Limits(), 0.0).part.missing()
        spoilt[at] ^= 0x10
        assert found == (at // CHUNK_BYTES,)


def test_the_control_a_camera_that_believes_its_disk_would_take_damaged_bytes(tmp_path, model):
    offer, sender = released(model), Sender([model])
    download = fetch(tmp_path, offer, sender)
    data = bytearray(download.part.path.read_bytes())
    data[100] ^= 1
    download.part.path.write_bytes(data)
    assert download.complete  # this process has looked before
    assert download.read(lambda: None) != model  # so that python-tuf must look again, and does


def test_a_way_that_is_cut_resumes_as_well(tmp_path):
    rng = np.random.default_rng(5)
    whole = np.repeat(rng.integers(0, 9, SIZE // 40), 40).astype(np.uint8).tobytes()
    way = rng.bytes(100 * CHUNK_BYTES)
    offer = released(whole, [Way("packed", hashlib.sha256(way).hexdigest(), len(way), tuple(deliver.digests(way)))])
    sent = 0
    for i in range(0, 100, 5):
        sender = Sender([way])
        download = fetch(tmp_path, offer, sender, cut=1 + i * CHUNK_BYTES + 55)
        assert download.way is not None
        assert download.part.read() == way
        download.part.path.unlink()
        sent += sender.sent
    assert sent <= 1.02 * 20 * len(way)
