"""A camera measures itself and tells the box: over the cable, by a running agent, and what the box does with it."""

from __future__ import annotations

import json
from functools import partial

import msgspec
import pytest

from agent import cli
from agent import probe as sending
from edged.engine import probe
from edged.errors import Refused
from tests.memory_link import MemoryBroker


@pytest.fixture
def few(monkeypatch):
    """Two small probes instead of a hundred."""
    build = partial(lambda n: n.mean(n.conv(n.x, 8, 3)))
    monkeypatch.setattr(
        probe,
        "suite",
        lambda: tuple(probe.Probe(f"conv {p}", p, False, (3, 16, 16), build) for p in ("float32", "int8")),
    )


def test_a_probe_without_a_box_is_written_to_a_file_and_told_as_json(few, tmp_path, capsys):
    out = tmp_path / "probed.json"
    assert cli.main(["probe", "--json", "--seconds", "0.01", "-o", str(out)]) == 0
    told = json.loads(capsys.readouterr().out)
    found = probe.decode(out.read_bytes())
    assert msgspec.convert(told["probed"], probe.Probed) == found
    assert [t.name for t in found.probes] == ["prepare 224", "prepare 96", "conv float32", "conv int8"]


def test_a_probe_tells_how_far_it_is_where_nobody_watches_a_terminal_too(few, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sending, "TELL_S", 0.0)
    assert cli.main(["probe", "--seconds", "0.01", "-o", str(tmp_path / "probed.json")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("probing: a hundred")
    assert lines[1].startswith("probing: 0% conv float32")
    assert "s left" in lines[-1]


def test_json_may_stand_on_either_side_of_the_verb(few, capsys):
    for arguments in (["--json", "probe", "--seconds", "0.01"], ["probe", "--seconds", "0.01", "--json"]):
        assert cli.main(arguments) == 0
        said = capsys.readouterr()
        assert json.loads(said.out)["probed"]["suite"] == probe.SUITE
        assert said.err == ""


def test_a_folder_that_is_not_there_is_told_before_anything_is_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(probe, "run", lambda *a, **k: pytest.fail("it was measured"))
    assert cli.main(["probe", "-o", str(tmp_path / "gone" / "probed.json")]) == 4
    assert f"there is no folder {tmp_path / 'gone'}" in capsys.readouterr().err


def test_a_probe_of_no_seconds_is_refused(capsys):
    assert cli.main(["probe", "--seconds", "0"]) == 78
    assert "more than 0" in capsys.readouterr().err


def probed(**more):
    timed = (probe.Timed("conv float32", 1.5, 0.1),)
    given = {
        "suite": probe.SUITE, "processor": "E3940", "machine": "x86_64", "cores": 4, "runtime": "openvino", "version": "1",
        "flags": ("sse4_2",), "caps": {}, "scaling": 3.0, "probes": timed,
    }  # fmt: skip
    return probe.Probed(**given | more)


def test_a_running_agent_sends_what_was_left_for_it_once(site):
    site.start()
    sending.leave(site.agent.state_dir, probed())
    site.run(150)
    said = [m for _, m in site.broker.log if m.topic.endswith("/probe")]
    assert [probe.decode(m.payload) for m in said] == [probed()]
    assert not said[0].retain
    assert not (site.agent.state_dir / sending.WAITING).exists()


def test_what_waits_but_is_damaged_is_not_sent(tmp_path):
    link = MemoryBroker().link("gate")
    (tmp_path / sending.WAITING).write_bytes(b'{"suite": 1}')
    with pytest.raises(Refused, match="Probed"):
        sending.send(tmp_path, link, "plant-a", "gate")
    assert not (tmp_path / sending.WAITING).exists()
    assert not sending.send(tmp_path, link, "plant-a", "gate")
