"""The row "own entropy coder against CSR + Huffman, same weights" and the row "packed decode".

    python -m bench.compression.codec [--model FILE.onnx ...] [--only NAME ...] [--seed 1]

Weights: of the FILEs given (ONNX, as delivered), and made ones by seed in the shapes and densities of Deep Compression's
networks (arXiv 1510.00149, tables 2 to 5). Made weights are normal, each row and each column scaled by the root of a draw
from Gamma(2), so that some neurons keep more than others, as after pruning. `first layer` has what neighbouring pixels have
in common; in `no order` nothing is scaled: the control, on which no coder can gain from places. CSR + Huffman is the same
file with that coder for every tensor (docs/format.md, 11), its best gap width chosen per tensor; ratios are whole file
against whole file. Decoding is a child of one thread: CPU seconds of `packed.unpack`, and its largest resident size less
what it had after its imports, over the size of what it unpacked; `stream` the same for `files.unpack`, to a file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.compression.record import Record
from edged import packed
from edged.clock import cpu_seconds
from edged.engine.protobuf import block, whole

CHILD = """
import sys, time
from pathlib import Path
from edged import packed
from edged.packed import files
def now(what):
    return 1024 * int(next(l for l in open("/proc/self/status") if l.startswith(what)).split()[1])
data = Path(sys.argv[1]).read_bytes() if sys.argv[2] == "unpack" else b""
before, code, began = now("VmHWM"), now("RssFile"), time.process_time()
if data:
    size = len(packed.unpack(data))
else:
    size = files.unpack(Path(sys.argv[1]), Path(sys.argv[1] + ".onnx"))[1]
print(size, time.process_time() - began, now("VmHWM") - before, now("RssFile") - code, end=" ")
import tracemalloc
tracemalloc.start()
packed.unpack(data) if data else files.unpack(Path(sys.argv[1]), Path(sys.argv[1] + ".again"))
print(tracemalloc.get_traced_memory()[1])
"""
Layers = Sequence[tuple[str, tuple[int, ...], float, int]]  # name, shape, share of non-zeros, values
MADE: dict[str, Layers] = {
    "lenet-300-100": (("fc1", (300, 784), 0.08, 32), ("fc2", (100, 300), 0.09, 32), ("fc3", (10, 100), 0.26, 32)),
    "lenet-5-caffe": (
        ("conv1", (20, 1, 5, 5), 0.66, 64), ("conv2", (50, 20, 5, 5), 0.12, 64), ("fc1", (500, 800), 0.08, 32),
        ("fc2", (10, 500), 0.19, 32),
    ),
    "alexnet": (
        ("conv1", (96, 3, 11, 11), 0.84, 255), ("conv2", (256, 48, 5, 5), 0.38, 255), ("conv3", (384, 256, 3, 3), 0.35, 255),
        ("conv4", (384, 192, 3, 3), 0.37, 255), ("conv5", (256, 192, 3, 3), 0.37, 255), ("fc6", (4096, 9216), 0.09, 32),
        ("fc7", (4096, 4096), 0.09, 32), ("fc8", (1000, 4096), 0.25, 32),
    ),
    "vgg-16": (
        *((f"conv{i}", (o, c, 3, 3), 0.33, 255) for i, (c, o) in enumerate(
            ((3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 512), (512, 512), (512, 512),
             (512, 512), (512, 512), (512, 512)), 1)),
        ("fc6", (4096, 25088), 0.04, 32), ("fc7", (4096, 4096), 0.04, 32), ("fc8", (1000, 4096), 0.23, 32),
    ),
    "first layer": (("fc1", (300, 784), 0.05, 16),),
    "no order": (("fc1", (500, 800), 0.04, 16),),
}  # fmt: skip


def rows(models: Sequence[Path] = (), only: Sequence[str] = (), seed: int = 1) -> Iterator[dict[str, Any]]:
    """A row for each model and each made network: sizes in bytes, CPU seconds, MB/s of ONNX bytes, memory ratios."""
    for path in models:
        yield _row(path.stem, "given", path.read_bytes())
    for name, layers in MADE.items():
        if not only or name in only:
            yield _row(name, "made", _model(name, layers, seed))


def _row(name: str, kind: str, onnx: bytes) -> dict[str, Any]:
    began = cpu_seconds()
    own = packed.pack(onnx)
    seconds = cpu_seconds() - began
    csr = len(packed.pack(onnx, coder="csr"))
    found = packed.look(own, most=len(onnx))
    decoded = {how: _decoded(own, how) for how in ("unpack", "stream")}
    coders: dict[str, int] = {}
    for part in found.parts:
        coders[part.coder] = coders.get(part.coder, 0) + part.packed
    return {
        "name": name, "weights": kind, "bytes": len(onnx), "own": len(own), "csr_huffman": csr,
        "smaller": round(csr / len(own), 4), "ratio": round(len(onnx) / len(own), 2), "pack_seconds": round(seconds, 2),
        "exact": packed.unpack(own) == onnx, "coders": coders,
        **{f"{how}_{key}": value for how, one in decoded.items() for key, value in one.items()},
    }  # fmt: skip


def _decoded(data: bytes, how: str) -> dict[str, float]:
    """Three children; the least CPU time, the largest memory, the output with it: what became resident; `own` of it, without the
    pages of code and libraries that were first touched (of a small file, half of it), which processes share and the kernel may
    drop; and what was allocated at once.
    """
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.epk"
        path.write_bytes(data)
        for _ in range(3):
            argv = [sys.executable, "-c", CHILD, str(path), how]
            environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
            done = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment)
            runs.append([float(word) for word in done.stdout.split()])
    size, seconds = runs[0][0], min(r[1] for r in runs)
    return {
        "mb_per_s": round(size / 1e6 / seconds, 1), "seconds": round(seconds, 4),
        "memory_over_output": round(max(r[2] for r in runs) / size, 2), "memory_bytes": int(max(r[2] for r in runs)),
        "own_over_output": round(max(r[2] - r[3] for r in runs) / size, 2),
        "allocated_over_output": round(max(r[4] for r in runs) / size, 2),
    }  # fmt: skip


# --- made weights


def _model(name: str, layers: Layers, seed: int) -> bytes:
    """An ONNX file of these tensors; what they are used for is left out."""
    graph, rng = bytearray(), np.random.default_rng(seed)
    for layer, shape, share, levels in layers:
        draw: Callable[..., NDArray[np.float32]] = _blobs if name == "first layer" else _normal
        weights = _quantised(draw(rng, shape, name != "no order"), share, levels)
        dims = b"".join(whole(1, n) for n in shape)
        tensor = dims + whole(2, 1) + block(8, layer.encode()) + block(9, weights.tobytes())
        graph += block(5, tensor)
    return whole(1, 8) + block(7, bytes(graph)) + block(8, whole(2, 17))


def _normal(rng: np.random.Generator, shape: tuple[int, ...], uneven: bool) -> NDArray[np.float32]:
    rows, columns = shape[0], int(np.prod(shape[1:]))
    out = rng.standard_normal((rows, columns), dtype=np.float32)
    if uneven:
        out *= np.sqrt(rng.gamma(2, 1, (rows, 1))).astype(np.float32)
        out *= np.sqrt(rng.gamma(2, 1, (1, columns))).astype(np.float32)
    return out


def _blobs(rng: np.random.Generator, shape: tuple[int, ...], _: bool) -> NDArray[np.float32]:
    """Neurons that look at a few spots of a square picture, more often in its middle."""
    rows, side = shape[0], round(shape[1] ** 0.5)
    y, x = np.mgrid[:side, :side]
    out = rng.normal(0, 0.3, (rows, side, side))
    for i in range(rows):
        for cy, cx in rng.normal(side / 2, side / 5, (4, 2)):
            out[i] += rng.choice((-1, 1)) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 3)
    return out.reshape(rows, -1).astype(np.float32)


def _quantised(weights: NDArray[np.float32], share: float, levels: int) -> NDArray[np.float32]:
    """The largest `share` on evenly spaced values, each the middle of its interval; the others 0."""
    size = np.abs(weights)
    sample = size.reshape(-1)[:: max(1, size.size // 1_000_000)]
    limit, step = np.quantile(sample, 1 - share), np.float32(2 * size.max() / levels)
    out = (np.floor(weights / step) + np.float32(0.5)) * step
    out[size < limit] = 0
    return out


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.compression.codec")
    parser.add_argument("--model", type=Path, action="append", default=[], metavar="FILE.onnx")
    parser.add_argument("--only", action="append", default=[], choices=list(MADE))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=None)
    options = parser.parse_args()
    found = []
    for row in rows(options.model, options.only, options.seed):
        print(json.dumps(row), flush=True)
        found.append(row)
    header = (
        "weights",
        "ONNX kB",
        "own kB",
        "CSR + Huffman kB",
        "smaller by",
        "MB/s",
        "memory / output",
        "its own",
        "streamed",
        "allocated / output",
        "pack s",
    )
    lines = [
        [
            f"{r['name']} ({r['weights']})", f"{r['bytes'] / 1e3:.0f}", f"{r['own'] / 1e3:.2f}", f"{r['csr_huffman'] / 1e3:.2f}",
            f"{r['smaller']:.3f}", f"{r['unpack_mb_per_s']:.0f}", f"{r['unpack_memory_over_output']:.2f}",
            f"{r['unpack_own_over_output']:.2f}", f"{r['stream_own_over_output']:.2f}",
            f"{r['unpack_allocated_over_output']:.2f}", f"{r['pack_seconds']:.1f}",
        ]
        for r in found
    ]  # fmt: skip
    record = Record("codec") if options.results is None else Record("codec", options.results)
    record.table("own coder against CSR + Huffman on the same weights", header, lines)
    record.write({"rows": found}, {"The same weights": (header, lines)}, [options.seed])
    return 0 if all(r["exact"] for r in found) else 1


if __name__ == "__main__":
    sys.exit(main())
