"""What an agent loads at its start, and what it does not before it is needed."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from agent import cli
from edged.errors import Misconfigured
from edged.publish import trust


def test_a_running_agent_has_no_runtime_probe_or_update_client_loaded():
    heavy = ["tuf", "securesystemslib", "urllib3", "onnxruntime", "openvino", "torch", "onnx", "edged.engine.probe"]
    code = f"import sys, agent.run, agent.source, edged.wire.paho; print(sorted(set({heavy}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_root_is_looked_at_once_and_again_when_it_is_another(tmp_path, monkeypatch):
    from agent import client

    clock = SimpleNamespace(now=lambda: 1_790_000_000.0)
    trust.make_keys(tmp_path / "keys")
    trust.Repository(tmp_path / "tuf", tmp_path / "keys", clock).init()
    (tmp_path / "state").mkdir()
    file = tmp_path / "root.json"
    file.write_bytes((tmp_path / "tuf" / "1.root.json").read_bytes())
    settings = SimpleNamespace(root=str(file), state=str(tmp_path / "state"))
    looked, check = [], client.check_root
    monkeypatch.setattr(client, "check_root", lambda *args: (looked.append(1), check(*args)))
    for _ in range(3):
        assert cli._root(settings) == file.read_bytes()
    assert len(looked) == 1
    cli._root(settings, anew=True)
    assert len(looked) == 2
    file.write_bytes(file.read_bytes()[:-20])
    for _ in range(2):
        with pytest.raises(Misconfigured, match="not a root of trust"):
            cli._root(settings)
    assert len(looked) == 4
