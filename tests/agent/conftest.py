"""A camera and everything that it needs around it, small: models of one matrix, a signed site, a box that answers."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from agent import run, selftest
from agent.active import Probation
from agent.source import Shot
from edged.clock import Clock
from edged.engine import load, patterns, preprocess
from edged.publish import deliver, trust
from edged.wire import messages, topics
from edged.wire.link import Link
from edged.wire.messages import Desired, FrameReceipt, Reported, Want
from tests.memory_link import MemoryBroker

SITE, CAMERA, HARDWARE = "plant-a", "gate", "test-cam"
CLASSES = ("free", "busy")
PX = 32


class FakeClock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.t = 1_800_000_000.0

    def now(self) -> float:
        return self.t

    def monotonic(self) -> float:
        return self.t - 1_799_000_000.0

    def sleep(self, seconds: float) -> None:
        self.t += seconds


def classifier(seed: int = 0, *, nan: bool = False, classes: int = len(CLASSES), padding: int = 0) -> bytes:
    """Mean colour x matrix; `padding` floats make the file longer."""
    rng = np.random.default_rng(seed)
    w = rng.normal(0, 0.02, (3, classes)).astype(np.float32)
    b = np.full(classes, np.nan if nan else 0.1, np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
    ]
    extra = numpy_helper.from_array(rng.normal(0, 1, padding or 1).astype(np.float32), "extra")
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, PX, PX])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b"), extra],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def leaning(bias: float, classes: int = len(CLASSES)) -> bytes:
    """Tells red pictures from blue ones; a large bias decides everything instead."""
    w = np.zeros((3, classes), np.float32)
    w[0, 0], w[2, 1] = 0.05, 0.05
    b = np.zeros(classes, np.float32)
    b[1] = bias
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes, "leaning", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, PX, PX])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def known_answer(model: bytes, seeds=(1, 2, 3), *, shift: float = 0.0) -> dict:
    """As the box signs it: numbers as text, since canonical JSON has no fractions."""
    batch = preprocess.marshal(preprocess.to_float([patterns.picture(s, PX) for s in seeds], PX))
    logits = load(model, runtime="onnxruntime").run(batch)[0]
    rows = [[repr(float(v) + shift) for v in np.nan_to_num(row)] for row in logits]
    return {"seeds": list(seeds), "px": PX, "logits": rows, "tolerance": "0.01"}


@functools.cache
def seen(seed: int) -> np.ndarray:
    """A picture of 320x240."""
    return patterns.picture(seed, 320)[:240]


class Box:
    """The box's side of the cable, scripted: receipts for frames, signed metadata, chunks when asked."""

    def __init__(self, folder: Path, link: Link, clock: Clock) -> None:
        self.folder, self.clock, self.link = folder, clock, link
        folder.mkdir(exist_ok=True)
        for leaf in ("frame", "roi", "model/want", "model/reported", "info", "state", "stats"):
            self.link.subscribe(topics.cam(SITE, "+", leaf))
        self.repository = trust.Repository(folder / "tuf", folder / "keys", clock)
        if not self.repository.exists():
            trust.make_keys(folder / "keys")
            self.repository.init()
        self.root = (folder / "tuf" / "1.root.json").read_bytes()
        self.models: dict[str, bytes] = {}
        self.frames: list[messages.Frame] = []
        self.reports: list[Reported] = []
        self.wants: list[Want] = []
        self.said: list[tuple[str, bytes]] = []
        self.receipt_status = "stored"  # None = silent
        self.spoil: set[int] = set()  # chunk indexes to damage, once each
        self.serve = True

    def release(self, number: int, model: bytes, *, answer: dict | None = None, **custom) -> Desired:
        """Sign a release; nothing is said to the camera yet."""
        sha256 = hashlib.sha256(model).hexdigest()
        self.models[sha256] = model
        described = {
            "release": number, "name": "parking", "classes": list(CLASSES), "px": PX, "hardware": [HARDWARE],
            "min_agent": "0.0.1", "chunk": messages.CHUNK_BYTES, "chunks": deliver.digests(model),
            "known_answer": answer or known_answer(model),
        }  # fmt: skip
        target = f"parking/{number}.onnx"
        self.repository.add_target(target, model, described | custom)
        return Desired(f"job-{number}", "parking", number, target, sha256)

    def publish_metadata(self, change=lambda name, data: data) -> None:
        for name, data in self.repository.files().items():
            self.link.publish(topics.model(SITE, f"meta/{name}"), change(name, data), retain=True)

    def offer(self, desired: Desired, camera: str = CAMERA) -> None:
        self.publish_metadata()
        self.desire(desired, camera)

    def desire(self, desired: Desired | None, camera: str = CAMERA) -> None:
        payload = messages.encode(desired) if desired else b""
        self.link.publish(topics.cam(SITE, camera, "model/desired"), payload, retain=True)

    def step(self) -> None:
        while (m := self.link.receive(0)) is not None:
            address = topics.parse(m.topic)
            if address.leaf in ("frame", "roi"):
                frame = messages.frame_of(address.id, address.leaf, m.properties, m.payload, self.clock.now())
                self.frames.append(frame)
                if self.receipt_status:
                    self.receipt(frame, self.receipt_status)
            elif address.leaf == "model/want":
                self.wants.append(messages.decode(m.payload, Want))
                if self.serve:
                    self.answer(self.wants[-1])
            elif address.leaf == "model/reported":
                self.reports.append(messages.decode(m.payload, Reported))
            else:
                self.said.append((address.leaf, m.payload))

    def receipt(self, frame: messages.Frame, status: str, **more) -> None:
        receipt = FrameReceipt(frame.header.id, hashlib.sha256(frame.jpeg).hexdigest(), status, **more)
        self.link.publish(topics.cam(SITE, frame.camera, "receipt"), messages.encode(receipt))

    def answer(self, want: Want, limit: int | None = None) -> None:
        pieces = deliver.chunks(self.models[want.sha256], want.chunk)
        for i in want.chunks[:limit]:
            sha256, data = hashlib.sha256(pieces[i]).hexdigest(), pieces[i]
            if i in self.spoil:
                self.spoil.discard(i)
                data = data[:-1] + bytes([data[-1] ^ 1])
            self.link.publish(topics.model(SITE, f"chunk/{sha256}"), data)

    def over(self, job: str) -> bool:
        """Whether the camera has said how this job ended."""
        return bool(self.reports) and self.last.job == job and self.last.status != "IN_PROGRESS"

    @property
    def last(self) -> Reported:
        return self.reports[-1]


class Site:
    """One camera (which can be killed and started again), one box, one clock."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock, self.broker = folder, FakeClock(), MemoryBroker()
        self.box = Box(folder / "box", self.broker.link("box"), self.clock)
        self.shots: list[Shot | None] = []
        self.truth = folder / "truth.csv"
        self.self_test = selftest.Inline
        self.boots = 0
        self.options = {}
        self.agent: run.Agent | None = None

    def start(self) -> run.Agent:
        """A fresh process, as far as the agent can tell: nothing but its state directory is old."""
        self.boots += 1
        options = run.Options(
            **{
                "hardware": HARDWARE, "runtime": "onnxruntime", "fsync": False, "truth": self.truth,
                "probation": Probation(frames=3, seconds=30.0),
            } | self.options
        )  # fmt: skip
        link = self.broker.link(CAMERA, run.will(SITE, CAMERA))
        self.agent = run.Agent(
            link, self._source(), site=SITE, camera=CAMERA, state_dir=self.folder / "state", clock=self.clock,
            root=self.box.root, options=options, self_test=self.self_test, boot=f"boot{self.boots}",
        )  # fmt: skip
        return self.agent

    def kill(self) -> None:
        """No goodbye: the cable is cut and the process is gone."""
        assert self.agent is not None
        self.agent._link.drop()
        self.agent = None

    def _source(self):
        while True:
            yield self.shots.pop(0) if self.shots else None

    def run(self, steps: int = 1, seconds: float = 0.1) -> None:
        for _ in range(steps):
            if self.agent is not None:
                self.agent.step()
            self.box.step()
            self.clock.sleep(seconds)

    def until(self, condition, steps: int = 900, seconds: float = 0.1) -> None:
        for _ in range(steps):
            if condition():
                return
            self.run(1, seconds)
        raise AssertionError(f"never came true; reports: {self.box.reports[-3:]}")

    def see(self, n: int = 1, **more) -> None:
        """Put pictures before the camera: 320x240, two regions each."""
        for _ in range(n):
            picture = seen(len(self.shots) + 7)
            regions = ((10, 20, 100, 80), (150, 60, 120, 120))
            self.shots.append(Shot(picture, self.clock.now(), **({"regions": regions} | more)))

    def install(self, number: int = 1, model: bytes | None = None, **custom) -> bytes:
        """Bring the camera to a running, committed model over the whole path."""
        model = model or classifier(seed=number)
        self.box.offer(self.box.release(number, model, **custom))
        self.see(6)
        self.until(lambda: self.box.over(f"job-{number}"))
        assert self.box.last.status == "SUCCEEDED", self.box.last
        return model


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


@pytest.fixture
def make():
    """The builders, for tests that need them one by one."""

    class Make:
        pass

    Make.Box = Box
    Make.classifier, Make.known_answer, Make.clock = staticmethod(classifier), staticmethod(known_answer), FakeClock
    Make.leaning = staticmethod(leaning)
    Make.CLASSES, Make.PX, Make.HARDWARE, Make.SITE, Make.CAMERA = CLASSES, PX, HARDWARE, SITE, CAMERA
    return Make


@pytest.fixture(scope="session")
def onnx_version():
    return onnx.__version__
