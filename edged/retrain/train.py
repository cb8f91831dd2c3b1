"""Stage `train`: from a snapshot or a folder to a float ONNX file and the weights it was made of.

Guarantees: a killed run continues after its last finished epoch; what is exported is the epoch that did best on the
tune split; the accuracies that are reported are the engine's on the exported bytes, not torch's on the network; a test
set is read once, after that. Does not guarantee that the model is better than the old one: the trial measures that on
the hold-out, which is never read here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import torch
from msgspec import Struct
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from edged.clock import Clock
from edged.errors import Corrupt, Refused, Unavailable
from edged.interval import wilson
from edged.retrain import accelerator, export, fit, fits, measure, pictures, source, untaught, weights_file, zoo
from edged.retrain.accelerator import CPU, Accelerator
from edged.retrain.folder import Folder
from edged.retrain.jobs import Progress, TrainJob
from edged.retrain.pictures import Pictures
from edged.retrain.spread import ALONE, Group


class Tested(Struct, frozen=True):
    """Of the exported bytes on one set: `right` of `n`, Wilson's 95 % interval, and what naming the set's most frequent
    class always would give.
    """

    right: int
    n: int
    accuracy: float
    error: float
    lower: float
    upper: float
    guessing: float
    per_class: dict[str, tuple[int, int]]  # right, n


class Trained(Struct, frozen=True):
    """The result. `curve`: [epoch, training loss, tune loss, tune accuracy (torch's)]."""

    sha256: str  # of the float ONNX
    weights_sha256: str
    size: int
    tune_accuracy: float  # by the engine on the exported bytes
    tune_samples: int
    train_samples: int
    skipped: int  # crops that could not be read
    epochs: int  # done, over all resumptions
    kept_epoch: int  # whose weights were exported
    seconds: float
    curve: tuple[tuple[int, float, float, float], ...]
    start: str  # "" = from scratch
    stopped: str  # why before the last epoch, a sentence; "" = it was not
    skipped_names: tuple[str, ...] = ()  # the first of them
    tune: Tested | None = None
    test: Tested | None = None  # None: the source has no test set
    device: str = "CPU"
    precision: str = "float32"
    processes: int = 1


def run(
    job: TrainJob, job_dir: Path, *, clock: Clock, progress: Callable[[Progress], None], group: Group = ALONE
) -> Trained:
    """The whole stage; every process of a group calls it, the first one writes.

    Raises Refused: too little or one-sided data, a network that is unknown or too large for this memory, diverged;
    Unavailable: no room, no time left after reading, another process is gone; Corrupt: the store;
    Misconfigured: a precision that the device lacks.
    """
    progress(Progress(text="reading the crops"))
    where = accelerator.choose(job.precision, group.local)
    with source.open_source(job) as store:
        tested = tuple(store.crops("test")) if isinstance(store, Folder) else ()
        parts = (*(tuple(store.crops(part)) for part in ("train", "tune")), tested)
        # Plain pictures may lie in a file beside the job; a store's are sealed and stay in memory.
        mapped = bool(job.folder) and (group.size > 1 or pictures.crowded(sum(map(len, parts)), job.arch.input_px))
        if where.device.type == "cpu":
            fits.require(
                job.arch.name, job.arch.input_px, max(2, len(job.classes)), "all" if job.start else "scratch",
                batch=job.batch, pictures=0 if mapped else sum(map(len, parts)),
            )  # fmt: skip
        caches = [job_dir / f"pixels-{name}" if mapped else None for name in ("train", "tune", "test")]

        def read() -> list[Pictures]:
            found, before, until = [], 0, clock.monotonic() + job.max_minutes * 60
            timely = _timely(progress, job, clock, until)
            for crops, cache in zip(parts, caches, strict=True):
                found.append(
                    pictures.load(
                        crops, job.classes, job.arch.input_px, threads=job.threads, cache=cache,
                        progress=_reading(timely, before, len(crops), sum(map(len, parts))),
                    )
                )  # fmt: skip
                before += len(crops)
            return found

        train, tune, test = group.in_turn(read)
        start = store.weights(job.start) if job.start else b""
        net, state = teach(
            job, train, tune, start, job_dir / "checkpoint.safetensors", clock=clock, progress=progress, group=group,
            accelerator=where,
        )  # fmt: skip
        result = None
        if group.first:
            progress(Progress(1.0, 0.0, "exporting", state.epoch))
            result = _deliver(job, store, net, state, (train, tune, test), where, group)
        if group.first and job.folder:
            for name in ("train", "tune", "test"):  # also what a killed run of several processes left
                pictures.forget(job_dir / f"pixels-{name}")
    return msgspec.convert(group.told(result), Trained)


def _timely(
    progress: Callable[[Progress], None], job: TrainJob, clock: Clock, until: float
) -> Callable[[Progress], None]:
    """`progress`, and Unavailable when reading alone takes all the time there is."""

    def tell(now: Progress) -> None:
        progress(now)
        if clock.monotonic() > until:
            raise Unavailable(
                f"{job.max_minutes:g} minutes were over while {now.text}",
                hint="allow more minutes, take fewer pictures, or read with more threads", code="out_of_time",
            )  # fmt: skip

    return tell


def _reading(progress: Callable[[Progress], None], before: int, here: int, total: int) -> Callable[[float], None]:
    def tell(fraction: float) -> None:
        n = before + round(fraction * here)
        progress(Progress(0.0, None, f"reading the crops: {n} of {total}"))

    return tell


def _deliver(
    job: TrainJob,
    store: source.Source | Folder,
    net: nn.Module,
    state: fit.State,
    parts: tuple[Pictures, Pictures, Pictures],
    where: Accelerator,
    group: Group,
) -> Trained:
    """Export, put into the store, and look at what was exported with the engine."""
    train, tune, test = parts
    weights = store.put_weights(weights_of(net, job))
    delivered = source.with_metadata(
        export.to_onnx(net, job.arch.input_px),
        {source.WEIGHTS: weights, source.CLASSES: json.dumps(job.classes), "edged.arch": job.arch.name},
    )
    sha256 = store.put(delivered)
    tuned = judged(delivered, tune if len(tune) else train, job)
    return Trained(
        sha256=sha256,
        weights_sha256=weights,
        size=len(delivered),
        tune_accuracy=tuned.accuracy,
        tune_samples=len(tune),
        train_samples=len(train),
        skipped=sum(p.skipped for p in parts),
        epochs=state.epoch,
        kept_epoch=state.kept_epoch,
        seconds=round(state.seconds, 2),
        curve=tuple(state.curve),
        start=job.start,
        stopped=state.stopped,
        skipped_names=tuple(name for p in parts for name in p.bad)[: pictures.NAMED],
        tune=tuned,
        test=judged(delivered, test, job) if len(test) else None,
        device=where.name,
        precision=where.precision,
        processes=group.size,
    )


def judged(delivered: bytes, pics: Pictures, job: TrainJob) -> Tested:
    """The engine's answers on pictures, counted."""
    hits = measure.answers(delivered, pics, threads=job.threads) == pics.labels
    right, n = int(hits.sum()), len(pics)
    sizes, rights = (np.bincount(pics.labels[m], minlength=len(job.classes)) for m in (slice(None), hits))
    lower, upper = wilson(right, n)
    per_class = {name: (int(r), int(k)) for name, r, k in zip(job.classes, rights, sizes, strict=True)}
    return Tested(right, n, right / n, (n - right) / n, lower, upper, int(sizes.max()) / n, per_class)


def teach(
    job: TrainJob,
    train: Pictures,
    tune: Pictures,
    start: bytes,
    checkpoint: Path,
    *,
    clock: Clock,
    progress: Callable[[Progress], None],
    group: Group = ALONE,
    accelerator: Accelerator = CPU,
) -> tuple[nn.Module, fit.State]:
    """Build, warm up from `start` (a safetensors file, or b"") and fit; pictures in, network out, no store."""
    _check_data(job, train)
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    net = zoo.build(job.arch.name, len(job.classes), job.arch.input_px)
    if start:
        _load(net, start, job)
    began, reported = clock.monotonic(), -1.0

    def tell(state: fit.State, fraction: float) -> None:
        nonlocal reported
        now = clock.monotonic()
        if now - reported < 0.5 and fraction < 1:
            return
        reported = now
        spent = now - began
        last = state.curve[-1] if state.curve else None
        progress(
            Progress(
                fraction=min(1.0, fraction),
                eta_s=round(spent / fraction - spent, 1) if fraction > 0.02 else None,
                text=f"epoch {min(state.epoch + 1, job.epochs)} of {job.epochs}",
                epoch=state.epoch,
                loss=last[1] if last else None,
                accuracy=last[3] if last else None,
            )
        )

    # Without a tune split (too few blocks of time) the training split stands in: it can stop a run, not judge a model.
    state = fit.fit(
        net, train, tune if len(tune) else train, job, checkpoint, clock=clock, progress=tell, group=group,
        accelerator=accelerator,
    )  # fmt: skip
    return net, state


def _check_data(job: TrainJob, train: Pictures) -> None:
    if len(job.classes) < 2:
        raise Refused(f"one class only ({', '.join(job.classes)}): there is nothing to tell apart", code="one_class")
    found = Counter(train.labels.tolist())
    taught = {name: found[i] for i, name in enumerate(job.classes)}
    if against := untaught.refusal(taught, job.min_samples, train.skipped):
        raise against


def weights_of(net: nn.Module, job: TrainJob) -> bytes:
    tensors = {k: v.contiguous() for k, v in net.state_dict().items()}
    # One key: safetensors writes several in an order that changes from run to run, and the file's name is its hash.
    return bytes(save_tensors(tensors, {"edged": json.dumps([job.arch.name, job.arch.input_px, job.classes])}))


def _load(net: nn.Module, data: bytes, job: TrainJob) -> None:
    """Start values from an older model of the same network; of its last layer those of the classes it knew, by name."""
    try:
        tensors = load_tensors(data)
        arch, _px, classes = json.loads(weights_file.metadata(data)["edged"])
    except (SafetensorError, KeyError, ValueError) as e:
        raise Corrupt(f"the weights to start from do not read back: {e}", code="bad_weights") from e
    if arch != job.arch.name:
        raise Refused(f"cannot start a {job.arch.name} from a {arch}", code="other_network")
    own = net.state_dict()
    if tuple(classes) != job.classes:
        for name in list(own)[-2:]:  # weight and bias of the last layer, a row for each class
            rows, old = own[name].clone(), tensors.pop(name, None)
            if old is not None and old.shape == (len(classes), *rows.shape[1:]):
                for i, known in enumerate(job.classes):
                    if known in classes:
                        rows[i] = old[classes.index(known)]
                tensors[name] = rows
    fitting = {k: v for k, v in tensors.items() if k in own and v.shape == own[k].shape}
    net.load_state_dict(own | fitting)
