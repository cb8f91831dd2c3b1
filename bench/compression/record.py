"""What came of a row of the compression table: a table on the terminal, JSON and Markdown in bench/results."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import machine
from bench.learning.record import ROOT, _commit
from edged.demo.tell import markdown

RESULTS = ROOT / "bench" / "results"
PATHS = ("--data", "--keep", "--results", "--model")
Table = tuple[Sequence[str], Sequence[Sequence[str]]]


@dataclass(frozen=True)
class Record:
    """`row` is the name in the files: <date>-compress-<row>.json and .md."""

    row: str
    results: Path = RESULTS

    def table(self, title: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
        print(f"\n{title}\n\n{markdown(header, lines)}", flush=True)

    def write(self, measured: Mapping[str, Any], tables: Mapping[str, Table], seeds: Sequence[int]) -> Path:
        """With the machine, the command (its paths left out), the commit, the load and the seeds."""
        self.results.mkdir(parents=True, exist_ok=True)
        facts = machine.describe()
        words = [a if i == 0 or sys.argv[i] not in PATHS else "DIR" for i, a in enumerate(sys.argv[1:])]
        command = " ".join([f"python -m bench.compression.{self.row}", *words])
        document = {
            "bench": f"compress {self.row}", "machine": facts, "command": command, "commit": _commit(),
            "load": round(os.getloadavg()[0], 2), "seeds": list(seeds), "measured": measured,
        }  # fmt: skip
        path = self.results / f"{facts['date']}-compress-{self.row}.json"
        path.write_text(json.dumps(document, indent=1) + "\n")
        text = "\n".join(f"## {title}\n\n{markdown(header, lines)}\n" for title, (header, lines) in tables.items())
        path.with_suffix(".md").write_text(
            f"# compress {self.row}\n\n`{command}`, {facts['date']}, {facts['cpu']}, {facts['cores']} cores, load "
            f"{document['load']}, commit {document['commit']}\n\n{text}"
        )
        print(f"written: {path}", flush=True)
        return path
