"""What a model file may be: a hostile corpus, each refused for what is wrong with it, and our own files taken."""

import gzip
import io
import pickle
import random
import zipfile

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edged.engine import admit, onnx_file, onnx_write, protobuf
from edged.errors import EdgedError, Refused


def field(number, payload):
    return protobuf.block(number, payload)


def spoil(model, change):
    change(model)
    return model.SerializeToString()


def outside(tensor, place="../secret"):
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    return tensor


def node_with(model, **attributes):
    model.graph.node.append(helper.make_node("Constant", [], ["more"], **attributes))


def nested(depth, inner=None):
    graph = helper.make_graph([], "leaf", [], [])
    if inner is not None:
        graph.initializer.append(inner)
    for i in range(depth):
        node = helper.make_node("If", ["c"], [f"o{i}"], then_branch=graph)
        graph = helper.make_graph([node], f"g{i}", [], [])
    return graph.node[0]


def small(name="t"):
    return numpy_helper.from_array(np.zeros(4, np.float32), name)


def dims(model, tensor, *sides):
    model.graph.initializer[tensor].dims[:] = sides


def twice_a_graph(model):
    """Protobuf joins them; who reads only the last one sees no external data."""
    bad = type(model)()
    bad.CopyFrom(model)
    outside(bad.graph.initializer[0])
    return bad.SerializeToString() + field(onnx_file.MODEL_GRAPH, model.graph.SerializeToString())


def zipped(data):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        z.writestr("archive/data.pkl", data)
    return out.getvalue()


class Evil:
    def __reduce__(self):
        return (print, ("ran",))


def shape_of(value, *sides):
    value.type.tensor_type.shape.Clear()
    for side in sides:
        dim = value.type.tensor_type.shape.dim.add()
        if isinstance(side, str):
            dim.dim_param = side
        else:
            dim.dim_value = side


def with_float_data(model, n):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.float_data.extend([0.5] * n)


def both_kinds(model):
    model.graph.initializer[0].float_data.extend([0.5] * 216)


CORPUS = {
    "a pickle": (lambda m: pickle.dumps(Evil()), "pickle"),
    "an old pickle": (lambda m: pickle.dumps({"a": 1}, 0), "cannot be taken|not an ONNX"),
    "a zip archive": (lambda m: zipped(pickle.dumps(Evil())), "zip"),
    "a gzip archive": (lambda m: gzip.compress(m.SerializeToString()), "gzip"),
    "a program": (lambda m: b"\x7fELF" + bytes(100), "program"),
    "nothing": (lambda m: b"", "0 graphs"),
    "zeros": (lambda m: bytes(1000), "without number"),
    "noise": (lambda m: random.Random(5).randbytes(5000), "cannot be taken|is a|not an ONNX"),
    "external data": (lambda m: spoil(m, lambda m: outside(m.graph.initializer[0])), "another file"),
    "external data in an attribute": (lambda m: spoil(m, lambda m: node_with(m, value=outside(small()))), "another file"),
    "external data in a nested graph": (
        lambda m: spoil(m, lambda m: m.graph.node.append(nested(2, outside(small(), "/etc/passwd")))), "another file",
    ),
    "a graph in a graph in a graph": (lambda m: spoil(m, lambda m: m.graph.node.append(nested(8))), "nested"),
    "nested a thousand deep": (lambda m: b"".join([m.SerializeToString(), deep(1000)]), "nested|cannot|graphs"),
    "two graphs": (twice_a_graph, "2 graphs"),
    "functions": (lambda m: m.SerializeToString() + field(onnx_file.MODEL_FUNCTIONS, b""), "functions"),
    "a training graph": (lambda m: m.SerializeToString() + field(20, b""), "training"),
    "a custom operator": (
        lambda m: spoil(m, lambda m: m.graph.node.append(helper.make_node("Run", [], ["x"], domain="com.evil"))),
        "beyond ONNX's own .*com.evil",
    ),
    "a custom operator in a nested graph": (
        lambda m: spoil(m, lambda m: m.graph.node.append(custom_inside())), "beyond ONNX's own",
    ),
    "2**40 a side": (lambda m: spoil(m, lambda m: dims(m, 0, 2**40)), "dimension of 1099511627776"),
    "a negative side": (lambda m: spoil(m, lambda m: dims(m, 0, -1)), "dimension of -1"),
    "sides whose product overflows": (lambda m: spoil(m, lambda m: dims(m, 0, 2**22, 2**22, 2**20)), "elements"),
    "40 dimensions": (lambda m: spoil(m, lambda m: dims(m, 0, *[1] * 40)), "dimensions"),
    "a tensor shorter than it says": (lambda m: spoil(m, lambda m: dims(m, 0, 9, 3, 3, 3)), "does not hold the 243"),
    "a tensor longer than it says": (lambda m: spoil(m, lambda m: dims(m, 0, 1)), "does not hold the 1 "),
    "typed data that is short": (lambda m: spoil(m, lambda m: with_float_data(m, 7)), "does not hold"),
    "its numbers twice": (lambda m: spoil(m, both_kinds), "does not hold"),
    "text for weights": (
        lambda m: spoil(m, lambda m: m.graph.initializer.append(helper.make_tensor("s", TensorProto.STRING, [1], [b"x"]))),
        "text",
    ),
    "a sparse tensor": (lambda m: spoil(m, lambda m: m.graph.sparse_initializer.add()), "sparse"),
    "a declared value of 2**50": (
        lambda m: spoil(
            m, lambda m: m.graph.value_info.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, [2**50]))
        ),
        "dimension",
    ),
    "grey pictures": (lambda m: spoil(m, lambda m: shape_of(m.graph.input[0], "n", 1, 16, 16)), "1 colours"),
    "pictures that are not square": (lambda m: spoil(m, lambda m: shape_of(m.graph.input[0], "n", 3, 16, 8)), "square"),
    "pictures of another size": (lambda m: spoil(m, lambda m: shape_of(m.graph.input[0], "n", 3, 8, 8)), "8 pixels"),
    "an input that is no picture": (lambda m: spoil(m, lambda m: shape_of(m.graph.input[0], "n", 48)), "2 dimensions"),
    "two inputs": (
        lambda m: spoil(m, lambda m: m.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]))),
        "2 inputs",
    ),
    "text as input": (
        lambda m: spoil(m, lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.STRING)), "not float32",
    ),
    "another number of classes": (lambda m: spoil(m, lambda m: shape_of(m.graph.output[0], "n", 7)), "7 classes"),
    "no output": (lambda m: spoil(m, lambda m: m.graph.ClearField("output")), "0 outputs"),
    "too many operators": (
        lambda m: spoil(m, lambda m: m.graph.node.extend([helper.make_node("Relu", ["a"], ["a"])] * (admit.MAX_NODES + 1))),
        "operators",
    ),
    "too many fields": (lambda m: m.SerializeToString() + b"\x08\x01" * (admit.MAX_FIELDS + 1), "fields"),
    "a field number that parsers cut off": (lambda m: m.SerializeToString() + b"\xba\x80\x80\x80\x80\x01\x00", "number"),
}  # fmt: skip


def deep(levels):
    inner = b""
    for _ in range(levels):
        inner = field(onnx_file.GRAPH_NODE, field(onnx_file.NODE_ATTRIBUTE, field(onnx_file.ATTRIBUTE_G, inner)))
    return field(onnx_file.MODEL_GRAPH, inner)


def custom_inside():
    node = nested(1)
    node.attribute[0].g.node.append(helper.make_node("Run", [], ["x"], domain="com.evil"))
    return node


@pytest.mark.parametrize("what", CORPUS)
def test_a_hostile_file_is_refused_for_what_is_wrong_with_it(classifier, what):
    make, words = CORPUS[what]
    with pytest.raises(Refused, match=words) as caught:
        admit.judge(make(classifier()), classes=3, px=16)
    assert len(str(caught.value)) < 400


def test_the_control_the_engines_own_check_alone_would_take_some_of_them(classifier):
    """Else this file would be needless."""
    taken = []
    for what, (make, _) in CORPUS.items():
        try:
            onnx_file.check(make(classifier()))
            taken.append(what)
        except EdgedError:
            pass
    assert {"two graphs", "a custom operator", "2**40 a side", "functions"} <= set(taken)
    print(f"{len(CORPUS)} files, {len(CORPUS) - len(taken)} refused by the engine's check, all by admission")


def test_our_own_files_are_taken(classifier):
    facts = admit.judge(classifier().SerializeToString(), classes=3, px=16)
    assert (facts.takes, facts.px, facts.classes) == ("float32", 16, 3)
    for precision in ("float32", "int8"):
        net = onnx_write.Net((3, 16, 16), precision=precision)
        x = net.conv(net.x, 4)
        facts = admit.judge(net.model(net.full(net.mean(x), 5)), px=16)
        assert (facts.classes in (5, None), facts.px) == (True, 16)


def test_what_a_file_leaves_open_is_not_held_against_it(classifier):
    model = classifier()
    shape_of(model.graph.input[0], "n", 3, "h", "w")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    facts = admit.judge(model.SerializeToString(), classes=9, px=99)
    assert (facts.px, facts.classes) == (None, None)


def test_what_a_file_declares_and_does_not_use_is_no_matter(classifier):
    """onnxruntime's quantiser declares all operator sets that it knows."""
    model = classifier()
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    admit.judge(model.SerializeToString())


@pytest.mark.parametrize(
    "kind", ["FLOAT", "DOUBLE", "INT64", "INT32", "UINT8", "INT8", "FLOAT16", "BFLOAT16", "BOOL", "UINT64"]
)
@pytest.mark.parametrize("raw", [True, False])
def test_each_way_to_write_numbers_down_is_counted_right(classifier, kind, raw):
    element = getattr(TensorProto, kind)
    numbers = np.array(
        [1, 0, 1, 200 if "8" in kind and kind != "INT8" else 1, -5 if kind in ("INT64", "INT32") else 1, 0]
    )
    array = numbers.astype(helper.tensor_dtype_to_np_dtype(element))
    values = array.tobytes() if raw else array.tolist()
    model = classifier()
    model.graph.initializer.append(helper.make_tensor("t", element, [2, 3], values, raw=raw))
    admit.judge(model.SerializeToString())
    model.graph.initializer[-1].dims[:] = [7]
    with pytest.raises(Refused, match="does not hold the 7"):
        admit.judge(model.SerializeToString())


def test_a_file_that_is_too_large_is_refused_before_it_is_looked_at():
    with pytest.raises(Refused, match="too large") as caught:
        admit.judge(bytes(101), most=100)
    assert caught.value.code == "too_large"


def test_no_mutant_is_anything_but_taken_or_refused(classifier):
    """Seed 11: 500 files with bytes changed, cut out or repeated."""
    data, dice = classifier().SerializeToString(), random.Random(11)
    taken = 0
    for _ in range(500):
        mutant = bytearray(data)
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(mutant))
            match dice.randrange(3):
                case 0:
                    mutant[at] = dice.randrange(256)
                case 1:
                    del mutant[at : at + dice.randint(1, 9)]
                case _:
                    mutant[at:at] = mutant[max(0, at - dice.randint(1, 60)) : at]
        try:
            admit.judge(bytes(mutant), classes=3, px=16)
            taken += 1
        except Refused:
            pass
    print(f"500 mutants, {taken} taken (a changed weight is a weight)")
