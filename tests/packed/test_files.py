"""`edged model pack | unpack | delta` and `edged-agent unpack`, as a person meets them."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from agent import cli as agent
from edged import durable
from edged.cli import main
from edged.engine.onnx_write import Net
from edged.errors import Corrupt
from edged.packed import container, files

from .made import model, samples
from .pairs import corpus


@pytest.fixture
def edged():
    def run(*args):
        return CliRunner().invoke(main, [*map(str, args)], prog_name="edged")

    return run


@pytest.fixture
def onnx(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(model(**samples()))
    return path


def test_a_model_is_packed_moved_and_unpacked_by_box_and_camera(edged, onnx, tmp_path, capsys):
    done = edged("--json", "model", "pack", onnx)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    packed = tmp_path / "net.epk"
    assert told["packed"] == packed.stat().st_size
    assert told["size"] == onnx.stat().st_size
    assert {p["name"]: p["coder"] for p in told["parts"]}["pictures"] == "sparse"
    done = edged("model", "unpack", packed, "-o", tmp_path / "again.onnx")
    assert done.exit_code == 0
    assert told["sha256"] in done.output
    assert "sparse" in done.output
    assert agent.main(["unpack", str(packed), "-o", str(tmp_path / "camera.onnx"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["size"] == onnx.stat().st_size
    for copy in ("again.onnx", "camera.onnx"):
        assert (tmp_path / copy).read_bytes() == onnx.read_bytes()


def test_nothing_is_written_over_but_the_same_again(edged, onnx, tmp_path):
    assert edged("model", "pack", onnx).exit_code == 0
    assert edged("model", "pack", onnx).exit_code == 0
    assert edged("model", "unpack", tmp_path / "net.epk").exit_code == 0
    onnx.write_bytes(b"mine")
    for args in (["unpack", tmp_path / "net.epk"], ["unpack", tmp_path / "net.epk", "-o", tmp_path / "net.epk"]):
        done = edged("model", *args)
        assert done.exit_code == 1, args
    assert agent.main(["unpack", str(tmp_path / "net.epk")]) == 1
    assert onnx.read_bytes() == b"mine"


def test_a_damaged_file_leaves_nothing_behind(edged, onnx, tmp_path, capsys):
    edged("model", "pack", onnx)
    packed = tmp_path / "net.epk"
    data = bytearray(packed.read_bytes())
    data[-5] ^= 4
    packed.write_bytes(data)
    out = tmp_path / "out.onnx"
    assert edged("model", "unpack", packed, "-o", out).exit_code == 1
    assert agent.main(["unpack", str(packed), "-o", str(out), "--json"]) == 1
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "bad_packed"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.epk", "net.onnx"]


def test_what_is_not_there_and_what_is_too_large_is_said(edged, onnx, tmp_path):
    edged("model", "pack", onnx)
    done = edged("--json", "model", "unpack", tmp_path / "net.epk", "-o", tmp_path / "o.onnx", "--most", "1KB")
    assert (done.exit_code, json.loads(done.output)["error"]["code"]) == (1, "too_big")
    assert edged("model", "unpack", tmp_path / "nothing.epk").exit_code == 4
    assert agent.main(["unpack", str(tmp_path / "nothing.epk")]) == 4
    assert edged("model", "pack", tmp_path / "net.epk", "-o", tmp_path / "x").exit_code == 1


def test_a_path_that_is_not_there_is_named_as_it_was_given(edged, onnx, tmp_path, capsys):
    edged("model", "pack", onnx)
    packed, gone = tmp_path / "net.epk", tmp_path / "gone"
    for args, said in (
        (("pack", gone), f"there is no {gone}"),
        (("unpack", gone), f"there is no {gone}"),
        (("pack", onnx, "-o", gone / "x.epk"), f"there is no folder {gone}"),
        (("unpack", packed, "-o", gone / "x.onnx"), f"there is no folder {gone}"),
    ):
        done = edged("model", *args)
        assert (done.exit_code, done.stderr.splitlines()[0]) == (4, f"edged: {said}")
        if args[0] == "unpack":
            assert agent.main([*map(str, args)]) == 4
            assert capsys.readouterr().err.splitlines()[0] == f"edged-agent: {said}"


def test_a_folder_stands_for_the_model_in_it(edged, onnx, tmp_path):
    folder = tmp_path / "trained"
    folder.mkdir()
    done = edged("model", "pack", folder)
    assert (done.exit_code, done.stderr.splitlines()[0]) == (1, f"edged: {folder} is a folder without model.onnx in it")
    (folder / "model.onnx").write_bytes(onnx.read_bytes())
    assert edged("model", "pack", folder).exit_code == 0
    (folder / "model.onnx").unlink()
    assert edged("model", "unpack", folder).exit_code == 0
    assert (folder / "model.onnx").read_bytes() == onnx.read_bytes()
    done = edged("model", "pack", onnx, "-o", folder)
    assert (done.exit_code, done.stderr.splitlines()[0]) == (1, f"edged: {folder} is a folder")


def test_a_size_that_is_none_is_a_mistake_of_usage(edged, tmp_path):
    done = edged("model", "unpack", tmp_path / "net.epk", "--most", "foo")
    assert done.exit_code == 2
    assert "'foo': bytes are needed" in done.stderr


def test_the_table_adds_up_to_both_files(edged, onnx, tmp_path):
    told = json.loads(edged("--json", "model", "pack", onnx).stdout)
    parts = told["parts"]
    assert sum(p["packed"] for p in parts) + told["graph_packed"] + told["head"] == told["packed"]
    assert sum(p["size"] for p in parts) + told["graph"] == told["size"]
    lines = edged("model", "pack", onnx).stdout.splitlines()
    rows = [line[51:].split() for line in lines[2:-1]]
    total = lines[-1][51:].split()
    assert lines[-1].startswith("in all")
    assert [sum(int(row[i]) for row in rows) for i in (0, 1)] == [int(total[0]), int(total[1])]


def test_what_cannot_be_written_is_told_of_by_its_own_name(tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        durable.write(tmp_path / "gone" / "x.epk", b"1")
    assert raised.value.filename == str(tmp_path / "gone" / "x.epk")


@pytest.fixture
def versions(tmp_path):
    """An old and a new file, and the delta between them."""
    old, new = tmp_path / "old.onnx", tmp_path / "new.onnx"
    for path, data in zip((old, new), corpus()["int8"], strict=True):
        path.write_bytes(data)
    return old, new, tmp_path / "new.epd"


def test_a_delta_is_made_and_leads_to_the_new_file_on_box_and_camera(edged, versions, tmp_path, capsys):
    old, new, delta = versions
    done = edged("--json", "model", "delta", old, new)
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    assert told["packed"] == delta.stat().st_size < new.stat().st_size / 5
    assert sum(p["packed"] for p in told["parts"]) + told["graph_packed"] + told["head"] == told["packed"]
    done = edged("model", "unpack", delta, "--from", old, "-o", tmp_path / "box.onnx")
    assert done.exit_code == 0, done.output
    assert told["sha256"] in done.output
    camera = ["unpack", "--from", str(old), str(delta), "-o", str(tmp_path / "camera.onnx"), "--json"]
    assert agent.main(camera) == 0
    assert json.loads(capsys.readouterr().out)["size"] == new.stat().st_size
    for copy in ("box.onnx", "camera.onnx"):
        assert (tmp_path / copy).read_bytes() == new.read_bytes()


def test_a_delta_with_the_wrong_file_or_none_says_what_is_wrong(edged, versions, tmp_path, capsys):
    old, new, delta = versions
    edged("model", "delta", old, new)
    edged("model", "pack", new)
    packed, gone = tmp_path / "new.epk", tmp_path / "gone.onnx"
    for given, code, word, hint in (
        ([delta], 1, "is a delta", "--from"),
        ([delta, "--from", new], 1, "from another file", ""),
        ([packed, "--from", old], 1, "is no delta", "--from"),
        ([delta, "--from", gone], 4, f"there is no {gone}", ""),
    ):
        args = [*map(str, given), "-o", str(tmp_path / "out.onnx")]
        done = edged("model", "unpack", *args)
        assert done.exit_code == code
        assert word in done.stderr
        assert hint in done.stderr
        assert agent.main(["unpack", *args]) == code
        assert word in capsys.readouterr().err
    assert not (tmp_path / "out.onnx").exists()
    assert edged("model", "delta", gone, new).exit_code == 4
    assert edged("model", "delta", old, new, "-o", new).exit_code == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["pack", "{none}"], "{none}: not an ONNX model"),
        (["delta", "{none}", "{onnx}"], "{none}: not an ONNX model"),
        (["delta", "{onnx}", "{none}"], "{none}: not an ONNX model"),
        (["unpack", "{none}"], "{none}: not a packed model"),
        (["unpack", "{none}", "--from", "{onnx}"], "{none} is no delta"),
    ],
)
def test_a_file_that_is_no_model_is_named_and_leaves_nothing(edged, onnx, tmp_path, args, words):
    none = tmp_path / "notes.txt"
    none.write_bytes(b"these are notes, not a model")
    where = {"none": none, "onnx": onnx}
    done = edged("model", *(a.format(**where) for a in args), "-o", tmp_path / "out")
    assert (done.exit_code, words.format(**where) in done.stderr) == (1, True), done.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "notes.txt"]


def test_a_kill_or_an_error_while_it_is_rebuilt_leaves_nothing(versions, tmp_path, monkeypatch, edged):
    old, new, delta = versions
    edged("model", "delta", old, new)
    before = sorted(p.name for p in tmp_path.iterdir())
    data = bytearray(delta.read_bytes())
    data[-3] ^= 1
    (tmp_path / "bad.epd").write_bytes(data)
    with pytest.raises(Corrupt):
        files.unpack(tmp_path / "bad.epd", tmp_path / "out.onnx", old=old)
    (tmp_path / "bad.epd").unlink()

    class Killed(BaseException):
        pass

    def dies(*_):
        raise Killed

    for broken in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(files.os, broken, dies)
            with pytest.raises(Killed):
                files.unpack(delta, tmp_path / "out.onnx", old=old)
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    with pytest.raises(Corrupt, match="allowed"):
        files.unpack(delta, tmp_path / "out.onnx", old=old, most=1000)
    assert files.unpack(delta, tmp_path / "out.onnx", old=old, most=container.MOST)[1] == new.stat().st_size


def test_what_would_be_refused_as_a_model_is_packed_with_a_warning_that_names_it(edged, tmp_path):
    def warned(name, data, *flags):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(data)
        done = edged(*flags, "model", "pack", path)
        assert done.exit_code == 0, done.output
        assert edged("model", "unpack", path.with_suffix(".epk"), "-o", tmp_path / f"{name}.again").exit_code == 0
        assert (tmp_path / f"{name}.again").read_bytes() == data
        return done.stderr

    whole = np.ones((4, 8), np.float32)
    net = Net((3, 32, 32))
    good = net.model(net.full(net.mean(net.conv(net.x, 16, 3)), 2))
    assert warned("good", good) == ""
    for n, kind in enumerate((np.float16, np.float32, np.float64)):
        for value in (np.nan, np.inf):
            bad = whole.astype(kind)
            bad[2, 3] = value
            said = warned(f"bad-{n}-{value}", model(fine=whole, conv_w=bad))
            assert "packed all the same" in said
            assert "not all its weights are numbers: conv_w\n" in said
    assert "numbers" not in warned("whole", model(fine=whole, ids=np.full((4, 8), -1, np.int64)))
    assert "operators beyond ONNX's own (mine.own)" in warned("foreign", model(b"mine.own", fine=whole))
    assert warned("quiet", model(w=bad), "--quiet") == ""
