"""How small the LeNets, AlexNet and VGG-16 become without losing accuracy: packed size against float32 parameters.

    python -m bench.compression.ratios --data DIR [--model lenet-300-100 ...] [--chain "prune=0.95 share=16"]
        [--minutes M] [--keep DIR]

DIR is a folder of IDX files (MNIST, Fashion-MNIST, ...), folders of classes, or CNRPark (parts.py). Per network: a float
training as `edged train`'s, the chain of CHAINS, the codec; then both files, the small one packed and unpacked again, answer
the held-out pictures under the same engine. Those are read once, here, and nothing is chosen by them. Chains are tried from the
smallest file on, and the first that loses nothing on the tune split is taken (the last where all do), so that an easier set
of pictures gets a smaller file; epochs are chosen on the tune split too. `--keep` keeps the float weights and what each chain
made of them for another run. Sizes: `ratio` is 4 bytes
times the parameters over the whole packed file, graph and names included; `file_ratio` the ONNX file over the packed one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench import machine
from bench.compression.parts import Parts, load
from bench.compression.teaching import Taught, teach
from bench.learning.record import ROOT, _commit
from edged import chain, packed
from edged.clock import SystemClock, cpu_seconds
from edged.demo.tell import markdown
from edged.errors import Misconfigured
from edged.retrain import compress, export, measure, methods, recipes, report, source
from edged.retrain.jobs import Progress


@dataclass(frozen=True)
class Target:
    """What is done with a network, and why: `chains` from the smallest file to the largest. `within` is the accuracy that may
    be lost; `px`, `epochs` 0 = the recipe's.
    """

    chains: tuple[str, ...]
    effort: float
    goal: float
    anchor: str
    why: str
    within: float = 0.0
    px: int = 0
    epochs: int = 0


_WHY = "zeros first, since they are what packs best; 16 values are as many as cost no accuracy"
CHAINS = {
    "lenet-300-100": Target(
        ("prune=0.98 share=16", "prune=0.95 share=16", "prune=0.93 share=16"), 2.0, 60, "Deep Compression 40x", _WHY
    ),
    "lenet-5-caffe": Target(
        ("prune=0.99 share=16", "prune=0.98 share=16", "prune=0.972 share=16"), 6.0, 120,
        "Deep Compression 39x, DeepCABAC 115x", _WHY,
    ),
    "lenet-5": Target(
        ("prune=0.9 share=16", "prune=0.8 share=16", "prune=0.7 share=16"), 2.0, 0, "-",
        "LeCun's own of 1998, a seventh of Caffe's: little in it is idle",
    ),
    "alexnet": Target(
        ("prune=0.92 share=16",), 1.0, 45, "Deep Compression 35x", "most of it is fc7, which two classes hardly need",
        0.01, 64, 10,
    ),
    "vgg-16": Target(
        ("prune=0.95 share=16",), 0.5, 64, "Deep Compression 49x, DeepCABAC 63.6x", "as AlexNet; fc6 is small at 32 px",
        0.01, 32, 6,
    ),
}  # fmt: skip


def rows(
    data: Sequence[Path],
    names: Sequence[str] = ("lenet-300-100", "lenet-5-caffe", "lenet-5"),
    *,
    chains: Sequence[str] = (),
    effort: float = 0.0,
    px: int = 0,
    epochs: int = 0,
    minutes: float = 60.0,
    keep: Path | None = None,
    seed: int = 1,
) -> list[dict[str, Any]]:
    """One row per network. `minutes` for the retraining of one; other arguments in place of CHAINS' where they are given."""
    found: list[dict[str, Any]] = []
    pics: dict[int, Parts] = {}
    for name in names:
        if name not in CHAINS:
            raise Misconfigured(f"no chain is written down for {name!r}; known: {', '.join(CHAINS)}")
        target = CHAINS[name]
        side = px or target.px or recipes.of(name).px
        if side not in pics:
            pics = {side: load(data, side)}
        settings = recipes.settings(name, "light", px=side, epochs=epochs or target.epochs)
        row = _row(
            target, taught(pics[side], name, settings, seed, keep), pics[side],
            tuple(map(chain.parse, chains or target.chains)), effort or target.effort, minutes, seed, settings["epochs"],
            keep,
        )  # fmt: skip
        found.append({"data": " + ".join(path.name for path in data), **row})
        print(json.dumps(found[-1]), flush=True)
    return found


def _row(
    target: Target,
    taught: Taught,
    pics: Parts,
    chains: tuple[chain.Chain, ...],
    effort: float,
    minutes: float,
    seed: int,
    epochs: int,
    keep: Path | None,
) -> dict[str, Any]:
    clock = SystemClock()
    end, tune_before = clock.monotonic() + minutes * 60, measure.accuracy(taught.onnx, pics.tune)
    tried: list[dict[str, Any]] = []
    for i, steps in enumerate(chains):
        now = clock.monotonic()
        lesson = methods.Lesson(
            pics.train, pics.tune, clock, _tell, seed=seed, effort=effort, until=now + (end - now) / (len(chains) - i)
        )
        delivered, facts, seconds = _walked(taught, steps, lesson, keep)
        small, tune = packed.pack(delivered), measure.accuracy(delivered, pics.tune)
        tried.append(
            {
                "chain": chain.text(steps),
                "packed_bytes": len(small),
                "tune_after": tune,
                "cpu_s": seconds,
            }
        )
        print(f"  {tried[-1]}, tune before {tune_before}", file=sys.stderr, flush=True)
        if tune >= tune_before - target.within:
            break
    again = packed.unpack(small)
    assert again == delivered, "the packed form did not give the file back"
    parameters = sum(p.numel() for p in taught.net.parameters())
    before, after = (measure.answers(data, pics.held) == pics.held.labels for data in (taught.onnx, again))
    pair = report.Pair(
        len(before), int(after.sum()), int(before.sum()), int((before & ~after).sum()), int((~before & after).sum())
    )
    loss, ratio = (pair.baseline_right - pair.right) / pair.n, 4 * parameters / len(small)
    return {
        "network": taught.name, "px": taught.px, "classes": len(pics.classes), "pictures": str(pics), "epochs": epochs,
        "chain": chain.text(steps), "effort": effort, "why": target.why, "parameters": parameters,
        "float_bytes": 4 * parameters, "onnx_bytes": len(taught.onnx), "packed_bytes": len(small),
        "ratio": round(ratio, 2), "file_ratio": round(len(taught.onnx) / len(small), 2), "goal": target.goal,
        "anchor": target.anchor, "within": target.within, "met": ratio >= target.goal and loss <= target.within,
        "tune_before": tune_before, "tune_after": measure.accuracy(again, pics.tune), "tried": tried,
        "float": msgspec.to_builtins(report.share(pair.baseline_right, pair.n)),
        "packed": msgspec.to_builtins(report.share(pair.right, pair.n)), "lost": pair.lost, "won": pair.won,
        "loss": round(loss, 5), "loss_at_most": round(report.loss_bound(pair), 5),
        "mcnemar_p": round(report.mcnemar(pair), 4), "float_cpu_s": taught.seconds, "chain_cpu_s": seconds,
        "facts": facts, "tensors": _tensors(again),
    }  # fmt: skip


def _walked(
    taught: Taught, steps: chain.Chain, lesson: methods.Lesson, keep: Path | None
) -> tuple[bytes, list[dict[str, Any]], float]:
    """The delivered file, the steps' facts and the CPU seconds that they took; or what is kept of an earlier run."""
    told = f"{lesson.seed}-{lesson.effort:g}-{chain.text(steps).replace(' ', '-')}"
    named = f"{taught.name}-{taught.px}-{hashlib.sha256(taught.weights).hexdigest()[:12]}-{told}"
    files = (keep / f"{named}.onnx", keep / f"{named}.json") if keep else ()
    if files and all(file.exists() for file in files):
        return files[0].read_bytes(), *json.loads(files[1].read_text())
    began = cpu_seconds()
    delivered, facts = compress.walk(taught.onnx, taught.weights, steps, lesson, _tell)
    made, seconds = msgspec.to_builtins(facts), round(cpu_seconds() - began, 1)
    if files:
        files[0].write_bytes(delivered)
        files[1].write_text(json.dumps([made, seconds]))
    return delivered, made, seconds


def _tensors(model: bytes) -> dict[str, tuple[list[int], int, int]]:
    """Shape, weights that are not zero, distinct values of them, of every tensor of a file."""
    from onnx import numpy_helper

    found = {}
    for tensor in source.parse(model).graph.initializer:
        values = numpy_helper.to_array(tensor)
        left = values[values != 0]
        found[tensor.name] = (list(values.shape), left.size, len(np.unique(left)))
    return found


def taught(pics: Parts, name: str, settings: dict[str, Any], seed: int, keep: Path | None) -> Taught:
    """A float training, or the one that is kept."""
    px = settings["arch"]["input_px"]
    kept = keep and keep / f"{name}-{px}-{settings['epochs']}-{seed}.safetensors"
    if kept and kept.exists():
        weights = kept.read_bytes()
        net, _ = compress.network(weights)
        named = {source.CLASSES: json.dumps(pics.classes), "edged.arch": name}
        return Taught(name, px, net, weights, source.with_metadata(export.to_onnx(net, px), named), 0.0)
    fields = {key: value for key, value in settings.items() if key != "arch"}
    made = teach(pics, name, px, seed=seed, **fields)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(made.weights)
    return made


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as they stand in bench/results."""
    header = (
        "network", "chain", "parameters", "packed", "ratio", "ONNX / packed", "goal", "float", "packed file", "lost, won", "p",
    )  # fmt: skip

    def share(found: dict[str, Any]) -> str:
        return f"{found['accuracy']:.2%} ({found['lower']:.2%} to {found['upper']:.2%})"

    return markdown(
        header,
        [
            (
                f"{r['network']}, {r['px']} px", f"`{r['chain']}`", f"{r['parameters']:,}", f"{r['packed_bytes']:,} B",
                f"{r['ratio']:.1f}x", f"{r['file_ratio']:.1f}x", f"{r['goal']:g}x" if r["goal"] else "-",
                share(r["float"]), share(r["packed"]), f"{r['lost']}, {r['won']} of {r['packed']['n']:,}",
                f"{r['mcnemar_p']:.3f}",
            )
            for r in rows
        ],
    )  # fmt: skip


def _retraining(row: dict[str, Any]) -> str:
    """How long a row's retraining was, what else was tried, its note."""
    passes = sum(fact["epochs"] for fact in row["facts"])
    words = (
        f"{passes:.1f} passes of retraining; tune split {row['tune_before']:.2%} before, {row['tune_after']:.2%} after."
    )
    for one in row.get("tried", [])[:-1]:
        words += f" `{one['chain']}` ({one['packed_bytes']:,} B) lost on the tune split: {one['tune_after']:.2%}."
    return f"{words} {row.get('note', '')}".strip()


def _tell(now: Progress) -> None:
    print(f"  {now.text}", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    ask = argparse.ArgumentParser(prog="python -m bench.compression.ratios", description=__doc__.split("\n")[0])
    ask.add_argument("--data", type=Path, required=True, nargs="+")
    ask.add_argument("--model", nargs="+", default=["lenet-300-100", "lenet-5-caffe", "lenet-5"], choices=list(CHAINS))
    ask.add_argument("--chain", nargs="+", default=[], help="in place of the network's own, the smallest file first")
    ask.add_argument("--effort", type=float, default=0.0)
    ask.add_argument("--px", type=int, default=0)
    ask.add_argument("--epochs", type=int, default=0, help="of the float training")
    ask.add_argument("--minutes", type=float, default=60.0, help="for one network's retraining")
    ask.add_argument("--seed", type=int, default=1)
    ask.add_argument("--keep", type=Path, help="a folder for the float weights")
    ask.add_argument("--note", default="", help="a sentence that stands beside the rows")
    ask.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    args = ask.parse_args(argv)
    found = rows(
        args.data, args.model, chains=args.chain, effort=args.effort, px=args.px, epochs=args.epochs,
        minutes=args.minutes, keep=args.keep, seed=args.seed,
    )  # fmt: skip
    found = [row | {"note": args.note} for row in found]
    print("\n" + table(found))
    facts, words = machine.describe(), list(sys.argv[1:] if argv is None else argv)
    command = " ".join(["python -m bench.compression.ratios", *(w if Path(w).name == w else "DIR" for w in words)])
    found = [row | {"command": command, "commit": _commit(), "load": round(os.getloadavg()[0], 1)} for row in found]
    path = args.results / f"{facts['date']}-compress-ratios.json"
    # Rows of other networks and data stay: the large ones are run by themselves.
    names = {(r["network"], r["data"]) for r in found}
    old = json.loads(path.read_text())["measured"] if path.exists() else []
    measured = [r for r in old if (r["network"], r["data"]) not in names] + found
    document = {
        "bench": "compress ratios", "machine": facts, "command": command, "commit": _commit(), "seeds": [args.seed],
        "measured": measured,
    }  # fmt: skip
    args.results.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
    said = [f"{r['network']}, {r['data']}: {_retraining(r)}" for r in measured]
    text = "\n".join(
        ["# Packed size against float32 parameters", "", table(measured), "", *(f"- {line}" for line in said)]
    )
    path.with_suffix(".md").write_text(text + "\n")
    print(f"written: {path.name}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
