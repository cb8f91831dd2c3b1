"""What came of a part: a table on the terminal, a document in bench/results, plots in docs/learning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import machine
from edged.demo.tell import markdown

ROOT = Path(__file__).parents[2]
PATHS = ("--data", "--results", "--plots")


@dataclass(frozen=True)
class Record:
    """Where results go. `results` and `plots` are folders."""

    results: Path = ROOT / "bench" / "results"
    plots: Path = ROOT / "docs" / "learning"

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        print(f"\n{title}\n\n{markdown(header, rows)}", flush=True)

    def plot(self, name: str, svg: str) -> None:
        self.plots.mkdir(parents=True, exist_ok=True)
        (self.plots / f"{name}.svg").write_text(svg)
        print(f"plot: {self.plots / name}.svg", flush=True)

    def write(self, part: str, measured: Mapping[str, Any], seeds: Sequence[int], small: bool) -> Path:
        """<date>-learn-<part>.json with the machine, the command and the commit."""
        self.results.mkdir(parents=True, exist_ok=True)
        machine_facts = machine.describe()
        document = {
            "bench": f"learn {part}",
            "machine": machine_facts,
            "command": " ".join(["python -m bench.learn", *_told(sys.argv[1:])]),
            "commit": _commit(),
            "load": round(os.getloadavg()[0], 2),
            "seeds": list(seeds),
            "small": small,
            "measured": measured,
        }
        path = self.results / f"{machine_facts['date']}-learn-{part}{'-small' if small else ''}.json"
        path.write_text(json.dumps(document, indent=1) + "\n")
        print(f"written: {path}", flush=True)
        return path


def _told(arguments: Sequence[str]) -> list[str]:
    """Without the paths of this machine."""
    return [a if i == 0 or arguments[i - 1] not in PATHS else "DIR" for i, a in enumerate(arguments)]


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
