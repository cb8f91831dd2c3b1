"""`edged device`, as a person meets it."""

import functools
import json

import msgspec
import pytest
from click.testing import CliRunner

from edged import cli
from edged import site as sites
from edged.clock import SystemClock
from edged.engine import probe, probe_child
from edged.engine.onnx_write import Net
from edged.errors import Misconfigured
from edged.retrain import device
from edged.storage import Store, audit

ATOM = "Intel(R) Atom(TM) Processor E3940 @ 1.60GHz"


@functools.cache
def probed(processor=ATOM, slower=1.0):
    """Times as a processor of 4 thousand million multiply-adds and bytes a second would need."""
    timed = tuple(
        probe.Timed(name, slower * (0.01 + sum(c.macs / 4e6 + c.bytes / 4e6 for c in asked)), 0.1)
        for name, asked in probe.costs().items()
    )
    return probe.Probed(probe.SUITE, processor, "x86_64", 4, "openvino", "2026.3.1", ("sse4_2",), {}, 3.0, timed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("device") / "site"
    sites.create(made, sites.NewSite("plant-a", ("a", "b"), ("gate",)), SystemClock())
    return made


@pytest.fixture
def on(folder):
    return lambda *args: run("-c", folder / "config.toml", *args)


def run(*args):
    """(exit code, stdout, stderr) of the command, in this process."""
    done = CliRunner().invoke(cli.main, [str(a) for a in args], prog_name="edged")
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "atom.json"
    path.write_bytes(msgspec.json.encode(probed()))
    return path


@pytest.fixture
def model(tmp_path):
    net = Net((3, 64, 64))
    path = tmp_path / "model.onnx"
    path.write_bytes(net.model(net.full(net.mean(net.conv(net.conv(net.x, 16, 3, stride=2), 32, 3)), 2)))
    return path


def test_profiles_are_listed_without_a_site(tmp_path):
    code, out, _ = run("-c", tmp_path / "none.toml", "device", "ls")
    assert code == 0
    assert "atom-x5-e3940" in out
    code, out, _ = run("-c", tmp_path / "none.toml", "device", "show", "atom-x5-e3940")
    assert code == 0
    assert "a re-test imposes" in out


def test_an_unknown_profile_is_refused_with_the_known_ones():
    code, _, err = run("device", "show", "toaster")
    assert code == 4
    assert "no device is called 'toaster'; known: atom-x5-e3930" in err


def test_a_boards_file_is_brought_used_shown_and_retired(on, file, model, folder):
    code, out, err = on("--json", "device", "import", file, "--author", "ann")
    assert code == 0, err
    told = json.loads(out)
    assert told["device"] == "atom-x5-e3940"
    code, out, _ = on("device", "ls")
    assert "by ann" in out
    code, out, _ = on("--json", "device", "predict", model)
    found = json.loads(out)
    assert (code, found["how"], sorted(found["fps"])) == (0, "estimated", ["1", "2", "3", "4"])
    for likely, low, high in found["fps"].values():
        assert 0 < low < likely < high
    assert "by ann" in found["basis"]
    code, out, _ = on("device", "retire", told["id"])
    assert code == 0
    assert "by ann" not in on("device", "ls")[1]
    with Store.open(folder, clock=SystemClock(), site_key=None, readonly=True) as store:
        assert [e.act for e in audit.rows(store)][:2] == ["calibration.retire", "calibration.add"]


def test_a_calibration_from_another_cpu_is_refused(on, tmp_path, model):
    path = tmp_path / "other.json"
    path.write_bytes(msgspec.json.encode(probed("Intel(R) Celeron(R) N3350 @ 1.10GHz")))
    for arguments in (("import", path, "--device", "atom-x5-e3940"), ("predict", model, "--calibration", path)):
        code, _, err = on("device", *arguments)
        assert code == 1
        assert "a calibration from another CPU: refused" in err
    code, _, err = on("device", "import", path)
    assert "no profile has the processor" in err


def edited(**change):
    """A board's file with other values in it."""
    return json.dumps(json.loads(msgspec.json.encode(probed())) | change)


def timed(**change):
    return edited(probes=[{"name": "conv", "ms": 1.0, "spread": 0.1} | change])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is not JSON"),
        ("{}", "it has no suite"),
        ("[" * 50_000, "it is not JSON"),
        ("[]", "it is not a JSON object"),
        ('{"suite": 1}', "it has no processor"),
        ("\x00\x01\x02", "it is not JSON"),
        (edited(cores=-1), "its cores is not what a probe writes"),
        (edited(probes=[]), "its probes is not what a probe writes"),
        (edited(probes=[{"name": "c", "ms": 1.0, "spread": 0.1}] * 201), "its probes is not what a probe writes"),
        (edited(processor="x" * 70_000), "it has more than 65536 bytes"),
        (timed(ms=-1.0), "its probes[0].ms is not what a probe writes"),
        (timed(ms=5e-324), "its probes[0].ms is not what a probe writes"),
        (timed(ms=float("nan")), "is not what a probe writes"),
        (timed(ms=1e400), "is not what a probe writes"),
        (edited(scaling=0), "its scaling is not what a probe writes"),
    ],
)
def test_what_is_no_result_of_a_probe_is_refused_in_one_sentence_of_ours(on, tmp_path, model, text, said):
    path = tmp_path / "odd.json"
    path.write_text(text)
    for arguments in (("import", path), ("predict", model, "--calibration", path)):
        code, _, err = on("device", *arguments)
        assert code == 1
        assert err.startswith(f"edged: {path} is no calibration: ")
        assert said in err
        assert "edged-agent probe -o" in err
        assert not any(word in err for word in ("Probed", "Object", "byte 0", "malformed", "Traceback"))


def test_times_that_contradict_each_other_are_refused(on, tmp_path, model):
    found = json.loads(edited())
    for i, one in enumerate(found["probes"]):
        one["ms"] = 1e-4 if i % 2 else 1e7
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(found))
    for arguments in (("import", path), ("predict", model, "--calibration", path)):
        code, _, err = on("device", *arguments)
        assert code == 1
        assert err.startswith("edged: its times contradict each other: ")


def network(weight=1.0, *, domain="", op="Conv", outside=False):
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.full((2, 3, 3, 3), weight, np.float32), "w")
    if outside:
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        weights.external_data.add(key="location", value="../../etc/passwd")
    nodes = [
        helper.make_node(op, ["image", "w"], ["maps"], domain=domain),
        helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"], axis=1),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("image", ["n", 3, 16, 16]), ("logits", ["n", 2]))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weights])
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return onnx.ModelProto.SerializeToString(helper.make_model(graph, opset_imports=opsets, ir_version=8))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (network(float("nan")), "weights 'w' hold numbers that are none"),
        (network(float("inf")), "weights 'w' hold numbers that are none"),
        (network(domain="evil.corp", op="Steal"), "operators beyond ONNX's own (evil.corp)"),
        (network(op="Steal"), "No Op registered for Steal"),
        (network(outside=True), "another file"),
        (b"", "not an ONNX model"),
        (b"junk" * 99, "not an ONNX model"),
    ],
)
def test_no_speed_is_told_of_a_file_that_a_retest_would_refuse(on, tmp_path, file, data, said):
    path = tmp_path / "bad.onnx"
    path.write_bytes(data)
    code, out, err = on("device", "predict", path, "--calibration", file)
    assert (code, out) == (1, "")
    assert said in err
    assert "http" not in err


def test_a_file_without_names_of_classes_has_a_speed_too(on, tmp_path, file):
    path = tmp_path / "good.onnx"
    path.write_bytes(network(0.5))
    code, out, err = on("--json", "device", "predict", path, "--calibration", file)
    assert code == 0, err
    assert json.loads(out)["how"] == "estimated"


def test_a_file_that_is_not_there_exits_4(on, tmp_path):
    assert on("device", "import", tmp_path / "none.json")[0] == 4
    code, _, err = on("device", "calibrate", "-o", tmp_path / "gone" / "x.json")
    assert (code, f"there is no folder {tmp_path / 'gone'}" in err) == (4, True)
    assert run("-c", tmp_path / "none.toml", "device", "predict", tmp_path / "none.onnx")[0] == 4


def test_this_box_is_measured_under_the_devices_caps_and_kept_as_the_box(on, monkeypatch, file, model):
    asked = []
    monkeypatch.setattr(device, "processor", lambda: "Imaginary 9000")

    def under(caps, known, **more):
        asked.append(caps)
        more["progress"](0.5, "conv")
        return probed("Imaginary 9000", slower=0.25)

    monkeypatch.setattr(probe_child, "under", under)
    code, out, err = on("--json", "device", "calibrate")
    assert code == 0, err
    assert json.loads(out)["device"] == "atom-x5-e3940@box"
    assert asked == [device.find("atom-x5-e3940").environment()]
    assert "probing as atom-x5-e3940@box: 50% conv, about" in on("device", "calibrate")[2]
    code, _, err = run("-c", "none.toml", "device", "calibrate")
    assert code == 1
    assert "no site to keep it in" in err


def test_on_the_board_itself_nothing_is_capped(on, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(device, "processor", lambda: ATOM)
    monkeypatch.setattr(probe_child, "under", lambda caps, known, **more: asked.append(caps) or probed())
    out = tmp_path / "out.json"
    code, told, err = run("-c", tmp_path / "none.toml", "--json", "device", "calibrate", "-o", out)
    assert code == 0, err
    assert json.loads(told)["device"] == "atom-x5-e3940"
    assert asked == [{}]
    assert probe.decode(out.read_bytes()) == probed()


def test_a_child_without_its_runtime_says_so():
    with pytest.raises(Misconfigured, match="no runtime 'abacus'"):
        probe_child.under({}, (), runtime="abacus", seconds=1.0, progress=lambda share, name: None)


def test_a_device_without_an_estimate_has_no_speed_rather_than_none_at_all(on, model):
    code, out, err = on("--json", "device", "predict", model, "--device", "raspberry-pi-zero")
    assert code == 0, err
    found = json.loads(out)
    assert (found["how"], found["fps"]) == ("unknown", dict.fromkeys("1234"))
    told = on("device", "predict", model, "--device", "raspberry-pi-zero")[1]
    assert told.count("not known") == 4
    assert " 0.0" not in told
