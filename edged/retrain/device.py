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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edged.errors import EXIT_NOT_FOUND, Misconfigured, Refused
from edged.retrain import quota

SSE42 = {
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Nehalem",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
    "OPENCV_CPU_DISABLE": "AVX512-SKX,AVX2,FP16,AVX",
    "MKL_CBWR": "COMPATIBLE",
    "ATEN_CPU_CAPABILITY": "default",
}
ONE_CORE = "one core (affinity)"
CAPS = frozenset(SSE42)  # never inherited by a child from whoever started us
Numbers = Literal["float32", "float16", "int8"]
File = Literal["onnx", "openvino-fp16", "int8-shift", "coreml"]


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
    factor: float | None = None  # None = this machine: what is measured is what it does; 0 = not known
    doubt: float = 0.0  # share by which the estimate may be off either way
    basis: str = ""
    processor: str = ""  # what /proc/cpuinfo calls it, to know when we run on the device itself
    calibrated_on: str = ""  # the processor (as in /proc/cpuinfo) that `factor` was found on
    caps: tuple[tuple[str, str], ...] = ()
    covered: tuple[str, ...] = ()
    not_covered: tuple[str, ...] = field(default=())
    numbers: Numbers = "float32"  # what the device computes in, and the trial with it (formats.py)
    file: File = "onnx"  # what is delivered to it (deliver.py)
    runtime: str = "edged-agent: onnxruntime or OpenVINO"  # what runs that file there
    family: str = ""  # the only architecture that it takes; "" = any
    emulator: str = ""  # qemu-user's name of its processor, "" = none; "cortex-...": its 64-bit ARM (verified.py)
    sources: tuple[str, ...] = ()  # where its figures come from

    def environment(self) -> dict[str, str]:
        """What to set before the child starts (libraries read it when they load)."""
        return dict(self.caps)

    def enforce(self, share: float = 0) -> tuple[str, ...]:
        """Called in the child: one core, the device's memory, and `share` of that core (0 = all of it). Returns what was
        imposed, in words.
        """
        quota.tidy()
        core = max(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {core})
        limits = (quota.memory(self.memory_bytes), share and quota.processor(share))
        return (ONE_CORE, *(told for told in limits if told))

    def estimate(self, here: float, runtime: str) -> Estimate:
        """Frames/s on the device from frames/s measured here on one core, under `caps`, with `runtime`."""
        this = processor()
        if self.factor is None:
            return Estimate(here, here, here, "measured", self.basis)
        if self.processor and self.processor in this:
            basis = f"measured on the device's own processor ({this}), one of its {self.cores} cores"
            return Estimate(here, here, here * self.cores, "measured", basis)
        if not self.factor:
            return Estimate(0, 0, 0, "unknown", self.basis)
        likely, doubt, basis = here * self.factor, self.doubt, self.basis
        if self.calibrated_on not in this:
            doubt, basis = max(doubt, 0.5), f"{basis}; found on {self.calibrated_on}, not on {this or 'this processor'}"
        if runtime == "onnxruntime" and "avx" in flags():
            # Up to 4.5 times faster with AVX than without (MobileNetV1 1.0, float); there is no switch to forbid it.
            doubt, basis = 4.0, f"{basis}; onnxruntime used AVX here, which the device does not have"
        return Estimate(likely, likely / (1 + doubt), likely * (1 + doubt), "estimated", basis)


@dataclass(frozen=True)
class Estimate:
    """Frames/s: the likely value and the ends of what it may really be. "unknown": all three are 0, and mean nothing."""

    likely: float
    lower: float
    upper: float
    how: Literal["measured", "estimated", "unknown"]
    basis: str


def find(device: str) -> Profile:
    """A profile by id. Raises Refused with the known ones."""
    from edged.retrain.profiles import PROFILES

    for profile in PROFILES:
        if profile.id == device:
            return profile
    known = ", ".join(p.id for p in PROFILES)
    raise Refused(
        f"no device is called {device[:40]!r}; known: {known}", code="unknown_device", exit_code=EXIT_NOT_FOUND
    )


def configured(device: str) -> str:
    """The id of a profile that stands in the configuration. Raises Misconfigured with the known ones."""
    try:
        return find(device).id
    except Refused as e:
        raise Misconfigured(f"retest.device.id: {e}", hint="see docs/devices.md") from e


def __getattr__(name: str) -> Any:
    """PROFILES, read when it is asked for: the table is made of this module's Profile."""
    if name == "PROFILES":
        from edged.retrain.profiles import PROFILES

        return PROFILES
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
