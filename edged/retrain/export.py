"""From a trained network to the delivered format: one self-contained ONNX file, checked against what it came from.

Guarantees: batch norm is folded; input `image` float32 [n, 3, px, px], output `logits` [n, classes], n free; the ONNX
checker takes it; the engine's logits differ from torch's by at most TOLERANCE (relative to the largest logit, at
least 1).
"""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edged import engine
from edged.engine import patterns, preprocess
from edged.errors import Corrupt
from edged.retrain.rewrite import references

OPSET = 17
TOLERANCE = 1e-3


def to_onnx(net: nn.Module, px: int) -> bytes:
    """The network as ONNX bytes. Raises Corrupt when the exported file does not answer like the network, Refused when a
    layer has a reference kernel only on the least of our processors and cannot be written otherwise (rewrite).
    """
    import onnx

    folded = fold(net)
    out = io.BytesIO()
    with warnings.catch_warnings():
        # The TorchScript exporter is the one that works without onnxscript (FACTS); torch calls it legacy at each use.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            folded,
            (torch.zeros(1, 3, px, px),),
            out,  # type: ignore[arg-type]  # a stream is written to, only the newer exporter needs a path
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "n"}, "logits": {0: "n"}},
        )
    data = references.without(out.getvalue())
    del out  # of a large network each copy counts
    onnx.checker.check_model(data, full_check=True)
    compare(folded, data, px)
    return data


def fold(net: nn.Module) -> nn.Module:
    """A copy in evaluation mode in which each convolution followed by a batch norm is one convolution, at any depth.

    What follows what is known of an nn.Sequential only; other modules keep their own order and are copied with what is
    folded inside them. Parameters that were not folded are shared with `net`.
    """
    net.eval()
    if not isinstance(net, nn.Sequential):
        copied = copy.copy(net)
        copied._modules = {name: fold(module) for name, module in net.named_children()}
        return copied
    layers: list[Any] = []
    for module in net.children():
        if isinstance(module, nn.BatchNorm2d) and layers and isinstance(layers[-1], nn.Conv2d):
            layers[-1] = fuse_conv_bn_eval(layers[-1], module)
        else:
            layers.append(fold(module))
    return nn.Sequential(*layers).eval()


def compare(net: nn.Module, data: bytes, px: int) -> None:
    batch = preprocess.marshal(preprocess.to_float([patterns.picture(seed, px) for seed in range(5)], px))
    with torch.inference_mode():
        wanted = net(torch.from_numpy(batch)).numpy()
    for runtime in engine.runtimes():
        (logits,) = engine.load(data, runtime=runtime).run(batch)
        worst = float(np.abs(logits - wanted).max()) / max(1.0, float(np.abs(wanted).max()))
        if not worst <= TOLERANCE:
            raise Corrupt(
                f"the exported model answers differently from the trained one under {runtime} (by {worst:.2g})"
            )
