"""A model goes in, few bytes come out, and the very model comes out of them."""

import hashlib
import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from edged import packed
from edged.errors import Corrupt, Refused
from edged.packed import container, delta, parts, rangecoder, rans, sparse, streams, tensors
from edged.packed.frequencies import Tables, normalise

from .made import field, model, pictures, quantised, samples, tensor, whole
from .reference import File
from .reference_delta import Delta

HERE = Path(__file__).parent
SAMPLES = samples()


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("coder", ["", *tensors.CODERS])
def test_a_tensor_comes_back_to_the_bit_whatever_coder_it_goes_through(name, coder):
    onnx = model(w=SAMPLES[name])
    data = packed.pack(onnx, coder=coder)
    assert packed.unpack(data) == onnx
    assert len(data) < len(onnx) + 120 or coder


def test_every_coder_is_the_best_for_some_tensor():
    found = packed.look(packed.pack(model(**SAMPLES, tiny=np.zeros((2, 16), np.uint8))))
    random = packed.look(packed.pack(model(w=np.frombuffer(np.random.default_rng(1).bytes(5000), np.uint8))))
    used = {p.coder for p in (*found.parts, *random.parts)}
    print(f"{len(found.parts)} tensors, {found.size} -> {found.packed} bytes, coders {sorted(used)}")
    assert used >= {"sparse", "dense", "deflate", "stored"}


def test_what_cannot_be_made_smaller_grows_by_few_bytes():
    noise = np.frombuffer(np.random.default_rng(1).bytes(100_000), np.uint8)
    onnx = model(w=noise)
    assert len(packed.pack(onnx)) < len(onnx) + 64


def test_pruned_and_shared_weights_take_less_than_under_csr_and_huffman():
    """The control: on weights without any order there is little to gain."""
    rng = np.random.default_rng(3)
    ordered, without = pictures(2, rows=200, side=20), pictures(2, rows=200, side=20)
    without = rng.permuted(without, axis=None).reshape(without.shape)
    gain = [
        packed.look(packed.pack(model(w=w), coder="csr")).parts[0].packed / packed.look(packed.pack(model(w=w))).parts[0].packed
        for w in (ordered, without)
    ]  # fmt: skip
    print(f"CSR + Huffman takes {gain[0]:.2f} and {gain[1]:.2f} times as much")
    assert gain[0] > 1.1 > gain[1] > 0.99


def test_large_tensors_go_in_runs_and_share_the_classes_of_their_columns(monkeypatch):
    monkeypatch.setattr(tensors, "MAX_ITEMS", 1 << 12)
    onnx = model(w=SAMPLES["rows_and_columns"], v=SAMPLES["weights"], k=SAMPLES["kernels"])
    runs = []
    data = packed.pack(onnx)
    assert b"".join(map(bytes, packed.stream(io.BytesIO(data), runs=runs))) == onnx
    assert len(runs) > 5
    assert packed.look(data).size == len(onnx)


def test_runs_of_nothing_but_zeros_among_others_are_read_in_step():
    """A codebook of no values was read as more than was written."""
    rng = np.random.default_rng(5)
    some = {f"w{i}": quantised(rng.normal(size=(40, 50)).astype(np.float32), 0.1, 9) for i in range(12)}
    none = {f"z{i}": np.zeros((40, 50), np.float32) for i in range(12)}
    onnx = model(**{k: v for pair in zip(some.items(), none.items(), strict=True) for k, v in pair})
    assert packed.unpack(packed.pack(onnx, coder="sparse")) == onnx


def test_many_symbols_go_through_lanes_to_the_same_end():
    weights = pictures(4, rows=600, side=28, share=0.12, levels=16)
    onnx = model(w=weights)
    data = packed.pack(onnx)
    assert packed.unpack(data) == onnx
    assert packed.unpack(packed.pack(onnx, coder="csr")) == onnx


def test_what_is_said_of_a_packed_model_is_true():
    onnx = model(**SAMPLES)
    data = packed.pack(onnx)
    found = packed.look(data)
    assert found.sha256 == hashlib.sha256(onnx).hexdigest()
    assert (found.size, found.packed) == (len(onnx), len(data))
    assert sum(p.size for p in found.parts) + found.graph == found.size
    assert sum(p.packed for p in found.parts) < found.packed
    assert {p.name: p.dims for p in found.parts}["kernels"] == (24, 12, 5, 5)


def test_the_same_model_is_packed_to_the_same_bytes():
    onnx = model(**SAMPLES)
    assert packed.pack(onnx) == packed.pack(onnx)


def test_floats_in_a_list_of_floats_and_tensors_of_nodes_are_found():
    array = np.tile(np.float32([1.5, 0, 0, 0]), 20)
    attribute = field(5, field(1, b"value") + field(5, tensor("inner", array)))
    graph = field(1, field(4, b"Constant") + attribute) + field(5, tensor("listed", array, as_floats=True))
    onnx = whole(1, 8) + field(7, graph)
    assert [(t.name, t.size, t.item) for t in parts.find(onnx)] == [("inner", 320, 4), ("listed", 320, 4)]
    assert packed.unpack(packed.pack(onnx)) == onnx


def test_a_shape_that_lies_about_its_tensor_costs_only_bytes():
    wrong = tensor("w", SAMPLES["weights"]).replace(whole(1, 40), whole(1, 41), 1)
    onnx = whole(1, 8) + field(7, field(5, wrong))
    assert packed.unpack(packed.pack(onnx)) == onnx


def test_something_that_is_no_model_is_refused():
    for data in (b"", b"hello, this is no model", b"\x08\x08", bytes(100)):
        with pytest.raises(Refused, match="not an ONNX model"):
            packed.pack(data)


def test_a_model_whose_tensors_lie_elsewhere_is_refused():
    outside = tensor("w", np.zeros(20, np.float32)) + whole(14, 1)
    with pytest.raises(Refused, match="another file"):
        packed.pack(whole(1, 8) + field(7, field(5, outside)))


def test_something_that_is_no_packed_model_is_refused():
    for data in (b"", b"EPK", b"EPK\x00", b"EPK\x03" + bytes(100), model(w=np.ones(9, np.float32))):
        with pytest.raises(Refused):
            packed.unpack(data)


def test_a_packed_model_cut_anywhere_is_corrupt():
    data = packed.pack(model(w=SAMPLES["pictures"], v=SAMPLES["weights"]))
    for at in range(4, len(data), max(1, len(data) // 200)):
        with pytest.raises(Corrupt):
            packed.unpack(data[:at])
    with pytest.raises(Corrupt, match="longer"):
        packed.unpack(data + b"\0")


def test_more_than_is_allowed_is_not_unpacked_and_nothing_is_allocated_for_it():
    data = packed.pack(model(w=np.zeros((1000, 1000), np.float32)))
    assert len(data) < 150
    with pytest.raises(Corrupt, match="more than the 1000000 that are allowed") as e:
        packed.unpack(data, most=1_000_000)
    assert e.value.code == "too_big"


def test_a_wrong_hash_is_found_at_the_end():
    data = bytearray(packed.pack(model(w=SAMPLES["pictures"])))
    head = bytearray(data)
    head[10] ^= 1
    with pytest.raises(Corrupt, match="checksum"):
        packed.unpack(bytes(head))
    onnx = model(w=np.frombuffer(np.random.default_rng(1).bytes(5000), np.uint8))
    data = bytearray(packed.pack(onnx))
    data[-1] ^= 1  # of a tensor that is stored as it is: nothing but the hash can tell
    with pytest.raises(Corrupt, match="SHA-256"):
        packed.unpack(bytes(data))


def test_files_of_version_1_are_still_read():
    """Written by the code of that version; one list of 20,800 symbols is in lanes. The hash says that they are right."""
    old = packed.unpack((HERE / "version-1.epk").read_bytes())
    assert File((HERE / "version-1.epk").read_bytes()).onnx == old
    made = (HERE / "version-1.epd").read_bytes()
    assert delta.rebuild(old, made) == Delta(old, made).new != old
    again = packed.pack(old)
    assert len(again) < len((HERE / "version-1.epk").read_bytes())
    assert packed.unpack(again) == File(again).onnx == old


def test_lanes_give_back_what_they_hold():
    rng = np.random.default_rng(2)
    symbols = rng.choice(5, 4000, p=(0.5, 0.3, 0.1, 0.09, 0.01)).astype(np.uint8)
    which = rng.integers(0, 2, 4000).astype(np.uint8)
    tables = Tables([normalise([50, 30, 10, 9, 1]), normalise([1, 1, 1, 1, 1])])
    held = rng.bytes(2 * 30)
    plain, data = (rans.encode(symbols, which, tables, 30, h) for h in (b"", held))
    for one, expected in ((plain, bytes(60)), (data, held)):
        found, got = rans.decode(one, which, tables, 30)
        assert (found == symbols).all()
        assert got == expected
    assert len(data) <= len(plain) + 4  # 60 bytes for nothing
    for wrong in (data[:-2], data + bytes(2), data[:100]):
        with pytest.raises(Corrupt):
            rans.decode(wrong, which, tables, 30)


def test_both_ways_through_the_tables_find_the_same_symbols(monkeypatch):
    weights = pictures(4, rows=300, side=20, share=0.15, levels=16)
    data = packed.pack(model(w=np.random.default_rng(1).permuted(weights, axis=1)), coder="sparse")
    found = packed.unpack(data)
    monkeypatch.setattr(rans, "SEARCHED", 0)
    assert packed.unpack(data) == found


def test_a_small_file_is_unpacked_in_less_than_twice_its_size():
    """With neighbours that are known, and in lanes; what the table of symbols or the order of places takes is most of it."""
    rng = np.random.default_rng(1)
    lattice = pictures(4, rows=300, side=28, share=0.05, levels=16)
    mixed = rng.permuted(pictures(5, rows=300, side=28, share=0.08, levels=32), axis=1)
    for weights in (lattice, mixed):
        onnx = model(w=weights)
        data = packed.pack(onnx, coder="sparse")
        assert packed.unpack(data) == onnx  # what is made once for all files is made
        tracemalloc.start()
        try:
            packed.unpack(data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        print(f"{peak / len(onnx):.2f} times the {len(onnx)} bytes of the file")
        assert peak < 2 * len(onnx)


def test_places_are_the_same_however_many_are_put_in_order_at_once(monkeypatch):
    onnx = model(w=pictures(4, rows=90, side=20, share=0.1, levels=8))
    data = packed.pack(onnx, coder="sparse")
    for at_once in (1, 700, 1 << 30):  # one row, less than two rows of a pass, all
        monkeypatch.setattr(sparse, "_SORTED", at_once)
        assert packed.unpack(data) == onnx


def test_pieces_are_small_and_come_in_order():
    onnx = model(w=SAMPLES["pictures"], v=SAMPLES["weights"])
    pieces = [bytes(p) for p in packed.stream(io.BytesIO(packed.pack(onnx)))]
    assert b"".join(pieces) == onnx
    assert len(pieces) >= 5


def test_the_head_is_what_the_document_says():
    onnx = model(w=SAMPLES["pictures"])
    data = packed.pack(onnx)
    assert data[:4] == b"EPK\x02"
    assert container.VERSION == 2
    assert data[4:36] == hashlib.sha256(onnx).digest()


@pytest.mark.parametrize("held", [b"", b"\1"])
def test_lanes_of_version_1_end_as_they_began(held):
    count = streams.FEW + 1
    symbols, which = np.arange(count, dtype=np.uint8) % 2, np.zeros(count, np.uint8)
    rows = [normalise([1, 1])]
    data = rans.encode(symbols, which, Tables(rows), streams.lanes(count), held)
    side = rangecoder.Encoder()
    side.number("words", len(data) // 2)
    reader = streams.Reader(side.finish(), io.BytesIO(data), 1)
    reader.most = len(data)
    if held:
        with pytest.raises(Corrupt, match="as they began"):
            reader.symbols([(which, rows)])
    else:
        assert np.array_equal(reader.symbols([(which, rows)])[0], symbols)
