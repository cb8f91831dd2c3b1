"""`edged model`: what was made here and what was brought here, as a person meets it."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edged.clock import SystemClock
from edged.storage import (
    Store,
    audit,
    blocked,
    brought,
    candidates,
    cycles,
    models,
    releases,
    reports,
    requests,
    snapshots,
)


def edged(*args):
    argv = [sys.executable, "-m", "edged", *map(str, args)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=110, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "site"
    made = edged("init", "--data-dir", folder, "--site", "plant-a", "--classes", "free,busy", "--camera", "gate")
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture
def on(site):
    return lambda *args: edged("-c", site / "config.toml", "--json", *args)


@pytest.fixture
def look(site):
    def one(act):
        with Store.open(site, clock=SystemClock(), site_key=None, readonly=True) as store:
            return act(store)

    return one


def file(path, seed, classes=2):
    """A foreign classifier: the means of the colours, weighted by chance."""
    weights = np.random.default_rng(seed).normal(size=(classes, 3, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["y"], axis=1),
    ]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, classes])
    graph = helper.make_graph(nodes, "g", [entry], [out], [numpy_helper.from_array(weights, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_foreign_model_is_brought_shown_exported_and_brought_back(on, look, tmp_path):
    done = on("model", "import", file(tmp_path / "net.onnx", 1), "--classes", "busy,free", "--scale", "255",
              "--licence", "CC0-1.0", "--author", "ann")  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["name"], told["kind"], told["classes"], told["px"]) == ("net", "candidate", ["free", "busy"], 32)
    assert look(lambda s: models.read_model(s, told["sha256"]))
    assert look(audit.rows)[0].act == "model.import"

    listed = json.loads(on("model", "ls").stdout)
    assert [b["name"] for b in listed["brought"]] == ["net"]
    shown = json.loads(on("model", "show", told["sha256"][:8]).stdout)["card"]
    assert (shown["licence"], shown["architecture"], shown["weights"]) == ("CC0-1.0", "", "")

    out = tmp_path / "out"
    assert json.loads(on("model", "export", "net", "-o", out).stdout)["files"] == ["card.json", "card.md", "model.onnx"]
    assert "CC0-1.0" in (out / "card.md").read_text()
    assert look(audit.rows)[0].act == "model.export"
    assert json.loads(on("model", "import", out).stdout)["name"] == "net"  # as it is already: nothing changes
    refused = on("model", "import", out, "--teacher", "--name", "net again")
    error = json.loads(refused.stderr.splitlines()[-1])["error"]
    assert (refused.returncode, error["code"]) == (1, "changes")
    assert "its kind from candidate to teacher; its name from net to net again" in error["message"]
    assert look(lambda s: brought.get(s, told["sha256"])).kind == "candidate"
    again = json.loads(on("model", "import", out, "--teacher", "--name", "net again", "--replace").stdout)
    assert (again["sha256"], again["changes"], again["request"]) == (told["sha256"], [], None)
    kept = look(lambda s: brought.get(s, told["sha256"]))
    assert (kept.kind, kept.name, kept.card["licence"]) == ("teacher", "net again", "CC0-1.0")
    (row,) = look(lambda s: releases.all(s, "teacher"))
    assert (again["release"], row.number, row.sha256, row.state) == (1, 1, told["sha256"], "complete")
    assert json.loads(on("model", "ls").stdout)["brought"][0]["release"] == 1
    assert json.loads(on("model", "release", "net again").stdout)["release"] == 1  # it is the newest already

    assert on("model", "retire", "net again").returncode == 0
    assert look(brought.teacher) is None
    assert on("model", "retire", "net again").returncode == 4
    assert [b["retired"] is not None for b in json.loads(on("model", "ls", "--all").stdout)["brought"]] == [True]


def test_who_brings_a_model_where_nothing_is_labelled_hears_at_once_what_is_lacking_and_what_to_do(
    on, look, site, tmp_path
):
    """No cycle is asked for that is bound to be refused; where the gate can judge, one is."""
    done = on("model", "import", file(tmp_path / "net.onnx", 7), "--classes", "busy,free", "--name", "alone")
    said = json.loads(done.stdout)
    short = said["sha256"][:8]
    assert "refused for lack of evidence: 0 of 50 hold-out samples" in said["against"]
    assert f"label some, then `edged cycle run --model {short}`" in said["against"]
    assert f"`edged model release {short} --untested --reason WHY`" in said["against"]
    assert said["request"] is None
    assert look(requests.pending) == []
    told = edged("-c", site / "config.toml", "model", "import", tmp_path / "net.onnx", "--classes", "busy,free")
    assert "no cycle is asked for: refused for lack of evidence: 0 of 50" in told.stdout, told.stderr

    (site / "lax.toml").write_text((site / "config.toml").read_text() + "\n[retest.gate]\nmin_holdout = 0\n")
    done = edged("-c", site / "lax.toml", "--json", "model", "import", file(tmp_path / "other.onnx", 8), "--classes",
                 "busy,free", "--author", "ann")  # fmt: skip
    said = json.loads(done.stdout)
    (asked,) = look(requests.pending)
    assert (asked.id, asked.verb, asked.args, asked.author) == (
        said["request"],
        "cycle",
        {"model": said["sha256"]},
        "ann",
    )
    assert said["against"] == ""


def test_who_brings_bytes_that_are_blocked_hears_so_at_once_and_how_they_are_freed(on, look, site, tmp_path):
    path = file(tmp_path / "bad.onnx", 21)
    sha256 = json.loads(on("model", "import", path, "--classes", "busy,free").stdout)["sha256"]
    with Store.open(site, clock=SystemClock(), site_key=None) as store:
        blocked.add(store, sha256, release=1, reason="aborted by ann", author="ann")
    before = look(lambda s: len(requests.pending(s)))
    done = on("model", "import", path, "--classes", "busy,free")
    said = json.loads(done.stdout)
    assert said["against"].startswith("these bytes are blocked since release 1 was halted: aborted by ann")
    assert f"`edged rollout unblock {sha256[:12]} --yes`" in said["against"]
    assert "--untested" not in said["against"]  # which would be refused
    assert (said["request"], look(lambda s: len(requests.pending(s)))) == (None, before)


def test_an_export_writes_over_nothing_but_the_same_model(on, tmp_path):
    first, second = (file(tmp_path / f"{name}.onnx", seed) for name, seed in (("one", 11), ("two", 12)))
    for path in (first, second):
        assert on("model", "import", path, "--classes", "free,busy", "--scale", "255").returncode == 0
    out = tmp_path / "out"
    assert on("model", "export", "one", "-o", out).returncode == 0
    before = (out / "model.onnx").read_bytes()
    assert on("model", "export", "one", "-o", out).returncode == 0
    refused = on("model", "export", "two", "-o", out)
    assert (refused.returncode, "holds another model" in refused.stderr) == (1, True)
    assert (out / "model.onnx").read_bytes() == before
    assert "is not empty" in on("model", "export", "one", "-o", tmp_path).stderr


def test_too_few_digits_of_a_sha_are_told_from_a_name_that_nobody_has(on, tmp_path):
    done = on("model", "import", file(tmp_path / "few.onnx", 13), "--classes", "free,busy", "--scale", "255")
    digits = json.loads(done.stdout)["sha256"]
    for act in ("show", "retire"):
        short = on("model", act, digits[:4])
        assert (short.returncode, "at least 6 digits" in short.stderr) == (4, True)
    assert "digits" not in on("model", "show", "nobody").stderr


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ((), "no_classes", "does not say which classes"),
        (("--classes", "free,bus"), "other_classes", "does not know busy; it knows free, bus"),
        (("--classes", "free,busy", "--px", "64"), "bad_model", "not a square of 64"),
        (("--classes", "free,busy,bus"), "bad_model", "3 classes were named"),
        (("--classes", "free,busy", "--mean", "1,2"), "bad_options", "one number or three"),
    ],
)
def test_what_does_not_fit_is_refused_in_words_and_leaves_nothing(on, look, tmp_path, given, code, words):
    before = look(lambda s: (len(audit.rows(s)), len(requests.pending(s)), len(brought.all(s))))
    done = on("model", "import", file(tmp_path / "net.onnx", 2), *given)
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert (done.returncode, error["code"]) == (1, code)
    assert words in error["message"]
    assert look(lambda s: (len(audit.rows(s)), len(requests.pending(s)), len(brought.all(s)))) == before


def test_what_is_not_there_exits_4_and_a_wrong_number_2(on, tmp_path):
    assert on("model", "import", tmp_path / "absent.onnx").returncode == 4
    assert on("model", "card", "nobody").returncode == 4
    assert on("model", "import", tmp_path, "--mean", "a,b").returncode == 2


def test_accuracy_on_no_pictures_is_a_dash(site, on):
    with Store.open(site, clock=SystemClock(), site_key=None) as store:
        cycle = cycles.start(store, "a test")
        body = {"classes": ["free", "busy"], "train": [], "tune": [], "holdout": []}
        taught = snapshots.add(store, body)
        for name, n in (("unseen", 0), ("seen", 8)):
            sha = models.put_model(store, name.encode())
            made = candidates.add(store, cycle, name=name, sha256=sha, size=4, snapshot=taught, recipe={})
            share = {"right": n // 2, "n": n, "accuracy": 0.5 if n else 0.0, "lower": 0.0, "upper": 1.0}
            reports.add(store, made, "here", {"accuracy": share})
        cycles.finish(store, cycle, "refused", "")
    lines = {line.split()[0]: line for line in edged("-c", site / "config.toml", "model", "ls").stdout.splitlines()}
    assert ("%" in lines["unseen"], " 50.0%" in lines["seen"]) == (False, True)


def test_the_verbs_of_models_load_no_torch():
    code = "import sys, edged.cli.model, edged.retrain.bring; sys.exit(bool({'torch', 'onnx'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_fits_is_told_for_every_network_and_one_that_does_not_exits_3(on):
    done = on("model", "fit", "--memory", "1500MB")
    rows = json.loads(done.stdout)["rows"]
    assert done.returncode == 0
    assert {(r["how"], r["fits"]) for r in rows if r["name"] == "mobilenet-0.25"} == {("estimated", "yes")}
    wrong = on("model", "fit", "vgg-16", "--px", "224", "--memory", "4GB")
    assert wrong.returncode == 3
    assert any("edged model import" in line for line in json.loads(wrong.stdout)["advice"])
    assert on("model", "fit", "resnet").returncode == 1


def test_what_fits_is_told_before_there_is_a_site(tmp_path):
    done = edged("-c", tmp_path / "none.toml", "model", "fit", "lenet-5", "--px", "28", "--memory", "1GB")
    assert done.returncode == 0, done.stderr
    assert "all estimated" in done.stdout


def depthwise(path):
    """A foreign classifier of MobileNet's kind."""
    dice = np.random.default_rng(5)
    shapes = {"a": (4, 3, 3, 3), "b": (4, 1, 3, 3), "c": (2, 4, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["p"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["p"], ["q"]),
        helper.make_node("Conv", ["q", "b"], ["r"], group=4),
        helper.make_node("Relu", ["r"], ["s"]),
        helper.make_node("Conv", ["s", "c"], ["t"]),
        helper.make_node("GlobalAveragePool", ["t"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["y"], axis=1),
    ]
    weights = [numpy_helper.from_array(dice.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])
    graph = helper.make_graph(nodes, "g", [entry], [out], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_an_export_for_a_device_holds_its_own_file_and_says_what_was_not_tried(on, tmp_path):
    for path in (depthwise(tmp_path / "mobile.onnx"), file(tmp_path / "plain.onnx", 21)):
        done = on("model", "import", path, "--classes", "free,busy", "--scale", "255")
        assert done.returncode == 0, done.stderr
    out = tmp_path / "stick"
    done = on("model", "export", "mobile", "--for", "movidius-ma2450", "-o", out)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["files"] == ["card.json", "card.md", "delivered.txt", "model.bin", "model.onnx", "model.xml"]
    assert any(note.startswith("not covered: the stick's 512 MB") for note in told["notes"])
    assert (out / "delivered.txt").read_text().splitlines() == told["notes"]

    refused = on("model", "export", "plain", "--for", "movidius-ma2450", "-o", tmp_path / "no")
    error = json.loads(refused.stderr.splitlines()[-1])["error"]
    assert (refused.returncode, error["code"]) == (1, "not_taken")
    assert "takes MobileNet-class networks only" in error["message"]

    unknown = on("model", "export", "plain", "--for", "toaster", "-o", tmp_path / "no")
    assert "known: atom-x5-e3930, atom-x5-e3940" in unknown.stderr
    bare = on("model", "export", "plain", "--for", "ti-c66x", "-o", tmp_path / "no")
    assert "no pictures to find its scale on" in bare.stderr
    assert not (tmp_path / "no").exists()


def test_integers_for_a_device_get_their_scales_from_the_sealed_pictures_of_the_site(tmp_path):
    import cv2

    from edged.config import load
    from edged.site import open_store
    from edged.storage import frames, labels, recover
    from edged.wire.messages import Frame, FrameHeader, Region
    from tests.retrain.conftest import StandIn

    folder = tmp_path / "site"
    done = edged("init", "--data-dir", folder, "--site", "plant-a", "--classes", "free,busy", "--camera", "gate")
    assert done.returncode == 0, done.stderr
    done = edged("-c", folder / "config.toml", "model", "import", file(tmp_path / "plain.onnx", 3),
                 "--classes", "free,busy", "--scale", "255")  # fmt: skip
    assert done.returncode == 0, done.stderr
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
    with open_store(load(folder / "config.toml"), key=True) as store:
        recover.run(store)
        region = Region(x=0, y=0, w=32, h=32, label="free", score=0.7, margin=0.4)
        header = FrameHeader(id="b-0", ts=1.8e9, seq=0, boot="b", w=32, h=32, model="m", regions=(region,))
        frames.add(store, Frame("gate", header, jpeg, "frame", 1.8e9), StandIn(jpeg, 32, 32, (jpeg,)))
        labels.add_many(store, [("gate:b-0:0", "free", None)], "human", "anna")
        snapshots.add(
            store, {"classes": ["free", "busy"], "train": [("gate:b-0:0", "free")], "tune": [], "holdout": []}
        )
    out = tmp_path / "dsp"
    done = edged("-c", folder / "config.toml", "--json", "model", "export", "plain", "--for", "ti-c66x", "-o", out)
    assert done.returncode == 0, done.stderr
    assert "model.int8.safetensors" in json.loads(done.stdout)["files"]


def test_a_card_is_not_written_over_another_file_and_a_name_can_be_typed_again(on, tmp_path):
    net = file(tmp_path / "named.onnx", 31)
    for name in (" lot", "lot ", "-lot"):
        refused = on("model", "import", net, "--classes", "busy,free", f"--name={name}")
        assert (refused.returncode, "cannot be a model's name" in refused.stderr) == (1, True), name
    assert on("model", "import", net, "--classes", "busy,free", "--name", "lot 7").returncode == 0
    out = tmp_path / "card.md"
    out.write_text("mine")
    refused = on("model", "card", "lot 7", "-o", out)
    assert (refused.returncode, out.read_text()) == (1, "mine")
    assert on("model", "card", "lot 7", "-o", out, "--force").returncode == 0
    assert on("model", "card", "lot 7", "-o", out).returncode == 0
