"""A network as a table of layers: what a row is, and what is counted of rows, with no network made.

Guarantees: imports nothing heavy; parameters and multiply-adds are counted as the papers count them, tensors and cuts are those
that `zoo.build` makes (tests compare). Does not guarantee that a runtime executes exactly these: it may fold and fuse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["scale", "luma", "conv", "norm", "relu", "pool", "average", "flatten", "dropout", "full", "join"]


@dataclass(frozen=True)
class Layer:
    """One row. `inputs` and `outputs` are channels (of a full connection: values), `side` that of its square output.

    What is computed in the layer before's own memory (`relu`) writes no floats.
    """

    name: str
    kind: Kind
    inputs: int
    outputs: int
    side: int
    kernel: int = 0
    stride: int = 1
    padding: int = 0
    groups: int = 1
    bias: bool = True
    block: str = ""  # rows of one block are one module (`Fire`)

    @property
    def parameters(self) -> int:
        """Trained numbers: kernels, biases, batch norm's scale and offset (not its running statistics)."""
        if self.kind == "norm":
            return 2 * self.outputs
        if self.kind not in ("conv", "full"):
            return 0
        return self.outputs * (self.inputs // self.groups * max(1, self.kernel) ** 2 + self.bias)

    @property
    def macs(self) -> int:
        """Multiply-adds for one picture, of convolutions and full connections, as the papers count them."""
        if self.kind not in ("conv", "full"):
            return 0
        return self.outputs * self.side**2 * (self.inputs // self.groups) * max(1, self.kernel) ** 2

    @property
    def floats(self) -> int:
        """Numbers it writes for one picture."""
        return 0 if self.kind in ("relu", "flatten") else self.outputs * self.side**2

    @property
    def depthwise(self) -> bool:
        return self.kind == "conv" and self.groups == self.inputs > 1


def parameters(rows: tuple[Layer, ...]) -> int:
    return sum(row.parameters for row in rows)


def macs(rows: tuple[Layer, ...]) -> int:
    return sum(row.macs for row in rows)


def activations(rows: tuple[Layer, ...]) -> int:
    """Floats that a training step keeps of one picture until its gradients are known.

    A pool also keeps where each maximum was, in 64 bits; what goes into a join is not kept, the join is.
    """
    joined = {row.block for row in rows if row.kind == "join"}
    expands = [row for row in rows if row.block in joined and row.name.split("/")[-1].startswith("expand")]
    return sum(row.floats * (3 if row.kind == "pool" else 1) for row in rows if row not in expands)


def tensors(rows: tuple[Layer, ...]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what a weights file of this network holds: torch's `state_dict` of `zoo.build`."""
    found: dict[str, tuple[int, ...]] = {}
    at = -1
    block = ""
    for row in rows:
        at += not row.block or row.block != block
        block = row.block
        name = f"{at}.{row.name.split('/')[1]}" if block else f"{at}"
        if row.kind == "conv":
            found[f"{name}.weight"] = (row.outputs, row.inputs // row.groups, row.kernel, row.kernel)
        elif row.kind == "full":
            found[f"{name}.weight"] = (row.outputs, row.inputs)
        elif row.kind == "norm":
            found |= {f"{name}.{part}": (row.outputs,) for part in ("weight", "bias", "running_mean", "running_var")}
            found[f"{name}.num_batches_tracked"] = ()
        if row.kind in ("conv", "full") and row.bias:
            found[f"{name}.bias"] = (row.outputs,)
    return found


def cuts(rows: tuple[Layer, ...]) -> tuple[int, ...]:
    """Rows behind which a stem may end, as `zoo.blocks` has them in modules: `rows[:i]` and `rows[i:]`."""
    found = []
    for i, row in enumerate(rows):
        starts = row.kind in ("conv", "full") and not (row.block and rows[i - 1].block == row.block)
        before = [r for r in rows[:i] if r.kind in ("conv", "full")]
        if starts and before and not before[-1].depthwise:
            found.append(i - 1 if rows[i - 1].kind == "dropout" else i)
    return tuple(found)
