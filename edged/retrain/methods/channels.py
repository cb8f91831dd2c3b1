"""`channels`: whole channels go, so that every layer, the ONNX file and the work become smaller.

Which channels hang together (a convolution, its batch norm, the depthwise behind it, the inputs of the next) is found by
torch-pruning's dependency graph (Fang et al., DepGraph, arXiv 2301.12900). Which go is said by first-order Taylor: what
the loss would change by without them (Molchanov et al., arXiv 1906.10771), summed over a group, from gradients on crops of
the train split; without such crops by the group's norm. Each layer loses the same share, in rounds of at most STRIDE of
what it had, with retraining after each.

Guarantees: the classifier's answers are never cut; a layer keeps a multiple of 8 channels where it has 16 or more (vector
kernels work on 8), and at least one. Does not guarantee that exactly `amount` of the channels goes: rounding, and layers of
8 stay 8. Earlier steps' holds are of other shapes afterwards: the order of steps lets none come before this one.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from edged.clock import cpu_seconds
from edged.errors import Refused
from edged.retrain import fit
from edged.retrain.methods import Facts, Lesson, Model, macs, refine

STRIDE = 0.3  # share of its channels that a layer loses in one round at most
BLOCK = 8
_LOOKED_AT = 512  # crops that gradients are taken from
PLAN = refine.Plan(epochs=2.0)  # after each round
LAST = refine.Plan(epochs=4.0)  # after the last


def apply(model: Model, amount: float, lesson: Lesson) -> tuple[Model, Facts]:
    """`amount` 0..0.95: the share of its channels that each layer loses. Raises Refused when a layer's channels cannot be
    told apart (code bad_model).
    """
    net = model.net
    assert net is not None
    if model.holds:
        raise Refused("`channels` comes before the steps that hold single weights", code="bad_chain")
    began = cpu_seconds()
    accuracy, count, work = refine.accuracy(net, lesson.judged), parameters(net), macs.of(net, model.px)
    first, epochs = widths(net), 0.0
    rounds = math.ceil(math.log(1 - amount) / math.log(1 - STRIDE)) if amount else 0
    for i in range(rounds):
        share = 1 - (1 - amount) ** ((i + 1) / rounds)
        cut(model, {name: kept(channels, share) for name, channels in first.items()}, lesson)
        epochs += refine.run(model, lesson, LAST if i == rounds - 1 else PLAN)
    left = parameters(net)
    return model, Facts(
        step="channels", accuracy_before=accuracy, accuracy_after=refine.accuracy(net, lesson.judged),
        parameters_before=count, parameters=left, nonzero=sum(int(p.count_nonzero()) for p in net.parameters()),
        seconds=round(cpu_seconds() - began, 2), epochs=epochs, multiply_adds_before=work,
        multiply_adds=macs.of(net, model.px),
    )  # fmt: skip


def kept(channels: int, share: float) -> int:
    """Channels that are left of so many when about `share` of them goes."""
    left = channels * (1 - share)
    if channels >= 2 * BLOCK:
        return min(channels, max(BLOCK, round(left / BLOCK) * BLOCK))
    return channels if channels == BLOCK else max(1, round(left))


def widths(net: nn.Module) -> dict[str, int]:
    """Output channels of the convolutions and full connections, by name."""
    return {name: m.weight.shape[0] for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def cut(model: Model, wanted: dict[str, int], lesson: Lesson) -> None:
    """Narrow `model.net` in place until each layer of `wanted` has so many outputs; the classifier stays."""
    import torch_pruning

    net = model.net
    assert net is not None
    net.eval()
    classifier = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)][-1]
    names = {module: name for name, module in net.named_modules()}
    informed = _gradients(net, lesson)
    importance = torch_pruning.importance.GroupTaylorImportance() if informed else (
        torch_pruning.importance.GroupMagnitudeImportance(p=2))  # fmt: skip
    try:
        graph = torch_pruning.DependencyGraph().build_dependency(net, torch.zeros(1, 3, model.px, model.px))
        for group in graph.get_all_groups(ignored_layers=[classifier], root_module_types=[nn.Conv2d, nn.Linear]):
            root = group[0].dep.target.module
            assert isinstance(root, nn.Conv2d | nn.Linear)
            now = root.weight.shape[0]
            then = wanted.get(names[root], now)
            if then >= now:
                continue
            scores = importance(group)
            if scores is None or len(scores) != now:
                raise Refused(f"the channels of layer {names[root]} cannot be told apart", code="bad_model")
            gone = torch.argsort(scores, stable=True)[: now - then]
            group = graph.get_pruning_group(root, _outputs(torch_pruning, root), sorted(gone.tolist()))
            if graph.check_pruning_group(group):
                group.prune()
    finally:
        for parameter in net.parameters():
            parameter.grad = None
            parameter.requires_grad_()


def _outputs(torch_pruning: object, root: nn.Module) -> object:
    function = torch_pruning.function  # type: ignore[attr-defined]
    if isinstance(root, nn.Linear):
        return function.prune_linear_out_channels
    if isinstance(root, nn.Conv2d) and root.groups == root.out_channels > 1:
        return function.prune_depthwise_conv_out_channels
    return function.prune_conv_out_channels


def _gradients(net: nn.Module, lesson: Lesson) -> bool:
    """Leave the loss' gradients on crops of the train split in the parameters; False when there are none."""
    n = len(lesson.train)
    if not n:
        return False
    chosen = torch.randperm(n, generator=torch.Generator().manual_seed(lesson.seed))[:_LOOKED_AT]
    pixels, labels = torch.from_numpy(lesson.train.pixels), torch.from_numpy(lesson.train.labels)
    net.zero_grad(set_to_none=True)
    for part in torch.split(chosen, 64):
        loss = nn.functional.cross_entropy(net(fit.to_input(pixels[part])), labels[part], reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
    return True
