"""Features on disk: computed once, found again after a kill, and a full disk is told before the first row."""

import errno
import os

import numpy as np
import pytest
import torch

from edged.errors import Unavailable
from edged.retrain import cache, rung, stem, zoo
from edged.retrain.pictures import Pictures

torch.set_num_threads(1)


class Killed(Exception):
    pass


def rows(n, start=0):
    return np.arange(start, n, dtype=np.float16)[:, None] * np.ones((1, 3), np.float16)


def by_hundreds(n, die_at=None):
    asked = []

    def compute(done):
        asked.append(done)
        for i in range(done, n, 100):
            if die_at is not None and i >= die_at:
                raise Killed
            yield rows(min(n, i + 100), i)

    compute.asked = asked
    return compute


def test_what_was_computed_before_a_kill_is_not_computed_again(tmp_path):
    with pytest.raises(Killed):
        cache.filled(tmp_path, "k", 1000, (3,), by_hundreds(1000, die_at=700))
    again = by_hundreds(1000)
    found = cache.filled(tmp_path, "k", 1000, (3,), again)
    assert again.asked == [600]  # marked after each 512 rows or more
    assert np.array_equal(found, rows(1000))
    once_more = by_hundreds(1000)
    assert np.array_equal(cache.filled(tmp_path, "k", 1000, (3,), once_more), rows(1000))
    assert once_more.asked == []


def test_a_mark_that_fits_no_file_is_not_trusted(tmp_path):
    (tmp_path / "features-k.rows").write_text("700")
    compute = by_hundreds(1000)
    cache.filled(tmp_path, "k", 1000, (3,), compute)
    assert compute.asked == [0]


def test_a_full_disk_is_told_in_words_and_nothing_is_left(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(Unavailable, match="no room for 6 MB of features: No space left on device") as e:
        cache.filled(tmp_path, "k", 1_000_000, (3,), by_hundreds(0))
    assert e.value.code == "no_room"
    assert list(tmp_path.iterdir()) == []


def test_the_same_picture_is_kept_once():
    pixels = np.zeros((5, 4, 4, 3), np.uint8)
    pixels[2] = 7
    first, row = cache.distinct(pixels)
    assert (first.tolist(), row.tolist()) == ([0, 2], [0, 0, 1, 0, 0])


def test_another_network_cut_or_picture_has_another_key():
    net, other = zoo.build("lenet-5", 2, 32), zoo.build("lenet-5", 2, 32)
    keys = {cache.key(rung.foot(n, c), c, p) for n in (net, other) for c in (3, 7) for p in (b"a", b"b")}
    assert len(keys) == 8


@pytest.mark.parametrize("name", ["mobilenet-0.125", "squeezenet-1.1", "lenet-5"])
def test_the_engine_and_torch_compute_the_same_features(name, pics, monkeypatch):
    torch.manual_seed(2)
    net = zoo.build(name, 2, 64 if name != "lenet-5" else 32).eval()
    px = 64 if name != "lenet-5" else 32
    pixels, cut = pics(8, px=px).pixels, zoo.blocks(net)[1]
    by_torch = np.concatenate(list(stem.features(stem.runner(net, cut, px, 8, 1), pixels)))
    monkeypatch.setattr(stem, "ENGINE_MACS", 0.0)
    by_engine = np.concatenate(list(stem.features(stem.runner(net, cut, px, 8, 1), pixels)))
    assert by_torch.dtype == by_engine.dtype == np.float16
    assert by_torch.shape == by_engine.shape == (8, *stem.shape(net, cut, px))
    assert np.abs(by_torch.astype(float) - by_engine).max() <= 2e-3 * max(1.0, float(np.abs(by_torch).max()))


def test_training_on_a_full_disk_goes_on_without_a_cache(tmp_path, pics, monkeypatch):
    net = zoo.build("lenet-5", 2, 32).eval()
    plenty = rung.entering(net, 3, pics(20), tmp_path, 1, "f")
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    none = rung.entering(net, 3, pics(20), tmp_path, 1, "other")
    assert none.note.endswith("they are kept in memory")
    chosen = np.array([3, 0, 19])
    assert torch.equal(plenty.take(chosen), none.take(chosen))


def test_features_of_the_whole_network_are_its_pictures(pics):
    given = pics(4)
    entering = rung.entering(zoo.build("lenet-5", 2, 32), 0, given, None, 1)
    assert isinstance(given, Pictures)
    assert np.array_equal(entering.values, given.pixels)
