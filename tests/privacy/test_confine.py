"""The walls around a scrub child hold as far as it says they do."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

PROBE = """
import json, os, resource, socket
from edged.privacy import confine
walls = confine.shut_in(400 << 20)

def fails(act):
    try:
        act()
    except (OSError, MemoryError) as e:
        return type(e).__name__
    return ""

def write():
    with open("probe.bin", "wb", buffering=0) as f:
        f.write(b"pixels")

print(json.dumps({
    "no_network": walls.no_network, "no_sockets": walls.no_sockets,
    "socket": fails(lambda: socket.socket()), "exec": fails(lambda: os.execv("/bin/true", ["true"])),
    "write": fails(write), "memory": fails(lambda: bytearray(500 << 20)),
    "core": resource.getrlimit(resource.RLIMIT_CORE), "files": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
    "interfaces": open("/proc/self/net/dev").read().count(":"),
}))
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("walls")
    done = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, timeout=60, cwd=folder
    )
    return json.loads(done.stdout)


def test_no_file_grows_no_core_is_dumped_and_memory_is_bounded(probe):
    assert probe["write"] == "OSError"
    assert probe["memory"] == "MemoryError"
    assert probe["core"] == [0, 0]
    assert probe["files"] == 64


def test_sockets_and_programs_are_refused_exactly_when_it_says_so(probe):
    assert bool(probe["socket"]) == bool(probe["exec"]) == probe["no_sockets"]
    if platform.machine() in ("x86_64", "aarch64"):
        assert probe["no_sockets"]


def test_its_own_network_has_nothing_but_a_loopback(probe):
    if probe["no_network"]:
        assert probe["interfaces"] <= 1
