"""Does "Will it fit?" tell the truth? Real training steps in children against `edged.retrain.fits`.

    python -m bench.fits [NAME PX BATCH ...]

Prints peak memory and CPU seconds of a step, measured and told, and the worst ratios. One thread; a child each, so that
no peak is another's. Steps are on noise: what is computed is the same. Compared is memory of the process's own: how much
of torch's file is resident beside it is up to the page cache (108 MB where it holds single pages, 222 MB where it holds
large folios, as it does soon after an installation), and the kernel takes that back before it ends anybody.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

CASES = (
    ("lenet-300-100", 28, 32), ("lenet-5", 32, 32), ("lenet-5", 32, 256), ("mobilenet-0.25", 64, 32),
    ("mobilenet-0.25", 96, 32), ("mobilenet-0.25", 224, 32), ("mobilenet-0.25", 64, 128), ("mobilenet-0.5", 64, 32),
    ("mobilenet-0.5", 96, 32), ("mobilenet-0.5", 224, 8), ("mobilenet-0.5", 224, 32), ("mobilenet-1.0", 64, 32),
    ("mobilenet-1.0", 96, 32), ("mobilenet-1.0", 224, 16), ("squeezenet-1.1", 64, 32), ("squeezenet-1.1", 96, 32),
    ("squeezenet-1.1", 224, 32), ("alexnet", 64, 32), ("alexnet", 96, 32), ("alexnet", 224, 32), ("vgg-16", 32, 32),
    ("vgg-16", 64, 32), ("vgg-16", 96, 16),
)  # fmt: skip


def step(name: str, px: int, batch: int) -> dict[str, float]:
    """Four steps here; the fastest counts."""
    import torch

    from edged.clock import cpu_seconds
    from edged.retrain import accelerator, device, zoo

    torch.set_num_threads(1)
    torch.manual_seed(1)
    net = accelerator.CPU.place(zoo.build(name, 2, px)).train()
    pixels = torch.randint(0, 255, (batch, px, px, 3), dtype=torch.uint8)
    labels = torch.randint(0, 2, (batch,))
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-4)
    took = []
    for _ in range(4):
        began = cpu_seconds()
        loss = torch.nn.functional.cross_entropy(net(pixels.permute(0, 3, 1, 2).float()), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        took.append(cpu_seconds() - began)
    return {"peak_bytes": device.peak_rss(), "own_bytes": peak_own(), "cpu_seconds": min(took[1:])}


def peak_own() -> int:
    """Bytes of this process that were in no file, at most: of what was mapped from files nothing has been unmapped yet."""
    from edged.retrain import device

    lines = Path("/proc/self/status").read_text().splitlines()
    files = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile"))
    return device.peak_rss() - files


def main(argv: list[str]) -> int:
    if argv[:1] == ["--step"]:
        print(json.dumps(step(argv[1], int(argv[2]), int(argv[3]))))
        return 0
    from edged.retrain import fits

    cases = [(argv[i], int(argv[i + 1]), int(argv[i + 2])) for i in range(0, len(argv), 3)] or CASES
    memory, time = [], []
    print(
        f"{'network':16}{'px':>4}{'batch':>6}  {'own MB':>8}{'told':>7}{'ratio':>7}  {'CPU s':>8}{'told':>8}{'ratio':>7}"
    )
    for name, px, batch in cases:
        argv = [sys.executable, "-m", "bench.fits", "--step", name, str(px), str(batch)]
        env = dict(os.environ, OMP_NUM_THREADS="1")
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
        real = json.loads(done.stdout.splitlines()[-1])
        peak, seconds = fits.step(name, px, 2, batch=batch)
        own = peak - fits.LIBRARIES
        memory.append(own / real["own_bytes"])
        time.append(seconds / real["cpu_seconds"])
        print(
            f"{name:16}{px:4}{batch:6}  {real['own_bytes'] / 1e6:8.0f}{own / 1e6:7.0f}{memory[-1]:7.2f}"
            f"  {real['cpu_seconds']:8.4f}{seconds:8.4f}{time[-1]:7.2f}",
            flush=True,
        )
    print(f"told / measured: memory {min(memory):.2f} to {max(memory):.2f}, time {min(time):.2f} to {max(time):.2f}"
          f" ({len(cases)} runs, seed 1)")  # fmt: skip
    return 0 if min(memory) >= 0.9 and max(memory) <= 1.3 else 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
