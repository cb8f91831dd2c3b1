"""No model leaves with a convolution that the least of our processors has only a reference kernel for.

Guarantees of `without`: what comes back has, with SSE4.1 and nothing more, a fast kernel for each convolution under OpenVINO,
or Refused names the layer. A file without a kernel of more than 7 x 7 or a padding of more than 3 is not looked at:
`kernels.refuse` in the re-test is what looks at all. Where OpenVINO is not installed nothing is changed.
"""

from __future__ import annotations

from edged import engine
from edged.errors import Refused
from edged.retrain import device, rewrite
from edged.retrain.rewrite import kernels
from edged.retrain.rewrite.graph import Conv
from edged.retrain.rewrite.measure import Measurer, side_by_side


def without(model: bytes, *, measurer: Measurer = side_by_side) -> bytes:
    """Raises Refused (code reference_kernel) for what cannot be written otherwise."""
    suspects = [conv for conv in rewrite.convs(model) if _suspect(conv)]
    if not suspects or "openvino" not in engine.runtimes():
        return model
    (seen,) = measurer([model], [], caps=device.SSE42, runtime="openvino", seconds=0)
    if not seen.references:
        return model
    made = rewrite.rewritten(model, {conv.name: _other(conv) for conv in suspects})
    (seen,) = measurer([made], [], caps=device.SSE42, runtime="openvino", seconds=0)
    if seen.failed or seen.references:
        named = seen.references or tuple(conv.name for conv in suspects)
        raise Refused(
            f"OpenVINO has no fast kernel without AVX for {', '.join(name[:60] for name in named[:4])}, and it could not be "
            f"written otherwise{': ' + seen.failed if seen.failed else ''}",
            hint=f"a kernel of at most {kernels.LARGEST} x {kernels.LARGEST} has one", code="reference_kernel",
        )  # fmt: skip
    return made


def _suspect(conv: Conv) -> bool:
    large = max(conv.kernel) > kernels.LARGEST or max(conv.pads) > kernels.LARGEST // 2
    return large and conv.groups < max(2, conv.inputs)


def _other(conv: Conv) -> str:
    possible = rewrite.candidates(conv)
    for name in ("space_to_depth", "space_to_depth-2") if max(conv.strides) > 1 else ("space_to_depth-2",):
        if name in possible:
            return name
    return rewrite.DIRECT
