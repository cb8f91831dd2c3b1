"""Stage `compress`: a smaller, faster file that answers almost the same, by a chain of steps (chain.py, methods/).

    weights -> network -> steps on the network, each retrained -> ONNX -> steps on the file -> the preparation
    of pictures inside (intake.py) -> the delivered bytes

Guarantees: what is measured before and after is the delivered bytes under the engine, on the tune split; the hold-out is
not read. Does not guarantee that the loss is small (the gate decides) or that the file is faster on every runtime.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import nn

from edged import chain
from edged.clock import Clock
from edged.errors import Corrupt, Refused
from edged.retrain import export, folder, intake, measure, methods, pictures, source, weights_file, zoo
from edged.retrain.jobs import CompressJob, Progress


class Compressed(Struct, frozen=True):
    """The result. Accuracies by the engine on the tune split (or, when that is empty, the train split)."""

    sha256: str
    size: int
    size_before: int
    accuracy_before: float
    accuracy_after: float
    samples: int
    method: str  # the chain
    facts: tuple[methods.Facts, ...] = ()
    previous: str = ""  # sha256 of the version before that it stays near
    note: str = ""  # why nothing could be kept of the version before


def run(job: CompressJob, job_dir: Path, *, clock: Clock, progress: Callable[[Progress], None]) -> Compressed:
    """The whole stage. Raises Refused: no such model, an unknown chain, no crops to calibrate on."""
    steps = chain.parse(job.method)
    progress(Progress(text="reading the crops"))
    with source.open_source(job) as store:
        original = store.model(job.sha256)
        px = measure.input_px(original)
        previous, note = _previous(job, store)
        lesson = methods.Lesson(
            pictures.load(store.crops("train"), job.classes, px), pictures.load(store.crops("tune"), job.classes, px),
            clock, seed=job.seed, threads=job.threads, calibration=job.calibration, max_loss=job.max_loss,
            until=clock.monotonic() + job.max_minutes * 60, device=job.device, folder=str(job_dir),
            previous=previous,
        )  # fmt: skip
        weights = store.weights(job.sha256) if chain.trains(steps) else b""
        data, facts = walk(original, weights, steps, lesson, progress)
        progress(Progress(0.9, text="measuring accuracy before and after"))
        return Compressed(
            sha256=store.put(data),
            size=len(data),
            size_before=len(original),
            accuracy_before=measure.accuracy(original, lesson.judged, threads=job.threads),
            accuracy_after=measure.accuracy(data, lesson.judged, threads=job.threads),
            samples=len(lesson.judged),
            method=chain.text(steps),
            facts=facts,
            previous=job.previous if any(fact.near for fact in facts) else "",
            note=note,
        )


def _previous(job: CompressJob, store: source.Source | folder.Folder) -> tuple[bytes, str]:
    """The version before, b"" where there is none; and why none can be read. It only saves bytes: without it all goes on."""
    if not job.previous:
        return b"", ""
    try:
        return store.model(job.previous), ""
    except (Refused, Corrupt) as e:
        return b"", f"nothing is kept of the version before: {e}"


def walk(
    original: bytes,
    weights: bytes,
    steps: chain.Chain,
    lesson: methods.Lesson,
    progress: Callable[[Progress], None] = lambda _: None,
) -> tuple[bytes, tuple[methods.Facts, ...]]:
    """The chain from an ONNX file, and the weights it was made of (b"" where no step needs them), to the delivered bytes."""
    named = source.metadata(original)
    classes = tuple(json.loads(named.get(source.CLASSES, "[]")))
    model = methods.Model(measure.input_px(original), classes, onnx=original)
    if weights:
        model = methods.Model(model.px, classes, network(weights)[0])
    facts = []
    for i, step in enumerate(steps):
        low, share = 0.1 + 0.8 * i / len(steps), 0.8 / len(steps)

        def tell(now: Progress, low: float = low, share: float = share, step: chain.Step = step) -> None:
            progress(msgspec.structs.replace(now, fraction=low + share * now.fraction, text=f"{step}: {now.text}"))

        tell(Progress(text="begins"))
        if model.net is not None and step.name in chain.OF_FILES:
            model = delivered(model)
        now = lesson.clock.monotonic()  # what time is left is for this step and those after it alike
        until = now + (lesson.until - now) / (len(steps) - i)
        model, fact = methods.apply(model, step, dataclasses.replace(lesson, progress=tell, until=until))
        facts.append(fact)
    data = intake.inside(delivered(model).onnx)
    return source.with_metadata(data, named | {"edged.method": chain.text(steps)}), tuple(facts)


def network(weights: bytes) -> tuple[nn.Module, str]:
    """The network that a weights file was made of, ready to be trained, and its name. Raises Corrupt."""
    try:
        tensors = load_tensors(weights)
        name, px, classes = json.loads(weights_file.metadata(weights)["edged"])
        net = zoo.build(name, len(classes), px)
        net.load_state_dict(tensors)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as e:
        raise Corrupt(f"the weights do not read back: {e}", code="bad_weights") from e
    return net, name


def delivered(model: methods.Model) -> methods.Model:
    """The same model as a file; as it is when it is one."""
    if model.net is None:
        return model
    return methods.Model(model.px, model.classes, onnx=export.to_onnx(model.net, model.px))
