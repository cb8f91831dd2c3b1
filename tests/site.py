"""A simulated site: the real daemon parts and N real agents on an in-memory link with one clock that only tests move.

Real: store, seal, catalogue, ingest, box, TUF repository, rollout, agents with spool, slots, self-test, updater. Stood in
for: the cable (MemoryLink, which passes the suite of tests/wire), process borders (scrubbing happens in this process by
the child's own code) and training (`learn` below has the signature of `children.run`, makes a real ONNX file).
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from agent import run as agents
from agent import selftest
from agent.active import Probation
from agent.source import Shot
from edged import site as sites
from edged.config import check
from edged.daemon import Box, box_rules, loop_rules
from edged.engine import load, patterns, preprocess
from edged.errors import Refused
from edged.improve import Loop
from edged.ingest import take
from edged.privacy import planted
from edged.privacy.detect import Detector
from edged.privacy.picture import Scrubber as InChild
from edged.privacy.scrub import Scrubbed, vouch
from edged.privacy.talk import Inspect, Look, Plant, Planted, Request, Seen, Spot
from edged.publish import trust
from edged.retrain.jobs import Progress
from edged.retrain.jobs import check as check_job
from edged.retrain.report import Number, Report, share
from edged.storage import labels, models, samples, snapshots
from edged.storage.seal import read_key
from edged.storage.store import Store
from edged.wire.link import Will
from edged.wire.messages import Frame, FrameReceipt
from edged.wire.signature import Signer
from tests.memory_link import MemoryBroker

SITE = "plant-a"
CLASSES = ("dark", "light")
PX = 32


class FakeClock:
    """Time that passes only when told to."""

    def __init__(self, t: float = 1_800_000_000.0) -> None:
        self.t = t

    def now(self) -> float:
        return self.t

    def monotonic(self) -> float:
        return self.t - 1_799_000_000.0

    def sleep(self, seconds: float) -> None:
        self.t += seconds


class Scrubber:
    """The scrub child's own code in this process; `fault` is raised instead when set."""

    def __init__(self, detectors: Sequence[Detector] = ()) -> None:
        self._inner = InChild(detectors)
        self.fault: Exception | None = None

    def look(self, frame: Frame) -> Seen:
        if self.fault is not None:
            raise self.fault
        h = frame.header
        return self._inner.look(Look(1, frame.camera, frame.kind, h.w, h.h, frame.jpeg))

    def scrub(self, frame: Frame, spots: Sequence[Spot] | None = None, *, blank: bool = False) -> Scrubbed:
        if self.fault is not None:
            raise self.fault
        h = frame.header
        boxes = tuple((r.x, r.y, r.w, r.h) for r in h.regions)
        found = None if spots is None else tuple(spots)
        request = Request(1, frame.camera, frame.kind, h.w, h.h, boxes, frame.jpeg, spots=found, blank=blank)
        return vouch(request, self._inner.scrub(request))

    def plant(self, seed: int) -> Planted:
        if self.fault is not None:
            raise self.fault
        return planted.plant(Plant(1, seed, 640, 360))

    def inspect(self, jpeg: bytes, spots: Sequence[Spot]) -> tuple[float, ...]:
        return planted.inspect(Inspect(1, jpeg, tuple(spots)))

    def close(self) -> None:
        pass


def picture(light: bool, seed: int, w: int = 320, h: int = 180) -> np.ndarray:
    """A noisy dark or light picture."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 90, (h, w, 3), np.uint8) + np.uint8(140 if light else 0)


def shots(n: int, ts: float, seed: int = 0, step: float = 20.0) -> Iterator[Shot]:
    """`n` pictures, light and dark in turn, `step` seconds of camera time apart, one region each, truth known."""
    for i in range(n):
        light = bool(i % 2)
        image = picture(light, seed * 1000 + i)
        yield Shot(image, ts + i * step, ((20, 10, 120, 120),), (CLASSES[light],))


def classifier(threshold: float = 115.0) -> bytes:
    """Mean brightness against a threshold, as a self-contained ONNX."""
    w = np.array([[-1 / 3, 1 / 3]] * 3, np.float32) * 0.05
    b = np.array([threshold, -threshold], np.float32) * 0.05
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes, "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, PX, PX])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


class Learn:
    """Stands in for `children.run`: its "training" is a choice of threshold, its re-test is real on the real hold-out."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.threshold = 115.0
        self.rung = "all"  # where `learn` ends
        self.ran: list[str] = []
        self.jobs: list[tuple[str, dict[str, Any]]] = []
        self.fail: dict[str, list[BaseException]] = {}
        self.while_it_runs: dict[str, Any] = {}  # called once in the middle of a stage

    def __call__(
        self, stage: str, job: Mapping[str, Any], job_dir: Path, *, progress: Any, clock: Any, look: Any = None,
        memory_bytes: int | None = None, stuck_minutes: float | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        check_job(stage, job)
        self.ran.append(stage)
        self.jobs.append((stage, dict(job)))
        job_dir.mkdir(parents=True, exist_ok=True)
        (job_dir / "result.json").write_text("{}")
        (job_dir / "checkpoint.safetensors").write_bytes(b"bulk")
        if self.fail.get(stage):
            raise self.fail[stage].pop(0)
        progress(Progress(0.5, 3.0, "half way", 1, 0.5, 0.75))
        self.while_it_runs.pop(stage, lambda: None)()
        clock.sleep(2.0)
        if look is not None:
            look()
        if stage in ("train", "learn"):
            data = classifier(self.threshold)
            sha256 = models.put_model(self.store, data)
            models.put_model(self.store, data, ".safetensors")
            made = {"sha256": sha256, "weights_sha256": sha256, "size": len(data), "tune_accuracy": 1.0, "epochs": 1}
            return made if stage == "train" else made | {"rung": self.rung, "rungs_tried": [], "note": self.rung}
        if stage == "reuse":
            return {"scores": [self._score(job, sha256) for sha256 in job["models"]]}
        if stage == "compress":
            return self._smaller(job["method"])
        if stage == "search":
            points = [self._smaller(method) for method in ("none", "int8", "channels=0.5 qat")]
            lost = {**points[0], "sha256": "", "method": "prune=0.9", "refused": "there was nothing to prune"}
            return {"points": [*points, lost], "kept": points[1:]}
        return {"reports": {sha256: self._retest(job, sha256) for sha256 in job["candidates"]}, "refused": {}}

    def _smaller(self, method: str) -> dict[str, Any]:
        """A file of its own for each method, which answers like the first."""
        data = classifier(self.threshold + len(method) / 1000)
        return {
            "sha256": models.put_model(self.store, data), "size": len(data), "method": method, "accuracy": 1.0,
            "packed": 500, "fps": 90.0, "fps_likely": 99.0, "how": "estimated", "memory_bytes": 1, "refused": "",
        }  # fmt: skip

    def _score(self, job: Mapping[str, Any], sha256: str) -> dict[str, Any]:
        body = snapshots.get(self.store, job["snapshot"])
        before = snapshots.get(self.store, job["before"]) if job["before"] else {"train": [], "tune": []}
        old = {s for part in ("train", "tune") for s, _ in before[part]}
        engine = load(models.read_model(self.store, sha256), runtime="onnxruntime")
        first = load(models.read_model(self.store, job["models"][0]), runtime="onnxruntime")
        found = {"sha256": sha256, "right": 0, "n": 0, "new_right": 0, "new_n": 0, "per_camera": {}}
        new: dict[str, list[int]] = {}
        pairs: dict[str, list[int]] = {}
        for sample, truth in (*body["train"], *body["tune"]):
            image = preprocess_crop(samples.crop(self.store, sample))
            right = truth == CLASSES[int(engine.run(image)[0].argmax())]
            if sample not in old:
                camera = sample.partition(":")[0]
                its, pair = new.setdefault(camera, [0, 0]), pairs.setdefault(camera, [0, 0])
                its[0] += right
                its[1] += 1
                pair[right] += right != (truth == CLASSES[int(first.run(image)[0].argmax())])
            found["right"] += right
            found["n"] += 1
            found["new_right"] += right and sample not in old
            found["new_n"] += sample not in old
        return found | {"new_per_camera": new, "new_pairs": pairs}

    def _retest(self, job: Mapping[str, Any], sha256: str) -> dict[str, Any]:
        held = snapshots.get(self.store, job["snapshot"])["holdout"]
        engine = load(models.read_model(self.store, sha256), runtime="onnxruntime")
        right = {c: [0, 0] for c in CLASSES}
        cameras: dict[str, list[int]] = {}
        for sample, truth in held:
            crop = preprocess_crop(samples.crop(self.store, sample))
            answer = CLASSES[int(engine.run(crop)[0].argmax())]
            right[truth][0] += answer == truth
            right[truth][1] += 1
            its = cameras.setdefault(sample.partition(":")[0], [0, 0])
            its[0] += answer == truth
            its[1] += 1
        seeds = (1, 2)
        batch = preprocess.marshal(preprocess.to_float([patterns.picture(s, PX) for s in seeds], PX))
        known = {"seeds": list(seeds), "px": PX, "logits": engine.run(batch)[0].tolist(), "tolerance": 0.01}
        fast = Number(500.0, "estimated", "stand-in", 400.0, 600.0)
        report = Report(
            device=job["device"], sha256=sha256, size=1000, runtime="onnxruntime", classes=CLASSES, n=len(held),
            skipped=0, accuracy=share(sum(r for r, _ in right.values()), len(held)),
            per_class={c: share(*r) for c, r in right.items()}, confusion=((0, 0), (0, 0)),
            per_camera={c: share(*its) for c, its in cameras.items()},
            latency_ms_p50=fast, latency_ms_p95=fast, stages_ms={}, fps_here=fast, fps_device=fast,
            memory_bytes=Number(1e6, "measured", "stand-in"), power_w=None, covered=(), not_covered=(),
            baseline=job["baseline"], known_answer=known,
        )  # fmt: skip
        return msgspec.to_builtins(report)


def preprocess_crop(jpeg: bytes) -> np.ndarray:
    import cv2

    return preprocess.marshal(preprocess.to_float([cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1)], PX))


class SimulatedSite:
    """One box and its cameras. `turn` lets everybody take steps while the clock goes on."""

    def __init__(self, folder: Path, cameras: Mapping[str, Iterator[Shot]], **sections: Any) -> None:
        self.folder, self.clock, self.broker = folder, FakeClock(), MemoryBroker()
        sites.create(folder, sites.NewSite(SITE, CLASSES, tuple(cameras)), self.clock)
        raw = {
            "server": {"site": SITE, "data_dir": str(folder)},
            "task": {"classes": list(CLASSES), "name": "light", "block_s": 100.0},
            "retest": {"gate": {"min_holdout": 4}}, "rollout": {"wait_s": 2.0}, "storage": {"min_free": 0},
            "compress": {"methods": ["none"]}, "train": {"input_px": PX, "new_labels": 20},
        }  # fmt: skip
        self.config = check(raw | sections)
        self.root = (folder / "tuf" / "1.root.json").read_bytes()
        self.scrubber = Scrubber()
        self.open_box()
        self.agents: dict[str, agents.Agent] = {}
        for camera, source in cameras.items():
            self.open_camera(camera, source)

    def open_box(self) -> None:
        """(Re)start the daemon's parts on the same folder."""
        key = read_key(self.folder / "keys" / "storage.key")
        self.store = Store.open(self.folder, clock=self.clock, site_key=key)
        self.repo = trust.Repository(self.folder / "tuf", self.folder / "keys" / "tuf", self.clock)
        self.link = self.broker.link("server", Will(f"edged/1/{SITE}/server/edge-1/state", b"offline"))
        self.answered: list[FrameReceipt] = []

        def submit(frame: Frame) -> FrameReceipt:
            receipt = take(self.store, self.scrubber, frame)
            self.answered.append(receipt)
            return receipt

        self.box = Box(self.link, self.store, self.repo, submit, box_rules(self.config), self.clock)
        self.learn = Learn(self.store)
        # Learn's threshold is found on a handful
        rules = replace(loop_rules(self.config), least=8)
        self.loop = Loop(self.store, rules, self.repo, self.clock, self.learn)

    def kill_box(self) -> None:
        """The daemon is gone without a goodbye."""
        self.link.drop()
        self.store.close()

    def open_camera(self, camera: str, source: Iterator[Shot]) -> None:
        link = self.broker.link(camera, agents.will(SITE, camera))
        options = agents.Options(
            probation=Probation(frames=3, seconds=3.0), resend_after_s=5.0, runtime="onnxruntime",
            truth=self.folder / f"truth-{camera}.csv",
        )  # fmt: skip
        self.agents[camera] = agents.Agent(
            link, source, site=SITE, camera=camera, state_dir=self.folder / "cameras" / camera, clock=self.clock,
            root=self.root, options=options, self_test=selftest.Inline,
            signer=Signer(*((self.folder / "keys" / f"cam-{camera}{end}").read_bytes() for end in (".pem", ".key"))),
        )  # fmt: skip

    def turn(self, n: int = 1, seconds: float = 0.6) -> None:
        """`n` rounds: every agent steps until it is idle, the box steps, the clock goes on."""
        for _ in range(n):
            for agent in self.agents.values():
                for _ in range(4):
                    if not agent.step():
                        break
            self.box.step(0)
            self.clock.sleep(seconds)

    def label_all(self) -> None:
        """What a person would do: say what the replay's truth says, for everything that has no label."""
        for camera in self.agents:
            rows = csv.reader((self.folder / f"truth-{camera}.csv").read_text().splitlines())
            truth = {f"{camera}:{frame}:{index}": class_ for frame, index, class_ in rows}
            known = [s.id for s in samples.unlabelled(self.store, camera, 1000) if s.id in truth]
            labels.add_many(self.store, [(s, truth[s]) for s in known], "human", "ann")
        self.clock.sleep(1.0)

    def until(self, done: Any, turns: int = 200) -> None:
        for _ in range(turns):
            if done():
                return
            self.turn()
        raise AssertionError("the simulated site did not get there")

    def close(self) -> None:
        for agent in self.agents.values():
            agent.close()
        self.link.close()
        self.store.close()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


__all__ = ["CLASSES", "SITE", "Refused", "SimulatedSite", "classifier", "picture", "sha256", "shots"]
