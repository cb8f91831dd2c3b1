"""Coverage-guided fuzzing of one target: `python -m tests.fuzz.atheris_run header -max_total_time=60`.

Needs `pip install atheris==3.0.0`, which is not among the project's dependencies."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["edged.wire", "edged.privacy.jpeg", "edged.storage.segment"]):
    from tests.fuzz.mutate import seeds_of
    from tests.fuzz.targets import TARGETS, survives


def main() -> None:
    name = sys.argv.pop(1)
    for data in seeds_of(name):
        survives(TARGETS[name], data)
    atheris.Setup(sys.argv, lambda data: survives(TARGETS[name], data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
