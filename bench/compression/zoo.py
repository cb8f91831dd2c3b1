"""Which networks of the zoo keep up with 4 regions x 30 frames/s on x5-E3940 at <= 70 % of the CPU, and by how much not.

    python -m bench.compression.zoo [--nets mobilenet-0.25@224,...]

Weights are random: they do not change how long a network takes. Speed as in atom.py, estimated.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.compression import atom
from bench.compression.record import RESULTS, Record, Table

NETS = (
    "lenet-300-100@28", "lenet-5@32", "mobilenet-0.125@224", "mobilenet-0.25@64", "mobilenet-0.25@96", "mobilenet-0.25@224",
    "mobilenet-0.5@96", "mobilenet-0.5@224", "mobilenet-0.75@224", "mobilenet-1.0@224", "squeezenet-1.1@224", "alexnet@224",
    "vgg-16@224",
)  # fmt: skip


def rows(nets: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Speed of networks with weights as they come, float and int8: what they weigh does not change how long they take."""
    import torch

    from edged.retrain import export, zoo
    from edged.retrain.methods import int8
    from edged.retrain.pictures import Pictures

    for net in nets:
        name, _, side = net.partition("@")
        px = int(side)
        torch.manual_seed(1)
        made = export.to_onnx(zoo.build(name, 2, px), px)
        yield {"net": name, "px": px, "precision": "float"} | atom.speed(made, px)
        noise = np.random.default_rng(1).integers(0, 256, (8, px, px, 3), dtype=np.uint8)
        made = int8.int8(made, Pictures(noise, np.zeros(8, np.int64), ("noise",) * 8))
        yield {"net": name, "px": px, "precision": "int8"} | atom.speed(made, px)


def table(found: Sequence[dict[str, Any]]) -> Table:
    header = ["network", "precision", "frames/s (at least)", "of four cores", "with JPEG", "30 frames/s at 70 %?"]
    return header, [
        [f"{r['net']} {r['px']} px", r["precision"], f"{r['fps']:.1f} ({r['fps_lower']:.1f})", f"{r['share']:.0%}",
         f"{r['share_with_decode']:.0%}",
         "yes" if r["share_with_decode"] <= atom.MOST else f"no: {r['share_with_decode'] / atom.MOST:.1f} times too slow"]
        for r in found
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the documents")
    args = parser.parse_args()
    record, found = Record("zoo", args.results), list[dict[str, Any]]()
    for row in rows(args.nets.split(",")):
        found.append(row)
        record.table("The zoo", *table(found))
        measured = {"device": atom.DEVICE, "goal": {"share": atom.MOST, "fps": atom.FPS}, "zoo": found}
        record.write(measured, {"The zoo, random weights (estimated)": table(found)}, [1])


if __name__ == "__main__":
    main()
