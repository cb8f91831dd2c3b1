"""Every example configuration loads, and a site with its settings runs."""

from pathlib import Path

import msgspec
import pytest

from edged.config import load
from edged.publish import cloud
from edged.storage import frames
from tests.site import SimulatedSite, shots

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.toml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_runs(path, tmp_path):
    config = load(path)
    kept = {
        name: msgspec.to_builtins(getattr(config, name)) for name in ("privacy", "rollout", "sync")
    }  # its own site, classes and sizes are the simulated site's business
    cameras = {c.id: shots(40, 1_799_990_000.0, seed) for seed, c in enumerate(config.camera)}
    site = SimulatedSite(tmp_path / "site", cameras, camera=msgspec.to_builtins(config.camera), **kept)
    site.until(lambda: frames.count(site.store) == 40 * len(cameras))
    site.label_all()
    assert site.loop.run_once("an example") == "released"
    leaves = {item.kind for item in cloud.preview(site.store, site.config.sync.rules()) if item.allowed}
    assert leaves == {rule.kind for rule in config.sync.rule if rule.allow}
    site.close()


def test_there_are_examples():
    assert {path.stem for path in EXAMPLES} == {"camera-network", "clinic", "vehicle"}
