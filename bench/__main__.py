"""`python -m bench [ingest|cycle ...]`: run, print, and write bench/results/<date>-<name>.json."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from bench.machine import describe

NAMES = ("ingest", "cycle")


def main(names: list[str]) -> None:
    machine = describe()
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    for name in names or NAMES:
        document = {"bench": name, "machine": machine, "measured": importlib.import_module(f"bench.{name}").run()}
        text = json.dumps(document, indent=2)
        print(text)
        (results / f"{machine['date']}-{name}.json").write_text(text + "\n")


main(sys.argv[1:])
