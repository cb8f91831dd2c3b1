"""What a box gives a camera, made on this machine with all of its instructions: the emulated camera is held against it.

    given.py FOLDER

Four files (MobileNet and SqueezeNet, in float and int8, the picture prepared inside), each packed, a delta to one more, and
what each runtime answers here, with the known answers of the self-test. Weights come from a seed; they know nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from edged import chain, packed
from edged.clock import SystemClock
from edged.engine import patterns
from edged.errors import Refused
from edged.packed import delta
from edged.retrain import export, intake, measure, methods, verified, zoo
from edged.retrain.pictures import Pictures

PX, CLASSES, PICTURES = 64, ("none", "car", "van", "truck"), 4
NETS = ("mobilenet-0.25", "squeezenet-1.1")
RUNTIMES = ("onnxruntime", "opencv")


def settled(name: str) -> torch.nn.Module:
    """A network whose batch norms have seen pictures: without that nothing of the picture reaches the answer."""
    net = zoo.build(name, len(CLASSES), PX)
    pictures = np.stack([patterns.picture(seed, PX) for seed in range(100, 132)])
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of what it sees
            module.reset_running_stats()
    with torch.no_grad():
        net.train()(torch.from_numpy(pictures).permute(0, 3, 1, 2).float())
    return net.eval()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    drawn = np.stack([patterns.picture(seed, PX) for seed in range(100, 116)])
    pics = Pictures(drawn, np.arange(16) % len(CLASSES), ("drawn",) * 16)
    lesson = methods.Lesson(pics, pics, SystemClock(), calibration=8, max_loss=1)
    known, files = {}, {}
    for net in NETS:
        module = settled(net)
        model = methods.Model(PX, CLASSES, module, export.to_onnx(module, PX))
        files[f"{net}-float32"] = intake.inside(model.onnx)
        (step,) = chain.parse("int8")
        files[f"{net}-int8"] = intake.inside(methods.apply(model, step, lesson)[0].onnx)
    for name, data in files.items():
        answers = {}
        for runtime in RUNTIMES:
            try:
                answers[runtime] = verified.answers(data, PX, PICTURES, runtime).tolist()
            except Refused as e:  # OpenCV takes no int8 file with a full connection (docs/devices.md)
                answers[runtime] = str(e).split(":")[0]
        known[name] = {"answers": answers, "known": measure.known_answer(data, PX)}
        (folder / f"{name}.onnx").write_bytes(data)
        (folder / f"{name}.epk").write_bytes(packed.pack(data))
    old = files[f"{NETS[0]}-float32"]
    new = intake.inside(export.to_onnx(settled(NETS[0]), PX))
    (folder / "new.onnx").write_bytes(new)
    (folder / "new.epd").write_bytes(delta.make(old, new))
    (folder / "known.json").write_text(json.dumps(known))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
