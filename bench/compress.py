"""Every figure of compression by one command, and one table of them.

    python -m bench.compress --data DIR [DIR ...] [--only ratios,codec,int8,atom,zoo,predict,retests,tuning]
    python -m bench.compress --table      the table alone, of what stands in bench/results

DIR: IDX files (MNIST, Fashion-MNIST, ...) for the LeNets, or pictures (folders of classes, CNRPark, PKLot) for the rest; which
figure takes which is in `commands`. Each part runs in a process of its own and leaves <date>-compress-<part>.json;
the table is <date>-compress.md and .json. Exit code 1 when a part failed, 0 also when a goal was missed: the table says so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import machine
from bench.compression import table
from bench.learning.record import ROOT, _commit

RESULTS = ROOT / "bench" / "results"
LENETS, LARGE = ("lenet-300-100", "lenet-5-caffe", "lenet-5"), ("alexnet", "vgg-16")


def commands(part: str, data: Sequence[Path]) -> list[list[str]]:
    """Arguments of bench.compression.<part>, one list per run; [] = there is no data that it could take."""
    digits = [str(path) for path in data if any(path.glob("*idx[13]-ubyte*"))]
    photos = [str(path) for path in data if str(path) not in digits]
    if part == "ratios":
        runs = [["--data", path, "--model", *LENETS] for path in digits]
        return runs + ([["--data", *photos, "--model", *LARGE]] if photos else [])
    if part in ("int8", "atom"):
        return [[word for path in photos for word in ("--data", path)]] if photos else []
    if part == "retests":
        return [["--data", str(data[0])]] if data else []
    return [[]]


def run(part: str, arguments: Sequence[str], results: Path) -> int:
    argv = [sys.executable, "-m", f"bench.compression.{part}", *arguments]
    argv += [] if results == RESULTS else ["--results", str(results)]
    return subprocess.run(argv, cwd=ROOT, check=False).returncode


def write(results: Path) -> str:
    """The table, as text; it is written beside the documents that it was made of."""
    found = table.documents(results)
    rows = table.table(found)
    facts = machine.describe()
    told = table.text(rows, found)
    yes = sum(r.reached == table.YES for r in rows)
    ran = yes + sum(r.reached == table.NO for r in rows)
    missing = sum(r.reached == table.NOT_RUN for r in rows)
    heading = f"# Compression\n\n{yes} of {ran} rows reached their goal, {missing} were not run.\n\n"
    path = results / f"{facts['date']}-compress.md"
    path.write_text(f"{heading}{told}\n")
    document = {"bench": "compress", "commit": _commit(), "date": facts["date"], "rows": table.as_json(rows)}
    path.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    return heading + told


def main(argv: Sequence[str] | None = None) -> int:
    ask = argparse.ArgumentParser(prog="python -m bench.compress", description=__doc__.split("\n")[0])
    ask.add_argument("--data", type=Path, nargs="+", default=[])
    ask.add_argument("--only", default=",".join(table.PARTS), help="with commas between")
    ask.add_argument("--table", action="store_true", help="measure nothing")
    ask.add_argument("--results", type=Path, default=RESULTS)
    args = ask.parse_args(argv)
    parts = [] if args.table else [name for name in args.only.split(",") if name]
    if foreign := [name for name in parts if name not in table.PARTS]:
        ask.error(f"no part is called {', '.join(foreign)}; known: {', '.join(table.PARTS)}")
    args.results.mkdir(parents=True, exist_ok=True)
    failed = []
    for part in parts:
        runs = commands(part, [path.resolve() for path in args.data])
        if not runs:
            print(f"{part}: not run, none of the data is for it", file=sys.stderr)
        failed += [part for arguments in runs if run(part, arguments, args.results)]
    print(write(args.results))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
