"""One training run over several processes (`torchrun`): who we are, and the few things that processes must agree on.

The rule: a batch stays what it is and is divided, so that learning rate, steps and result are those of one process within
noise. Guarantees: every process holds the same weights after every step (gradients are averaged by DistributedDataParallel);
on CUDA batch norm looks at the whole batch (SyncBatchNorm), on the CPU each process normalises by its own share and takes
over the first one's running statistics. NCCL on CUDA, Gloo on the CPU. A process that loses another one says so and ends.
Does not guarantee sameness to the bit over another number of processes.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from edged.errors import Misconfigured, Unavailable

if TYPE_CHECKING:
    import torch
    from torch import nn

T = TypeVar("T")
WAIT = timedelta(minutes=60)  # for the first process, which reads the pictures


@dataclass(frozen=True)
class Group:
    """`rank` of `size` processes; `local` is the number on this machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, values: torch.Tensor) -> torch.Tensor:
        """Our part of a batch: every `size`-th."""
        return values[self.rank :: self.size]

    def sums(self, *values: float) -> tuple[float, ...]:
        """Each value summed over all processes."""
        if self.size == 1:
            return values
        import torch
        from torch import distributed

        device = torch.device("cuda", self.local) if distributed.get_backend() == "nccl" else torch.device("cpu")
        summed = torch.tensor(values, dtype=torch.float64, device=device)
        with _peers():
            distributed.all_reduce(summed)
        return tuple(summed.tolist())

    def told(self, value: Any) -> Any:
        """The first process's value (anything that JSON holds), in every process. Nothing is pickled."""
        if self.size == 1:
            return value
        import torch
        from torch import distributed

        device = torch.device("cuda", self.local) if distributed.get_backend() == "nccl" else torch.device("cpu")
        said = msgspec.json.encode(value) if self.first else b""
        length = torch.tensor([len(said)], device=device)
        with _peers():
            distributed.broadcast(length, src=0)
            text = torch.zeros(int(length), dtype=torch.uint8, device=device)
            if self.first:
                text.copy_(torch.frombuffer(bytearray(said), dtype=torch.uint8))
            distributed.broadcast(text, src=0)
        return msgspec.json.decode(bytes(text.cpu().numpy()))

    def in_turn(self, work: Callable[[], T]) -> T:
        """`work` done by the first process, and after it by the others (they find what it left)."""
        if self.size == 1:
            return work()
        from torch import distributed

        done = work() if self.first else None
        with _peers():
            distributed.barrier()
        return done if self.first else work()  # type: ignore[return-value]

    def wrap(self, net: nn.Module, device: torch.device) -> nn.Module:
        """`net` as the training step calls it; its gradients are averaged over the group."""
        if self.size == 1:
            return net
        from torch import nn

        running = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules())
        # Constants are no business of the others (and copying one alone, channels last, fails in torch 2.13).
        ids = [device.index] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(net, device_ids=ids, forward_sync_buffers=running)

    def level(self, net: nn.Module) -> None:
        """Give every process the first one's running statistics: DDP does so before a step, not after the last one."""
        if self.size == 1:
            return
        from torch import distributed

        with _peers():
            for buffer in net.buffers():
                same = buffer.detach().clone().contiguous()
                distributed.broadcast(same, src=0)
                buffer.copy_(same)

    def normalised(self, net: nn.Module, device: torch.device) -> nn.Module:
        """A network with batch norm over the whole batch, where that can be had; its state dict has the same names."""
        if self.size == 1 or device.type != "cuda":
            return net
        from torch import nn

        synced: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net))  # type: ignore[no-untyped-call]
        return synced


ALONE = Group()


def called(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun (or whoever speaks as it does) started this process."""
    return "RANK" in environment and "WORLD_SIZE" in environment


@contextmanager
def joined(environment: Mapping[str, str] = os.environ) -> Iterator[Group]:
    """The group that the environment names; Misconfigured when it does not name one, Unavailable when nobody comes."""
    import torch
    from torch import distributed

    try:
        rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        group = Group(rank, size, int(environment.get("LOCAL_RANK", rank)))
    except (KeyError, ValueError) as e:
        raise Misconfigured(f"RANK, WORLD_SIZE and LOCAL_RANK are not as torchrun sets them: {e}") from e
    if group.size == 1:
        yield group
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(group.local)
    try:
        distributed.init_process_group("nccl" if cuda else "gloo", timeout=WAIT)
    except (RuntimeError, ValueError) as e:  # DistNetworkError and DistStoreError are RuntimeErrors
        raise Unavailable(f"the processes of this run do not find each other: {e}", code="no_peers") from e
    try:
        yield group
    finally:
        distributed.destroy_process_group()


@contextmanager
def _peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as e:
        if lost(e):
            raise gone(e) from e
        raise


def lost(error: RuntimeError) -> bool:
    """Whether torch says with it that another process does not answer; it has no class of its own for that."""
    from torch import distributed

    words = str(error).lower()
    return isinstance(error, distributed.DistError) or any(
        w in words for w in ("connection closed", "connection reset", "broken pipe", "gloo", "nccl", "timed out")
    )


def gone(error: BaseException) -> Unavailable:
    first = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    return Unavailable(
        f"another process of this run is gone ({first})",
        hint="its own message stands above; the same command goes on after the last finished epoch",
        code="peer_gone",
    )
