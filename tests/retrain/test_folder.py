"""Pictures on disk: what is a class, what is a test set, and what cannot be read."""

import struct
import zipfile
import zlib

import cv2
import numpy as np
import pytest

from edged.errors import Corrupt, Refused, Unavailable
from edged.retrain import dimensions, folder, pictures


def fill(where, names=("dark", "light"), n=40, seed=1):
    rng = np.random.default_rng(seed)
    for k, name in enumerate(names):
        (where / name).mkdir(parents=True)
        for i in range(n):
            image = rng.integers(0, 90, (40, 40, 3), np.uint8) + np.uint8(150 * k)
            cv2.imwrite(str(where / name / f"{i:03}.png"), image)
    return where


def sizes(parts):
    return {part: {k: len(v) for k, v in sets.items()} for part, sets in parts.items()}


def packed(where, archive):
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(where.rglob("*.png")):
            file.write(path, path.relative_to(where))
    return archive


def test_classes_are_the_folders_with_pictures(tmp_path):
    fill(tmp_path)
    (tmp_path / "empty").mkdir()
    assert folder.classes(tmp_path) == ("dark", "light")


def test_one_class_is_refused_in_words(tmp_path):
    fill(tmp_path, names=("dark",))
    with pytest.raises(Refused, match="at least two classes"):
        folder.classes(tmp_path)


def test_where_the_classes_are_one_floor_down_the_hint_says_so(tmp_path):
    fill(tmp_path / "all")
    with pytest.raises(Refused) as e:
        folder.classes(tmp_path)
    assert "DIR/all" in e.value.hint


def test_the_last_fifth_of_each_class_is_kept_for_tuning_and_nothing_is_in_both(tmp_path):
    fill(tmp_path, n=10)
    source = folder.Folder(tmp_path, tmp_path / "out", ("dark", "light"))
    train, tune = ({c.id for c in source.crops(p)} for p in ("train", "tune"))
    assert len(train) == 16
    assert tune == {"dark/008.png", "dark/009.png", "light/008.png", "light/009.png"}
    assert not train & tune
    assert source.crops("test") == []


def test_of_a_large_set_only_so_many_tune(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "TUNE_MOST", 6)
    assert sizes(folder.look(fill(tmp_path, n=20)))["tune"] == {"dark": 3, "light": 3}


def test_a_test_folder_is_only_tested_on(tmp_path):
    fill(tmp_path, n=10)
    fill(tmp_path / "test", n=4, seed=2)
    found = folder.look(tmp_path)
    assert sizes(found) == {
        "train": {"dark": 8, "light": 8}, "tune": {"dark": 2, "light": 2}, "test": {"dark": 4, "light": 4},
    }  # fmt: skip
    assert all(f.path.startswith("test/") for files in found["test"].values() for f in files)


def test_a_class_may_be_called_test(tmp_path):
    fill(tmp_path, names=("production", "test"), n=10)
    assert folder.classes(tmp_path) == ("production", "test")


def test_the_usual_layout_of_train_val_and_test_is_taken(tmp_path):
    for i, part in enumerate(("train", "val", "test")):
        fill(tmp_path / part, n=10 - i, seed=i)
    assert sizes(folder.look(tmp_path)) == {
        "train": {"dark": 10, "light": 10}, "tune": {"dark": 9, "light": 9}, "test": {"dark": 8, "light": 8},
    }  # fmt: skip


def test_another_folder_may_be_the_test_set_but_not_of_other_classes(tmp_path):
    data, test = fill(tmp_path / "a", n=10), fill(tmp_path / "b", n=5, seed=2)
    assert sizes(folder.look(data, test))["test"] == {"dark": 5, "light": 5}
    fill(tmp_path / "c", names=("dark", "loud"), n=5)
    with pytest.raises(Refused, match="classes that are not trained: loud"):
        folder.look(data, tmp_path / "c")


def test_a_picture_that_is_in_the_test_set_too_is_counted(tmp_path):
    data, test = fill(tmp_path / "a", n=10), fill(tmp_path / "b", n=5, seed=2)
    assert folder.digest(folder.look(data, test)).overlap == 0
    (test / "dark" / "again.png").write_bytes((data / "dark" / "003.png").read_bytes())
    assert folder.digest(folder.look(data, test)).overlap == 1


def test_a_zip_file_holds_the_same_set_as_its_folders(tmp_path):
    data = fill(tmp_path / "data", n=10)
    archive = packed(tmp_path, tmp_path / "all.zip")
    assert folder.exists(archive / "data")
    assert not folder.exists(archive / "nothing")
    assert folder.digest(folder.look(archive / "data")) == folder.digest(folder.look(data))
    crops = folder.Folder(archive / "data", tmp_path / "out", ("dark", "light")).crops("train")
    assert pictures.load(crops, ("dark", "light"), 32, threads=2).skipped == 0


def test_other_data_have_another_hash(tmp_path):
    data = fill(tmp_path, n=5)
    before = folder.digest(folder.look(data)).sha256
    assert folder.digest(folder.look(data)).sha256 == before
    path = data / "dark" / "001.png"
    path.write_bytes((data / "dark" / "002.png").read_bytes())
    assert folder.digest(folder.look(data)).sha256 != before


def test_a_damaged_zip_file_is_refused_and_a_damaged_member_is_left_out(tmp_path):
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(Refused, match="no zip file"):
        folder.look(tmp_path / "bad.zip")
    archive = packed(fill(tmp_path / "data", n=10), tmp_path / "a.zip")
    raw = bytearray(archive.read_bytes())
    at = raw.find(b"dark/000.png") + 60  # in the first member's data
    raw[at : at + 40] = bytes(40)
    archive.write_bytes(raw)
    crops = folder.Folder(archive, tmp_path / "out", ("dark", "light")).crops("train")
    loaded = pictures.load(crops, ("dark", "light"), 32)
    assert (loaded.skipped, loaded.bad) == (1, ("dark/000.png",))


def test_a_folder_that_may_not_be_read_is_an_error_not_a_gap(tmp_path, monkeypatch):
    import os

    fill(tmp_path, n=4)
    real = os.scandir

    def scandir(path):
        if str(path).endswith("light"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError):
        folder.look(tmp_path)


def bomb(side):
    """A PNG that says it is `side` pixels square, in a few bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def test_a_picture_bomb_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it reached the decoder"))
    with pytest.raises(Refused, match="20000x20000"):
        pictures.decode(bomb(20_000))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".pgm"])
def test_sizes_are_read_from_every_kind_of_picture(suffix):
    image = np.random.default_rng(1).integers(0, 256, (37, 53), np.uint8)
    data = cv2.imencode(suffix, image)[1].tobytes()
    if suffix == ".pgm":
        data = b"P5\n53 37\n255\n" + image.tobytes()
    assert dimensions.check(data) == (53, 37)
    assert pictures.decode(data).shape == (37, 53, 3)
    with pytest.raises((Refused, Corrupt)):
        pictures.decode(data[: len(data) // 2])


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00", b"GIF89a", b"RIFFxxxxWEBP", b"BM", b"P5\n0 0\n255\n"]
)
def test_what_is_no_picture_is_said_to_be_none(data):
    with pytest.raises((Refused, Corrupt)):
        pictures.decode(data)


def test_a_large_set_lies_in_a_file_and_is_found_there_again(tmp_path, crops):
    some = [*crops(20), pictures.Crop("x", "gate", "box", lambda: b"nothing")]
    plain = pictures.load(some, ("disc", "box"), 32)
    mapped = pictures.load(some, ("disc", "box"), 32, cache=tmp_path / "pixels")
    again = pictures.load([], ("disc", "box"), 32, cache=tmp_path / "pixels")
    for one in (mapped, again):
        assert isinstance(one.pixels, np.memmap)
        assert np.array_equal(one.pixels, plain.pixels)
        assert (one.labels.tolist(), one.ids, one.bad) == (plain.labels.tolist(), plain.ids, ("x",))
    pictures.forget(tmp_path / "pixels")
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_was_not_finished_is_made_anew(tmp_path, crops):
    (tmp_path / "pixels").write_bytes(b"half")
    (tmp_path / "pixels.list").write_bytes(b"{")
    assert len(pictures.load(crops(6), ("disc", "box"), 32, cache=tmp_path / "pixels")) == 6


def test_a_full_disk_is_said_before_anything_is_decoded(tmp_path, crops, monkeypatch):
    import errno
    import os

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(Unavailable, match="no room for the 0 MB"):
        pictures.load(crops(6), ("disc", "box"), 32, cache=tmp_path / "pixels")
    assert list(tmp_path.iterdir()) == []
