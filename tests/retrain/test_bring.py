"""Models from outside: adapted to what is used here, or refused in words; nothing of them runs in this process."""

import ast
import hashlib
import json
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edged import engine
from edged.engine import patterns, preprocess
from edged.errors import Refused
from edged.retrain import bring, export, jobs, prove, source, train, weights_file, zoo
from edged.retrain.methods import int8
from edged.retrain.pictures import Pictures

CLASSES = ("free", "busy")
ROOT = Path(__file__).parents[2]


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def foreign(*, side=16, shape=None, end=(), inputs=None, name="pixels", weights=None, domain="", op="Conv", outputs=1):
    """A small classifier as another program would have written it: means of red and blue, each times ten."""
    if weights is None:
        weights = np.zeros((2, 3, 1, 1), np.float32)
        weights[0, 0] = weights[1, 2] = 10
    nodes = [
        helper.make_node(op, [name, "w"], ["maps"], domain=domain),
        helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"], axis=1),
    ]
    last = "flat"
    for i, kind in enumerate(end):
        nodes.append(helper.make_node(kind, [last], [f"end{i}"]))
        last = f"end{i}"
    graph = helper.make_graph(
        nodes, "foreign", inputs or [value(name, shape or [1, 3, side, side])],
        [value(last, ["n", "c"])] * outputs, [numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def options(**more):
    return prove.Options(**({"classes": CLASSES, "wanted": CLASSES} | more))


def pictures(px):
    return preprocess.marshal(preprocess.to_float([patterns.picture(seed, px) for seed in range(4)], px))


def answers(data, px):
    return engine.load(data).run(pictures(px))[0]


# what is adapted


def test_a_foreign_file_takes_our_pictures_and_gives_logits_in_our_order():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    proven, made = prove.prove(
        foreign(end=("Softmax",)), options(wanted=("busy", "free"), scale=255.0, mean=mean, std=std)
    )
    assert (proven.px, proven.classes) == (16, ("busy", "free"))
    means = pictures(16).mean((2, 3))
    free = 10 * (means[:, 0] / 255 - mean[0]) / std[0]
    busy = 10 * (means[:, 2] / 255 - mean[2]) / std[2]
    assert np.allclose(answers(made, 16), np.stack([busy, free], 1), atol=1e-3)
    parsed = onnx.load_model_from_string(made)
    assert (parsed.graph.input[0].name, parsed.graph.output[0].name) == ("image", "logits")
    assert [d.dim_param or d.dim_value for d in parsed.graph.input[0].type.tensor_type.shape.dim] == ["n", 3, 16, 16]
    assert source.metadata(made)[source.CLASSES] == '["busy", "free"]'
    assert len(proven.changes) == 6


def test_probabilities_that_do_not_end_in_a_softmax_become_logits_too():
    proven, made = prove.prove(foreign(end=("Softmax", "Identity")), options(scale=255.0))
    assert any("turned back into logits" in change for change in proven.changes)
    means = pictures(16).mean((2, 3)) / 255 * 10
    found = answers(made, 16)
    assert np.allclose(found[:, 0] - found[:, 1], means[:, 0] - means[:, 2], atol=1e-3)


def test_a_file_with_free_sides_takes_the_size_it_is_given():
    data = foreign(shape=["n", 3, "h", "w"])
    proven, made = prove.prove(data, options(px=24))
    assert (proven.px, answers(made, 24).shape) == (24, (4, 2))
    with pytest.raises(Refused, match="say which with --px"):
        prove.prove(data, options())


def test_names_that_stand_in_each_others_way_are_told_apart():
    """Its input is called as our output, and something inside as our input."""
    nodes = [
        helper.make_node("Conv", ["logits", "w"], ["image"]),
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["out"], axis=1),
    ]
    w = numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w")
    graph = helper.make_graph(nodes, "g", [value("logits", ["n", 3, 16, 16])], [value("out", ["n", 2])], [w])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    _, made = prove.prove(data, options())
    assert np.allclose(answers(made, 16), pictures(16).mean((2, 3)).sum(1, keepdims=True), rtol=1e-4)


def test_a_wrong_scale_is_guessed_at_from_answers_that_are_all_alike():
    proven, _ = prove.prove(foreign(), options(scale=1e30))
    assert "--scale" in proven.notes[0]


def test_what_a_file_only_declares_and_does_not_use_is_no_matter():
    """onnxruntime's quantiser declares all operator sets that it knows."""
    model = onnx.load_model_from_string(foreign())
    for domain in ("ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"):
        model.opset_import.append(helper.make_opsetid(domain, 1))
    proven, _ = prove.prove(model.SerializeToString(), options())
    assert (proven.px, proven.method) == (16, "")


def test_what_was_quantised_here_is_taken_byte_for_byte():
    pixels = np.random.default_rng(0).integers(0, 255, (8, 16, 16, 3), dtype=np.uint8)
    _, plain = prove.prove(foreign(), options())
    data = int8.int8(plain, Pictures(pixels, np.zeros(8, np.int64), ("gate",) * 8))
    assert len(onnx.load_model_from_string(data).opset_import) > 1
    proven, made = prove.prove(data, options())
    assert (proven.changes, made == data, proven.method) == ((), True, "int8")


# what is refused


def poisoned(at):
    weights = np.ones((2, 3, 1, 1), np.float32)
    weights[at] = np.nan
    return weights


def external():
    model = onnx.load_model_from_string(foreign())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return model.SerializeToString()


def hidden(where):
    """Operators of its own where no runtime looks first."""
    model = onnx.load_model_from_string(foreign())
    model.opset_import.append(helper.make_opsetid("evil", 1))
    bad = helper.make_node("Exec", ["pixels"], ["done"], domain="evil")
    if where == "function":
        model.functions.append(helper.make_function("own", "F", ["pixels"], ["done"], [bad], list(model.opset_import)))
    else:
        branch = helper.make_graph([bad], "b", [], [value("done", ["n"])])
        model.graph.node.append(helper.make_node("If", ["flat"], ["x"], then_branch=branch, else_branch=branch))
    return model.SerializeToString()


CORPUS = {
    "a pickle renamed": (lambda: pickle.dumps({"weights": [1, 2, 3]}), "not an ONNX model"),
    "a torch checkpoint": (lambda: b"PK\x03\x04" + bytes(200), "not an ONNX model"),
    "an empty file": (lambda: b"", "not an ONNX model"),
    "a cut file": (lambda: foreign()[:-20], "not an ONNX model|checker|lies|cannot"),
    "data in another file": (external, "lies in another file"),
    "two inputs": (lambda: foreign(inputs=[value("pixels", [1, 3, 16, 16]), value("mask", [1])]), "2 inputs"),
    "bytes as input": (
        lambda: foreign(inputs=[value("pixels", [1, 3, 16, 16], TensorProto.UINT8)]), "its input is uint8, not float32",
    ),
    "weights that are no numbers": (lambda: foreign(weights=poisoned((1, 2, 0, 0))), "numbers that are none"),
    "operators of its own": (lambda: foreign(domain="evil", op="Exec"), "beyond ONNX's own .evil"),
    "operators of its own in a branch": (lambda: hidden("branch"), "beyond ONNX's own .evil"),
    "operators of its own in a function": (lambda: hidden("function"), "beyond ONNX's own .evil"),
    "an operator that is none": (lambda: foreign(op="Exec"), "checker"),
    "channels last": (lambda: foreign(shape=[1, 16, 16, 3]), r"\[n, height, width, 3\]"),
    "grey pictures": (lambda: foreign(shape=[1, 1, 16, 16]), "1 channels"),
    "no square": (lambda: foreign(shape=[1, 3, 16, 20]), "not a square"),
    "no picture": (lambda: foreign(shape=[1, 3]), "2 dimensions|at least 3 dimensions"),
    "a huge picture": (lambda: foreign(side=4096), "8 to 512"),
    "two outputs": (lambda: foreign(outputs=2), "2 outputs|checker"),
    "three classes": (lambda: foreign(weights=np.ones((3, 3, 1, 1), np.float32)), "2 classes were named"),
    "answers that are no numbers": (lambda: foreign(end=("Log",), weights=-np.ones((2, 3, 1, 1), np.float32)),
                                    "no numbers"),
}  # fmt: skip


@pytest.mark.parametrize("what", CORPUS)
def test_a_file_that_cannot_be_used_is_refused_in_words(what):
    make, words = CORPUS[what]
    with pytest.raises(Refused, match=words):
        prove.prove(make(), options())


def test_the_corpus_is_refused_for_what_is_wrong_with_it():
    """The control: the file they were all made from is taken."""
    proven, _ = prove.prove(foreign(), options())
    assert proven.classes == CLASSES


def test_a_model_for_one_picture_at_a_time_is_refused():
    """A reshape to [1, 2] inside: the batch is fixed, whatever its input says."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["pooled"]),
        helper.make_node("Reshape", ["pooled", "to"], ["out"]),
    ]
    to = numpy_helper.from_array(np.array([1, 3], np.int64), "to")
    graph = helper.make_graph(nodes, "g", [value("pixels", [1, 3, 16, 16])], [value("out", [1, 3])], [to])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    with pytest.raises(Refused, match=r"does not run on three pictures at once|to 3 pictures"):
        prove.prove(data, options(classes=("a", "b", "c"), wanted=()))


def test_classes_are_mapped_by_name_and_one_that_it_does_not_know_is_named():
    with pytest.raises(Refused, match="does not know bus; it knows free, busy"):
        prove.prove(foreign(), options(wanted=("free", "bus")))
    with pytest.raises(Refused, match="does not say which classes"):
        prove.prove(foreign(), options(classes=()))


# a folder made by `edged train`, through the child


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    torch.manual_seed(3)
    net = zoo.build("lenet-5", 2, 28)
    arch = {"name": "lenet-5", "input_px": 28}
    job = jobs.check("train", {"data_dir": ".", "classes": list(CLASSES), "arch": arch})
    weights = train.weights_of(net, job)
    named = {source.WEIGHTS: hashlib.sha256(weights).hexdigest(), source.CLASSES: json.dumps(CLASSES)}
    model = source.with_metadata(export.to_onnx(net, 28), named | {"edged.arch": "lenet-5"})
    (out / "model.onnx").write_bytes(model)
    (out / "model.safetensors").write_bytes(weights)
    (out / "facts.json").write_text(json.dumps({"tune_accuracy": 0.9, "classes": CLASSES}))
    return out


def test_a_folder_of_edged_train_is_taken_byte_for_byte(folder):
    found = bring.look(folder, CLASSES)
    assert found.model == (folder / "model.onnx").read_bytes()
    assert found.proven.changes == ()
    assert found.proven.weights == hashlib.sha256(found.weights).hexdigest()
    assert (found.proven.architecture, found.proven.px, found.facts["tune_accuracy"]) == ("lenet-5", 28, 0.9)


def test_weights_of_another_model_are_not_taken_with_it(folder, tmp_path):
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-4:] = struct.pack("<f", 1.5)
    (tmp_path / "model.safetensors").write_bytes(data)
    (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    with pytest.raises(Refused, match="does not hold the weights") as e:
        bring.look(tmp_path, CLASSES)
    assert "alone" in e.value.hint
    (tmp_path / "model.safetensors").unlink()
    found = bring.look(tmp_path / "model.onnx", CLASSES)
    assert source.WEIGHTS not in source.metadata(found.model)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "killed by signal 11"),
        ("raise ZeroDivisionError('a bug in a parser')", "failed: ZeroDivisionError: a bug in a parser"),
        ("import time; time.sleep(60)", "not looked at to the end within 0.5 s"),
    ],
)
def test_a_file_that_crashes_or_hangs_its_reader_is_refused(tmp_path, monkeypatch, code, words):
    """The real child with what a hostile file may make of it."""
    stand_in = tmp_path / "python"
    stand_in.write_text(f"#!{sys.executable}\nimport sys\nsys.stdin.buffer.read()\n{code}\n")
    stand_in.chmod(0o755)
    (tmp_path / "m.onnx").write_bytes(foreign())
    monkeypatch.setattr(sys, "executable", str(stand_in))
    with pytest.raises(Refused, match=words):
        bring.look(tmp_path / "m.onnx", CLASSES, classes=CLASSES, seconds=0.5 if "sleep" in code else 30)


def test_the_child_has_no_network_and_no_room_beyond_its_limit(tmp_path):
    code = (
        "import socket, sys\nfrom edged.retrain import prove\n"
        "def tried(data, options):\n"
        "    for act in (socket.socket, lambda: bytearray(2 << 30), lambda: open('x', 'w').write('x' * 99999)):\n"
        "        try:\n            act()\n        except (OSError, MemoryError):\n            continue\n"
        "        raise SystemExit(9)\n"
        "    from edged.errors import Refused\n    raise Refused('walls hold')\n"
        "prove.prove = tried\nsys.exit(prove.main(sys.argv[1:]))"
    )
    given = msgspec.json.encode(options(memory_bytes=1 << 30)).decode()
    done = subprocess.run([sys.executable, "-c", code, given], input=b"", capture_output=True, cwd=tmp_path,
                          env={"PYTHONPATH": str(ROOT), "PATH": ""}, check=False)  # fmt: skip
    assert b"walls hold" in done.stdout, done


def with_sum(nodes, tensors):
    """A classifier that adds `s` to its answers, from these nodes and constants."""
    end = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"], axis=1),
        helper.make_node("Add", ["flat", "s"], ["y"]),
    ]
    constants = [numpy_helper.from_array(np.array(v), name) for name, v in tensors.items()]
    graph = helper.make_graph([*nodes, *end], "g", [value("x", [1, 3, 16, 16])], [value("y", ["n", "c"])], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def swollen():
    """200 bytes that ask for 34 GB."""
    one = numpy_helper.from_array(np.array([1], np.float32), "one")
    nodes = [
        helper.make_node("ConstantOfShape", ["n"], ["huge"], value=one),
        helper.make_node("ReduceSum", ["huge"], ["s"], keepdims=0),
    ]
    return with_sum(nodes, {"n": np.array([1 << 33], np.int64)})


def endless():
    """A loop of 2 ** 62 turns."""
    kinds = {"i": TensorProto.INT64, "c": TensorProto.BOOL, "v": TensorProto.FLOAT}
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["go"]), helper.make_node("Add", ["v", "v"], ["w"])], "body",
        [value(name, [], kind) for name, kind in kinds.items()],
        [value("go", [], TensorProto.BOOL), value("w", [])],
    )  # fmt: skip
    loop = helper.make_node("Loop", ["times", "true", "zero"], ["s"], body=body)
    return with_sum([loop], {"times": np.int64(1 << 62), "true": True, "zero": np.float32(0)})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "words"), [(swollen, "bad_alloc|memory|killed"), (endless, "not looked at to the end within 20 s")]
)
def test_a_small_file_that_wants_much_gets_no_more_than_its_limits(tmp_path, make, words):
    (tmp_path / "m.onnx").write_bytes(make())
    with pytest.raises(Refused, match=words):
        bring.look(tmp_path / "m.onnx", ("a", "b", "c"), classes=("a", "b", "c"), seconds=20)


# weights files


def tensors(header: dict, body: bytes = b"", size: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + body


def changed(data: bytes, change) -> bytes:
    """The same file with another header."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    change(header)
    return tensors(header, data[8 + size :])


def point(header, offsets):
    header["1.bias"]["data_offsets"] = offsets


SPOILT = {
    "a pickle": (lambda d: pickle.dumps([1]), "not a weights file"),
    "nothing": (lambda d: b"", "too short"),
    "a header of a gigabyte": (lambda d: tensors({}, size=1 << 30), "claims 1073741824 bytes; 1048576 at most"),
    "a header beyond its end": (lambda d: tensors({}, size=5000), "claims 5000 bytes of"),
    "a header that is no JSON": (lambda d: (4).to_bytes(8, "little") + b"\x80\x04K\x01" * 3, "not a weights file"),
    "a header nested deep": (lambda d: (99_999).to_bytes(8, "little") + b"[" * 99_999, "not a weights file"),
    "no word on what it is": (lambda d: changed(d, lambda h: h.pop("__metadata__")), "not a weights file"),
    "one tensor less": (lambda d: changed(d, lambda h: h.pop("12.bias")), "not those of lenet-5: 12.bias"),
    "another network": (lambda d: d.replace(b'[\\"lenet-5\\"', b'[\\"lenet-9\\"'), "no network is called"),
    "other numbers": (lambda d: changed(d, lambda h: h["1.bias"].update(dtype="F64")), "not F32 or I64"),
    "a shape of 2 ** 62": (lambda d: changed(d, lambda h: h["1.bias"].update(shape=[1 << 62])), "has no shape"),
    "two in one place": (lambda d: changed(d, lambda h: point(h, h["1.weight"]["data_offsets"])), "where it cannot"),
    "one beyond the end": (lambda d: changed(d, lambda h: point(h, [1 << 40, (1 << 40) + 24])), "where it cannot"),
    "something hidden behind": (lambda d: d + b"#!/bin/sh", "9 bytes follow"),
    "a number that is none": (lambda d: d[:-4] + struct.pack("<f", float("nan")), "numbers that are none"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_spoilt_weights_file_is_refused_in_words(folder, what):
    make, words = SPOILT[what]
    with pytest.raises(Refused, match=words):
        weights_file.check(make((folder / "model.safetensors").read_bytes()))


def test_a_whole_weights_file_says_what_it_is_for(folder):
    found = weights_file.check((folder / "model.safetensors").read_bytes())
    assert found == weights_file.Facts("lenet-5", 28, CLASSES)


# nothing is ever unpickled

FORBIDDEN = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def unpickles(text: str) -> list[str]:
    """Imports of what unpickles, and calls of torch.load, numpy.load with pickles, yaml.load."""
    tree = ast.parse(text)
    found = [name for name in imports(tree) if name.split(".")[0] in FORBIDDEN]
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
        ):
            called = f"{node.func.value.id}.{node.func.attr}"
            if called in ("torch.load", "yaml.load", "torch.hub") or any(
                k.arg == "allow_pickle" for k in node.keywords
            ):
                found.append(called)
    return found


def test_nothing_in_edged_or_on_the_camera_can_unpickle():
    files = [*(ROOT / "edged").rglob("*.py"), *(ROOT / "agent").rglob("*.py")]
    assert len(files) > 100
    assert {str(f): bad for f in files if (bad := unpickles(f.read_text()))} == {}


def test_the_search_for_unpickling_finds_it():
    """The control."""
    assert unpickles("import torch\nx = torch.load('f')") == ["torch.load"]
    assert unpickles("from pickle import loads") == ["pickle"]
    assert unpickles("import numpy as np\nnp.load('f', allow_pickle=True)") == ["np.load"]
