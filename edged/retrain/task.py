"""What the processes of a re-test do, one task at a time: a candidate and the part of the work on it.

    prepare   the candidate packed, unpacked again and left as `<sha256>.onnx` in the job's folder, if they are the same; what
              a camera's self-test must answer; one with a layer that only a reference kernel computes is refused
    speed     the device's share of the report, in a process that has seen neither picture nor label
    answers   what it answers to one slice of the hold-out
    pinned    what it answers to the pinned pictures

Guarantees: the slices depend on the hold-out alone and are a whole number of batches, so that any number of processes gives
each picture in the same batch and the answers are the same; a task's result is the same whether it ran once or again.
Does not guarantee that a hostile model cannot end its process: `retest` names it then.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from edged import durable, engine, packed
from edged.errors import Corrupt, Refused
from edged.retrain import device, formats, measure, pictures, source
from edged.retrain.jobs import Judged
from edged.retrain.pictures import Crop, Pictures
from edged.retrain.rewrite import kernels

SLICE = 128  # pictures: eight batches, some 0.3 s of work
CALIBRATION = 64  # crops of the train part that set the scales of an integer network
NOT_A_NUMBER = -2
ENGINES = 8  # that a process keeps loaded

Kind = Literal["prepare", "speed", "answers", "pinned"]


class Task(Struct, frozen=True):
    """`sha256` of a candidate or the baseline; `slice` of the hold-out, from 0."""

    kind: Kind
    sha256: str
    slice: int = 0

    @property
    def name(self) -> str:
        """Of the file with its result."""
        return f"{self.kind}-{self.sha256[:16]}-{self.slice}.json"


class Prepared(Struct, frozen=True):
    size: int
    size_packed: int
    known_answer: dict[str, Any]
    kernels: tuple[str, ...] = ()
    isa: str = ""
    isa_failed: bool = False


class Seen(Struct, frozen=True):
    """Some pictures and what a model answered: class indices of the task, -1 = another class, -2 = not a number."""

    ids: tuple[str, ...]
    cameras: tuple[str, ...]
    labels: tuple[int, ...]
    found: tuple[int, ...]
    skipped: int = 0
    bad: tuple[str, ...] = ()


class From(Protocol):
    """Where models and crops come from: the site's store, or what another host was sent."""

    def model(self, sha256: str) -> bytes: ...
    def crops(self, part: source.Part) -> list[Crop]: ...
    def named(self, pairs: Sequence[tuple[str, str]]) -> list[Crop]: ...


@dataclass
class Bench:
    """A process's place: what it has loaded. `folder` is the job's. Not `whole`: the store's hold-out is the slice itself."""

    job: Judged
    store: From
    folder: Path
    whole: bool = True
    imposed: tuple[str, ...] = ()  # limits, in words
    _engines: OrderedDict[str, tuple[engine.Engine, int, tuple[str, ...]]] = field(default_factory=OrderedDict)
    _pictures: tuple[tuple[str, int, int], Pictures] | None = None

    def do(self, task: Task) -> Struct | dict[str, Any]:
        """Raises Refused: the model is at fault; Corrupt: a changed file."""
        if task.kind == "prepare":
            return self.prepare(task.sha256)
        if task.kind == "speed":
            from edged.retrain import trial

            data = self.delivered(task.sha256)
            return trial.measure_speed(data, measure.input_px(data), self.job) | {"imposed": self.imposed}
        if task.kind == "pinned":
            return self.answers(task.sha256, "pinned", 0)
        return self.answers(task.sha256, "holdout", task.slice)

    def delivered(self, sha256: str) -> bytes:
        """The file that was unpacked from its packed form; of the baseline, as it was released."""
        try:
            data = (self.folder / f"{sha256}.onnx").read_bytes()
        except FileNotFoundError:
            return self.store.model(sha256)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Corrupt(f"model {sha256[:12]} was changed between its tasks", code="model_changed")
        return data

    def prepare(self, sha256: str) -> Prepared:
        data = self.store.model(sha256)
        measure.input_px(data)
        own = _classes(data, self.job.classes)
        if own != self.job.classes:
            raise Refused(
                f"the model answers with {', '.join(own)}; this site's classes are {', '.join(self.job.classes)}, in this "
                "order", code="other_classes",
            )  # fmt: skip
        again, size_packed = through_packing(data)
        profile = device.find(self.job.device)
        if profile.caps:
            kernels.refuse(engine.load(again, runtime=self.job.runtime))  # before it takes minutes
        durable.write(self.folder / f"{sha256}.onnx", again, fsync=False)
        return Prepared(
            len(again), size_packed, measure.known_answer(again, measure.input_px(again)), (),
            *self._emulated(profile, again),
        )  # fmt: skip

    def _emulated(self, profile: device.Profile, data: bytes) -> tuple[str, bool]:
        if not self.job.verify_isa:
            return "", False
        from edged.retrain import verified

        found = verified.run(profile, data, measure.input_px(data))
        return found.said, found.verified is False

    def answers(self, sha256: str, part: Literal["holdout", "pinned"], n: int) -> Seen:
        loaded, px, own = self._load(sha256)
        held = self._look(part, n, px)
        given = measure.answer(loaded, held)
        if len(given) and given.max() >= len(own):
            raise Refused(f"the model gives more answers than its {len(own)} classes", code="bad_model")
        found = in_classes(own, given, self.job.classes)
        return Seen(
            held.ids, held.cameras, tuple(held.labels.tolist()), tuple(found.tolist()), held.skipped, held.bad
        )  # fmt: skip

    def _load(self, sha256: str) -> tuple[engine.Engine, int, tuple[str, ...]]:
        if sha256 not in self._engines:
            data = self.delivered(sha256)
            px, profile = measure.input_px(data), device.find(self.job.device)
            loaded = formats.load(
                profile, data, runtime=self.job.runtime, threads=1, calibration=self._calibration(px, profile.numbers)
            )
            self._engines[sha256] = (loaded, px, _classes(data, self.job.classes))
            if len(self._engines) > ENGINES:
                self._engines.popitem(last=False)
        return self._engines[sha256]

    def _calibration(self, px: int, numbers: str) -> tuple[NDArray[Any], ...]:
        if numbers != "int8":
            return ()
        crops = self.store.crops("train")
        spread = crops[:: max(1, len(crops) // CALIBRATION)][:CALIBRATION]
        return tuple(pictures.load(spread, self.job.classes, px).batches(16))

    def _look(self, part: Literal["holdout", "pinned"], n: int, px: int) -> Pictures:
        key = (part, n, px)
        if self._pictures is None or self._pictures[0] != key:
            if part == "pinned":
                crops = self.store.named(self.job.pinned)
            else:
                crops = self.store.crops("holdout")
                crops = list(islice(crops, n * SLICE, (n + 1) * SLICE)) if self.whole else crops
            self._pictures = key, pictures.load(crops, self.job.classes, px)
        return self._pictures[1]


def in_classes(own: Sequence[str], given: NDArray[np.int64], classes: Sequence[str]) -> NDArray[np.int64]:
    """Answers of a model made for the classes `own` as indices into `classes`: -1 (never right) for a class that is gone,
    NOT_A_NUMBER for -1.
    """
    table = [classes.index(c) if c in classes else -1 for c in own]
    return np.array([*table, NOT_A_NUMBER], np.int64)[given]


def slices(n: int) -> range:
    """Of a hold-out of n pictures."""
    return range((n + SLICE - 1) // SLICE)


def merged(parts: Sequence[Seen]) -> Seen:
    """Slices, in their order, as one."""
    return Seen(
        tuple(i for p in parts for i in p.ids), tuple(c for p in parts for c in p.cameras),
        tuple(x for p in parts for x in p.labels), tuple(x for p in parts for x in p.found),
        sum(p.skipped for p in parts), tuple(b for p in parts for b in p.bad)[: pictures.NAMED],
    )  # fmt: skip


def through_packing(data: bytes) -> tuple[bytes, int]:
    """The file packed and unpacked again, and the bytes of its packed form. Raises Refused when it is not the same."""
    try:
        form = packed.pack(data)
        again = packed.unpack(form)
    except Corrupt as e:
        raise Refused(f"its packed form does not unpack: {e}", code="pack_failed") from e
    if again != data:
        raise Refused("its packed form does not unpack to the same file", code="pack_failed")
    return again, len(form)


def _classes(data: bytes, usual: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(json.loads(source.metadata(data).get(source.CLASSES, "[]"))) or usual
