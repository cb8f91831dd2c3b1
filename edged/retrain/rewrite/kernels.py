"""Which kernel a runtime chose for each layer, and the layers that it has only a reference kernel for.

A reference kernel is a runtime's plain loop for what it has no fast code for: hundreds of times slower (measured: 6 s for
one 11x11 convolution of 32 maps of 56 x 56). It is chosen by the instruction set, so this must run in a process that had
the device's caps in its environment before OpenVINO was loaded (device.Profile.environment; see `measure`).

Guarantees: no convolution or matrix product that OpenVINO runs by a `ref` kernel goes unnamed. Does not guarantee: anything
about onnxruntime, which does not tell its kernels; it has no such fallback for float convolutions.
"""

from __future__ import annotations

from edged import engine
from edged.engine import Engine
from edged.errors import Refused

HEAVY = ("Convolution", "FullyConnected", "MatMul", "Deconvolution")
LARGEST = 7  # side of a kernel that oneDNN has fast code for without AVX; depthwise convolutions are excepted


def runtime_kernels(model: bytes, runtime: str = "openvino") -> dict[str, tuple[str, str]]:
    """Layer name -> (kind, kernel); {} for a runtime that does not say or is not installed. Raises Refused for a file that
    does not load.
    """
    return of(engine.load(model, runtime=runtime)) if runtime in engine.runtimes() else {}


def of(loaded: Engine) -> dict[str, tuple[str, str]]:
    told: dict[str, tuple[str, str]] = getattr(loaded, "kernels", dict)()
    return told


def references(found: dict[str, tuple[str, str]]) -> tuple[str, ...]:
    """The layers of them that multiply and add by a reference kernel."""
    return tuple(name for name, (kind, kernel) in found.items() if kernel.startswith("ref") and kind in HEAVY)


def sentences(found: dict[str, tuple[str, str]]) -> list[str]:
    return [
        f"OpenVINO has no fast kernel without AVX for its {found[name][0]} {name[:60]!r} ({found[name][1]})"
        for name in references(found)
    ]


def check(model: bytes, runtime: str = "openvino") -> list[str]:
    """A sentence for each layer that runs by a reference kernel with this process's instruction set; [] is good."""
    return sentences(runtime_kernels(model, runtime))


def refuse(loaded: Engine) -> None:
    """Raises Refused (code reference_kernel) for a loaded model with such a layer: it would take seconds a picture."""
    if slow := sentences(of(loaded)):
        raise Refused(
            "; ".join(slow), hint="`tune` in the chain of compression may find another way to compute it",
            code="reference_kernel",
        )  # fmt: skip
