"""Bytes of an update: a network that was taught one world and retrained on another, as an int8 file beside the version that the
cameras have, by how near that version's numbers are kept (methods/near.py).

    python -m bench.compression.keeping --data DIR [--net mobilenet-0.25@64] [--new 600] [--seed 1] [--epochs 0] [--keep DIR]

DIR: CNRPark (camera A, then camera B), folders DOMAIN/CLASS (the first two domains), or any other set (its pictures, then
others of them at dusk). Both worlds are cut into train, tune and held-out parts; `--new` labelled pictures of the second are
learned with what the ladder replays of the first. Four retrainings: the last layer and the last blocks as the ladder climbs
them, all layers at a tenth of the usual rate, all layers as the last rung has it. Of each: the file of fresh scales, on the
frozen scales, and near the version before within 1 and 2 steps; what accuracy control would have chosen is marked. Bytes are
those of the delivered ONNX file, of its packed form (edged.packed.pack) and of the delta (edged.packed.delta) that rebuilds
it from the version before.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn

from bench import machine
from bench.compression import parts as sets
from bench.compression.record import PATHS, Table
from bench.compression.teaching import Taught, recipe, teach
from bench.learning import worlds
from bench.learning.record import ROOT, _commit
from edged import packed
from edged.clock import SystemClock, cpu_seconds
from edged.demo.tell import markdown
from edged.errors import Refused
from edged.packed import delta
from edged.retrain import export, fit, intake, jobs, ladder, lesson, measure, refit, source, whole
from edged.retrain.methods import int8, near
from edged.retrain.pictures import Pictures

RESULTS = ROOT / "bench" / "results"
NAME = "fleet-delta"
RETRAININGS = ("head", "tail", "all, low rate", "all, high rate")
LOW = 0.1  # of the usual rate
PASSES = 3  # over what is learned, at the low rate


def load(data: Path, px: int) -> tuple[sets.Parts, sets.Parts]:
    """The old world and the new one."""
    if (data / "index.csv").is_file():
        return sets._by_time([worlds.cnrpark(data, "A")], px), sets._by_time([worlds.cnrpark(data, "B")], px)
    domains = [p for p in sorted(data.iterdir()) if p.is_dir() and any(q.is_dir() for q in p.iterdir())]
    if len(domains) > 1 and not {"train", "test"} & {p.name for p in domains}:
        return sets.load([domains[0]], px), sets.load([domains[1]], px)
    found = sets.load([data], px)
    halves = [_some(found, lambda n, k=k: np.arange(n) % 2 == k) for k in (0, 1)]
    return halves[0], sets.Parts(found.classes, *(_dusk(getattr(halves[1], p)) for p in ("train", "tune", "held")))


def _some(found: sets.Parts, which: Any) -> sets.Parts:
    chosen = [lesson.subset(p, np.flatnonzero(which(len(p)))) for p in (found.train, found.tune, found.held)]
    return sets.Parts(found.classes, *chosen)


def _dusk(pics: Pictures) -> Pictures:
    changed = [worlds.dusk(p[..., ::-1], i)[..., ::-1] for i, p in enumerate(pics.pixels)]
    return Pictures(np.stack(changed), pics.labels, pics.cameras, pics.ids)


@dataclass
class Retraining:
    """The old network, what is learned, and how it is told."""

    base: Taught
    data: lesson.Data
    job: jobs.LearnJob

    def run(self, name: str) -> nn.Module:
        """A network retrained in one of the ways. Whether it does better is not asked."""
        net, last = ladder.start_net(self.job, self.base.weights), {}
        with tempfile.TemporaryDirectory(prefix="edged-bench-") as place:
            folder, clock = Path(place), SystemClock()
            usual = ladder.as_train(self.job)
            if name in ("head", "tail"):
                job = msgspec.structs.replace(self.job, rungs=(name,))
                try:
                    ladder.climb(
                        net, self.data, job, folder, clock=clock, progress=lambda _: None,
                        watch=lambda _, now: last.update(refit.copy(now)),
                    )  # fmt: skip
                except Refused as e:
                    if e.code != "nothing_learned":
                        raise
                net.load_state_dict(last)
            elif name == "all, low rate":
                both = self.data.train
                low = msgspec.structs.replace(
                    usual, lr=LOW * usual.lr, epochs=PASSES, epoch_least=1, epoch_most=len(both)
                )
                fit.fit(
                    net, both, self.data.tune, low, folder / "low.safetensors", clock=clock, progress=lambda *_: None
                )
            else:
                whole.learn(
                    net, self.data, usual, self.job.camera_cap, folder, limit_s=3600, clock=clock, tell=lambda *_: None
                )  # fmt: skip
        return net.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]


def rows(
    data: Path, name: str, px: int, new: int, seed: int, epochs: int, keep: Path | None = None
) -> Iterator[dict[str, Any]]:
    """One for each retraining: {"retraining", "float", "files": {"fresh" | "0" | "1" | "2": ...}, ...}."""
    old, other = load(data, px)
    base = teach(old, name, px, seed=seed, keep=keep, **recipe(name, px, epochs))
    drawn = np.sort(np.random.default_rng(seed).permutation(len(other.train))[:new])
    job = jobs.LearnJob(data_dir="", classes=old.classes, start="0" * 64, arch=jobs.Arch(name, px), seed=seed)
    none = np.zeros((0, px, px, 3), np.uint8)
    learned = lesson.chosen(lesson.subset(other.train, drawn), old.train, other.tune, old.tune, none, job)
    before = intake.inside(int8.int8(base.onnx, int8.some(old.train, 200, seed)))
    version = near.read(before)
    print(f"old: {old}; new: {other}; {len(drawn)} learned", flush=True)

    def judged(file: bytes) -> dict[str, Any]:
        found = {"old": measure.answers(file, old.held) == old.held.labels,
                 "new": measure.answers(file, other.held) == other.held.labels}  # fmt: skip
        return {k: [int(v.sum()), len(v)] for k, v in found.items()}

    def told(file: bytes, previous: bytes) -> dict[str, Any]:
        made = delta.make(previous, file)
        return {"bytes": len(file), "packed": len(packed.pack(file)), "delta": len(made), "right": judged(file)}

    yield {"retraining": "before", "float": {"bytes": len(base.onnx), "right": judged(base.onnx)},
           "files": {"fresh": {"bytes": len(before), "packed": len(packed.pack(before)), "right": judged(before)}}}  # fmt: skip
    for retraining in RETRAININGS:
        began = cpu_seconds()
        net = Retraining(base, learned, job).run(retraining)
        seconds = round(cpu_seconds() - began, 1)
        exact = source.with_metadata(
            export.to_onnx(net, px), {source.CLASSES: json.dumps(old.classes), "edged.arch": name}
        )
        enough = measure.accuracy(exact, learned.tune) - jobs.CompressJob(data_dir="", classes=(), sha256="").max_loss
        files: dict[str, Any] = {}
        with int8._Quantizer(exact, int8.some(learned.train, 200, seed)) as quantizer:
            usual = quantizer.quantized()
            files["fresh"] = told(intake.inside(usual), before)
            for steps in (0, 1, 2):
                made, facts = near.keep(usual, quantizer.exact, version, steps)
                files[str(steps)] = told(intake.inside(made), before) | {"near": msgspec.to_builtins(facts)}
            chosen = near.nearest(
                usual, quantizer.exact, version, enough, lambda d: measure.accuracy(d, learned.tune),
                lambda d: measure.answers(d, learned.train),
            ).near  # fmt: skip
        floats = {"as it is": exact} | {
            f"within {share:g} of a channel's largest": kept_floats(exact, base.onnx, share)
            for share in (1 / 128, 1 / 32)
        }
        yield {
            "retraining": retraining, "seconds": seconds, "files": files, "chosen": str(chosen.steps) if chosen else "fresh",
            "float": {"bytes": len(exact), "right": judged(exact)},
            "floats": {k: told(intake.inside(f), intake.inside(base.onnx)) for k, f in floats.items()},
        }  # fmt: skip


def kept_floats(model: bytes, before: bytes, share: float) -> bytes:
    """A float file whose weights are the old ones unless they moved by more than a share of their channel's largest."""
    from onnx import numpy_helper

    parsed = source.parse(model)
    old = {t.name: numpy_helper.to_array(t) for t in source.parse(before).graph.initializer}
    for tensor in parsed.graph.initializer:
        now = numpy_helper.to_array(tensor)
        if now.dtype == np.float32 and now.ndim > 1 and tensor.name in old and old[tensor.name].shape == now.shape:
            peak = np.abs(now).reshape(len(now), -1).max(axis=1).reshape(-1, *(1,) * (now.ndim - 1))
            kept = np.where(np.abs(now - old[tensor.name]) <= share * peak, old[tensor.name], now)
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(kept), tensor.name))
    return bytes(parsed.SerializeToString(deterministic=True))


def tables(found: list[dict[str, Any]]) -> dict[str, Table]:
    def share(right: dict[str, Any]) -> list[str]:
        return [f"{right[k][0] / right[k][1]:.2%}" for k in ("old", "new")]

    header = [
        "retrained",
        "file",
        "bytes",
        "packed",
        "delta",
        "of full",
        "of packed",
        "weights kept",
        "old world",
        "new world",
    ]
    lines = []
    for row in found:
        lines.append([row["retraining"], "float", str(row["float"]["bytes"]), *[""] * 5, *share(row["float"]["right"])])
        for kind, f in row["files"].items():
            words = "fresh scales" if kind == "fresh" else "frozen scales" if kind == "0" else f"within {kind} steps"
            mark = " (chosen)" if kind == row.get("chosen") else ""
            kept = f"{f['near']['kept'] / f['near']['weights']:.1%}" if f.get("near") else ""
            sizes = (
                [str(f["delta"]), f"{f['delta'] / f['bytes']:.3f}", f"{f['delta'] / f['packed']:.3f}"]
                if "delta" in f
                else [""] * 3
            )
            lines.append([
                row["retraining"], words.replace("1 steps", "1 step") + mark, str(f["bytes"]), str(f["packed"]), *sizes,
                kept, *share(f["right"]),
            ])  # fmt: skip
    floats = [
        [row["retraining"], kind, str(f["bytes"]), str(f["packed"]), str(f["delta"]), f"{f['delta'] / f['bytes']:.3f}",
         *share(f["right"])]
        for row in found for kind, f in row.get("floats", {}).items()
    ]  # fmt: skip
    return {
        "Int8 files beside the version before": (header, lines),
        "Float files: old weights kept where they moved little": (
            ["retrained", "weights", "bytes", "packed", "delta", "of full", "old world", "new world"], floats,
        ),
    }  # fmt: skip


def main() -> None:
    import sys

    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--data", type=Path, required=True)
    ask.add_argument("--net", default="mobilenet-0.25@64")
    ask.add_argument("--new", type=int, default=600, help="labelled pictures of the second world that are learned")
    ask.add_argument("--seed", type=int, default=1)
    ask.add_argument("--epochs", type=int, default=0, help="of the first training, 0 = as `edged train`")
    ask.add_argument("--keep", type=Path, help="a folder for the first training's weights")
    ask.add_argument("--results", type=Path, default=RESULTS)
    args = ask.parse_args()
    torch.set_num_threads(1)
    name, _, px = args.net.partition("@")
    found = []
    for row in rows(args.data, name, int(px), args.new, args.seed, args.epochs, args.keep):
        found.append(row)
        print(json.dumps(row), flush=True)
    made = tables(found)
    facts = machine.describe()
    words = [a if i == 0 or sys.argv[i] not in PATHS else "DIR" for i, a in enumerate(sys.argv[1:])]
    command = " ".join(["python -m bench.compression.keeping", *words])
    path = args.results / f"{facts['date']}-{NAME}.json"
    known = json.loads(path.read_text())["runs"] if path.exists() else []
    run = {"set": args.data.name, "net": args.net, "new": args.new, "seed": args.seed, "command": command,
           "commit": _commit(), "machine": facts, "rows": found}  # fmt: skip
    runs = [r for r in known if (r["set"], r["net"], r["seed"]) != (run["set"], run["net"], run["seed"])] + [run]
    path.write_text(json.dumps({"bench": NAME, "runs": runs}, indent=1) + "\n")
    text = "".join(
        f"## {r['net']}, {r['set']}, seed {r['seed']}\n\n`{r['command']}`, {r['machine']['cpu']}, commit {r['commit']}\n\n"
        + "".join(f"{title}:\n\n{markdown(header, lines)}\n\n" for title, (header, lines) in tables(r["rows"]).items())
        for r in runs
    )
    path.with_suffix(".md").write_text(f"# Bytes of an update\n\n{text.rstrip()}\n")
    print("\n".join(f"\n{title}\n\n{markdown(header, lines)}" for title, (header, lines) in made.items()))


if __name__ == "__main__":
    main()
