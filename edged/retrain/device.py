"""What a camera's hardware can do: frozen profiles, and how much of each is really imposed on the child that re-tests.

Guarantees: `environment()` and `enforce()` impose exactly what `covered` says. Does not guarantee anything else:
`not_covered` is the honest rest. Speed on the device is an estimate from a measurement here (see `estimate`), never
called measured.

How instruction sets are capped: oneDNN (inside OpenVINO) by ONEDNN_MAX_CPU_ISA, right and fast with OpenVINO 2023.0
to 2026.3; numpy, OpenCV and OpenBLAS by their own variables. OpenVINO's own nodes and all of onnxruntime have no such
switch.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edged.errors import Refused

SSE42 = {
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Nehalem",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
    "OPENCV_CPU_DISABLE": "AVX512-SKX,AVX2,FP16,AVX",
    "MKL_CBWR": "COMPATIBLE",
    "ATEN_CPU_CAPABILITY": "default",
}
CAPS = frozenset(SSE42)  # never inherited by a child from whoever started us


@dataclass(frozen=True)
class Profile:
    """One device. `factor` = its inferences/s (all cores) over those of one core here with the same instruction set."""

    id: str
    name: str
    cores: int
    ghz: float  # 0 = whatever this machine has
    memory_bytes: int
    isa: str
    power_w: float  # thermal design power; 0 = unknown
    factor: float | None = None  # None = this machine: what is measured is what it does
    doubt: float = 0.0  # share by which the estimate may be off either way
    basis: str = ""
    processor: str = ""  # what /proc/cpuinfo calls it, to know when we run on the device itself
    calibrated_on: str = ""  # the processor (as in /proc/cpuinfo) that `factor` was found on
    caps: tuple[tuple[str, str], ...] = ()
    covered: tuple[str, ...] = ()
    not_covered: tuple[str, ...] = field(default=())

    def environment(self) -> dict[str, str]:
        """What to set before the child starts (libraries read it when they load)."""
        return dict(self.caps)

    def enforce(self) -> None:
        """Called in the child: one core, and the device's memory as address space."""
        core = max(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {core})
        if self.memory_bytes:
            resource.setrlimit(resource.RLIMIT_AS, (self.memory_bytes, self.memory_bytes))

    def estimate(self, here: float, runtime: str) -> Estimate:
        """Frames/s on the device from frames/s measured here on one core, under `caps`, with `runtime`."""
        this = processor()
        if self.factor is None:
            return Estimate(here, here, here, "measured", self.basis)
        if self.processor and self.processor in this:
            basis = f"measured on the device's own processor ({this}), one of its {self.cores} cores"
            return Estimate(here, here, here * self.cores, "measured", basis)
        likely, doubt, basis = here * self.factor, self.doubt, self.basis
        if self.calibrated_on not in this:
            doubt, basis = max(doubt, 0.5), f"{basis}; found on {self.calibrated_on}, not on {this or 'this processor'}"
        if runtime == "onnxruntime" and "avx" in flags():
            # Up to 4.5 times faster with AVX than without (MobileNetV1 1.0, float); there is no switch to forbid it.
            doubt, basis = 4.0, f"{basis}; onnxruntime used AVX here, which the device does not have"
        return Estimate(likely, likely / (1 + doubt), likely * (1 + doubt), "estimated", basis)


@dataclass(frozen=True)
class Estimate:
    """Frames/s: the likely value and the ends of what it may really be."""

    likely: float
    lower: float
    upper: float
    how: Literal["measured", "estimated"]
    basis: str


_COVERED_HERE = (
    "the delivered file, run by the camera's own engine and preprocessing",
    "one core (affinity), one inference thread",
)
PROFILES = (
    Profile(
        id="atom-x5-e3940",
        name="Intel Atom x5-E3940 (Apollo Lake, Goldmont)",
        cores=4,
        ghz=1.6,
        memory_bytes=4 << 30,
        isa="SSE4.2",
        power_w=9.5,
        factor=0.71,
        doubt=0.2,
        basis=(
            "four E3940 cores do 0.71 (fp32) to 0.73 (int8) of one such core limited to SSE4, within 20 %; anchored on "
            "Intel's OpenVINO 2022.3 figures for this chip (mobilenet-v2 45.0 / 81.6, resnet-50 4.5 / 11.1 frames/s)"
        ),
        processor="E3940",
        calibrated_on="AMD EPYC",
        caps=tuple(SSE42.items()),
        covered=(
            *_COVERED_HERE,
            "oneDNN kernels limited to SSE4.1 (ONEDNN_MAX_CPU_ISA); numpy, OpenBLAS and OpenCV without AVX",
            "address space limited to the device's 4 GiB (RLIMIT_AS)",
        ),
        not_covered=(
            "clock, caches and memory speed: speed is estimated from a factor",
            "OpenVINO's own (not oneDNN) nodes may still use AVX; onnxruntime has no such switch at all",
            "four cores at once: the factor holds them",
            "power: the chip's thermal design power stands in for it",
        ),
    ),
    Profile(
        id="this-machine",
        name="this machine, one core",
        cores=1,
        ghz=0,
        memory_bytes=0,
        isa="all it has",
        power_w=0,
        basis="measured on this machine",
        covered=_COVERED_HERE,
        not_covered=("any other device", "memory: not limited", "power: not known"),
    ),
)


def find(device: str) -> Profile:
    """A profile by id. Raises Refused with the known ones."""
    for profile in PROFILES:
        if profile.id == device:
            return profile
    raise Refused(
        f"no device is called {device[:40]!r}; known: {', '.join(p.id for p in PROFILES)}", code="unknown_device"
    )


def processor() -> str:
    """This machine's processor in its maker's words; "" when it does not say."""
    return _cpuinfo("model name")


def flags() -> frozenset[str]:
    """Its instruction sets, as in /proc/cpuinfo."""
    return frozenset(_cpuinfo("flags").split())


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def peak_rss() -> int:
    """Bytes of memory that this process has held at most. VmHWM, since ru_maxrss is inherited over exec from a large
    parent.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
