"""A box in this process: a real site with its store, keys and children of the loop, without broker, cameras and scrub children.

Guarantees: rows, label queue, snapshots, stages and their children are those of the daemon; answers of a "camera" are the
delivered bytes' under the engine. What is left out, and told with every figure from here: pictures come into the store
as the camera cut them, unscrubbed, without a network (the part `loop` has all of that).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from bench.learning.score import Answers
from bench.learning.worlds import Item, World, jpeg
from edged import plan, survey
from edged import site as sites
from edged.clock import SystemClock
from edged.config import Config, load
from edged.daemon import loop_rules
from edged.errors import Refused
from edged.retrain import children, jobs
from edged.rules import Rules
from edged.steps import RunJob
from edged.storage import frames, insights, kin, labels, models, samples, snapshots
from edged.storage.samples import Sample
from edged.storage.store import Store
from edged.wire.messages import Frame, FrameHeader, Region

PERSON = "bench"  # author of the labels


@dataclass(frozen=True)
class Unscrubbed:
    """The fields of privacy's Scrubbed for a picture that is its own only region."""

    jpeg: bytes
    width: int = 224
    height: int = 224
    crops: tuple[bytes, ...] = ()
    regions: Mapping[str, int] = field(default_factory=dict)
    ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Taught:
    """What one turn of stages made. `sha256` of the int8 file, `float_sha256` of the one it was made from."""

    sha256: str
    float_sha256: str
    snapshot: str
    result: dict[str, Any]  # of the stage train or learn
    tune: float  # accuracy of the int8 file on the tuning part


class Site:
    """Made anew in `folder`; a context manager."""

    def __init__(
        self, folder: Path, classes: Sequence[str], cameras: Sequence[str], *, px: int = 64,
        architecture: str = "mobilenet-0.25", epochs: int = 14, block_s: float = 900, holdout: float = 0.25, extra: str = "",
        run_job: RunJob = children.run,
    ) -> None:  # fmt: skip
        self.run_job = run_job
        self.clock = SystemClock()
        train = f'[train]\ninput_px = {px}\narchitecture = "{architecture}"\nepochs = {epochs}\nnew_labels = 1000000\n'
        new = sites.NewSite(
            "bench", tuple(classes), tuple(cameras), block_s=block_s, holdout=holdout,
            extra=f'[storage]\nmin_free = "100MB"\n{train}{extra}',
        )  # fmt: skip
        self.config: Config = load(sites.create(folder, new, self.clock))
        self.rules: Rules = loop_rules(self.config)
        self._stack = ExitStack()
        self.store: Store = self._stack.enter_context(sites.open_store(self.config, key=True))
        self.sample: dict[tuple[str, str], str] = {}  # (world, picture's name) -> sample id
        self.truth: dict[str, str] = {}  # sample id -> class
        self.name_of: dict[str, str] = {}  # sample id -> picture's name
        self._seq = 0

    def __enter__(self) -> Site:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # what comes in

    def arrive(self, world: World, answers: Answers | None = None, model: str = "") -> None:
        """Store every picture of a world as one region, with the camera's answer if it had a model."""
        for i, item in enumerate(world.items):
            image = item.image()
            if image is None:
                continue
            region = Region(0, 0, image.shape[1], image.shape[0])
            if answers is not None and answers.labels[i]:
                region = msgspec.structs.replace(
                    region, label=str(answers.labels[i]), score=float(answers.score[i]), margin=float(answers.margin[i])
                )
            self._seq += 1
            header = FrameHeader(
                f"b-{self._seq}", item.ts, self._seq, "b", image.shape[1], image.shape[0], model, (region,)
            )  # fmt: skip
            crop = jpeg(image)
            frame = Frame(world.name, header, crop, "roi", self.clock.now())
            frames.add(self.store, frame, Unscrubbed(crop, crops=(crop,)))  # type: ignore[arg-type]
            self._note(world, item, f"{world.name}:{header.id}:0")

    def _note(self, world: World, item: Item, sample: str) -> None:
        self.sample[world.name, item.name] = sample
        self.truth[sample] = item.label
        self.name_of[sample] = item.name

    # what a person does

    def answer(self, asked: Iterable[Sample | str], truth: Mapping[str, str] | None = None) -> int:
        """Label with the truth (or with what stands in for it); returns how many."""
        told = truth or self.truth
        ids = [s.id if isinstance(s, Sample) else s for s in asked]
        return labels.add_many(self.store, [(i, told[i]) for i in ids], "human", PERSON)

    def labelled(self, world: str) -> set[str]:
        """Names of a world's pictures that a person labelled."""
        return {self.name_of[s.id] for s, _ in labels.effective(self.store) if s.camera == world}

    # the stages, one by one

    def survey(self, model: str, cameras: Collection[str] | None = None) -> int:
        """Insights of every crop by this model, by the stage `survey`; returns how many."""
        wanted = [
            s for s in insights.missing(self.store, 1_000_000, model)
            if cameras is None or samples.get(self.store, s).camera in cameras
        ]  # fmt: skip
        if not wanted:
            return 0
        job_dir = self._job_dir("survey")
        job = {**self._job(), "samples": wanted, "sha256": model}
        result = self.run_job("survey", job, job_dir, clock=self.clock, nice=0)
        return insights.add_many(self.store, survey.read(job_dir, result, wanted, self.rules.classes, model).insights)

    def snapshot(self) -> str:
        return snapshots.add(self.store, plan.body(self.store, self.rules.split))

    def begin(self, *, seed: int = 1, start: str = "", **more: Any) -> Taught:
        """Snapshot and `train`, from nothing or from the weights `start`; the float file stands for the int8 one."""
        snapshot = self.snapshot()
        job = {"snapshot": snapshot, "seed": seed, "arch": self.rules.arch, "epochs": self.rules.epochs, "start": start}
        result = self.stage("train", **job | more)
        return Taught(result["sha256"], result["sha256"], snapshot, result, result["tune_accuracy"])

    def teach(self, before: Taught | None = None, *, seed: int = 1, stage: str = "learn", **more: Any) -> Taught:
        """`learn` from what was before (`train` when there was nothing), then int8; what was before when `learn` refuses
        (nothing learned, too few).
        """
        if before is None or stage == "train":
            made = self.begin(seed=seed, start=before.result["weights_sha256"] if before else "", **more)
            return self._small(made, seed)
        snapshot, rules = self.snapshot(), self.rules
        known = {s for s, _ in snapshots.get(self.store, before.snapshot)["train"]}
        fresh = {s.partition(":")[0] for s, _ in snapshots.get(self.store, snapshot)["train"] if s not in known}
        since = min((samples.get(self.store, s).received for s, _ in snapshots.get(self.store, snapshot)["train"]
                     if s not in known), default=0.0)  # fmt: skip
        blind = plan.unlabelled(
            self.store, sorted(fresh), since, self.clock.now(), holdout=rules.holdout, block_s=rules.block_s
        )  # fmt: skip
        job = {
            "snapshot": snapshot, "seed": seed, "arch": rules.arch, "start": before.float_sha256, "before": before.snapshot,
            "replay": rules.replay, "camera_cap": rules.camera_cap, "memory_bytes": rules.memory_bytes, "unlabelled": blind,
            "kin": self._kin(before.snapshot, snapshot),
        }  # fmt: skip
        try:
            result = self.stage("learn", **job | more)
        except Refused as e:  # as a cycle ends that learns nothing: the model stays
            return replace(before, result={**before.result, "rung": f"none: {e.code}", "seconds": 0.0, "told": str(e)})
        return self._small(Taught(result["sha256"], result["sha256"], snapshot, result, result["tune_accuracy"]), seed)

    def _kin(self, before: str, snapshot: str) -> list[list[str]]:
        seen, frozen = plan.seen(self.store, before), snapshots.get(self.store, snapshot)
        return kin.of(self.store, frozen, seen, self.clock.now(), self.rules.unlabelled)

    def _small(self, made: Taught, seed: int) -> Taught:
        found = self.stage("compress", snapshot=made.snapshot, sha256=made.float_sha256, seed=seed)
        return replace(made, sha256=found["sha256"], tune=found["accuracy_after"])

    def stage(self, name: str, **job: Any) -> dict[str, Any]:
        """One stage by itself; returns its result."""
        return self.run_job(name, {**self._job(), **job}, self._job_dir(name), clock=self.clock, nice=0)

    def model(self, sha256: str) -> bytes:
        return models.read_model(self.store, sha256)

    def _job(self) -> dict[str, Any]:
        return {
            "data_dir": str(self.store.data_dir), "key_file": str(self.rules.key_file),
            "classes": list(self.rules.classes), "threads": 1,
        }  # fmt: skip

    def _job_dir(self, stage: str) -> Path:
        self._seq += 1
        folder = self.store.data_dir / "jobs" / f"{self._seq}-{stage}"
        folder.mkdir(parents=True)
        return folder


def inside(stage: str, job: Mapping[str, Any], job_dir: Path, **_: Any) -> dict[str, Any]:
    """A stage in this process, with children.run's signature: for many short ones, where importing torch would cost the most.

    A re-test has a child all the same: its device's limits would stay with this process.
    """
    from edged.retrain import __main__ as child

    if stage in ("trial", "retest"):
        return children.run(stage, job, job_dir, nice=0)
    job_dir.mkdir(parents=True, exist_ok=True)
    (job_dir / "job.json").write_bytes(msgspec.json.encode(jobs.check(stage, job)))
    result: dict[str, Any] = msgspec.to_builtins(child._stage(stage, job_dir))
    return result
