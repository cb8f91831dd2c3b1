"""The old file and few bytes go in, the very new file comes out."""

import functools
import hashlib
import io

import numpy as np
import pytest

from edged import packed
from edged.errors import Corrupt, Refused
from edged.packed import delta, facts, residual, tensors
from edged.packed.streams import Reader, Writer

from .made import model, samples
from .pairs import corpus, int8, stepped, trained, weights

PAIRS = corpus()


@functools.cache
def made_of(name):
    return delta.make(*PAIRS[name])


@pytest.mark.parametrize("name", PAIRS)
def test_a_file_is_rebuilt_to_the_byte_from_the_one_before(name):
    old, new = PAIRS[name]
    made = made_of(name)
    print(f"{name}: {len(new)} bytes, delta {len(made)}")
    assert delta.rebuild(old, made) == new
    assert delta.rebuild(old, io.BytesIO(made), most=len(new)) == new
    assert len(made) < len(new) + 200


def test_every_file_of_the_corpus_is_rebuilt_from_every_other():
    files = sorted({file for pair in PAIRS.values() for file in pair}, key=lambda f: (len(f), f))[::5]
    for old in files:
        for new in files:
            assert delta.rebuild(old, delta.make(old, new)) == new
    print(f"{len(files) ** 2} pairs")
    assert len(files) >= 7


@pytest.mark.parametrize("name", samples())
def test_a_tensor_of_any_kind_comes_back_from_itself_rolled_by_one(name):
    array = samples()[name]
    old, new = model(w=array), model(w=np.roll(array, 1))
    assert delta.rebuild(old, delta.make(old, new)) == new


def test_what_did_not_change_costs_nothing():
    old, new = PAIRS["head only"]
    only, full = len(delta.make(old, new)), len(packed.pack(new))
    head = len(packed.pack(model(w=weights()["head.w"])))
    print(f"head only {only}, head packed {head}, full packed {full}")
    assert only < head
    assert only < 0.1 * full
    assert len(delta.make(old, old)) < 100


def test_less_change_makes_a_smaller_delta_and_none_is_larger_than_full():
    tensors = weights()
    old = model(**tensors)
    sizes = []
    for share in (1.0, 0.1, 0.01, 0.001):
        new = model(**trained(tensors, share))
        sizes.append(len(delta.make(old, new)))
        assert sizes[-1] < len(packed.pack(new)) + 80  # what else its head says: two hashes
    print(sizes)
    assert sizes == sorted(sizes, reverse=True)


def test_whole_numbers_that_moved_by_one_step_here_and_there_cost_a_few_bits():
    for kind in (np.int8, np.uint8):
        tensors = int8(1, kind)
        old, new = model(**tensors), model(**stepped(tensors, 0.1))
        share = len(delta.make(old, new)) / len(packed.pack(new))
        print(f"{np.dtype(kind)}: {share:.3f} of packed")
        assert share < 0.2


def test_renamed_tensors_are_found_by_their_order_and_shape():
    assert len(made_of("renamed")) < 1.05 * len(made_of("float"))


@pytest.mark.parametrize("item", [1, 2, 4, 8])
@pytest.mark.parametrize("form", [residual.DIFFERENCE, residual.XOR, residual.STEPS])
def test_what_lies_between_two_numbers_leads_from_one_to_the_other(item, form):
    rng = np.random.default_rng(item)
    edge = np.array([0, 1, (1 << 8 * item - 1) - 1, 1 << 8 * item - 1, (1 << 8 * item) - 1], f"<u{item}")
    pairs = np.stack(np.meshgrid(edge, edge)).reshape(2, -1)
    old, new = np.concatenate([pairs, np.frombuffer(rng.bytes(400 * item), f"<u{item}").reshape(2, -1)], 1)
    moved = residual.apart(form, old, new)
    assert moved.dtype == old.dtype
    assert np.array_equal(residual.together(form, old, moved), new)


def test_rows_that_were_multiplied_cost_little_and_what_cannot_be_multiplied_stays():
    """As a batch norm with new statistics leaves a convolution that it is folded into."""
    rng = np.random.default_rng(4)
    w = rng.normal(0, 0.1, (64, 16, 3, 3)).astype(np.float32)
    scales = rng.uniform(0.7, 1.4, 64).astype(np.float32)
    old = model(w=w)
    new = model(w=w * scales[:, None, None, None])
    sizes = len(delta.make(old, new)), len(packed.pack(new))
    print(f"delta {sizes[0]}, packed {sizes[1]}")
    assert sizes[0] < 0.2 * sizes[1]
    odd = np.array([[np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3e38, 1.0]], np.float32)
    found = residual.multiplied(odd.reshape(-1).view("<u4"), np.array([2.0], np.float32)).view(np.float32)
    assert found[:6].tobytes() == odd[0, :6].tobytes()
    assert found[6:].tolist() == [np.inf, 2.0]


def test_neighbouring_floats_are_one_step_apart_on_both_sides_of_zero():
    values = np.array([-1e-45, -0.0, 0.0, 1e-45, 1.0, -1.0, 3e38], np.float32)
    next_ = np.nextafter(values, np.float32(np.inf))
    moved = residual.apart(residual.STEPS, values.view("<u4"), next_.view("<u4"))
    # 2 = one up, in a number of either sign; from -0 the next float is that after +0
    assert moved.tolist() == [2, 4, 2, 2, 2, 2, 2]


@pytest.mark.parametrize("item", [1, 2, 4])
@pytest.mark.parametrize("tiers", [1, 5, 16])
def test_differences_by_their_length_come_back_whatever_they_are(item, tiers):
    rng = np.random.default_rng(3)
    for count in (1, 17, 40_000):
        old = np.frombuffer(rng.bytes(count * item), f"<u{item}")
        moved = np.frombuffer(rng.bytes(count * item), f"<u{item}") >> rng.integers(0, 8 * item, count).astype(
            f"<u{item}"
        )
        lengths = residual.symbols(moved)
        writer = residual._measured(Writer(), residual.STEPS, lengths, moved, old, tiers)
        reader = Reader(writer.side.finish(), io.BytesIO(b"".join(writer.body)), delta.VERSION)
        reader.most = 1 << 30
        form, found = residual._read_measured(reader, old)
        found = residual._folded(found) if item == 1 else found
        assert form == residual.STEPS
        assert np.array_equal(found, moved)


def test_every_form_is_the_best_for_some_tensor():
    used = set()
    bits = np.random.default_rng(1).integers(0, 2**32, 4000, dtype=np.uint32)
    flipped = model(w=bits.view(np.float32)), model(w=(bits ^ np.uint32(1 << 19)).view(np.float32))
    for pair, data in [*((PAIRS[name], made_of(name)) for name in PAIRS), (flipped, delta.make(*flipped))]:
        used |= {part.coder for part in facts.look_delta(pair[0], data).parts}
    print(sorted(used))
    assert used >= {"fresh", "difference", "xor", "measured", "the same"}


def test_what_is_said_of_a_delta_adds_up():
    old, new = PAIRS["other shapes"]
    made = delta.make(old, new)
    found = facts.look_delta(old, made)
    assert (found.sha256, found.size, found.packed) == (hashlib.sha256(new).hexdigest(), len(new), len(made))
    assert sum(p.packed for p in found.parts) + found.graph_packed + found.head == found.packed
    assert {p.name: p.coder for p in found.parts}["fc.w"] == "the same"


def test_large_tensors_go_in_runs(monkeypatch):
    monkeypatch.setattr(tensors, "MAX_ITEMS", 1 << 10)
    old, new = PAIRS["float"]
    assert delta.rebuild(old, delta.make(old, new)) == new


def test_another_file_than_the_one_it_was_made_from_is_refused():
    old, new = PAIRS["float"]
    made = delta.make(old, new)
    for wrong in (new, old[:-1], old + b"\0", b"", old[:100] + b"X" + old[101:]):
        with pytest.raises(Refused, match="another file") as e:
            delta.rebuild(wrong, made)
        assert e.value.code == "wrong_source"


def test_more_than_is_allowed_is_not_rebuilt():
    old = model(w=np.zeros(500_000, np.float32))
    made = delta.make(old, model(w=np.ones(500_000, np.float32)))
    assert len(made) < 200
    with pytest.raises(Corrupt, match="more than the 1000000 that are allowed") as e:
        delta.rebuild(old, made, most=1_000_000)
    assert e.value.code == "too_big"


def test_something_that_is_no_delta_is_refused():
    old, new = PAIRS["float"]
    for data in (b"", b"EPD", b"EPD\x03" + bytes(99), packed.pack(new), new):
        with pytest.raises(Refused) as e:
            delta.rebuild(old, data)
        assert e.value.code == "not_packed"


def test_the_same_files_give_the_same_delta():
    for name in ("float", "int8", "renamed"):
        assert delta.make(*PAIRS[name]) == made_of(name)


def test_the_head_is_what_the_document_says():
    old, new = PAIRS["int8"]
    made = delta.make(old, new)
    assert made[:4] == b"EPD\x02"
    assert made[4:36] == hashlib.sha256(new).digest()
    assert made[36:68] == hashlib.sha256(old).digest()
