"""docs/attacks.md lists every attack, and names tests that are there."""

import re
from pathlib import Path

from tests.attacks.test_transport import ATTACKS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "attacks.md").read_text()


def test_every_attack_on_the_transport_is_listed_and_every_one_listed_is_tried():
    table = TEXT.split("| what is done |")[1].split("\n\n")[0].splitlines()[2:]
    listed = [name.strip() for row in table for name in row.split("|")[1].split(";")]
    assert sorted(listed) == sorted(f.__name__.replace("_", " ") for f in ATTACKS)


def test_every_test_that_is_named_exists():
    code = "".join(path.read_text() for path in sorted((ROOT / "tests" / "attacks").glob("test_*.py")))
    named = re.findall(r"`(?:tests/[\w/.]+::)?(test_\w+)`", TEXT)
    assert len(named) > 20
    assert [name for name in named if f"\ndef {name}(" not in code] == []
    assert all((ROOT / path).exists() for path in re.findall(r"`(tests/[\w/]+\.py)", TEXT))
