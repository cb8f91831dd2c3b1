"""`lowrank`: layers as products of two thinner ones, by singular value decomposition, and retraining.

    full connection, 1x1 convolution   outputs x inputs       ->  rank x inputs, outputs x rank
    k x k convolution                  outputs x inputs x kk  ->  k x k to rank channels, then 1x1 to outputs
                                                                  (Zhang et al., arXiv 1505.06798, the linear form)

One number for all layers says how much of each spectrum's energy is kept; it is searched so that the whole network does
`amount` of its multiply-adds. A layer is replaced only where that saves work: depthwise convolutions never, the classifier
never, a layer whose spectrum is flat not before the others.

When it pays (one core under OpenVINO on a busy machine, so trust no more than the first digit; time against the whole
network, `lowrank=0.5` / `channels` with the same multiply-adds): MobileNet-0.5 at 96 px 0.73 / 0.85, MobileNet-1.0 0.70 / 0.64,
SqueezeNet 0.77 / 0.63. At `lowrank=0.7` MobileNet-0.5 took 1.09 of its time: two launches and one more round trip of the
activations eat what is saved. Accuracy after one epoch of retraining (mobilenet-0.25 at 64 px, CNRPark and PKLot, hold-out,
float 89.0 %): `lowrank=0.5` 88.6 %, `channels=0.3` 85.7 %, one seed. So: below about half of the work, and where channels
cost too much accuracy. AlexNet and VGG are not measured.

Guarantees: the multiply-adds are at most `amount` of what they were, where the spectrum lets them be (one rank is kept in
each layer at least). Does not guarantee that a runtime is faster by as much.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edged.clock import cpu_seconds
from edged.retrain.methods import Facts, Lesson, Model, macs, refine

PLAN = refine.Plan(epochs=4.0)
_HALVINGS = 20  # of the search for the share of energy


def apply(model: Model, amount: float, lesson: Lesson) -> tuple[Model, Facts]:
    """`amount` 0.05..1: the share of the multiply-adds that is kept. Changes `model.net` in place."""
    net = model.net
    assert net is not None
    began = cpu_seconds()
    before, work = refine.accuracy(net, lesson.judged), macs.of(net, model.px)
    count = sum(p.numel() for p in net.parameters())
    ranks = chosen(net, model.px, amount)
    factor(net, ranks)
    epochs = refine.run(model, lesson, PLAN) if ranks else 0.0
    left = sum(p.numel() for p in net.parameters())
    return model, Facts(
        step="lowrank", accuracy_before=before, accuracy_after=refine.accuracy(net, lesson.judged),
        parameters_before=count, parameters=left, nonzero=sum(int(p.count_nonzero()) for p in net.parameters()),
        seconds=round(cpu_seconds() - began, 2), epochs=epochs, multiply_adds_before=work,
        multiply_adds=macs.of(net, model.px), note=f"{len(ranks)} layers became two each",
    )  # fmt: skip


def chosen(net: nn.Module, px: int, amount: float) -> dict[nn.Module, int]:
    """The layers that are worth it, and their ranks, so that `amount` of the multiply-adds is left."""
    work = macs.each(net, px)
    allowed = amount * sum(work.values())
    energies = {m: _energy(m) for m in list(work)[:-1] if _factorable(m)}
    low, high, best = 0.0, 1.0, ranks(energies, work, 0.0)
    if amount >= 1:
        return {}
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = ranks(energies, work, middle)
        if _left(work, found) <= allowed:
            low, best = middle, found
        else:
            high = middle
    return best


def ranks(energies: Mapping[nn.Module, Tensor], work: Mapping[nn.Module, int], share: float) -> dict[nn.Module, int]:
    """The least rank of each layer that keeps `share` of its spectrum's energy, where it saves work."""
    found = {}
    for module, energy in energies.items():
        rank = min(len(energy), int((energy < share).sum()) + 1)
        if cost(module, work[module], rank) < work[module]:
            found[module] = rank
    return found


def cost(module: nn.Module, work: int, rank: int) -> int:
    """Multiply-adds of the pair that stands for a layer of so many."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    outputs, inputs = weight.shape[0], weight[0].numel()
    return work // (outputs * inputs) * rank * (outputs + inputs)


def factor(net: nn.Module, ranks: Mapping[nn.Module, int]) -> None:
    """Put the pair in the place of each layer, in place and at any depth. In an nn.Sequential both are members of it, so
    that a batch norm stays right behind a convolution; names are counted anew there.
    """
    members: list[nn.Module] = []
    for name, module in list(net._modules.items()):
        if module is None:
            continue
        made = pair(module, ranks[module]) if module in ranks else None
        if made is None:
            factor(module, ranks)
        else:
            net._modules[name] = made
        members += [module] if made is None else list(made)
    if isinstance(net, nn.Sequential):
        net._modules.clear()
        net.extend(members)


@torch.no_grad()
def pair(module: nn.Module, rank: int) -> nn.Sequential:
    """The two layers that are nearest to `module` (least squares of the weights) at this rank."""
    assert isinstance(module, nn.Conv2d | nn.Linear)
    outputs = module.weight.shape[0]
    left, values, right = torch.linalg.svd(module.weight.reshape(outputs, -1).double(), full_matrices=False)
    root = values[:rank].sqrt()
    first, second = (root[:, None] * right[:rank]).float(), (left[:, :rank] * root).float()
    thin: nn.Module
    if isinstance(module, nn.Linear):
        thin = nn.Linear(module.in_features, rank, bias=False)
        wide: nn.Conv2d | nn.Linear = nn.Linear(rank, outputs, bias=module.bias is not None)
    else:
        thin = nn.Conv2d(
            module.in_channels, rank, _two(module.kernel_size), _two(module.stride), _padding(module), bias=False
        )
        wide = nn.Conv2d(rank, outputs, 1, bias=module.bias is not None)
    thin.weight.copy_(first.reshape(thin.weight.shape))
    wide.weight.copy_(second.reshape(wide.weight.shape))
    if module.bias is not None and wide.bias is not None:
        wide.bias.copy_(module.bias)
    return nn.Sequential(thin, wide)


def _two(size: tuple[int, ...]) -> tuple[int, int]:
    return size[0], size[1]


def _padding(module: nn.Conv2d) -> tuple[int, int]:
    assert not isinstance(module.padding, str)
    return _two(module.padding)


def _factorable(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (
        isinstance(module, nn.Conv2d) and module.groups == 1 and module.dilation == (1, 1)
    )


def _energy(module: nn.Module) -> Tensor:
    """Share of the squared singular values up to each, rising to 1."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    squares = torch.linalg.svdvals(weight.detach().reshape(weight.shape[0], -1).double()).square().cumsum(0)
    share: Tensor = squares / squares[-1].clamp(min=1e-30)
    return share


def _left(work: Mapping[nn.Module, int], ranks: Mapping[nn.Module, int]) -> int:
    return sum(cost(m, n, ranks[m]) if m in ranks else n for m, n in work.items())
