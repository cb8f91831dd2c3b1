"""`edged drift show` as a person meets it."""

import json
import subprocess
import sys

import pytest

from edged.clock import SystemClock
from edged.storage import Store, drifts
from edged.storage.drifts import Evaluation


def edged(*args):
    return subprocess.run(
        [sys.executable, "-m", "edged", *map(str, args)], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drift") / "site"
    made = edged("init", "--data-dir", folder, "--site", "plant-a", "--classes", "free,busy", "--camera", "gate")
    assert made.returncode == 0, made.stderr
    return folder


def test_nothing_was_looked_at_then_a_drift_is_shown_in_words_and_as_json(site):
    config = site / "config.toml"
    assert edged("-c", config, "drift", "show").stdout == "no camera was looked at yet\n"
    missing = edged("-c", config, "drift", "show", "--camera", "gate")
    assert (missing.returncode, "was looked at yet" in missing.stderr) == (4, True)
    with Store.open(site, clock=SystemClock(), site_key=None) as store:
        said = "gate: answers differ from those of 14-16 November"
        drifts.add(store, [Evaluation("gate", "confidence", "m", 500, 1.7, 1e-5, True, said)])
        drifts.add(
            store, [Evaluation("yard", "audit", "m", 12, 0.0, None, False, "yard: collecting audit labels, 12 of 41")]
        )
    shown = edged("-c", config, "drift", "show")
    assert shown.returncode == 0
    assert f": {said}" in shown.stdout
    assert "ALARM" in shown.stdout
    assert "yard: collecting" in shown.stdout
    document = json.loads(edged("-c", config, "drift", "show", "--camera", "gate", "--json").stdout)
    assert [d["camera"] for d in document["drifting"]] == ["gate"]
    assert document["looks"][0]["score"] == 1.7
    assert {look["camera"] for look in document["looks"]} == {"gate"}
