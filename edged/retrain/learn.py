"""Stage `learn`: the model that there is brought up to date with the snapshot at the least cost that does it (ladder.py).

Guarantees: what is exported did better on the tune split than the model it started from, without giving up a camera or
class that it knew; else Refused("nothing_learned") and that model stays. Every rung that was tried is told with its
accuracy, CPU seconds and memory. A killed run goes on at its last finished epoch or rung, to the same bits. The hold-out
is not read. Does not guarantee that the gate agrees: the tune split is small, and the trial reads another one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from msgspec import Struct

from edged.clock import Clock
from edged.retrain import export, ladder, lesson, measure, mix, pictures, source, train
from edged.retrain.climbed import Tried
from edged.retrain.jobs import LearnJob, Progress
from edged.retrain.pictures import Pictures
from edged.storage import samples


class Learned(Struct, frozen=True):
    """The result: that of `train` (see there), and which rungs were tried."""

    sha256: str
    weights_sha256: str
    size: int
    tune_accuracy: float
    tune_samples: int
    train_samples: int
    skipped: int
    epochs: int
    kept_epoch: int
    seconds: float
    curve: tuple[tuple[int, float, float, float], ...]  # of the rung that was kept
    start: str
    stopped: str
    rung: str  # whose weights were exported
    rungs_tried: tuple[Tried, ...]
    new_samples: int
    old_samples: int
    kin_samples: int  # that nobody labelled, taught beside the new ones
    start_accuracy: float  # of the model it began with, on the same tune samples
    note: str  # why this rung, a sentence


def run(job: LearnJob, job_dir: Path, *, clock: Clock, progress: Callable[[Progress], None]) -> Learned:
    """The whole stage. Raises Refused: too little or one-sided data, another network, nothing learned; Unavailable,
    Corrupt: the store.
    """
    began = clock.monotonic()
    torch.set_num_threads(job.threads)
    progress(Progress(text="reading the crops"))
    with source.open_source(job) as store:
        assert isinstance(store, source.Source)
        net = ladder.start_net(job, store.weights(job.start))
        data = read(job, store)
        climbed = ladder.climb(net, data, job, job_dir, clock=clock, progress=progress)
        progress(Progress(1.0, 0.0, "exporting"))
        weights = store.put_weights(train.weights_of(climbed.net, ladder.as_train(job)))
        delivered = source.with_metadata(
            export.to_onnx(climbed.net, job.arch.input_px),
            {source.WEIGHTS: weights, source.CLASSES: json.dumps(job.classes), "edged.arch": job.arch.name},
        )
        sha256 = store.put(delivered)
    return Learned(
        sha256=sha256,
        weights_sha256=weights,
        size=len(delivered),
        tune_accuracy=measure.accuracy(delivered, data.tune, threads=job.threads),
        tune_samples=len(data.tune),
        train_samples=len(data.new) + len(data.old),
        skipped=data.skipped,
        epochs=climbed.kept.epochs,
        kept_epoch=climbed.kept.epochs,
        seconds=round(clock.monotonic() - began, 2),
        curve=climbed.kept.curve,
        start=job.start,
        stopped=climbed.stopped,
        rung=climbed.kept.name,
        rungs_tried=climbed.tried,
        new_samples=len(data.new),
        old_samples=len(data.old),
        kin_samples=len(data.kin) if data.kin is not None and climbed.kept.name != "norms" else 0,
        start_accuracy=climbed.start_accuracy,
        note=climbed.note,
    )


def read(job: LearnJob, store: source.Source) -> lesson.Data:
    """New crops whole; of the old ones only as many exemplars as replay asks for are ever decoded."""
    seen = store.ids(job.before) if job.before else frozenset()
    crops, tuning = store.crops("train"), store.crops("tune")
    new, old = ([c for c in crops if (c.id in seen) is known] for known in (False, True))
    tune_new, tune_old = ([c for c in tuning if (c.id in seen) is known] for known in (False, True))
    few = _some(old, lesson.replayed(len(new)), job.seed)
    chosen = {c.id for c in few}
    rest = _some([c for c in old if c.id not in chosen], lesson.MORE, job.seed)
    tune_old = _some(tune_old, lesson.WATCHED, job.seed)

    def load(part: list[pictures.Crop]) -> Pictures:
        return pictures.load(part, job.classes, job.arch.input_px)

    one, two, three, four = (load(part) for part in (new, few, tune_new, tune_old))
    known_ids = {c.id for c in (*crops, *tuning)}
    kin = load([_crop(store, i, label) for i, label in job.kin if i not in known_ids])
    blind = [i for i in job.unlabelled if i not in known_ids][: ladder.BLIND]
    unlabelled = load([_crop(store, i, job.classes[0]) for i in blind])
    skipped = sum(p.skipped for p in (one, two, three, four))
    block_s = store.body["block_s"]
    blocks = {i: int(samples.get(store.store, i).ts // block_s) for i in (*one.ids, *three.ids)}
    return lesson.Data(one, two, three, four, unlabelled.pixels, skipped, lambda: load(rest), kin, blocks=blocks)


def _some(crops: list[pictures.Crop], n: int, seed: int) -> list[pictures.Crop]:
    return [crops[i] for i in mix.exemplars([(c.label, c.camera) for c in crops], n, seed)]


def _crop(store: source.Source, sample: str, label: str) -> pictures.Crop:
    return pictures.Crop(sample, sample.split(":", 1)[0], label, lambda: samples.crop(store.store, sample))
