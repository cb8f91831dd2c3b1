"""What a retrained model costs a camera that has the version before: whole, packed, as a delta.

    python -m bench.compression.delta [--data DIR] [--net mobilenet-0.25] [--px 32] [--epochs 6] [--pictures 2400]

A network is taught on half of the pictures (`parts.load`; without DIR boxes and discs, made by seed). The other half are the
new ones: darker, with a cast, blurred. Each rung of the ladder alone (norms, head, tail, all) brings it up to date with them;
`again` is another network of the same kind, taught from another seed: the control, of which no delta can know anything. Each
is delivered in float32, in int8 as `edged compress --steps int8` makes it, and in int8 near the version before
(edged/retrain/methods/near.py). `zstd 19` and `patch` are zstandard's level 19 of the whole file, without and with the old
file as its dictionary (what `zstd --patch-from` does): the yardstick of the literature and what a generic tool makes of two
versions. Accuracies are of the tune split, both worlds; seconds are CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.compression.record import RESULTS, Record, Table
from bench.compression.teaching import recipe, teach
from edged import packed
from edged.clock import SystemClock, cpu_seconds
from edged.errors import Refused
from edged.packed import delta
from edged.retrain import export, jobs, ladder, lesson, measure, methods, source
from edged.retrain.methods import int8
from edged.retrain.pictures import Pictures

RUNGS = ("norms", "head", "tail", "all")


def sizes(old: bytes, new: bytes) -> dict[str, Any]:
    """Bytes of every way from one file to the other, and the CPU seconds of ours."""
    import zstandard

    began = cpu_seconds()
    small = packed.pack(new)
    packing = cpu_seconds() - began
    made = delta.make(old, new)
    making = cpu_seconds() - began - packing
    began = cpu_seconds()
    exact = delta.rebuild(old, made) == new
    rebuilding = cpu_seconds() - began
    window = zstandard.ZstdCompressionParameters.from_level(19, window_log=27, enable_ldm=True)
    patch = zstandard.ZstdCompressor(
        compression_params=window,
        dict_data=zstandard.ZstdCompressionDict(old, dict_type=zstandard.DICT_TYPE_RAWCONTENT),
    )
    return {
        "bytes": len(new), "zstd19": len(zstandard.compress(new, 19)), "patch": len(patch.compress(new)),
        "packed": len(small), "delta": len(made), "exact": exact, "pack_s": round(packing, 2),
        "delta_s": round(making, 2), "rebuild_s": round(rebuilding, 3),
    }  # fmt: skip


class Bench:
    """One network, two worlds."""

    def __init__(self, given: tuple[tuple[str, ...], Pictures], net: str, px: int, epochs: int, seed: int) -> None:
        self.classes, pictures = given
        self.net, self.px, self.seed, self.epochs = net, px, seed, epochs
        half = np.arange(len(pictures)) % 2 == 0
        self.old, self.tune_old = _split(lesson.subset(pictures, np.flatnonzero(half)))
        self.new, self.tune_new = _split(_drifted(lesson.subset(pictures, np.flatnonzero(~half))))
        self.base = self.taught(seed)
        self.files = {"float32": self.base.onnx, "int8": self.int8(self.base.onnx, self.old, b"")}
        self.files["int8 near"] = self.files["int8"]

    def taught(self, seed: int) -> Any:
        from bench.compression.parts import Parts

        parts = Parts(self.classes, self.old, self.tune_old, self.tune_old)
        return teach(parts, self.net, self.px, seed=seed, **recipe(self.net, self.px, self.epochs))

    def int8(self, onnx: bytes, calibration: Pictures, previous: bytes) -> bytes:
        tune = lesson.join(self.tune_old, self.tune_new)
        asked = methods.Lesson(calibration, tune, SystemClock(), seed=self.seed, previous=previous, max_loss=0.02)
        model, facts = int8.apply(methods.Model(self.px, self.classes, onnx=onnx), 0, asked)
        if facts.note:
            print(f"  int8: {facts.note}", flush=True)
        return model.onnx

    def rows(self) -> Iterator[dict[str, Any]]:
        """One for each rung and form."""
        for rung in (*RUNGS, "again"):
            began = cpu_seconds()
            try:
                onnx = self.taught(self.seed + 100).onnx if rung == "again" else self.climbed(rung)
            except Refused as e:
                print(f"{rung}: {e}", flush=True)
                yield {"rung": rung, "refused": str(e)}
                continue
            spent = round(cpu_seconds() - began, 1)
            both = lesson.join(self.old, self.new)
            made = {
                "float32": onnx, "int8": self.int8(onnx, both, b""),
                "int8 near": self.int8(onnx, both, self.files["int8 near"]),
            }  # fmt: skip
            for form, data in made.items():
                right = {
                    name: round(measure.accuracy(data, tune), 4)
                    for name, tune in (("old", self.tune_old), ("new", self.tune_new))
                }
                yield {
                    "rung": rung,
                    "form": form,
                    "accuracy": right,
                    "retrain_s": spent,
                    **sizes(self.files[form], data),
                }

    def climbed(self, rung: str) -> bytes:
        job = msgspec.convert(
            {
                "data_dir": "", "classes": self.classes, "arch": {"name": self.net, "input_px": self.px},
                "seed": self.seed, "start": "0", "rungs": [rung], "max_minutes": 60,
            },
            jobs.LearnJob,
        )  # fmt: skip
        given = lesson.chosen(self.new, self.old, self.tune_new, self.tune_old, self.new.pixels[:0], job)
        given = replace(given, blind=self.new.pixels) if rung == "norms" else given
        with tempfile.TemporaryDirectory(prefix="edged-bench-") as folder:
            net = ladder.start_net(job, self.base.weights)
            found = ladder.climb(net, given, job, Path(folder), clock=SystemClock(), progress=lambda _: None)
        return source.with_metadata(export.to_onnx(found.net, self.px), source.metadata(self.base.onnx))


def _split(pictures: Pictures) -> tuple[Pictures, Pictures]:
    """Four of five to train, one to tune."""
    judges = np.arange(len(pictures)) % 5 == 4
    return lesson.subset(pictures, np.flatnonzero(~judges)), lesson.subset(pictures, np.flatnonzero(judges))


def _drifted(pictures: Pictures) -> Pictures:
    import cv2

    cast = np.array([0.45, 0.55, 0.7], np.float32)
    changed = [cv2.GaussianBlur(p, (3, 3), 0).astype(np.float32) * cast + 25 for p in pictures.pixels]
    return replace(pictures, pixels=np.clip(np.stack(changed), 0, 255).astype(np.uint8))


def given(data: Path | None, px: int, count: int, seed: int) -> tuple[tuple[str, ...], Pictures]:
    """Classes and `count` pictures, drawn by seed."""
    from bench.compression import parts
    from bench.learning import worlds

    if data is None:
        world = worlds.shapes("shapes", count, seed=seed, px=px)
        pixels, _ = worlds.pixels(world, px)
        labels = np.array([worlds.SHAPES.index(item.label) for item in world.items], np.int64)
        classes, found = tuple(worlds.SHAPES), Pictures(pixels, labels, ("camera",) * count)
    else:
        loaded = parts.load([data], px)
        classes, found = loaded.classes, loaded.train
    return classes, lesson.subset(found, np.random.default_rng(seed).permutation(len(found))[:count])


def table(rows: Sequence[dict[str, Any]]) -> Table:
    header = (
        "rung", "form", "old, new right", "bytes", "zstd 19", "patch", "packed", "delta", "of zstd 19", "of packed", "of bytes",
    )  # fmt: skip
    lines = []
    for row in rows:
        if "refused" in row:
            lines.append([row["rung"], row["refused"][:60], *[""] * (len(header) - 2)])
            continue
        right = f"{row['accuracy']['old']:.1%}, {row['accuracy']['new']:.1%}"
        counts = [f"{row[k]:,}" for k in ("bytes", "zstd19", "patch", "packed", "delta")]
        shares = [f"{row['delta'] / row[k]:.3f}" for k in ("zstd19", "packed", "bytes")]
        lines.append([row["rung"], row["form"], right, *counts, *shares])
    return header, lines


def main() -> None:
    ask = argparse.ArgumentParser(prog="python -m bench.compression.delta", description=(__doc__ or "").split("\n")[0])
    ask.add_argument("--data", type=Path)
    ask.add_argument("--net", default="mobilenet-0.25")
    ask.add_argument("--px", type=int, default=32)
    ask.add_argument("--epochs", type=int, default=6)
    ask.add_argument("--pictures", type=int, default=2400)
    ask.add_argument("--seed", type=int, default=1)
    ask.add_argument("--results", type=Path, default=RESULTS)
    args = ask.parse_args()
    if importlib.util.find_spec("zstandard") is None:
        ask.error("the yardstick is missing: pip install zstandard (of the test extra; edged itself does not need it)")
    import torch

    torch.set_num_threads(1)
    bench = Bench(given(args.data, args.px, args.pictures, args.seed), args.net, args.px, args.epochs, args.seed)
    found = []
    for row in bench.rows():
        print(row, flush=True)
        found.append(row)
    before = {
        form: {
            "bytes": len(data), "packed": len(packed.pack(data)), "old": round(measure.accuracy(data, bench.tune_old), 4),
            "new": round(measure.accuracy(data, bench.tune_new), 4),
        }
        for form, data in bench.files.items()
    }  # fmt: skip
    header, lines = table(found)
    record = Record("delta", args.results)
    title = f"{args.net} at {args.px} px, {len(bench.classes)} classes, before {before['float32']['new']:.1%} of the new right"
    record.table(title, header, lines)
    record.write({"before": before, "rows": found}, {title: (header, lines)}, [args.seed])


if __name__ == "__main__":
    main()
