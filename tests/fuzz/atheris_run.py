"""Coverage-guided fuzzing of one target: `python -m tests.fuzz.atheris_run header -max_total_time=60`.

Needs `pip install atheris==3.0.0`, which is not among the project's dependencies."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["edged.wire", "edged.privacy.jpeg", "edged.storage.segment"]):
    from tests.fuzz.mutate import seeds_of
    from tests.fuzz.targets import TARGETS, survives


def main() -> None:
    name = sys.argv.pop(1)
    with tempfile.TemporaryDirectory() as corpus:  # what it learns is thrown away; a finding is printed
        for n, data in enumerate(seeds_of(name)):
            Path(corpus, str(n)).write_bytes(data)
        atheris.Setup([*sys.argv, corpus], lambda data: survives(TARGETS[name], data))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
