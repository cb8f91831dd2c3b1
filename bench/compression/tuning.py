"""Where which algorithm of convolution is fastest: shapes of known networks, times as fast as the direct one, and error.

    python -m bench.compression.tuning [--full] [--layers NAME;NAME] [--results DIR]

CPU time, the candidates in turn in one child (edged/retrain/rewrite/measure.py), a batch of four. With the instruction set
of the Atom (oneDNN kept to SSE4.1) and with all that this machine has; onnxruntime with all only, it has no such switch.
`--full` adds SqueezeNet and VGG-16 at 224 px as a whole.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench import machine
from edged import engine
from edged.demo.tell import markdown
from edged.retrain import device, rewrite
from edged.retrain.rewrite.measure import Seen, side_by_side

ROOT = Path(__file__).parents[2]
BATCH = 4
CAPS: Mapping[str, Mapping[str, str]] = {"SSE4.1": device.SSE42, "all": {}}
# name: inputs, outputs, side of the picture, kernel, stride, padding
SHAPES = {
    "LeNet-5 C3": (6, 16, 14, 5, 1, 0),
    "AlexNet conv1": (3, 64, 224, 11, 4, 2),
    "AlexNet conv2": (64, 192, 27, 5, 1, 2),
    "AlexNet conv3": (192, 384, 13, 3, 1, 1),
    "AlexNet conv4": (384, 256, 13, 3, 1, 1),
    "AlexNet conv5": (256, 256, 13, 3, 1, 1),
    "VGG-16 conv3_2": (256, 256, 56, 3, 1, 1),
    "VGG-16 conv4_2": (512, 512, 28, 3, 1, 1),
    "VGG-16 conv5_2": (512, 512, 14, 3, 1, 1),
    "5x5, 64": (64, 64, 28, 5, 1, 2),
    "7x7, 64": (64, 64, 28, 7, 1, 3),
    "11x11, 32": (32, 32, 28, 11, 1, 5),
    "SqueezeNet conv1": (3, 64, 224, 3, 2, 0),
    "SqueezeNet fire3": (16, 64, 55, 3, 1, 1),
    "SqueezeNet fire9": (64, 256, 13, 3, 1, 1),
    "VGG-16 conv2_2": (128, 128, 112, 3, 1, 1),
    "VGG-16 conv1_2": (64, 64, 224, 3, 1, 1),
}


def layer(shape: tuple[int, ...]) -> bytes:
    """A model of one convolution with random weights."""
    from onnx import TensorProto, helper, numpy_helper

    inputs, outputs, size, kernel, stride, padding = shape
    dice = np.random.default_rng(1)
    weights = (dice.normal(size=(outputs, inputs, kernel, kernel)) / np.sqrt(inputs * kernel**2)).astype(np.float32)
    bias = dice.normal(size=outputs).astype(np.float32)
    node = helper.make_node(
        "Conv", ["x", "w", "b"], ["y"], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[padding] * 4
    )
    graph = helper.make_graph(
        [node], "layer", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", inputs, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs, None, None])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def settings() -> tuple[tuple[str, str], ...]:
    """(runtime, caps) that can be measured here."""
    both = {"openvino": ("SSE4.1", "all"), "onnxruntime": ("all",)}
    return tuple((runtime, cap) for runtime in engine.runtimes() for cap in both[runtime])


def rows(names: Sequence[str] = tuple(SHAPES), *, seconds: float = 1.0, batch: int = BATCH) -> Iterator[dict[str, Any]]:
    """A row for each shape and setting; `times` are against direct, above 1 is faster. All that applies is measured that
    has fewer multiply-adds (tuner: `hopeful`).
    """
    for name in names:
        model = layer(SHAPES[name])
        (conv,) = rewrite.convs(model)
        candidates = rewrite.candidates(conv, hopeful=True)
        files = [rewrite.rewritten(model, {conv.name: how}) for how in candidates]
        maps = np.random.default_rng(2).normal(size=(batch, conv.inputs, *conv.size)).astype(np.float32)
        for runtime, cap in settings():
            seen = side_by_side(files, [maps], caps=CAPS[cap], runtime=runtime, seconds=seconds)
            yield row(name, conv.shape, runtime, cap, dict(zip(candidates, seen, strict=True)))


def row(name: str, shape: str, runtime: str, cap: str, seen: Mapping[str, Seen]) -> dict[str, Any]:
    direct = seen[rewrite.DIRECT]
    return {
        "layer": name, "shape": shape, "runtime": runtime, "instructions": cap,
        "direct_ms": direct.cpu_ms, "reference_kernel": bool(direct.references),
        "times": {k: round(direct.cpu_ms / s.cpu_ms, 2) for k, s in seen.items() if s.cpu_ms},
        "error": {k: float(f"{s.error:.1e}") for k, s in seen.items() if s.cpu_ms},
        "rounds": direct.rounds,
    }  # fmt: skip


def whole(name: str, px: int, *, seconds: float = 1.0) -> dict[str, Any]:
    """A network of the zoo with random weights, tuned for the Atom's instruction set as `tune` does it."""
    import torch

    from edged.engine import patterns, preprocess
    from edged.retrain import export, zoo
    from edged.retrain.rewrite import tuner

    torch.manual_seed(1)
    torch.set_num_threads(1)
    model = export.to_onnx(zoo.build(name, 2, px).eval(), px)
    batch = preprocess.marshal(preprocess.to_float([patterns.picture(seed, px) for seed in range(BATCH)], px))
    _, tuned = tuner.tune(model, batch, device.find("atom-x5-e3940"), runtime=engine.runtimes()[0], seconds=seconds)
    return {"network": name, "px": px, "tuned": msgspec.to_builtins(tuned) | {"rows": list(tuner.table(tuned))}}


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a line for each layer and setting."""
    header = ["layer", "runtime, instructions", "direct, ms", *rewrite.ALGORITHMS[1:], "worst error"]
    lines = [
        [
            f"{r['layer']} ({r['shape']})", f"{r['runtime']}, {r['instructions']}",
            f"{r['direct_ms']:.1f}{' (reference)' if r['reference_kernel'] else ''}",
            *(_times(r, name) for name in rewrite.ALGORITHMS[1:]), f"{max(r['error'].values()):.0e}",
        ]
        for r in found
    ]  # fmt: skip
    return markdown(header, lines)


def _times(found: Mapping[str, Any], name: str) -> str:
    times = found["times"].get(name)
    best = max(found["times"], key=lambda k: found["times"][k])
    return "" if times is None else f"**{times:.2f}**" if name == best and times >= 1.05 else f"{times:.2f}"


def command(args: argparse.Namespace) -> str:
    layers = f' --layers "{args.layers}"' if args.layers else ""
    return f"python -m bench.compression.tuning{' --full' if args.full else ''}{layers} --seconds {args.seconds:g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument(
        "--layers", default="", help="names of shapes, separated by semicolons; all when it is left out"
    )
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    args = parser.parse_args()
    facts = machine.describe()
    document: dict[str, Any] = {
        "bench": "compress tuning", "machine": facts, "load": round(os.getloadavg()[0], 2), "batch": BATCH,
        "command": command(args), "layers": [], "whole": [],
    }  # fmt: skip
    args.results.mkdir(parents=True, exist_ok=True)
    path = args.results / f"{facts['date']}-compress-tuning.json"
    for name, px in (("alexnet", 224), *((("squeezenet-1.1", 224), ("vgg-16", 224)) if args.full else ())):
        document["whole"].append(whole(name, px, seconds=args.seconds))
        path.write_text(msgspec.json.format(msgspec.json.encode(document), indent=1).decode() + "\n")
        print(name, document["whole"][-1]["tuned"]["note"], flush=True)
    for found in rows(args.layers.split(";") if args.layers else tuple(SHAPES), seconds=args.seconds):
        document["layers"].append(found)
        path.write_text(msgspec.json.format(msgspec.json.encode(document), indent=1).decode() + "\n")
        print(found["layer"], found["runtime"], found["instructions"], found["direct_ms"], found["times"], flush=True)
    print(f"\n{table(document['layers'])}\nwritten: {path}")


if __name__ == "__main__":
    main()
