"""Where the arithmetic of training runs, and in what precision: chosen here and nowhere else.

CUDA when there is a device that works, else the CPU; the code is the same. `auto` is bfloat16 on a CUDA device that has it
(float16 with a scaled loss on older ones) and float32 on a CPU. Mixed precision after Micikevicius et al., arXiv
1710.03740, by torch.autocast: weights, optimiser and batch norm stay float32. Networks stand in channels-last order.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from edged.errors import Misconfigured

Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Accelerator:
    """One device; `precision` is that of the products of a step."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Literal["float32", "bfloat16", "float16"] = "float32"

    @property
    def name(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return "CPU"

    def place(self, net: nn.Module) -> nn.Module:
        """`net`, moved there in place."""
        return net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def put(self, values: Tensor) -> Tensor:
        return values.to(self.device, non_blocking=True)

    def cast(self) -> AbstractContextManager[object]:
        """Around forward passes and losses."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.precision))

    def scaler(self) -> torch.amp.GradScaler:
        """float16 has no small numbers: its loss is scaled up, and steps whose gradients overflow are left out."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "float16")


CPU = Accelerator()


def choose(precision: Precision = "auto", local: int = 0) -> Accelerator:
    """The device of the process `local` of this machine. Raises Misconfigured: a precision that it does not have."""
    if torch.cuda.is_available():
        device = torch.device("cuda", local)
        if precision == "auto":
            precision = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        if precision == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise Misconfigured("this CUDA device has no bfloat16", hint="--precision float16")
        return Accelerator(device, precision)
    if precision == "float16":
        raise Misconfigured("float16 needs a CUDA device", hint="--precision bfloat16 or float32")
    if precision == "bfloat16" and not torch.cpu._is_avx512_bf16_supported():  # no public name says it
        raise Misconfigured("this processor has no bfloat16 (AVX512_BF16)", hint="--precision float32")
    return Accelerator(torch.device("cpu"), "float32" if precision == "auto" else precision)
