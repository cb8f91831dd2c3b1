"""The jobs of the stages: what each is told, and what it says while it works. `children.py` runs them.

Guarantees: a job that `check` returns is whole and within its ranges; the caller imports no torch. Does not guarantee that what
it names is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from edged.errors import Refused
from edged.retrain import untaught

Stage = Literal["train", "learn", "survey", "reuse", "compress", "search", "trial", "retest"]

Unit = Annotated[float, Meta(ge=0, le=1)]


class Arch(Struct, frozen=True, forbid_unknown_fields=True):
    """Which network, by its name in `zoo` (the width is part of it), and the side of its square input."""

    name: str = "mobilenet-0.25"
    input_px: Annotated[int, Meta(ge=16, le=224)] = 64


class Job(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every stage is told: where the store is, which snapshot, and how much machine it may use."""

    data_dir: str
    key_file: str = ""
    snapshot: str = ""
    folder: str = ""  # plain pictures instead of a snapshot (folder.py); data_dir is then where models are
    threads: Annotated[int, Meta(ge=1, le=64)] = 1  # more than one pays for large networks on an idle box only
    max_minutes: Annotated[float, Meta(gt=0)] = 120


class TrainJob(Job, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Train `arch` on the snapshot's train split, from scratch or from `start`.

    The defaults are what reached 97 % on one camera of CNRPark and 94 % on the second (with a tenth of its crops) in the
    fewest CPU seconds. What mattered: augmentation that fades out, no label smoothing, the latest good epoch instead of the
    luckiest; 96 pixels cost twice as much as 64 and won nothing there.
    """

    classes: Annotated[tuple[str, ...], Meta(min_length=1)]
    arch: Arch = Arch()
    start: str = ""  # sha256 of the ONNX or the weights to begin from, "" = from scratch
    seed: Annotated[int, Meta(ge=0, le=2**31)] = 1
    epochs: Annotated[int, Meta(ge=1, le=1000)] = 14
    batch: Annotated[int, Meta(ge=2, le=1024)] = 32
    lr: Annotated[float, Meta(gt=0, le=1)] = 4e-3
    weight_decay: Annotated[float, Meta(ge=0, le=1)] = 0.02
    smoothing: Unit = 0.0  # of labels
    balance: Unit = 0.5  # 0: every crop is drawn as often; 1: every (class, camera) group is
    camera_cap: Annotated[float, Meta(gt=0, le=1)] = (
        1.0  # no camera is more than this share of what is drawn (three or more)
    )
    mirror: Unit = 0.5  # augmentation: share of crops mirrored left to right
    shift: Unit = 0.08  # augmentation: share of a side
    zoom: Annotated[float, Meta(ge=0, lt=1)] = 0.0  # augmentation: larger or smaller by up to this share; recipes.zoom
    light: Unit = 0.3  # augmentation: contrast and brightness
    fill: Unit = 0.5  # augmentation that never fades: share of crops with a patch of the scrubber's grey; decision 0007
    fade: Annotated[float, Meta(ge=0, le=4)] = 1.5  # augmentation is gone after 1 / fade of the epochs; 0: it stays
    patience: Annotated[int, Meta(ge=1)] = 10  # epochs without a better tune split before it stops
    epoch_least: Annotated[int, Meta(ge=1)] = 1000  # crops drawn per epoch (again and again when there are fewer)
    epoch_most: Annotated[int, Meta(ge=1)] = 4000  # and at most
    min_samples: Annotated[int, Meta(ge=1)] = untaught.LEAST  # fewer crops in the train split are refused
    draw: Literal["chance", "turns"] = (
        "chance"  # "turns": every crop as often as its chance says, none by luck (fit.drawn)
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # accelerator.py
    test: str = ""  # with `folder`: another folder of pictures that are only tested on
    data: str = ""  # with `folder`: sha256 of what is in it, so that other data are another job


class CompressJob(Job, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make a smaller or faster file of the model `sha256`."""

    classes: tuple[str, ...]
    sha256: str
    method: str = "int8"  # a chain of steps (chain.py)
    previous: str = ""  # sha256 of the delivered version before, which int8 weights stay near; "" = there is none
    max_loss: Unit = 0.01  # accuracy that a step with accuracy control may lose on the tune split
    device: str = "atom-x5-e3940"  # what `tune` tunes for
    seed: int = 1
    calibration: Annotated[int, Meta(ge=8)] = 200  # crops of the train split that set the scales
    test: str = ""  # with `folder`: as TrainJob's


class SearchJob(Job, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Look for chains of compression that make good models of `sha256`, for as long as `max_minutes` say (search.py)."""

    classes: tuple[str, ...]
    sha256: str
    device: str = "atom-x5-e3940"
    methods: tuple[str, ...] = ()  # chains that are tried in any case
    max_loss: Unit = 0.02  # accuracy that a candidate may lose on the tune split
    min_fps: Annotated[float, Meta(ge=0)] = 30.0
    keep: Annotated[int, Meta(ge=1, le=16)] = 3  # candidates that are handed on
    test: str = ""  # with `folder`: as TrainJob's
    seed: int = 1
    calibration: Annotated[int, Meta(ge=8)] = 200
    latency: str = ""  # JSON of latency.Calibration for the device, "" = none


class Judged(Job, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a re-test is told: the frozen hold-out is run under one device's limits."""

    classes: tuple[str, ...]
    device: str = "atom-x5-e3940"
    baseline: str = ""  # sha256 of the model to compare with, "" = there is none yet
    runtime: str = "auto"
    seconds: Annotated[float, Meta(gt=0)] = 5.0  # for measuring speed
    latency: str = ""  # JSON of latency.Calibration for the device, "" = none: the profile's own factor
    pinned: tuple[tuple[str, str], ...] = ()  # (sample, class): past failures that a model must get right
    test: str = ""  # with `folder`: as TrainJob's
    pins_left_out: tuple[str, ...] = ()  # sentences: which of them cannot be tested on
    quota: Unit = (
        0  # of one core that the child may use (quota.py), so that the wall's time is the device's; 0 = all of it
    )
    verify_isa: bool = False  # run a few pictures under an emulator of the device's processor too (verified.py)


class TrialJob(Judged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Re-test the model `sha256`, all in one process."""

    sha256: str


class RetestJob(Judged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Re-test several models, spread over processes (retest.py)."""

    candidates: Annotated[tuple[str, ...], Meta(min_length=1, max_length=64)]  # sha256
    workers: Annotated[int, Meta(ge=0, le=256)] = 0  # processes at a time, each on a core of its own; 0 = every core
    scheduler: str = ""  # of Dask: other hosts do the work (cluster.py); "" = this one


Rung = Literal["norms", "head", "tail", "all"]
RUNGS: tuple[Rung, ...] = ("norms", "head", "tail", "all")


class LearnJob(Job, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bring the model `start` up to date with the snapshot's train split at the least cost (learn.py).

    Rungs from cheap to dear: batch norm's statistics from unlabelled pictures, the last layer, the last blocks, all of it.
    What is new are the samples of the train split that `before`, the snapshot `start` was made from, did not have.
    """

    classes: Annotated[tuple[str, ...], Meta(min_length=1)]
    start: str  # sha256 of an ONNX made here or of weights
    arch: Arch = Arch()
    before: str = ""  # snapshot id; "" = all is new
    unlabelled: tuple[str, ...] = ()  # sample ids of new pictures, labelled or not, for the first rung
    kin: tuple[tuple[str, str], ...] = ()  # (sample id, class) of pictures that show what a new labelled one shows
    rungs: tuple[Rung, ...] = RUNGS  # those that may be climbed, in this order
    replay: Unit = 0.3  # share of old samples among those that are drawn
    camera_cap: Annotated[float, Meta(gt=0, le=1)] = 0.6  # no camera is more than this share (three cameras or more)
    teacher: str = ""  # sha256 of an ONNX whose answers are learned from as well (distillation); "" = none
    seed: Annotated[int, Meta(ge=0, le=2**31)] = 1
    min_samples: Annotated[int, Meta(ge=1)] = 20  # fewer new crops are refused, unless "norms" is the only rung
    memory_bytes: Annotated[int, Meta(ge=0)] = 0  # what the stage may use: rungs that need more are left out; 0 = any


class SurveyJob(Job, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Look at `samples` with the model `sha256` ("" = none yet) and the teacher ("" = none): hashes, features, answers."""

    classes: tuple[str, ...]
    samples: tuple[str, ...]
    sha256: str = ""
    teacher: str = ""
    teacher_classes: tuple[str, ...] = ()  # for a file that does not name its own
    told: tuple[str, ...] = ()  # samples the teacher has spoken of already: it is not asked again


class ReuseJob(Job, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Score past models on the human labels of the snapshot's train and tune parts, by camera."""

    classes: tuple[str, ...]
    models: Annotated[tuple[str, ...], Meta(max_length=32)]  # sha256 of ONNX files, newest first
    before: str = ""  # snapshot id the present model was made from: what is new is scored by itself


KINDS: dict[str, type[Job]] = {
    "train": TrainJob, "learn": LearnJob, "survey": SurveyJob, "reuse": ReuseJob, "compress": CompressJob,
    "search": SearchJob, "trial": TrialJob, "retest": RetestJob,
}  # fmt: skip


class Progress(Struct, frozen=True):
    """How far a child is. `eta_s` None = unknown yet."""

    fraction: Unit = 0.0
    eta_s: float | None = None
    text: str = ""
    epoch: int = 0
    loss: float | None = None
    accuracy: float | None = None


def check(stage: str, job: Mapping[str, Any]) -> Job:
    """Raises Refused with the field at fault."""
    if stage not in KINDS:
        raise Refused(f"no stage is called {stage!r}; known: {', '.join(KINDS)}")
    try:
        return msgspec.convert(dict(job), KINDS[stage])
    except msgspec.ValidationError as e:
        raise Refused(f"{stage} job: {e}", code="bad_job") from e
