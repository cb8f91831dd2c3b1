"""docs/format.md is enough: a reader written from it reads what we write, and the example in it is a packed model."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edged import packed
from edged.packed import delta, tensors
from edged.packed.dictionary import GRAPH_WORDS

from .made import model, pictures, samples
from .pairs import corpus
from .reference import File
from .reference_delta import Delta

PAGE = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
SAMPLES = samples(5)
PAIRS = corpus()
QUIET = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("coder", ["", "csr", "sparse", "dense"])
def test_the_second_reader_reads_every_coder(name, coder):
    onnx = model(w=SAMPLES[name])
    assert File(packed.pack(onnx, coder=coder)).onnx == onnx


def test_the_second_reader_reads_a_model_of_many_tensors_in_runs(monkeypatch):
    monkeypatch.setattr(tensors, "MAX_ITEMS", 1 << 12)
    onnx = model(**SAMPLES)
    assert File(packed.pack(onnx)).onnx == onnx


def test_the_second_reader_reads_lanes_and_bits_of_a_larger_tensor():
    onnx = model(w=pictures(3, rows=600, side=20, share=0.4, levels=30))
    data = packed.pack(onnx, coder="sparse")
    assert File(data).onnx == onnx
    floats = model(w=np.random.default_rng(2).normal(size=(130, 150)).astype(np.float32))
    assert File(packed.pack(floats)).onnx == floats


@pytest.mark.parametrize("name", PAIRS)
def test_the_second_reader_reads_every_delta(name):
    old, new = PAIRS[name]
    assert Delta(old, delta.make(old, new)).new == new


def test_the_second_reader_reads_a_delta_of_many_numbers_in_runs(monkeypatch):
    monkeypatch.setattr(tensors, "MAX_ITEMS", 1 << 11)
    old, new = PAIRS["float"]
    assert Delta(old, delta.make(old, new)).new == new
    rng = np.random.default_rng(3)
    w = rng.normal(0, 20, (180, 130)).astype(np.int8)
    old, new = model(w=w), model(w=np.where(rng.random(w.shape) < 0.7, w + np.sign(w), w).astype(np.int8))
    monkeypatch.setattr(tensors, "MAX_ITEMS", 1 << 22)
    assert Delta(old, delta.make(old, new)).new == new


def test_the_control_one_changed_bit_is_not_read():
    data = bytearray(packed.pack(model(w=SAMPLES["pictures"])))
    data[-1] ^= 1
    with pytest.raises((AssertionError, IndexError, ValueError)):
        File(bytes(data))


def test_the_example_of_the_page_is_what_is_written():
    w = np.zeros((4, 8), np.float32)
    w[0, 1] = w[2, 3] = 0.5
    w[3, 3] = -0.5
    onnx = model(w=w)
    lines = PAGE.split("## 13")[1].split("## 14")[0]
    whole = bytes.fromhex("".join(re.findall(r"^    ([0-9a-f]{2,})(?:  .*)?$", lines, re.M)))
    assert whole == packed.pack(onnx)
    start = re.search(r"^    ([0-9a-f]+)\.\.\.$", lines, re.M)
    assert onnx.hex().startswith(start[1])
    assert File(whole).onnx == packed.unpack(whole) == onnx


def test_the_dictionary_is_that_of_the_version():
    assert str(len(GRAPH_WORDS)) in PAGE
    assert hashlib.sha256(GRAPH_WORDS).hexdigest() in PAGE


@QUIET
@given(
    arrays.arrays(
        st.sampled_from(["float32", "uint8", "int8", "int32", "int64", "float16", "float64"]),
        arrays.array_shapes(max_dims=4, max_side=12),
    )
)
def test_any_tensor_comes_back_to_the_bit(array):
    onnx = model(w=array)
    data = packed.pack(onnx)
    assert packed.unpack(data) == onnx == File(data).onnx


@QUIET
@given(
    st.sampled_from(["float32", "uint8", "int8", "int32", "int64", "float16", "float64"]).flatmap(
        lambda kind: arrays.array_shapes(max_dims=3, max_side=10).flatmap(
            lambda shape: st.tuples(arrays.arrays(kind, shape), arrays.arrays(kind, shape))
        )
    )
)
@example((np.zeros((2, 4), np.int32), np.full((2, 4), -0x400001, np.int32)))  # as floats, NaNs that signal
def test_any_tensor_is_rebuilt_from_any_other_to_the_bit(pair):
    old, new = (model(w=array) for array in pair)
    made = delta.make(old, new)
    assert delta.rebuild(old, made) == new == Delta(old, made).new


@QUIET
@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 60), st.floats(0, 1), st.integers(1, 300))
def test_any_sparse_matrix_comes_back_to_the_bit(seed, rows, columns, share, values):
    rng = np.random.default_rng(seed)
    book = rng.normal(size=values).astype(np.float32)
    w = np.where(rng.random((rows, columns)) < share, rng.choice(book, (rows, columns)), np.float32(0))
    onnx = model(w=w)
    data = packed.pack(onnx, coder="sparse")
    assert packed.unpack(data) == onnx == File(data).onnx
