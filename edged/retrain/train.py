"""Stage `train`: from a snapshot to a float ONNX file and the weights it was made of, both in the store.

Guarantees: a killed run continues after its last finished epoch; what is exported is the epoch that did best on the
tune split; the accuracy that is reported is the engine's on the exported bytes, not torch's on the network. Does not
guarantee that the model is better than the old one: the trial measures that on the hold-out, which is never read
here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from msgspec import Struct
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from edged.clock import Clock
from edged.errors import Corrupt, Refused
from edged.retrain import export, fit, measure, pictures, source, zoo
from edged.retrain.jobs import Progress, TrainJob
from edged.retrain.pictures import Pictures


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


def run(job: TrainJob, job_dir: Path, *, clock: Clock, progress: Callable[[Progress], None]) -> Trained:
    """The whole stage. Raises Refused: too little or one-sided data, unknown network, diverged; Unavailable, Corrupt:
    the store.
    """
    progress(Progress(text="reading the crops"))
    with source.open_source(job) as store:
        train = pictures.load(store.crops("train"), job.classes, job.arch.input_px)
        tune = pictures.load(store.crops("tune"), job.classes, job.arch.input_px)
        start = store.weights(job.start) if job.start else b""
        net, state = teach(job, train, tune, start, job_dir / "checkpoint.safetensors", clock=clock, progress=progress)
        progress(Progress(1.0, 0.0, "exporting", state.epoch))
        weights = store.put_weights(weights_of(net, job))
        delivered = source.with_metadata(
            export.to_onnx(net, job.arch.input_px),
            {source.WEIGHTS: weights, source.CLASSES: json.dumps(job.classes), "edged.arch": job.arch.name},
        )
        sha256 = store.put(delivered)
    tuned = tune if len(tune) else train
    return Trained(
        sha256=sha256,
        weights_sha256=weights,
        size=len(delivered),
        tune_accuracy=measure.accuracy(delivered, tuned, threads=job.threads),
        tune_samples=len(tune),
        train_samples=len(train),
        skipped=train.skipped + tune.skipped,
        epochs=state.epoch,
        kept_epoch=state.kept_epoch,
        seconds=round(state.seconds, 2),
        curve=tuple(state.curve),
        start=job.start,
        stopped=state.stopped,
    )


def teach(
    job: TrainJob,
    train: Pictures,
    tune: Pictures,
    start: bytes,
    checkpoint: Path,
    *,
    clock: Clock,
    progress: Callable[[Progress], None],
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
    state = fit.fit(net, train, tune if len(tune) else train, job, checkpoint, clock=clock, progress=tell)
    return net, state


def _check_data(job: TrainJob, train: Pictures) -> None:
    if len(job.classes) < 2:
        raise Refused(f"one class only ({', '.join(job.classes)}): there is nothing to tell apart", code="one_class")
    if len(train) < job.min_samples:
        raise Refused(
            f"too few labelled crops to train on: {len(train)} of at least {job.min_samples}"
            + (f" ({train.skipped} could not be read)" if train.skipped else ""),
            hint="label more, over more of the day",
            code="too_few",
        )
    found = Counter(train.labels.tolist())
    missing = [name for i, name in enumerate(job.classes) if not found[i]]
    if missing:
        raise Refused(f"no labelled crop in the train split shows: {', '.join(missing)}", code="missing_class")


def weights_of(net: nn.Module, job: TrainJob) -> bytes:
    tensors = {k: v.contiguous() for k, v in net.state_dict().items()}
    # One key: safetensors writes several in an order that changes from run to run, and the file's name is its hash.
    return bytes(save_tensors(tensors, {"edged": json.dumps([job.arch.name, job.arch.input_px, job.classes])}))


def _load(net: nn.Module, data: bytes, job: TrainJob) -> None:
    """Start values from an older model of the same network; its last layer is kept when the classes are the same."""
    try:
        tensors = load_tensors(data)
        arch, _px, classes = json.loads(_header(data)["edged"])
    except (SafetensorError, KeyError, ValueError) as e:
        raise Corrupt(f"the weights to start from do not read back: {e}", code="bad_weights") from e
    if arch != job.arch.name:
        raise Refused(f"cannot start a {job.arch.name} from a {arch}", code="other_network")
    own = net.state_dict()
    if tuple(classes) != job.classes:
        last = list(own)[-2:]  # weight and bias of the last layer
        tensors = {k: v for k, v in tensors.items() if k not in last}
    fitting = {k: v for k, v in tensors.items() if k in own and v.shape == own[k].shape}
    net.load_state_dict(own | fitting)


def _header(data: bytes) -> dict[str, str]:
    size = int.from_bytes(data[:8], "little")
    found: dict[str, str] = json.loads(data[8 : 8 + size])["__metadata__"]
    return found
