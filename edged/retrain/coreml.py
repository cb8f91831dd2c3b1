"""`python -m edged.retrain.coreml MODEL.onnx OUT.zip`: a Core ML package (ML program, half precision, iOS 15) from the
delivered ONNX file, layer by layer, by coremltools' own builder. Works on Linux; torch is not needed.

The input is a picture (`image`, RGB, or BGR where the file takes uint8), the output is `logits`.

Guarantees: what is not known is refused by its name (exit code 3, the sentence on stdout); the package reads back. Does not
guarantee its answers: Core ML runs on Apple's systems only. The package holds random identifiers: two of one model differ.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from edged.errors import EXIT_FOUND_BAD, Refused
from edged.retrain import layers, shifts

LONG_AGO = (1980, 1, 1, 0, 0, 0)


def package(net: layers.Net, folder: Path) -> Path:
    """The package in a folder that exists. Raises Refused for a network that Core ML's builder does not take."""
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb

    px = net.px

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 3, px, px))], opset_version=ct.target.iOS15)  # type: ignore[untyped-decorator]
    def program(image: Any) -> Any:
        tensors = {net.input: image}
        for layer in net.layers:
            last = "logits" if layer.output == net.output else None
            tensors[layer.output] = _build(mb, layer, [tensors[name] for name in layer.inputs], last)
        return tensors[net.output]

    layout = ct.colorlayout.BGR if net.takes == "uint8" else ct.colorlayout.RGB
    made = ct.convert(
        program, convert_to="mlprogram", compute_precision=ct.precision.FLOAT16, minimum_deployment_target=ct.target.iOS15,
        inputs=[ct.ImageType(name="image", shape=(1, 3, px, px), color_layout=layout)], skip_model_load=True,
    )  # fmt: skip
    path = folder / "model.mlpackage"
    made.save(str(path))
    ct.models.MLModel(str(path), skip_model_load=True)
    return path


def _build(mb: Any, layer: layers.Layer, given: list[Any], name: str | None) -> Any:
    x, clips = given[0], layer.op == "clip" or layer.low > -np.inf or layer.high < np.inf
    named = {"name": name} if name and not clips else {}
    if layer.op == "conv":
        y = mb.conv(
            x=x, weight=layer.weight, bias=layer.bias, strides=list(layer.strides), pad_type="custom", pad=_pad(layer),
            dilations=list(layer.dilations), groups=layer.group, **named,
        )  # fmt: skip
    elif layer.op == "gemm":
        y = mb.linear(x=x, weight=layer.weight, bias=layer.bias, **named)
    elif layer.op == "scale":
        assert layer.weight is not None
        assert layer.bias is not None
        shape = (1, -1, *(1,) * (len(x.shape) - 2))
        y = mb.add(x=mb.mul(x=x, y=layer.weight.reshape(shape)), y=layer.bias.reshape(shape), **named)
    elif layer.op == "relu":
        y = mb.relu(x=x, **named)
    elif layer.op == "clip":
        y = x
    elif layer.op in ("maxpool", "avgpool"):
        y = _pool(mb, layer, x, named)
    elif layer.op == "flatten":
        y = mb.reshape(x=x, shape=[1, -1], **named)
    elif layer.op == "add":
        y = mb.add(x=x, y=given[1], **named)
    elif layer.op == "concat":
        y = mb.concat(values=given, axis=1, **named)
    elif layer.op == "gather":
        assert layer.weight is not None
        y = mb.gather(x=x, indices=layer.weight.astype(np.int32), axis=1, **named)
    else:
        raise Refused(f"layer {layer.name[:60]!r} ({layer.op}) cannot be written for Core ML", code="bad_layer")
    if clips:
        low, high = (float(np.clip(v, -65504.0, 65504.0)) for v in (layer.low, layer.high))
        y = mb.clip(x=y, alpha=low, beta=high, **({"name": name} if name else {}))
    return y


def _pool(mb: Any, layer: layers.Layer, x: Any, named: dict[str, str]) -> Any:
    if not any(layer.kernel):
        return mb.reduce_mean(x=x, axes=[2, 3], keep_dims=True, **named)
    shared = {
        "x": x, "kernel_sizes": list(layer.kernel), "strides": list(layer.strides), "pad_type": "custom",
        "pad": _pad(layer), "ceil_mode": layer.ceil, **named,
    }  # fmt: skip
    if layer.op == "maxpool":
        return mb.max_pool(**shared)
    return mb.avg_pool(exclude_padding_from_average=False, **shared)


def _pad(layer: layers.Layer) -> list[int]:
    top, left, bottom, right = layer.pads
    return [top, bottom, left, right]


def zipped(package: Path, out: Path) -> None:
    """The package's files as one archive, in order of their names and without dates."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(p for p in package.rglob("*") if p.is_file()):
            archive.writestr(zipfile.ZipInfo(str(path.relative_to(package.parent)), LONG_AGO), path.read_bytes())


def main(argv: list[str]) -> int:
    try:
        net = shifts.fused(layers.read(Path(argv[0]).read_bytes()))
        with tempfile.TemporaryDirectory(prefix="edged-coreml-") as folder:
            zipped(package(net, Path(folder)), Path(argv[1]))
    except Refused as e:
        print(e)
        return EXIT_FOUND_BAD
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
