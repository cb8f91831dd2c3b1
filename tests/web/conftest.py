"""A site with a past, as rows: two cameras, two releases, a refused candidate, a cycle that is training right now."""

import importlib.util
import itertools
import random
import shutil
import threading
from dataclasses import dataclass, field

import pytest
from waitress import wasyncore

from edged.privacy.sizes import SIZES
from edged.retrain.report import Number, Pair, Report, share
from edged.storage import (
    Store,
    cameras,
    candidates,
    cycles,
    deliveries,
    frames,
    labels,
    leaks,
    releases,
    reports,
    snapshots,
    verdicts,
)
from edged.web.app import create_app
from edged.web.serve import bound
from edged.wire.messages import CameraInfo, CameraStats, Frame, FrameHeader, Region, Reported

NOON = 1_795_262_400.0  # 2026-11-21T12:00:00Z
CLASSES = ("vehicle", "person", "person-backpack", "nothing")
NAMES = {"north": "North gate", "south": "South gate"}
CHROMIUM = shutil.which("chromium")
JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000") + b"\0" * 64 + bytes.fromhex("ffd9")


class HandClock:
    """Stands still until it is moved by hand."""

    def __init__(self, at=NOON):
        self.at = at

    def now(self):
        return self.at

    def monotonic(self):
        return self.at

    def sleep(self, seconds):
        self.at += seconds


@dataclass(frozen=True)
class StandIn:
    """The fields of privacy's Scrubbed, which only privacy can make."""

    jpeg: bytes
    width: int
    height: int
    crops: tuple[bytes, ...]
    regions: dict = field(default_factory=dict)
    ms: dict = field(default_factory=dict)


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def store(tmp_path, clock):
    with Store.open(tmp_path / "site", clock=clock, site_key=bytes(range(32))) as opened:
        yield opened


@pytest.fixture
def plain():
    """A picture without a picture: (jpeg, [(box, class, crop)]) for those tests that look at no pixel."""
    boxes = ((200, 300, 240, 180), (800, 260, 120, 260))
    return lambda camera, n, phase: (JPEG, [(box, CLASSES[(n + i) % 3], JPEG) for i, box in enumerate(boxes)])


@pytest.fixture
def street():
    """The same from the project's street, seen by day and by night."""
    import cv2

    from agent.scene import Scene
    from edged.engine.preprocess import cut

    scenes = {"north": Scene("north", 7), "south": Scene("south", 8)}

    def jpeg(image):
        return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()

    def draw(camera, n, phase):
        picture = scenes[camera].picture(n, phase)
        things = sorted((t for t in picture.things if t.seen > 0.7), key=lambda t: -t.box[2] * t.box[3])[:4]
        things = [t for t in things if t.box[2] > 40 and t.box[0] >= 0 and t.box[0] + t.box[2] <= 1280]
        return jpeg(picture.image), [(t.box, t.class_, jpeg(cut(picture.image, *t.box))) for t in things]

    return draw


class Past:
    """Writes the rows that the daemon would have written."""

    def __init__(self, store, clock):
        self.store, self.clock, self.random = store, clock, random.Random(3)
        self.number = itertools.count(1)

    def meet(self, *ids):
        for camera in ids:
            cameras.set_online(self.store, camera, True)
            cameras.set_info(
                self.store,
                camera,
                CameraInfo("boot", "0.1", "x86-64", ("onnxruntime",), 512 << 20, start_s=1.3, rss_bytes=83_000_000),
            )
            cameras.set_stats(
                self.store, camera, CameraStats(NOON, 9.8 if camera == "north" else 10.1, 2.7, {}, 1 << 27, 0, 0)
            )

    def frame(self, camera, draw, phase="day", model="", right=0.95, hidden=1):
        n = next(self.number)
        jpeg, things = draw(camera, n, phase)
        regions, truth = [], []
        for (x, y, w, h), class_, _ in things:
            said = class_ if self.random.random() < right else self.random.choice([c for c in CLASSES if c != class_])
            score = min(0.99, max(0.4, self.random.gauss(0.55 + 0.4 * right, 0.08)))
            label, score = (said, score) if model else ("", 0.0)
            box = {"x": max(0, x), "y": max(0, y), "w": w, "h": h}
            regions.append(Region(**box, label=label, score=score, margin=score - 0.2 if score else 0.0))
            truth.append(class_)
        header = FrameHeader(
            id=f"boot-{n}", ts=self.clock.now(), seq=n, boot="boot", w=1280, h=720, model=model, regions=tuple(regions)
        )
        made = Frame(camera, header, f"{camera} {n}".encode(), "frame", self.clock.now())
        crops = tuple(crop + bytes([i]) for i, (_, _, crop) in enumerate(things))
        frames.add(self.store, made, StandIn(jpeg, 1280, 720, crops, {"face": hidden, "plate": 1}))
        return [(f"{camera}:{header.id}:{i}", class_) for i, class_ in enumerate(truth)]

    def withhold(self, camera, detail="timeout"):
        n = next(self.number)
        header = FrameHeader(id=f"boot-{n}", ts=self.clock.now(), seq=n, boot="boot", w=1280, h=720)
        frames.settle(self.store, Frame(camera, header, b"%d" % n, "frame", self.clock.now()), "withheld", detail)

    def watch(self, draw, seconds, *, every=10.0, phase="day", model="", right=0.95, label=0.8):
        """The cameras send for a while and somebody labels most of it."""
        for _ in range(int(seconds / every)):
            for camera in NAMES:
                for sample, class_ in self.frame(camera, draw, phase, model, right[camera] if model else 1.0):
                    if self.random.random() < label:
                        labels.add(self.store, sample, class_, "human", "demo")
            self.clock.sleep(every)

    def snapshot(self):
        body = {"classes": list(CLASSES), "train": [], "tune": [], "holdout": []}
        return snapshots.add(self.store, body)

    def stage(self, cycle, name, seconds, told, **facts):
        cycles.stage_start(self.store, cycle, name)
        self.clock.sleep(seconds)
        cycles.stage_finish(self.store, cycle, name, {"told": told, **facts})

    def candidate(self, cycle, name, sha256, size, right, n, baseline=None, reasons=(), passed=True):
        snapshot = self.snapshot()
        made = candidates.add(
            self.store, cycle, name=name, sha256=sha256, size=size, snapshot=snapshot,
            recipe={"arch": {"name": "mobilenet-0.25", "input_px": 96}, "facts": {"accuracy_before": right / n + 0.004}},
        )  # fmt: skip
        how = {"how": "estimated", "basis": "measured here, scaled to the profile"}
        pair = None if baseline is None else Pair(n, right, baseline, 2, right - baseline + 2)
        body = Report(
            device="atom-x5-e3940", sha256=sha256, size=size, runtime="openvino", classes=CLASSES, n=n, skipped=0,
            accuracy=share(right, n), per_class={}, per_camera={}, confusion=(), latency_ms_p50=Number(6.1, **how),
            latency_ms_p95=Number(7.2, **how), stages_ms={}, fps_here=Number(160, "measured", "here"),
            fps_device=Number(83 if "int8" in name else 25, **how), memory_bytes=Number(142e6, "measured", "here"),
            power_w=None, covered=(), not_covered=(), pair=pair,
        )  # fmt: skip
        verdicts.add(self.store, made, reports.add(self.store, made, "atom-x5-e3940", body), passed, reasons)
        return made

    def release(self, number, candidate, sha256, size, state="complete", **told):
        releases.add(
            self.store, number=number, name="street", candidate=candidate, sha256=sha256, size=size,
            target=f"street/{number}.onnx", classes=CLASSES,
        )  # fmt: skip
        for camera in NAMES:
            status = told.get(camera, "SUCCEEDED")
            deliveries.upsert(
                self.store, number, camera, status, progress=1.0 if status == "SUCCEEDED" else 0.4,
                offered=self.clock.now(), detail="the self-test disagreed on 3 of 8 pictures" if status == "FAILED" else "",
            )  # fmt: skip
            if status == "SUCCEEDED":
                cameras.set_reported(
                    self.store, camera, Reported("street", number, sha256, f"release-{number}", "SUCCEEDED", 1.0)
                )
        if state != "rolling":
            releases.set_state(self.store, number, state)

    def plant(self, n, leaking=()):
        """`n` pictures were planted; things of the sizes in `leaking`, as "face small", are seen in every second one."""
        for seed in range(n):
            observed = [
                leaks.Observed(kind, size, float(low), False, 0.1 if out else 1.0, not out)
                for kind, sizes in SIZES.items()
                for size, (low, _) in sizes.items()
                for out in [seed % (2 if f"{kind} {size}" in leaking else 11 + low % 7) == 1]
            ]
            leaks.add(self.store, seed, observed)

    def all_of_it(self, draw, every=10.0):
        """Half an hour: labels, the first model, night, a fall, the second model, and now a third is training."""
        first, second = "a1" * 32, "b2" * 32
        self.meet(*NAMES)
        self.watch(draw, 120, every=every, label=1.0)
        c = cycles.start(self.store, "120 new human labels")
        self.stage(c, "snapshot", 0.2, "118 train, 27 tune, 39 holdout")
        self.stage(c, "train", 41, "8 epochs, 0.9 MB, accuracy 96.3% on the tuning part")
        self.stage(c, "compress", 12, "mobilenet-0.25-int8 276 kB")
        good = ("184 hold-out samples (at least 50 are needed)", "size 0.28 MB, 6.00 MB are allowed")
        small = self.candidate(c, "mobilenet-0.25-int8", first, 276_113, 177, 184, None, good)
        self.candidate(
            c, "mobilenet-1.0", "c3" * 32, 12_911_000, 181, 184, None,
            ("24 frames/s at least on atom-x5-e3940 (estimated, likely 25); 30 are needed", "size 12.91 MB, 6.00 MB are allowed"),
            passed=False,
        )  # fmt: skip
        self.stage(c, "retest", 14, "mobilenet-0.25-int8 96.2%, 83 frames/s (estimated)")
        self.stage(c, "gate", 0.1, "mobilenet-0.25-int8 passed", chosen=small)
        self.stage(c, "release", 0.4, "release 1: mobilenet-0.25-int8, 276 kB, signed")
        self.release(1, small, first, 276_113)
        cycles.finish(self.store, c, "released", "release 1: mobilenet-0.25-int8, 276 kB, signed")
        self.watch(draw, 400, every=every, model=first, right={"north": 0.97, "south": 0.95})
        self.watch(draw, 360, every=every, phase="night", model=first, right={"north": 0.72, "south": 0.63})
        c = cycles.start(self.store, "240 new human labels")
        self.stage(c, "snapshot", 0.2, "301 train, 66 tune, 97 holdout")
        self.stage(c, "train", 48, "8 epochs, 0.9 MB, accuracy 94.9% on the tuning part")
        self.stage(c, "compress", 13, "mobilenet-0.25-int8 276 kB")
        better = (
            "accuracy rose by 14.7 points: 94.6% (263 of 278) now, 79.9% (222 of 278) before; 2 lost and 43 won, "
            "so none are lost (95 % sure); 2.0 are allowed",
            *good,
        )  # fmt: skip
        small = self.candidate(c, "mobilenet-0.25-int8", second, 276_113, 263, 278, 222, better)
        self.stage(c, "retest", 15, "mobilenet-0.25-int8 94.6%, 83 frames/s (estimated)")
        self.stage(c, "gate", 0.1, "mobilenet-0.25-int8 passed", chosen=small)
        self.stage(c, "release", 0.4, "release 2: mobilenet-0.25-int8, 276 kB, signed")
        releases.set_state(self.store, 1, "superseded")
        self.release(2, small, second, 276_113)
        cycles.finish(self.store, c, "released", "release 2: mobilenet-0.25-int8, 276 kB, signed")
        self.watch(draw, 300, every=every, phase="night", model=second, right={"north": 0.95, "south": 0.93})
        self.plant(60)
        leaks.add_unjudged(self.store, 60, "timeout")
        c = cycles.start(self.store, "160 new human labels")
        self.stage(c, "snapshot", 0.2, "402 train, 88 tune, 129 holdout")
        cycles.stage_start(self.store, c, "train")
        self.clock.sleep(32)
        cycles.stage_progress(self.store, c, "train", 0.64, 20.0, {"text": "epoch 6 of 8"})
        self.watch(draw, 20, every=every, model=second, right={"north": 0.96, "south": 0.95}, label=0)


@pytest.fixture
def past(store, clock):
    return Past(store, clock)


@pytest.fixture
def make_app(store, clock):
    def make(**options):
        options = {
            "site": "demo", "classes": CLASSES, "names": NAMES, "gate": {"max_loss": 0.02}, "clock": clock,
            "secret": "a secret of the tests", "hosts": ("127.0.0.1", "localhost", "[::1]"),
        } | options  # fmt: skip
        return create_app(store, **options)

    return make


@pytest.fixture
def app(make_app):
    return make_app()


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture
def serving():
    """Serve an application on a free port of the loopback; the address."""
    servers = []

    def start(app):
        server = bound(app, "127.0.0.1:0", 4)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.effective_port}"

    yield start
    for server, thread in servers:
        server.task_dispatcher.shutdown()  # first the workers, which still write
        # then the sockets, by the loop's own thread
        server.trigger.pull_trigger(lambda closing=server: wasyncore.close_all(closing._map, ignore_all=True))
        thread.join(10)


@pytest.fixture
def token():
    """The CSRF token that a page was given, by its client."""
    import re

    def find(client):
        return re.search(r'name="csrf-token" content="([^"]+)"', client.get("/").text)[1]

    return find


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM or not importlib.util.find_spec("playwright"):
        pytest.skip("no chromium or no playwright")
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
    with sync_playwright() as p:
        opened = p.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, serving, app):
    """Open the page in a window of a size; every complaint of the browser is collected and must be none."""
    complaints, windows = [], []
    address = serving(app)

    def open_(width=1280, height=900, path="", **options):
        windows.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        page = windows[-1].new_page()
        page.on("console", lambda m: complaints.append(f"{m.type}: {m.text}"))
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.on("requestfailed", lambda r: complaints.append(f"failed: {r.url} {r.failure}"))
        page.add_init_script(
            "addEventListener('securitypolicyviolation', e => console.error('policy', e.violatedDirective))"
        )
        # Until the icon is there, too: a click that leaves the page would cut it off, and that counts as a failed request.
        page.goto(address + path, wait_until="networkidle")
        return page

    open_.complaints = complaints
    yield open_
    found = list(complaints)  # before the window closes and its last requests fail
    for window in windows:
        window.close()
    assert found == []
