"""Masks by command: what the page can do, without the page."""

import json
import subprocess
import sys

import pytest

from edged.clock import SystemClock
from edged.storage import audit
from edged.storage.store import Store
from tests.cli.terminal import typed

STREET = ("0,0.4", "0.3,0.4", "0.3,1", "0,1")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mask") / "site"
    run("init", "--data-dir", folder, "--site", "plant-a", "--classes", "free,busy", "--camera", "gate")
    config = folder / "config.toml"
    window = '[[camera.mask]]\nname = "window"\npolygon = [[0.5, 0.0], [1.0, 0.0], [1.0, 0.5]]\n'
    config.write_text(config.read_text() + window)
    return folder


def run(*args, said=""):
    command = [sys.executable, "-m", "edged", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, input=said, check=False)


@pytest.fixture
def edged(site):
    return lambda *args, said="": run("-c", site / "config.toml", *args, said=said)


def listed(edged, *args):
    return json.loads(edged("--json", "camera", "mask", "list", *args).stdout)["masks"]


def test_a_mask_is_added_listed_and_removed_only_after_a_second_word(site, edged):
    made = edged("--json", "camera", "mask", "add", "gate", *STREET, "--name", "street", "--author", "anna")
    assert made.returncode == 0, made.stderr
    number = json.loads(made.stdout)["id"]
    fixed, painted = listed(edged, "gate")
    assert (fixed["from"], fixed["id"], fixed["area"]) == ("config.toml", None, 0.125)
    assert (painted["from"], painted["id"], painted["author"], painted["area"]) == ("painted", number, "anna", 0.18)
    assert painted["polygon"] == [[0, 0.4], [0.3, 0.4], [0.3, 1], [0, 1]]
    assert listed(edged, "yard") == []
    text = edged("camera", "mask", "list").stdout
    assert "18.0%  street" in text
    assert "window  (config.toml)" in text

    remove = [sys.executable, "-m", "edged", "-c", site / "config.toml", "camera", "mask", "remove", "gate", number]
    asked = typed("n", remove)
    assert (asked.returncode, "will show what “street” hides" in asked.stderr) == (130, True)
    assert edged("--json", "camera", "mask", "remove", "gate", number, said="y\n").returncode == 1
    assert len(listed(edged)) == 2
    gone = typed("y", [*remove, "--author", "ben"])
    assert (gone.returncode, "stay masked" in gone.stdout) == (0, True)
    assert [m["from"] for m in listed(edged)] == ["config.toml"]
    assert edged("camera", "mask", "remove", "gate", number, "--yes").returncode == 4
    with Store.open(site, clock=SystemClock(), site_key=None) as store:
        assert [(e.actor, e.act) for e in audit.rows(store)] == [
            ("ben", "mask.remove"),
            ("anna", "mask.paint"),
            ("edged init", "key.created"),
        ]


def test_what_is_no_mask_or_no_camera_is_refused_in_a_sentence(edged):
    for corners, code in (
        (("0,0", "1,0"), 1),
        (("0,0", "1,1", "1,0", "0,1"), 1),
        (("0,0", "2,0", "1,1"), 1),
        (("zero", "one", "two"), 1),
        ((), 2),
    ):
        wrong = edged("camera", "mask", "add", "gate", *corners, "--name", "x")
        assert wrong.returncode == code, corners
        assert "Traceback" not in wrong.stderr
    wrong = edged("camera", "mask", "add", "nobody", *STREET, "--name", "x")
    assert (wrong.returncode, "no camera 'nobody'" in wrong.stderr) == (4, True)
    assert [m["from"] for m in listed(edged)] == ["config.toml"]
