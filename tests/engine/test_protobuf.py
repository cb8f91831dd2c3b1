"""The wire format that ONNX files are written in: what is written reads back, what makes no sense is said to."""

import pytest
from onnx import StringStringEntryProto, TensorProto

from edged.engine import protobuf


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 1 << 35, (1 << 64) - 1])
def test_a_number_reads_back_as_it_was_written(value):
    data = memoryview(b"\xff" + protobuf.leb128(value) + b"\x07")
    assert protobuf.varint(data, 1) == (value, len(data) - 1)


def test_what_is_written_is_what_the_protobuf_package_reads():
    entry = StringStringEntryProto.FromString(protobuf.block(1, b"a key") + protobuf.block(2, "größer".encode()))
    assert (entry.key, entry.value) == ("a key", "größer")
    tensor = TensorProto.FromString(protobuf.whole(1, 3) + protobuf.whole(1, 1 << 40) + protobuf.whole(1, -1))
    assert list(tensor.dims) == [3, 1 << 40, -1]


def test_what_the_protobuf_package_writes_is_read():
    tensor = TensorProto(dims=[2, 300, 5], data_type=1, name="w", float_data=[1.5] * 7, double_data=[2.5])
    found = list(protobuf.fields(memoryview(tensor.SerializeToString())))
    assert b"".join(whole for *_, whole in found) == tensor.SerializeToString()
    assert [protobuf.varint(raw, 0)[0] for number, _, raw, _ in found if number == 1] == [2, 300, 5]
    assert [len(raw) for number, kind, raw, _ in found if (number, kind) == (4, protobuf.LEN)] == [28]
    assert protobuf.text(memoryview(tensor.SerializeToString()), 8) == "w"
    assert protobuf.text(memoryview(tensor.SerializeToString()), 12) == ""


def test_packed_numbers_are_read_one_by_one():
    numbers = [5, 1 << 20, 0, 127]
    assert list(protobuf.varints(memoryview(b"".join(map(protobuf.leb128, numbers))))) == numbers
    with pytest.raises(ValueError, match="cut short"):
        list(protobuf.varints(memoryview(b"\x05\x80")))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x80", "cut short"), (b"\x80" * 11, "more than 64 bits"), (b"\x0a\x05ab", "cut short"), (b"\x0d\x01", "cut short"),
        (b"\x09\x01\x02", "cut short"), (b"\x0b", "wire type 3"), (b"\x02\x00", "without number"),
    ],
)  # fmt: skip
def test_bytes_that_make_no_sense_are_told_so(data, words):
    with pytest.raises(ValueError, match=words):
        list(protobuf.fields(memoryview(data)))
