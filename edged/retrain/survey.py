"""Stage `survey`: what the present model and a teacher see in new crops, and a hash that finds near-duplicates.

Guarantees: pictures are decoded and sized as a camera does it; one that is gone or damaged is left out and named; nothing
but numbers leaves the stage, in a file of this job alone; no torch. Ends by itself at `max_minutes` with what it has.
Does not guarantee features: a model without any says so in `note`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from edged import durable, engine
from edged.clock import Clock
from edged.engine import onnx_file, preprocess
from edged.errors import Corrupt, Refused
from edged.retrain import features, likeness, measure, pictures, source
from edged.retrain.jobs import Progress, SurveyJob
from edged.storage import samples

FILE = "insights.safetensors"
CHUNK = 32  # crops that are held decoded at a time
_PIXELS = 32 * 64 * 64  # in one call of a network: 32 pictures of 64 px, two of 224 px


class Surveyed(Struct, frozen=True):
    """The result. `file` in the job's folder holds a row for each of `samples`, in that order: hash int64; answer int64
    (index into the job's classes, -1 = none of them), score and margin float32 0..1; features float16 [n, d]; asked uint8
    (1 = the teacher was), teacher int64 and teacher_score float32 likewise. `unreadable`: crops that are gone or damaged.
    `width`: features before the projection.
    """

    file: str
    samples: tuple[str, ...]
    skipped: int
    seconds: float
    unreadable: tuple[str, ...] = ()
    asked: int = 0
    dimensions: int = 0
    width: int = 0
    note: str = ""


def run(job: SurveyJob, job_dir: Path, *, clock: Clock, progress: Callable[[Progress], None]) -> Surveyed:
    """The whole stage. Raises Refused: a model that is not there or does not run."""
    started = clock.monotonic()
    until = started + job.max_minutes * 60
    seen: list[str] = []
    unreadable: list[str] = []
    rows: list[_Rows] = []
    told = frozenset(job.told)
    with source.open_source(job) as store:
        assert isinstance(store, source.Source)
        note, present, teacher = "", None, None
        if job.sha256:
            present, note = Looker.featured(store.model(job.sha256), job.classes, (), job.threads)
        if job.teacher:
            teacher = Looker.of(store.model(job.teacher), job.classes, job.teacher_classes, job.threads)
        for start in range(0, len(job.samples), CHUNK):
            if clock.monotonic() > until:
                break
            chunk: list[tuple[str, NDArray[np.uint8]]] = []
            for sample in job.samples[start : start + CHUNK]:
                try:
                    chunk.append((sample, pictures.decode(samples.crop(store.store, sample))))
                except (Refused, Corrupt):
                    unreadable.append(sample)
            if chunk:
                rows.append(_rows(chunk, present, teacher, told))
                seen += [sample for sample, _ in chunk]
            done = min(start + CHUNK, len(job.samples))
            left = (clock.monotonic() - started) * (len(job.samples) / done - 1)
            progress(Progress(done / len(job.samples), left, f"{done} of {len(job.samples)} crops"))
    whole = _Rows.joined(rows)
    durable.write(job_dir / FILE, whole.packed(), mode=0o600)
    return Surveyed(
        FILE, tuple(seen), len(unreadable), round(clock.monotonic() - started, 3), tuple(unreadable),
        int(whole.asked.sum()), int(whole.features.shape[1]), present.width if present else 0, note,
    )  # fmt: skip


@dataclass
class Looker:
    """A loaded classifier; its answers as indices into the task's classes."""

    engine: engine.Engine
    px: int
    batch: int  # pictures in one call
    fixed: bool  # the file takes just so many
    table: NDArray[np.int64]  # own class -> the task's, -1 = none of them
    feature: int = -1  # which output holds the features, -1 = none
    width: int = 0

    @classmethod
    def of(cls, model: bytes, classes: Sequence[str], own: Sequence[str], threads: int, feature: int = -1) -> Looker:
        """`own`: its classes if its metadata does not name them, () = the task's. Raises Refused."""
        px = measure.input_px(model)
        name = onnx_file.check(model).input_name
        shape = next(i for i in source.parse(model).graph.input if i.name == name).type.tensor_type.shape
        first = shape.dim[0].dim_value
        return cls(
            engine.load(model, threads=threads), px, first or max(1, min(CHUNK, _PIXELS // (px * px))), first > 0,
            table(model, classes, own), feature,
        )  # fmt: skip

    @classmethod
    def featured(cls, model: bytes, classes: Sequence[str], own: Sequence[str], threads: int) -> tuple[Looker, str]:
        """With features, or without and why."""
        onnx_file.check(model)
        try:
            opened, place = features.with_features(model)
        except Refused as e:
            return cls.of(model, classes, own, threads), str(e)
        return cls.of(opened, classes, own, threads, place), ""

    def look(self, images: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[Any], ...]:
        """BGR pictures -> answer int64, score and margin float32, each [n], features float16 [n, d] (d 0 = none)."""
        found: list[tuple[NDArray[Any], ...]] = []
        for start in range(0, len(images), self.batch):
            part = images[start : start + self.batch]
            outputs = self._run(preprocess.marshal(preprocess.to_float(part, self.px)))
            logits = outputs[0][: len(part)].reshape(len(part), -1)
            if logits.shape[1] != len(self.table):
                raise Refused(
                    f"the model answers {logits.shape[1]} classes, {len(self.table)} are named", code="bad_model"
                )
            sane: NDArray[np.bool_] = np.asarray(np.isfinite(logits).all(axis=1))
            index, score, margin = preprocess.decode(np.where(sane[:, None], logits, 0))
            row = [np.where(sane, self.table[index], -1), np.where(sane, score, 0), np.where(sane, margin, 0)]
            if self.feature >= 0:
                seen = features.pooled(outputs[self.feature][: len(part)])
                self.width = int(seen.reshape(len(part), -1).shape[1])
                row.append(features.project(seen))
            else:
                row.append(np.zeros((len(part), 0), np.float16))
            found.append(tuple(row))
        return tuple(np.concatenate(column) for column in zip(*found, strict=True))

    def _run(self, batch: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        if self.fixed and len(batch) < self.batch:
            batch = np.concatenate([batch, np.repeat(batch[-1:], self.batch - len(batch), axis=0)])
        return self.engine.run(batch)


def table(model: bytes, classes: Sequence[str], own: Sequence[str] = ()) -> NDArray[np.int64]:
    """For each class of a model its index in `classes`, -1 for one that is not there. Its metadata names them; else they
    are `own`, else `classes`. Raises Refused for names that are none.
    """
    try:
        named = json.loads(source.metadata(model).get(source.CLASSES, "[]"))
    except ValueError as e:
        raise Refused(f"the model does not name its classes: {e}", code="bad_model") from e
    if not isinstance(named, list):
        raise Refused("the model does not name its classes in a list", code="bad_model")
    index = {name: i for i, name in enumerate(classes)}
    return np.array([index.get(str(name), -1) for name in (named or own or classes)], np.int64)


@dataclass(frozen=True)
class _Rows:
    hash: NDArray[np.int64]
    answer: NDArray[np.int64]
    score: NDArray[np.float32]
    margin: NDArray[np.float32]
    features: NDArray[np.float16]
    asked: NDArray[np.uint8]
    teacher: NDArray[np.int64]
    teacher_score: NDArray[np.float32]

    @classmethod
    def joined(cls, rows: Sequence[_Rows]) -> _Rows:
        if not rows:
            return _rows([], None, None, frozenset())
        return cls(*(np.concatenate([getattr(r, name) for r in rows]) for name in cls.__dataclass_fields__))

    def packed(self) -> bytes:
        from safetensors.numpy import save

        return save({name: np.ascontiguousarray(getattr(self, name)) for name in self.__dataclass_fields__})


def _rows(
    chunk: Sequence[tuple[str, NDArray[np.uint8]]], present: Looker | None, teacher: Looker | None, told: frozenset[str]
) -> _Rows:
    n, images = len(chunk), [image for _, image in chunk]
    answer, score, margin = np.full(n, -1, np.int64), np.zeros(n, np.float32), np.zeros(n, np.float32)
    seen = np.zeros((n, 0), np.float16)
    if present is not None and n:
        answer, score, margin, seen = present.look(images)
    asked = np.array([teacher is not None and sample not in told for sample, _ in chunk], bool)
    says, sure = np.full(n, -1, np.int64), np.zeros(n, np.float32)
    if teacher is not None and asked.any():
        says[asked], sure[asked], _, _ = teacher.look([image for image, a in zip(images, asked, strict=True) if a])
    return _Rows(
        np.array([likeness.difference_hash(image) for image in images], np.int64), answer.astype(np.int64),
        score.astype(np.float32), margin.astype(np.float32), seen, asked.astype(np.uint8), says, sure,
    )  # fmt: skip
