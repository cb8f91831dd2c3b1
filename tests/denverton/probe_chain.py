"""A chain of compression: fewer channels (torch-pruning), then int8 with retraining, one step of it after each; the file that
comes out is run.
"""

from __future__ import annotations

import numpy as np
import torch

from edged import chain
from edged.clock import SystemClock, stopwatch
from edged.retrain import compress, measure, methods, zoo
from edged.retrain.pictures import Pictures

CHAIN, PX, NET = "channels=0.3 qat", 32, "mobilenet-0.125"


def main() -> None:
    torch.set_num_threads(1)
    torch.backends.nnpack.set_flags(False)  # it says at each layer that it cannot start here
    torch.manual_seed(1)
    begin = stopwatch()
    noise = np.random.default_rng(1).integers(0, 256, (16, PX, PX, 3), dtype=np.uint8)
    pics = Pictures(noise, np.arange(16) % 2, ("noise",) * 16)
    lesson = methods.Lesson(pics, pics, SystemClock(), calibration=8)
    model = methods.Model(PX, ("a", "b"), zoo.build(NET, 2, PX))
    for step in chain.parse(CHAIN):
        model, facts = methods.apply(model, step, lesson)
        assert facts.epochs > 0, "nothing was retrained"
        print(
            f"  {stopwatch() - begin:5.0f} s  {facts.step}: {facts.parameters} of {facts.parameters_before}", flush=True
        )
    model = compress.delivered(model)
    answers = measure.answers(model.onnx, pics)
    assert set(answers.tolist()) <= {0, 1}
    print(f"  {CHAIN}: {len(model.onnx)} bytes, {stopwatch() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    main()
