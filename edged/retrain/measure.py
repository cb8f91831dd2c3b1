"""What delivered bytes do under the engine: their answers, and how long the camera's own pipeline takes with them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edged import engine
from edged.clock import Clock, cpu_seconds, stopwatch
from edged.engine import onnx_file, patterns, preprocess
from edged.errors import Refused
from edged.retrain import source
from edged.retrain.pictures import Pictures

REGIONS = ((40, 60, 224, 224), (420, 80, 300, 280), (760, 300, 180, 220), (960, 420, 260, 260))
MOST = len(REGIONS)  # regions of a frame
STAGES = ("cut", "to_float", "marshal", "infer", "decode")


def input_px(model: bytes) -> int:
    """The side of the square input of an ONNX file. Raises Refused when it is not float32 [n, 3, px, px], nor uint8
    [n, px, px, 3].
    """
    facts = onnx_file.check(model)
    name = facts.input_name
    inputs = {i.name: i for i in source.parse(model).graph.input}
    sides = [d.dim_value for d in inputs[name].type.tensor_type.shape.dim]
    if facts.takes == "uint8" and len(sides) == 4:
        sides = [sides[0], sides[3], sides[1], sides[2]]
    if len(sides) != 4 or sides[1] != 3 or sides[2] != sides[3] or sides[2] < 8:
        raise Refused(f"the model's input is {facts.takes} {sides}, not [n, 3, px, px]", code="bad_model")
    return int(sides[2])


def answers(model: bytes, pics: Pictures, *, threads: int = 1, runtime: str = "auto") -> NDArray[np.int64]:
    """The class index that the delivered bytes give each picture."""
    return answer(engine.load(model, runtime=runtime, threads=threads), pics)


def answer(loaded: engine.Engine, pics: Pictures) -> NDArray[np.int64]:
    """The class index that a loaded model gives each picture; -1 where its logits are not all finite numbers."""
    found = [np.empty(0, np.int64)]
    for batch in pics.batches(16):
        logits = loaded.run(batch)[0]
        sound = np.asarray(np.isfinite(logits).all(axis=1), np.bool_)
        index = preprocess.decode(np.where(sound[:, None], logits, np.float32(0)))[0]
        found.append(np.where(sound, index, -1))
    return np.concatenate(found)


def accuracy(model: bytes, pics: Pictures, *, threads: int = 1, runtime: str = "auto") -> float:
    """Share of right answers; 0 of no pictures."""
    return float((answers(model, pics, threads=threads, runtime=runtime) == pics.labels).mean()) if len(pics) else 0.0


@dataclass(frozen=True)
class Times:
    """Milliseconds per frame: `stages` by the wall, `cpu` of this process (what one core works, whoever else is
    busy).
    """

    stages: dict[str, NDArray[np.float64]]
    cpu: NDArray[np.float64]

    @property
    def wall(self) -> NDArray[np.float64]:
        return np.asarray(np.sum(list(self.stages.values()), axis=0), np.float64)


def frame_times(
    loaded: engine.Engine, px: int, *, seconds: float, clock: Clock, regions: int = MOST, least: int = 10, warm: int = 3
) -> Times:
    """One 1280x720 frame with 1 to 4 regions, again and again for `seconds` (`least` times at least), after `warm` times
    that do not count.

    Includes all that the camera does with a decoded frame but drawing; decoding the JPEG is not included.
    """
    frame = np.ascontiguousarray(np.tile(patterns.picture(7, 720), (1, 2, 1))[:, :1280])
    walls: list[list[float]] = []
    cpus: list[float] = []
    for _ in range(warm):
        _one(loaded, frame, px, regions)
    until = clock.monotonic() + seconds
    while len(walls) < least or (clock.monotonic() < until and len(walls) < 100_000):
        before = cpu_seconds()
        walls.append(_one(loaded, frame, px, regions))
        cpus.append(cpu_seconds() - before)
    table = np.array(walls) * 1000
    return Times({name: table[:, i] for i, name in enumerate(STAGES)}, np.array(cpus) * 1000)


def _one(loaded: engine.Engine, frame: NDArray[np.uint8], px: int, regions: int) -> list[float]:
    marks = [stopwatch()]
    crops = [preprocess.cut(frame, *region) for region in REGIONS[:regions]]
    marks.append(stopwatch())
    tensors = preprocess.prepare(crops, px, loaded.takes)
    marks.append(stopwatch())
    batch = preprocess.stack(tensors, loaded.takes)
    marks.append(stopwatch())
    (logits,) = loaded.run(batch)
    marks.append(stopwatch())
    preprocess.decode(logits)
    marks.append(stopwatch())
    return [b - a for a, b in pairwise(marks)]


def beside(load: float, cores: int) -> str:
    """What a basis says of a box that did other things meanwhile: `load` is the average of a minute. CPU time grows
    then, and no estimator mends that (docs/retest.md): the figure is too low.
    """
    if load < cores:
        return ""
    return (
        f"; this box was busy (load {load:.1f} on {cores} core{'s' if cores > 1 else ''}), which makes it look slower"
    )


def known_answer(model: bytes, px: int, *, seeds: Iterable[int] = range(6)) -> dict[str, object]:
    """What a healthy camera must compute: logits of pictures drawn from seeds, and how far it may be off.

    The tolerance covers what runtimes and instruction sets differ by: four times the largest difference between the
    runtimes installed here, at least 2 % of the largest logit (int8 rounds differently with and without VNNI).
    """
    seeds = tuple(seeds)
    batch = preprocess.marshal(preprocess.to_float([patterns.picture(seed, px) for seed in seeds], px))
    found = [engine.load(model, runtime=name).run(batch)[0] for name in engine.runtimes()]
    apart = max(float(np.abs(other - found[0]).max()) for other in found)
    tolerance = max(4 * apart, 0.02 * float(np.abs(found[0]).max()), 1e-3)
    return {"seeds": list(seeds), "px": px, "logits": found[0].round(6).tolist(), "tolerance": round(tolerance, 6)}
