"""docs/threats.md names tests that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_threat_has_tests_that_exist():
    named = 0
    for row in (ROOT / "docs" / "threats.md").read_text().splitlines():
        if not row.startswith("| ") or row.startswith("| what may"):
            continue
        file, found = "", re.findall(r"`((?:tests/[\w/]+\.py)?)::(test_\w+)`", row)
        assert found, row[:60]
        for path, name in found:
            file = path or file
            assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.M), f"{file}::{name}"
            named += 1
    assert named > 30
