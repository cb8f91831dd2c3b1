"""The known-answer test in its child: what it finds, and that it cannot hurt the agent."""

import hashlib
import subprocess
import sys

import msgspec
import numpy as np
import pytest

from agent import selftest
from agent.selftest import Child, Inline, Known, known_answer
from edged.errors import Refused


@pytest.fixture
def files(tmp_path, make):
    """files(model, answer) -> (model path, known path)."""

    def write(model, answer=None):
        paths = tmp_path / "model.onnx", tmp_path / "known.json"
        paths[0].write_bytes(model)
        known = Known(hashlib.sha256(model).hexdigest(), known_answer(answer or make.known_answer(model)))
        paths[1].write_bytes(msgspec.json.encode(known))
        return paths

    return write


def finish(child, wait=True):
    if wait:
        child._process.wait(60)
    return child.poll()


def test_a_model_that_answers_as_on_the_box_passes_in_a_child(files, make):
    outcome = finish(Child(*files(make.classifier(1)), "onnxruntime"))
    assert outcome.ok, outcome
    assert "3 known pictures" in outcome.detail


def test_a_model_that_answers_otherwise_fails(files, make):
    model = make.classifier(1)
    outcome = finish(Child(*files(model, make.known_answer(model, shift=0.5)), "onnxruntime"))
    assert not outcome.ok
    assert "differ by 0.5" in outcome.detail


def test_both_runtimes_agree_with_the_known_answer(files, make):
    paths = files(make.classifier(1))
    assert Inline(*paths, "openvino").poll().ok


def test_answers_that_are_not_finite_fail(files, make):
    model = make.classifier(1, nan=True)
    assert "not finite" in Inline(*files(model), "onnxruntime").poll().detail


def test_a_file_that_is_not_the_verified_one_fails(files, make):
    paths = files(make.classifier(1))
    paths[0].write_bytes(make.classifier(2))
    assert "not the one that was verified" in Inline(*paths, "onnxruntime").poll().detail


def test_a_file_that_is_no_model_fails(files, make):
    model, known = files(b"not a model", make.known_answer(make.classifier(1)))
    assert "does not run here" in finish(Child(model, known, "onnxruntime")).detail


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("import os; os.kill(os.getpid(), 11)", "died by SIGSEGV"),
        ("import sys; sys.exit(7)", "exit code 7"),
        ("print('{}')", "no answer"),
    ],
)
def test_a_child_that_dies_is_a_failure_with_a_sentence(files, make, monkeypatch, tmp_path, body, words):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{body}"\n')
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    outcome = finish(Child(*files(make.classifier(1))))
    assert not outcome.ok
    assert words in outcome.detail


def test_a_child_that_hangs_is_killed_at_its_time_limit(files, make, monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 1000\n")
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    child = Child(*files(make.classifier(1)), time_limit_s=0.0)
    outcome = finish(child, wait=False)
    assert "longer than 0 s" in outcome.detail
    assert child._process.poll() is not None


def test_a_child_that_eats_memory_is_stopped_by_its_limit(files, make):
    outcome = finish(Child(*files(make.classifier(1)), "onnxruntime", memory=24 * 2**20))
    assert not outcome.ok


def test_the_memory_limit_leaves_room_for_both_runtimes(files, make):
    paths = files(make.classifier(1))
    for runtime in ("openvino", "onnxruntime"):
        assert finish(Child(*paths, runtime)).ok


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": []},
        {"seeds": [1, 2]},
        {"tolerance": "0"},
        {"tolerance": "nan"},
        {"logits": "rubbish"},
        {"seeds": ["x", 1, 2]},
    ],
)
def test_a_known_answer_that_does_not_fit_itself_is_refused(make, change):
    good = make.known_answer(make.classifier(1))
    known_answer(good)
    with pytest.raises(Refused):
        known_answer(good | change)


def test_a_known_answer_may_be_one_text(make):
    good = make.known_answer(make.classifier(1))
    assert known_answer(msgspec.json.encode(good).decode()) == known_answer(good)


def test_the_limits_are_those_of_the_design():
    assert selftest.TIME_LIMIT_S == 30.0


def swelling(make, elements):
    """A model of a few bytes that asks for a tensor of so many floats when it runs."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_model_from_string(make.classifier(1))
    graph = model.graph
    shape = numpy_helper.from_array(np.array([elements], np.int64), "shape")
    graph.initializer.append(shape)
    for node in (
        helper.make_node("Size", ["image"], ["size"]),  # so that it cannot be folded away
        helper.make_node("Cast", ["size"], ["sizef"], to=TensorProto.FLOAT),
        helper.make_node("Expand", ["sizef", "shape"], ["huge"]),
        helper.make_node("ReduceMax", ["huge"], ["most"], keepdims=0),
        helper.make_node("Sub", ["most", "most"], ["zero"]),
        helper.make_node("Add", ["logits0", "zero"], ["logits"]),
    ):
        graph.node.append(node)
    next(n for n in graph.node if n.op_type == "Gemm").output[0] = "logits0"
    return model.SerializeToString()


def test_a_model_that_asks_for_two_gigabytes_is_refused_its_memory_and_takes_only_the_child(files, make):
    greedy = swelling(make, 500_000_000)
    outcome = finish(Child(*files(greedy, make.known_answer(make.classifier(1))), "onnxruntime", memory=512 * 2**20))
    assert not outcome.ok
    modest = swelling(make, 1000)
    assert finish(Child(*files(modest, make.known_answer(modest)), "onnxruntime")).ok


def test_a_file_that_no_model_may_be_is_refused_in_the_child_too(files, make):
    import onnx

    model = onnx.load_model_from_string(make.classifier(1))
    model.graph.node.append(onnx.helper.make_node("Run", [], ["x"], domain="com.evil"))
    outcome = finish(Child(*files(model.SerializeToString(), make.known_answer(make.classifier(1))), "onnxruntime"))
    assert "com.evil" in outcome.detail


def test_the_child_is_shut_in():
    """No room to write, no core, and no network where the kernel gives it a namespace of its own."""
    code = (
        "import resource, socket; from agent import selftest; selftest._shut_in(2**30, 5.0);"
        "print(resource.getrlimit(resource.RLIMIT_FSIZE)[0], resource.getrlimit(resource.RLIMIT_CORE)[0],"
        "open('/proc/self/oom_score_adj').read().strip(), len(socket.if_nameindex()))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said[:2] == [str(2**20), "0"]
    assert said[2] == "1000"
    assert int(said[3]) >= 1  # the loopback alone, in a namespace of its own


def test_limits_come_from_what_is_signed_and_within_bounds():
    from agent.offer import Custom

    good = {
        "release": 1, "name": "m", "classes": ["a"], "px": 32, "hardware": [], "min_agent": "", "chunk": 1024,
        "chunks": [], "known_answer": {},
    }  # fmt: skip
    assert msgspec.convert(good, Custom).self_test_s == selftest.TIME_LIMIT_S
    assert msgspec.convert(good | {"self_test_s": 90, "self_test_bytes": 2**27}, Custom).self_test_s == 90
    for bad in ({"self_test_s": 0}, {"self_test_s": 10_000}, {"self_test_bytes": 5}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(good | bad, Custom)
