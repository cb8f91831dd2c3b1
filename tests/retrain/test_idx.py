"""The IDX reader takes what the format says, and nothing that is shorter, longer or something else."""

import gzip
import struct

import numpy as np
import pytest

from edged.errors import Refused
from edged.retrain import folder, idx, pictures


def packed(values, *, type_=0x08, shape=None):
    shape = values.shape if shape is None else shape
    return bytes([0, 0, type_, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + values.tobytes()


def write(where, pixels, labels, *, part="train", gz=True, dot="-"):
    opened, suffix = (gzip.open, ".gz") if gz else (open, "")
    where.mkdir(exist_ok=True)
    for name, values in ((f"{part}-images{dot}idx3-ubyte", pixels), (f"{part}-labels{dot}idx1-ubyte", labels)):
        with opened(where / f"{name}{suffix}", "wb") as file:
            file.write(packed(values) if isinstance(values, np.ndarray) else values)
    return where


def some(n=20, side=28, classes=2, seed=1):
    dice = np.random.default_rng(seed)
    return dice.integers(0, 256, (n, side, side), np.uint8), (np.arange(n) % classes).astype(np.uint8)


@pytest.mark.parametrize("gz", [True, False])
@pytest.mark.parametrize("dot", "-.")
def test_what_was_written_is_read(tmp_path, gz, dot):
    pixels, labels = some()
    write(tmp_path, pixels, labels, gz=gz, dot=dot)
    read = idx.read(*idx.find(tmp_path, "train"))
    assert np.array_equal(read.pixels, pixels)
    assert np.array_equal(read.labels, labels)
    assert idx.find(tmp_path, "test") is None


def header(*shape, type_=0x08):
    return bytes([0, 0, type_, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no IDX file"),
        (b"\x89PNG\r\n\x1a\n" * 4, "no IDX file"),
        (header(2, 2, 2)[:9], "cut short: its header"),
        (header(2, 2, 2, type_=0x0D) + bytes(8), "type 0x0d"),
        (header(8) + bytes(8), "in 1 dimensions, not unsigned bytes in 3"),
        (header(2, 2, 2) + bytes(7), "cut short: 7 of 8 values"),
        (header(2, 2, 2) + bytes(9), "goes on behind its 8 values"),
        (header(0, 2, 2), "says that it holds 0 x 2 x 2"),
        (header(2**32 - 1, 2**32 - 1, 2**32 - 1), "says that it holds"),
        (header(2_000_000, 1024, 1024), "says that it holds"),
    ],
)
@pytest.mark.parametrize("gz", [True, False])
def test_a_file_that_is_not_as_it_says_is_refused_in_words(tmp_path, data, words, gz):
    write(tmp_path, data, np.zeros(2, np.uint8), gz=gz)
    with pytest.raises(Refused, match=words) as e:
        idx.read(*idx.find(tmp_path, "train"))
    assert e.value.code == "bad_idx"


def test_a_header_that_promises_gigabytes_costs_no_memory(tmp_path):
    import tracemalloc

    write(tmp_path, header(10_000, 1000, 1000) + bytes(100), np.zeros(2, np.uint8))
    tracemalloc.start()
    with pytest.raises(Refused, match="cut short"):
        idx.read(*idx.find(tmp_path, "train"))
    assert tracemalloc.get_traced_memory()[1] < 8e6
    tracemalloc.stop()


def test_a_torn_gzip_file_is_refused(tmp_path):
    write(tmp_path, *some())
    path, _ = idx.find(tmp_path, "train")
    whole = path.read_bytes()
    for torn in (whole[:-9], whole[:40], b"no gzip", whole[:200] + bytes(20) + whole[220:]):
        path.write_bytes(torn)
        with pytest.raises(Refused, match=r"damaged|cut short|no IDX"):
            idx.read(*idx.find(tmp_path, "train"))


def test_pictures_without_labels_and_labels_of_other_pictures_are_refused(tmp_path):
    pixels, labels = some()
    write(tmp_path, pixels, labels[:-1])
    with pytest.raises(Refused, match=r"20 pictures.*19 labels"):
        idx.read(*idx.find(tmp_path, "train"))
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(Refused, match="has no labels beside it"):
        idx.find(tmp_path, "train")


def test_the_official_test_files_are_the_test_set_and_are_in_no_other_part(tmp_path):
    write(tmp_path, *some(100))
    write(tmp_path, *some(30, seed=2), part="t10k")
    parts = folder.look(tmp_path)
    sizes = {part: sum(map(len, sets.values())) for part, sets in parts.items()}
    assert sizes == {"train": 80, "tune": 20, "test": 30}
    assert {f.path for files in parts["test"].values() for f in files} == {
        f"t10k-images-idx3-ubyte#{i}" for i in range(30)
    }
    assert not any("t10k" in f.path for p in ("train", "tune") for files in parts[p].values() for f in files)


def test_labels_are_numbers_or_the_names_that_are_given(tmp_path):
    pixels, labels = some(40, classes=3)
    write(tmp_path, pixels, labels)
    assert folder.classes(tmp_path) == ("0", "1", "2")
    named = folder.look(tmp_path, names=("shirt", "coat", "bag"))
    assert tuple(named["train"]) == ("shirt", "coat", "bag")
    with pytest.raises(Refused, match="labels up to 2, there are 2 classes"):
        folder.look(tmp_path, names=("shirt", "coat"))


def test_the_pixels_reach_training_as_they_are(tmp_path):
    pixels, labels = some(20)
    write(tmp_path, pixels, labels)
    crops = folder.Folder(tmp_path, tmp_path / "out", ("0", "1")).crops("train")
    loaded = pictures.load(crops, ("0", "1"), 28)
    assert loaded.skipped == 0
    zeros = pixels[labels == 0]
    assert np.array_equal(loaded.pixels[0], np.repeat(zeros[0][..., None], 3, 2))
