"""WALK 2: a model gets better. Each line of `run_once` leaves a row; a finished stage is never run again.

    why? -> snapshot -> train -> compress -> re-test each candidate -> gate -> sign and release

Guarantees: kill anything at any point and the next `run_once` goes on at the first unfinished stage of the same cycle;
what is released has passed the gate on the bytes that are delivered, judged on human labels only. Does not guarantee that
a cycle ends with a release: a refusal is a result, with reasons, and is shown.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from edged.clock import Clock
from edged.errors import Corrupt, Refused, Unavailable
from edged.publish import release, trust
from edged.retrain import gate, jobs
from edged.retrain.report import Report
from edged.storage import candidates, cycles, labels, releases, reports, requests, snapshots, verdicts
from edged.storage.store import Store

log = logging.getLogger(__name__)

STAGES = ("snapshot", "train", "compress", "retest", "gate", "release")
TRIES = 3  # of a stage whose child was killed

Outcome = dict[str, Any]
State = Literal["released", "refused", "failed"]
RunJob = Callable[..., Outcome]  # jobs.run, or a test's stand-in with the same signature


@dataclass(frozen=True)
class Rules:
    """What of the configuration a cycle needs, as flat values."""

    name: str  # of the released model = the task
    classes: tuple[str, ...]
    holdout: float
    block_s: float
    new_labels: int
    architecture: str
    input_px: int
    epochs: int
    max_minutes: float
    threads: int
    seed: int
    methods: tuple[str, ...]
    device: str
    limits: gate.GateLimits
    hardware: tuple[str, ...]
    key_file: Path
    seconds: float = 5.0  # per re-test, for measuring speed


@dataclass(frozen=True)
class Loop:
    """The parts a cycle works with."""

    store: Store
    rules: Rules
    repo: trust.Repository
    clock: Clock
    run_job: RunJob = jobs.run

    def why(self) -> str:
        """Why a cycle should run now, a sentence; "" = it should not. Takes requests off the list."""
        if cycles.running(self.store) is not None:
            return "interrupted before"
        asked = [r for r in requests.pending(self.store) if r.verb == "cycle"]
        for request in asked:
            requests.done(self.store, request.id, "started")
        if asked:
            return f"asked for by {asked[0].author}"
        last = cycles.latest(self.store)
        new = labels.count(self.store, "human", since=last.started if last else 0.0)
        return f"{new} new human labels" if new >= self.rules.new_labels else ""

    def run_once(self, why: str) -> State:
        """One cycle, or the rest of an interrupted one; returns its end state: released, refused or failed."""
        running = cycles.running(self.store)
        cycle = running.id if running else cycles.start(self.store, why)
        state: State = "failed"
        try:
            state, detail = self._walk(cycle)
        except (Refused, Unavailable) as e:
            detail = str(e)
        except Corrupt as e:
            cycles.finish(self.store, cycle, "failed", str(e))
            raise
        cycles.finish(self.store, cycle, state, detail)
        log.info("cycle %d %s: %s", cycle, state, detail)
        return state

    def _walk(self, cycle: int) -> tuple[State, str]:
        split = self._stage(cycle, "snapshot", self._snapshot)
        trained = self._stage(cycle, "train", lambda: self._train(cycle, split))
        made = self._stage(cycle, "compress", lambda: self._compress(cycle, split, trained))
        self._stage(cycle, "retest", lambda: self._retest(cycle, split, made))
        judged = self._stage(cycle, "gate", lambda: self._judge(cycle, made))
        if not judged["chosen"]:
            return "refused", judged["told"]
        released = self._stage(cycle, "release", lambda: self._release(judged))
        return "released", released["told"]

    def _stage(self, cycle: int, name: str, work: Callable[[], Outcome]) -> Outcome:
        """The recorded outcome, or the work's; a child that was killed is started again."""
        known = cycles.outcome(self.store, cycle, name)
        if known is not None:
            return known
        for tries in range(1, TRIES + 1):
            cycles.stage_start(self.store, cycle, name)
            try:
                outcome = work()
            except Unavailable as e:
                if e.code != "child_killed" or tries == TRIES:
                    raise
                log.warning("%s, try %d of %d: %s", name, tries, TRIES, e)
                continue
            cycles.stage_finish(self.store, cycle, name, outcome)
            return outcome
        raise AssertionError("unreachable")

    # the stages

    def _snapshot(self) -> Outcome:
        body = snapshots.build(
            labels.effective(self.store), self.rules.classes, holdout_ratio=self.rules.holdout,
            block_s=self.rules.block_s, seed=self.rules.seed, weak=labels.effective(self.store, ("teacher",)),
            held=snapshots.ever_held(self.store),
        )  # fmt: skip
        counts = {part: len(body[part]) for part in ("train", "tune", "holdout")}
        told = ", ".join(f"{n} {part}" for part, n in counts.items())
        return {"snapshot": snapshots.add(self.store, body), **counts, "told": told}

    def _train(self, cycle: int, split: Outcome) -> Outcome:
        champion = self._champion()
        last = candidates.get(self.store, champion.candidate) if champion and champion.candidate else None
        arch = {"name": self.rules.architecture, "input_px": self.rules.input_px}
        start = ""
        if last is not None and last.recipe.get("arch") == arch:
            start = str(last.recipe.get("weights", ""))
        job = {
            **self._job(split), "arch": arch, "start": start, "seed": self.rules.seed, "epochs": self.rules.epochs,
        }  # fmt: skip
        result = self._run(cycle, "train", "train", job)
        accuracy = result.get("tune_accuracy")
        told = f"{result['epochs']} epochs, {size_text(result['size'])}"
        told += f", accuracy {accuracy:.1%} on the tuning part" if accuracy is not None else ""
        return {**result, "arch": arch, "start": start, "told": told}

    def _compress(self, cycle: int, split: Outcome, trained: Outcome) -> Outcome:
        """Candidate rows for the float model and each compressed one."""
        recipe = {
            "arch": trained["arch"], "weights": trained["weights_sha256"], "seed": self.rules.seed,
            "epochs": trained["epochs"], "start": trained["start"], "steps": [],
        }  # fmt: skip
        made = []
        for method in self.rules.methods:
            facts: Outcome = {"sha256": trained["sha256"], "size": trained["size"]}
            name = self.rules.architecture
            if method != "none":
                job = {**self._job(split), "sha256": trained["sha256"], "method": method, "seed": self.rules.seed}
                facts = self._run(cycle, f"compress-{method}", "compress", job)
                name += f"-{method}"
            steps = [] if method == "none" else [method]
            candidate = candidates.add(
                self.store, cycle, name=name, sha256=facts["sha256"], size=facts["size"], snapshot=split["snapshot"],
                recipe={**recipe, "steps": steps, "facts": facts}, parent=trained["start"],
            )  # fmt: skip
            made.append({"candidate": candidate, "name": name, "sha256": facts["sha256"], "size": facts["size"]})
        return {"made": made, "told": ", ".join(f"{m['name']} {size_text(m['size'])}" for m in made)}

    def _retest(self, cycle: int, split: Outcome, made: Outcome) -> Outcome:
        champion = self._champion()
        tested = []
        for m in made["made"]:
            job = {
                **self._job(split), "sha256": m["sha256"], "device": self.rules.device, "seconds": self.rules.seconds,
                "baseline": champion.sha256 if champion else "", "threads": 1,
            }  # fmt: skip
            body = self._run(cycle, f"retest-{m['candidate']}", "trial", job)
            if not reports.of(self.store, m["candidate"]):
                reports.add(self.store, m["candidate"], self.rules.device, body)
            report = msgspec.convert(body, Report)
            tested.append(f"{m['name']} {report.accuracy.accuracy:.1%}, {report.fps_device.value:.0f} frames/s "
                          f"({report.fps_device.how})")  # fmt: skip
        return {"told": "; ".join(tested)}

    def _judge(self, cycle: int, made: Outcome) -> Outcome:
        """A verdict row for every candidate; the smallest that passed is chosen."""
        passed, told = [], []
        for m in made["made"]:
            row = reports.of(self.store, m["candidate"])[0]
            verdict = gate.judge(msgspec.json.decode(row.body, type=Report), self.rules.limits)
            if verdicts.of(self.store, m["candidate"]) is None:
                verdicts.add(self.store, m["candidate"], row.id, verdict.passed, verdict.reasons)
            told.append(f"{m['name']} {'passed' if verdict.passed else 'refused: ' + verdict.reasons[0]}")
            if verdict.passed:
                passed.append(m)
        chosen = min(passed, key=lambda m: (m["size"], m["name"]))["candidate"] if passed else 0
        return {"chosen": chosen, "told": "; ".join(told)}

    def _release(self, judged: Outcome) -> Outcome:
        candidate = candidates.get(self.store, judged["chosen"])
        report = msgspec.json.decode(reports.of(self.store, candidate.id)[0].body, type=Report)
        description = release.Description(
            name=self.rules.name, classes=self.rules.classes, px=int(candidate.recipe["arch"]["input_px"]),
            known_answer=report.known_answer, hardware=self.rules.hardware,
        )  # fmt: skip
        number = release.publish(self.store, self.repo, candidate=candidate.id, description=description, author="gate")
        return {"release": number, "told": f"release {number}: {candidate.name}, {size_text(candidate.size)}, signed"}

    # what the stages share

    def _champion(self) -> releases.ReleaseRow | None:
        """The newest release that was not halted: what the cameras run, or are about to."""
        return next((r for r in reversed(releases.all(self.store)) if r.state != "halted"), None)

    def _job(self, split: Mapping[str, Any]) -> Outcome:
        return {
            "data_dir": str(self.store.data_dir), "key_file": str(self.rules.key_file), "snapshot": split["snapshot"],
            "classes": list(self.rules.classes), "threads": self.rules.threads, "max_minutes": self.rules.max_minutes,
        }  # fmt: skip

    def _run(self, cycle: int, folder: str, stage: str, job: Outcome) -> Outcome:
        ladder = {"trial": "retest"}.get(stage, stage)

        def progress(p: jobs.Progress) -> None:
            facts = {"text": p.text, "loss": p.loss, "accuracy": p.accuracy}
            cycles.stage_progress(self.store, cycle, ladder, p.fraction, p.eta_s, facts)

        job_dir = self.store.data_dir / "jobs" / str(cycle) / folder
        return self.run_job(stage, job, job_dir, progress=progress, clock=self.clock)

    def forever(self, stop: threading.Event, alarm: Callable[[BaseException], None], every_s: float = 1.0) -> None:
        """Look once a second whether a cycle is due, until `stop`; what is nobody's fault but ours goes to `alarm`."""
        while not stop.wait(every_s):
            try:
                if why := self.why():
                    self.run_once(why)
            except Unavailable as e:
                log.warning("the cycle waits: %s", e)
            except Exception as e:
                log.exception("the cycle stopped")
                alarm(e)
                if isinstance(e, Corrupt):
                    return


def size_text(size: int) -> str:
    """1234567 -> 1.2 MB."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
