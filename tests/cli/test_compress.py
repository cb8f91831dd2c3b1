"""`edged compress` and `edged retest` as somebody uses them: a model and a folder in, smaller files and their proof out."""

import json
import re

import msgspec
import pytest
from click.testing import CliRunner

from edged.cli.main import main
from edged.retrain import children, jobs, workbench
from tests.cli.test_train import fill


def edged(*args):
    """(exit code, stdout, stderr) of one command line."""
    result = CliRunner().invoke(main, ["--json", *map(str, args)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Pictures with a test part, and a LeNet that was trained on them."""
    from edged.clock import SystemClock
    from edged.retrain import train

    folder = tmp_path_factory.mktemp("made")
    data = fill(folder / "data")
    fill(data / "test", n=30, seed=2)
    job = {
        "data_dir": str(folder / "net"), "folder": str(data), "classes": ["dark", "light"], "epochs": 2, "min_samples": 8,
        "arch": {"name": "lenet-5", "input_px": 32}, "epoch_least": 100,
    }  # fmt: skip
    (folder / "net").mkdir()
    found = train.run(jobs.check("train", job), folder / "net", clock=SystemClock(), progress=lambda _: None)
    for key, name in (("sha256", "model.onnx"), ("weights_sha256", "model.safetensors")):
        kind = name.partition(".")[2]
        (folder / "net" / name).write_bytes((folder / "net" / "models" / f"{getattr(found, key)}.{kind}").read_bytes())
    return folder


@pytest.fixture
def here(monkeypatch):
    """Stages run in this process; which ran is kept."""
    from edged.clock import SystemClock
    from edged.retrain import compress, trial

    ran = []

    def run(stage, job, job_dir, *, progress, clock, nice):
        checked = jobs.check(stage, job)
        if (job_dir / "result.json").exists():
            return json.loads((job_dir / "result.json").read_text())
        ran.append(stage)
        if stage == "trial":
            found = trial.run(msgspec.structs.replace(checked, seconds=0.1), progress=progress)
        else:
            found = compress.run(checked, job_dir, clock=SystemClock(), progress=progress)
        (job_dir / "result.json").write_bytes(msgspec.json.encode(found))
        return msgspec.to_builtins(found)

    monkeypatch.setattr(children, "run", run)
    return ran


def test_a_smaller_file_comes_with_its_packed_form_and_its_proof(made, tmp_path, here):
    out = tmp_path / "small"
    code, said, err = edged(
        "compress",
        "--data",
        made / "data",
        "--model",
        made / "net",
        "-o",
        out,
        "-m",
        "int8",
        "--device",
        "this-machine",
    )
    assert code == 0, err
    found = json.loads(said)
    before, after = found["files"]
    assert (before["method"], after["method"]) == ("as it is", "int8")
    assert after["accuracy"]["n"] == 60
    assert after["lost"] is not None
    assert (out / "int8.onnx").stat().st_size == after["bytes"] < before["bytes"]
    assert (out / "int8.epk").stat().st_size == after["packed_bytes"] < after["bytes"]
    assert found["tested_on"] == "60 pictures of the test part"


def test_the_model_as_it_is_is_not_tested_twice_where_a_search_hands_it_on(made, tmp_path, here, monkeypatch):
    import sys

    command = sys.modules["edged.cli.compress"]
    stage = command._stage

    def searched(context, bench, name, model, text, **fields):
        if name != "search":
            return stage(context, bench, name, model, text, **fields)
        usual = {"device": "this-machine", "max_minutes": 5, "max_loss": 0.5}
        kept = [
            stage(context, bench, "compress", model, m, method=m, **usual) | {"method": m} for m in ("none", "int8")
        ]
        return {"points": [], "kept": kept, "front": ["int8"], "note": "made up"}

    monkeypatch.setattr(command, "_stage", searched)
    args = ("--data", made / "data", "--model", made / "net", "-o", tmp_path / "o", "--device", "this-machine")
    code, said, err = edged("compress", *args, "--search", 1)
    assert code == 0, err
    assert [row["method"] for row in json.loads(said)["files"]] == ["as it is", "int8"]


def test_a_file_beside_the_one_that_cameras_run_says_what_it_kept(made, tmp_path, here):
    args = ("compress", "--data", made / "data", "--model", made / "net", "--device", "this-machine", "-m", "int8")
    code, said, err = edged(*args, "-o", tmp_path / "one")
    assert code == 0, err
    code, said, err = edged(*args, "-o", tmp_path / "two", "--previous", tmp_path / "one" / "int8.epk")
    assert code == 0, err
    near = json.loads(said)["files"][1]["facts"][0]["near"]
    assert near["kept"] == near["weights"] > 0
    assert (tmp_path / "two" / "int8.onnx").read_bytes() == (tmp_path / "one" / "int8.onnx").read_bytes()
    (tmp_path / "bad.onnx").write_bytes((tmp_path / "one" / "int8.onnx").read_bytes()[:5000])
    code, _, err = edged(*args, "-o", tmp_path / "three", "--previous", tmp_path / "bad.onnx")
    assert code == 1
    assert "not an ONNX model" in err
    assert not (tmp_path / "three" / "int8.onnx").exists()


def test_the_same_command_again_makes_nothing_anew(made, tmp_path, here):
    args = (
        "compress",
        "--data",
        made / "data",
        "--model",
        made / "net",
        "-o",
        tmp_path / "o",
        "--device",
        "this-machine",
    )
    assert edged(*args)[0] == 0
    first = list(here)
    assert edged(*args)[0] == 0
    assert here == first


def test_a_chain_that_cannot_be_made_is_named_and_the_others_are_made(made, tmp_path, here):
    code, said, err = edged(
        "compress", "--data", made / "data", "--model", made / "net" / "model.onnx", "-o", tmp_path / "o", "-m", "prune=0.5",
        "-m", "int8", "--device", "this-machine",
    )  # fmt: skip
    assert code == 0
    found = json.loads(said)
    assert [f["method"] for f in found["files"]] == ["as it is", "int8"]
    assert found["refused"][0]["method"] == "prune=0.5"
    assert "needs the model's weights, and here is its file only\n  name the folder that `edged train` left" in err
    assert str(tmp_path) not in found["refused"][0]["refused"]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("-m", "magic"), 2, "no compression step is called 'magic'"),
        (("-m", "prune=2"), 2, "0 to 0.999"),
        (("-m", "none int8"), 2, "`none` stands alone"),
        (("--minutes", "nan"), 2, "not a finite number"),
        (("--search", "nan"), 2, "not a finite number"),
        (("--max-loss", "nan"), 2, "not a finite number"),
        (("--device", "toaster"), 4, "no device is called 'toaster'"),
        (("-o", __file__), 1, "is a file, and -o names a folder"),
        (("--model", "nothing.onnx"), 4, "there is no nothing.onnx"),
        (("--data", "nowhere"), 4, "there is no folder or zip file"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(made, tmp_path, here, args, code, words):
    usual = {"--data": made / "data", "--model": made / "net", "-o": tmp_path / "o"}
    usual |= dict([args]) if args[0] in usual else {}
    rest = () if args[0] in usual else args
    got, _, err = edged("compress", *(x for pair in usual.items() for x in pair), *rest)
    assert (got, here) == (code, [])
    assert words in (err if code == 2 else json.loads(err)["error"]["message"])


def test_a_class_of_the_model_without_pictures_is_named(made, tmp_path, here):
    other = fill(tmp_path / "other", names=("dark", "blue"))
    code, _, err = edged("compress", "--data", other, "--model", made / "net", "-o", tmp_path / "o")
    assert code == 1
    assert "has no pictures of: light" in json.loads(err)["error"]["message"]


def test_a_retest_says_what_the_gate_would_say(made, here):
    code, said, err = edged(
        "retest",
        "--data",
        made / "data",
        "--model",
        made / "net",
        "--baseline",
        made / "net",
        "--device",
        "this-machine",
    )
    found = json.loads(said)
    assert found["report"]["pair"]["lost"] == found["report"]["pair"]["won"] == 0
    assert code == (0 if found["passed"] else 3), err
    assert found["reasons"]


def test_a_folder_without_a_test_part_is_tested_on_all_it_has_and_it_is_said(made, tmp_path, here):
    plain = fill(tmp_path / "plain", n=40, seed=5)
    code, said, _ = edged("retest", "--data", plain, "--model", made / "net", "--device", "this-machine")
    found = json.loads(said)
    assert code in (0, 3)
    assert found["report"]["n"] == 80
    assert found["tested_on"] == "all 80 pictures: there is no test part"


def test_a_file_name_tells_its_chain():
    assert workbench.file_name("channels=0.5 int8") == "channels0.5-int8"


def test_the_packed_file_is_retested_as_it_is_delivered(made, tmp_path, here):
    from edged import packed

    data = (made / "net" / "model.onnx").read_bytes()
    (tmp_path / "small.epk").write_bytes(packed.pack(data))
    code, said, err = edged(
        "retest", "--data", made / "data", "--model", tmp_path / "small.epk", "--baseline", made / "net", "--device",
        "this-machine",
    )  # fmt: skip
    assert code in (0, 3), err
    assert json.loads(said)["report"]["pair"]["lost"] == 0
    (tmp_path / "torn.epk").write_bytes(packed.pack(data)[:-9])
    code, _, err = edged("retest", "--data", made / "data", "--model", tmp_path / "torn.epk")
    assert code == 1
    assert json.loads(err)["error"]["message"]


def test_a_chain_that_is_refused_where_no_other_file_was_made_is_found_bad(made, tmp_path, here):
    args = ("--data", made / "data", "--model", made / "net" / "model.onnx", "-o", tmp_path / "o")
    code, said, _ = edged("compress", *args, "-m", "prune=0.5", "--device", "this-machine")
    assert code == 3
    found = json.loads(said)
    assert [f["method"] for f in found["files"]] == ["as it is"]
    assert found["files"][0]["packed_bytes"] > 0


def test_where_no_bar_can_be_drawn_the_stages_are_told_line_by_line(made, tmp_path, here):
    args = ("--data", made / "data", "--model", made / "net", "-o", tmp_path / "o", "--device", "this-machine")
    found = CliRunner().invoke(main, list(map(str, ("compress", *args, "-m", "int8"))))
    assert found.exit_code == 0, found.stderr
    for words in ("trial as it is: begins", "compress int8: begins", "trial int8: begins"):
        assert f"edged: {words}" in found.stderr
    assert len(re.findall(r"^edged: .*: \d+ s$", found.stderr, re.M)) == 3
    assert re.search(r"^as it is +\d+\.\d +\d+\.\d ", found.stdout, re.M)
    quiet = CliRunner().invoke(main, list(map(str, ("-q", "compress", *args, "-m", "int8"))))
    assert (quiet.stdout, quiet.stderr) == ("", "")


def named(data, names):
    """The same file, but for what it calls its classes."""
    from edged.retrain import source

    return source.with_metadata(data, {source.CLASSES: json.dumps(names)})


@pytest.mark.parametrize("more", [(), ("--classes", "dark,light")])
def test_a_baseline_of_other_classes_is_refused_before_anything_is_compared(made, tmp_path, here, more):
    data = (made / "net" / "model.onnx").read_bytes()
    (tmp_path / "other.onnx").write_bytes(named(data, ["cat", "dog"]))
    args = ("--data", made / "data", "--model", made / "net", "--device", "this-machine", *more)
    code, said, err = edged("retest", *args, "--baseline", tmp_path / "other.onnx")
    assert (code, said, here) == (1, "", [])
    words = "the model knows dark, light, the baseline cat, dog: they cannot be compared"
    assert json.loads(err)["error"]["message"] == words


def test_a_baseline_that_names_the_classes_in_another_order_is_compared_by_name(made, tmp_path, here):
    """The names are turned around and the outputs are not, so what the model has right the baseline has wrong."""
    data = (made / "net" / "model.onnx").read_bytes()
    (tmp_path / "turned.onnx").write_bytes(named(data, ["light", "dark"]))
    args = ("--data", made / "data", "--model", made / "net", "--device", "this-machine")
    _, said, err = edged("retest", *args, "--baseline", tmp_path / "turned.onnx")
    pair = json.loads(said)["report"]["pair"]
    print(pair, err)
    assert pair["baseline_right"] == pair["n"] - pair["right"]


def test_a_network_that_the_device_does_not_take_is_refused_as_the_gate_refuses(made, here):
    code, said, err = edged("retest", "--data", made / "data", "--model", made / "net", "--device", "movidius-ma2450")
    assert (code, said) == (3, "")
    assert json.loads(err)["error"]["message"].startswith("refused: ")


def test_a_retest_is_read_by_people_in_a_hundred_columns(made, here):
    args = ("retest", "--data", made / "data", "--model", made / "net", "--device", "atom-x5-e3940")
    found = CliRunner().invoke(main, list(map(str, args)))
    print(found.stdout)
    assert max(map(len, found.stdout.splitlines())) <= 100
    for words in ("latency here", "frames/s, 1 region ", "frames/s, 4 regions", "cold start", "memory", "packed",
                  "class dark", "was answered as", "(estimated)", "(measured", "not covered:"):  # fmt: skip
        assert words in found.stdout, words
    assert "camera" not in found.stdout.partition("\ncovered:")[0]


def test_the_table_says_what_tune_wrote_anew_and_which_speeds_are_the_same():
    from edged.cli.compress import _alike, _noted

    rows = [{"layers": ["a", "b"], "chosen": "winograd"}, {"layers": ["c"], "chosen": "direct"}]
    said = _noted({"step": "tune", "note": "1.20 times as fast", "table": rows})
    assert said == ["tune: 1.20 times as fast", "tune wrote anew: a, b by winograd"]
    left = "left as it is: nothing is clearly faster than the direct convolution"
    assert _noted({"step": "tune", "note": left, "table": rows}) == [f"tune: {left}"]
    assert _noted({"step": "int8", "note": ""}) == []
    assert _alike([{"value": 261, "lower": 217, "upper": 305}, {"value": 269, "lower": 224, "upper": 313}])
    assert not _alike([{"value": 100, "lower": 90, "upper": 110}, {"value": 200, "lower": 180, "upper": 220}])
