"""One training step: forward, backward and an optimiser's step of the smallest network on two pictures."""

from __future__ import annotations

import torch
from torch import nn

from edged.clock import stopwatch
from edged.retrain import zoo


def main() -> None:
    torch.set_num_threads(1)
    torch.backends.nnpack.set_flags(False)  # it says at each layer that it cannot start here
    torch.manual_seed(1)
    begin = stopwatch()
    net = zoo.build("mobilenet-0.25", 4, 64)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    net.train()
    before = [p.detach().clone() for p in net.parameters()]
    loss = nn.functional.cross_entropy(net(torch.rand(4, 3, 64, 64) * 255), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    optimiser.step()
    assert torch.isfinite(loss)
    assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    print(f"  one step, loss {loss.item():.3f}, {stopwatch() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    main()
