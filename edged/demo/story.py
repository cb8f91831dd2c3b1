"""The demo's walk: a site is made, cameras send, a model is learned, the world changes, the loop closes again.

Guarantees: everything that is shown happened in real processes (broker, daemon with its scrub children, page, cameras)
that talk over MQTT with mutual TLS; labels are the truth of replayed pictures, imported by the same command that a person
would use; exit code 0 only when every camera runs the new model and it is better on the drifted world while the old one
is kept. Does not guarantee: that figures repeat exactly (threads, timing), only that they are measured.
"""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edged import site as sites
from edged.clock import Clock, SystemClock
from edged.config import load
from edged.demo import plans
from edged.demo.measure import Accuracy, accuracy_of, facts, read_truth
from edged.demo.processes import Processes
from edged.demo.setting import can_listen, clear, free_port, settings
from edged.demo.tell import Teller, markdown
from edged.errors import EXIT_FAILED, EdgedError, Misconfigured, Unavailable
from edged.storage import counters, cycles, deliveries, queue, releases, samples

SETTLE_S = 3.0  # what the cameras saw before a change has arrived by then
KEPT = 0.02  # of accuracy that the old world may lose, whatever the gate allows


@dataclass(frozen=True)
class DemoOptions:
    directory: Path
    data: Path | None = None
    source: Path | None = None
    port: int = 8480
    small: bool = False
    report: Path | None = None
    stay: bool = True
    patience_s: float = 900.0  # how long any single wait may take before the demo gives up and shows the logs


def play(options: DemoOptions) -> int:
    """The whole story; returns the exit code."""
    plan = (
        plans.car_park(options.data.resolve(), options.source and options.source.resolve(), options.small)
        if options.data
        else plans.street(options.directory, options.small)
    )
    clock = SystemClock()
    tell = Teller(clock)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that whoever ends us ends our processes too
    try:
        with Story(plan, options, clock, tell) as story:
            story.open()
            story.collect(plan.first, plan.samples, "the cameras send what they see; no model yet")
            story.label(plan.labels, "a person labels the pictures that teach most")
            story.learn("the first model: learned here, from nothing", plan.labels // 2)
            story.change(plan.before, "the cameras answer for themselves now")
            story.watch("before, old world", plan.kept, plan.watch)
            for turn in plan.rounds:
                story.change(turn.drift, f"the world changes: {turn.text}")
                story.watch(f"{turn.name}, old model", turn.cameras, turn.samples)
                story.label(turn.labels, "labels arrive for some of the new pictures")
                story.learn("the next model: retrained, compressed, re-tested, judged, signed", turn.labels // 2)
                story.change(turn.after, "the new model meets pictures that it has not learned from")
                story.watch(f"{turn.name}, new model", turn.cameras, turn.watch)
            story.change(plan.old, "and the old world once more")
            story.watch("after, old world", plan.kept, plan.watch)
            good = story.sum_up()
            if options.stay:
                story.stay()
            return 0 if good else EXIT_FAILED
    except KeyboardInterrupt:
        tell.say("stopped")
        return 130


class Story:
    """One play of a plan in a folder; a context manager that ends every process it started."""

    def __init__(self, plan: plans.Plan, options: DemoOptions, clock: Clock, tell: Teller) -> None:
        self.plan, self.options, self.clock, self.tell = plan, options, clock, tell
        self.site = options.directory
        self.processes = Processes(self.site, clock)
        self.sources: dict[str, str] = {}
        self.since = clock.now()  # of what is watched
        self.changed = 0.0  # when the world did, for the person who labels
        self.seen: dict[str, Accuracy] = {}
        self._labelled: set[str] = set()

    def __enter__(self) -> Story:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        # From here on an impatient second Ctrl-C or SIGTERM must not leave processes behind.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if isinstance(error, EdgedError):
            for name in ("daemon", "broker", "page"):
                self.tell.say(f"the end of {name}'s log:\n{self.processes.tail(name)}")
        self.processes.stop()
        with suppress(AttributeError):
            self.store.close()

    # the steps

    def open(self) -> None:
        """Make the site, start its processes, wait until they answer."""
        self.tell.step(f"edged demo: {self.plan.title}")
        mqtt_port, web_port = free_port(), self.options.port or free_port()
        if self.options.port and not can_listen(web_port):
            raise Misconfigured(f"port {web_port} is taken", hint="end what listens there, or `edged demo --port 0`")
        clear(self.site)
        new = sites.NewSite(
            site="demo", classes=self.plan.classes, cameras=(*self.plan.cameras(), *self.plan.companions),
            task="demo", block_s=self.plan.block_s, holdout=0.25, mqtt_port=mqtt_port,
            web_listen=f"127.0.0.1:{web_port}", extra=settings(self.plan),
        )  # fmt: skip
        self.config_path = sites.create(self.site, new, self.clock)
        self.config = load(self.config_path)
        edged = [sys.executable, "-P", "-m", "edged", "-c", str(self.config_path)]
        self.processes.start("broker", [*edged, "broker"])
        self.wait(lambda: not can_listen(mqtt_port), "the broker listens")
        self.processes.start("daemon", [*edged, "run"])
        self.processes.start("page", [*edged, "web"])
        self.wait(lambda: not can_listen(web_port), "the page answers")
        self.store = sites.open_store(self.config, readonly=True)
        self.tell.say(f"broker on 127.0.0.1:{mqtt_port} (mutual TLS), the page on http://127.0.0.1:{web_port}")

    def collect(self, act: plans.Act, n: int, text: str) -> None:
        """Start cameras on their sources and wait for `n` more samples on disk."""
        self.tell.step(text)
        self.begin(act)
        for camera, source in self.plan.companions.items():
            self.point(camera, source)
        start = samples.count(self.store)
        self.wait(
            lambda: samples.count(self.store) - start >= n, f"{n} regions received, scrubbed, sealed",
            lambda: (samples.count(self.store) - start) / n,
        )  # fmt: skip
        hidden = {k: v for k, v in counters.all(self.store).items() if k.startswith("scrubbed:")}
        self.tell.say(f"{samples.count(self.store)} regions stored; hidden so far: {hidden or 'nothing to hide yet'}")

    def label(self, n: int, text: str) -> None:
        """Ask the queue what to label of what came since the last change, answer with the truth of the replay, import by
        the command line.
        """
        self.tell.step(text)
        truth = read_truth(self.site, self.plan.cameras())
        asked = [a.sample for a in queue.ask(self.store, 4 * n, seed=1, since=self.changed)]
        chosen = [s for s in asked if s.id in truth][:n]
        file = self.site / f"labels-{len(self._labelled)}.csv"
        with file.open("w", newline="") as f:
            csv.writer(f).writerows((s.id, truth[s.id]) for s in chosen)
        self._labelled |= {s.id for s in chosen}
        subprocess.run(
            [sys.executable, "-P", "-m", "edged", "-q", "-c", str(self.config_path), "label", "import", str(file),
             "--author", "demo"],
            check=True,
        )  # fmt: skip
        self.tell.say(f"{len(chosen)} labels imported (source: human, author: demo)")

    def learn(self, text: str, more: int) -> None:
        """A cycle; when the gate refuses, `more` labels and another one, twice at most; then the rollout."""
        self.tell.step(text)
        for left in (2, 1, 0):
            cycle = self.cycle()
            if cycle.state == "released":
                break
            if cycle.state != "refused" or not left:
                raise Unavailable(f"the cycle ended {cycle.state}: {cycle.detail}", exit_code=EXIT_FAILED)
            self.label(more, "the gate refused, nothing was released: more labels, another cycle")
        release = releases.latest(self.store)
        assert release is not None
        self.wait(
            lambda: self.complete(release.number) and self.running() == {release.sha256},
            f"every camera runs release {release.number}",
        )  # fmt: skip
        self.tell.say(
            f"release {release.number} ({release.size / 1000:.0f} kB) runs on {', '.join(sorted(self.sources))}"
        )

    def cycle(self) -> cycles.Cycle:
        """Ask for a cycle, show its ladder; returns it when it has ended."""
        last = cycles.latest(self.store)
        subprocess.run(
            [sys.executable, "-P", "-m", "edged", "-q", "-c", str(self.config_path), "cycle", "run", "--author", "demo"],
            check=True,
        )  # fmt: skip
        shown: set[str] = set()

        def ended() -> bool:
            cycle = cycles.latest(self.store)
            if cycle is None or (last is not None and cycle.id == last.id):
                return False
            for stage in cycles.stages(self.store, cycle.id):
                if stage.ended is not None and stage.name not in shown:
                    shown.add(stage.name)
                    self.tell.say(
                        f"{stage.name:9} {stage.ended - stage.started:6.1f} s  {stage.detail.get('told', '')}"
                    )
                elif stage.ended is None:
                    self.tell.progress(stage.name, stage.progress, stage.eta_s)
            return cycle.ended is not None

        self.wait(ended, "the cycle ends")
        cycle = cycles.latest(self.store)
        assert cycle is not None
        return cycle

    def change(self, act: plans.Act, text: str) -> None:
        """The world changes."""
        self.tell.step(text)
        self.since = self.clock.now()
        self.begin(act)
        if act.phase:
            self.clock.sleep(SETTLE_S)
            self.since = self.clock.now()
        if act.phase or act.sources:
            self.changed = self.since

    def watch(self, name: str, cameras: Iterable[str], n: int) -> None:
        """The cameras' own answers against the truth, on the next `n` regions of their present sources."""
        release = releases.latest(self.store)
        assert release is not None

        def now() -> Accuracy:
            truth = read_truth(self.site, cameras)
            return accuracy_of(self.store, truth, cameras, self.since, release.sha256, exclude=self._labelled)

        self.since = max(self.since, release.created)
        self.wait(lambda: now().n >= n, f"{n} answers of the cameras", lambda: now().n / n)
        result = now()
        self.tell.say(f"accuracy {name}: {result}")
        self.seen[name] = result

    def sum_up(self) -> bool:
        """The table, and whether the promise was kept."""
        release = releases.latest(self.store)
        assert release is not None
        before, kept = self.seen["before, old world"], self.seen["after, old world"]
        floor = before.ratio - KEPT
        everywhere = release.state == "complete" and self.running() == {release.sha256}
        checks = {f"every camera runs release {release.number}": everywhere}
        for turn in self.plan.rounds:
            old, new = self.seen[f"{turn.name}, old model"], self.seen[f"{turn.name}, new model"]
            checks[f"better {turn.name} ({old.ratio:.1%} -> {new.ratio:.1%})"] = new.ratio > old.ratio
        checks[f"the old world is kept ({kept.ratio:.1%}, floor {floor:.1%} within chance)"] = kept.upper >= floor
        self.tell.step("summary")
        rows = [
            *((f"accuracy {name}", str(accuracy)) for name, accuracy in self.seen.items()),
            *facts(self.store),
            ("the demo took", f"{self.tell.elapsed():.0f} s"),
        ]
        self.tell.table(("", "measured"), rows)
        if self.options.report is not None:
            self.options.report.write_text(markdown(("", "measured"), rows) + "\n")
        for text, ok in checks.items():
            self.tell.say(f"{'ok ' if ok else 'NO '} {text}")
        return all(checks.values())

    def stay(self) -> None:
        """Keep the page up until Ctrl-C."""
        self.tell.step(f"the page stays on http://{self.config.web.listen} until Ctrl-C")
        while True:
            self.processes.check()
            self.clock.sleep(1.0)

    # what the steps are made of

    def begin(self, act: plans.Act) -> None:
        if act.phase:
            (self.site / plans.PHASE_FILE).write_text(act.phase)
        release = releases.latest(self.store)
        for camera, source in act.sources.items():
            if release is not None and camera not in self.sources:
                # A camera that joins takes the fleet's model before it is watched: one picture, then it waits.
                self.point(camera, source, fps=0.01)
                self.wait(partial(self.has, camera, release.number), f"{camera} takes release {release.number}")
            self.point(camera, source)

    def point(self, camera: str, source: str, fps: float | None = None) -> None:
        """(Re)start a camera's program on a source; its spool, slots and identity stay."""
        command = sites.agent_command(self.site, "demo", "127.0.0.1", self.config.mqtt.port, camera)
        fps = fps or (1.0 if camera in self.plan.companions else self.plan.fps)
        # A small spool, so that what is watched is what is seen now: a replay waits while the box is busy.
        command += ["--spool-frames", "16", "--probation-s", "15", "--source", source, "--fps", str(fps)]
        command += ["--truth", str(self.site / f"truth-{camera}.csv")]
        self.processes.start(f"camera-{camera}", command)
        self.sources[camera] = source

    def has(self, camera: str, number: int) -> bool:
        return any(d.camera == camera and d.status == "SUCCEEDED" for d in deliveries.of(self.store, number))

    def complete(self, number: int) -> bool:
        """Whether every camera kept the release; raises Unavailable when it was halted."""
        release = releases.get(self.store, number)
        if release is not None and release.state == "halted":
            raise Unavailable(f"release {number} was halted: {release.detail}", exit_code=EXIT_FAILED)
        return release is not None and release.state == "complete"

    def running(self) -> set[str]:
        """SHA-256 of what each started camera says it runs."""
        from edged.storage import cameras

        return {c.reported.sha256 if c.reported else "" for c in cameras.all(self.store) if c.id in self.sources}

    def wait(self, done: Callable[[], bool], text: str, fraction: Callable[[], float] | None = None) -> None:
        """Poll until `done`; raises Unavailable with what it waited for."""
        start = self.clock.monotonic()
        while not done():
            self.processes.check()
            passed = self.clock.monotonic() - start
            if passed > self.options.patience_s:
                raise Unavailable(f"waited {passed:.0f} s in vain until {text}", exit_code=EXIT_FAILED)
            if fraction is not None and passed > 1.0:
                share = fraction()
                self.tell.progress(text, share, passed / share - passed if share > 0.05 else None)
            self.clock.sleep(0.3)
