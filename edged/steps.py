"""What each stage of one cycle does: rows in, rows and files out. `improve.py` says in which order, and resumes.

Guarantees: what a stage leaves is the same whether it ran once or was killed and ran again; the jobs of one cycle lie in
jobs/<cycle>/. Does not guarantee an order: each takes the outcomes of the stages before it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from edged import apart, chain, plan, registry, vouched
from edged.clock import Clock
from edged.due import Drifting
from edged.engine import admit
from edged.errors import Refused, Unavailable
from edged.publish import fleet, release, teachers, trust
from edged.retrain import calibrated, children, choice, fits, gate, jobs, recipes
from edged.retrain.report import Report
from edged.rules import Rules
from edged.storage import candidates, cycles, models, occasions, pins, reports, requests, snapshots, verdicts
from edged.storage.store import Store

LADDER = {"learn": "train"}  # a job's stage on the ladder, where their names differ
POINTS = 200  # of the running plot

Outcome = dict[str, Any]
RunJob = Callable[..., Outcome]  # children.run, or a test's stand-in with the same signature


@dataclass
class Steps:
    """The stages of cycle `cycle`. `look` is called while a child runs; what it raises ends the child."""

    store: Store
    rules: Rules
    repo: trust.Repository
    clock: Clock
    run_job: RunJob
    cycle: int
    look: Callable[[], None]
    drifting: Callable[[], tuple[Drifting, ...]]
    took: list[children.Used] = field(default_factory=list)  # by the jobs of the present stage

    def snapshot(self) -> Outcome:
        last_label = occasions.last_label(self.store)  # before the labels are read: a later one is new next time
        self._refuse_contradicted()
        body = plan.body(self.store, self.rules.split)
        counts = {part: len(body[part]) for part in ("train", "tune", "holdout")}
        anew = not self._asked_for() and plan.anew(self.store, body, self.rules.arch)
        against = vouched.refusal(body, self.rules.limits, self.rules.block_s, anew=anew, least=self.rules.least)
        told = ", ".join(f"{n} {part}" for part, n in counts.items())
        return {
            "snapshot": snapshots.add(self.store, body), **counts, "last_label": last_label, "told": told, "anew": anew,
            "against": str(against or ""),
        }  # fmt: skip

    def enough(self, split: Outcome) -> None:
        """Raises Refused when nothing on this snapshot could be judged and nobody gives his word, or he does and it can be;
        when a class is to be learned that no label shows, or all from too few labels."""
        against = vouched.refusal(
            snapshots.get(self.store, split["snapshot"]), self.rules.limits, self.rules.block_s, word=self._word(),
            sha256=self._asked_for(), anew=split.get("anew", False), least=self.rules.least,
        )  # fmt: skip
        if against is not None:
            raise against

    def _word(self) -> vouched.Word:
        return vouched.of(self._requests())

    def _teacher(self) -> str:
        """sha256 of the teacher to distil from, "" = none with these classes."""
        found = teachers.standing(self.store, self.repo, self.rules.teacher)
        return found.sha256 if found is not None and found.classes == self.rules.classes else ""

    def _refuse_contradicted(self) -> None:
        """Labels that overturn much of what the champion learned are learned, and judged by, only if a person says so."""
        found = plan.contradicted(self.store)
        if found.told and not any(r.args.get("model") or r.args.get("overturn") for r in self._requests()):
            raise Refused(
                found.told, code="contradicted",
                hint=f"if they are wrong: `edged label undo --author {shlex.quote(found.author)}`; if they are right: "
                "`edged cycle run --overturn`",
            )  # fmt: skip

    def reuse(self, split: Outcome) -> Outcome:
        """The course that the rest of the cycle takes."""
        body, drifting = snapshots.get(self.store, split["snapshot"]), self.drifting()
        if sha256 := self._asked_for():
            brought = registry.asked(self.store, sha256, self.rules.classes)
            course = plan.Course("taken", taken=brought.sha256, note=f"{brought.name}: asked for, nothing is trained")
            return {"course": msgspec.to_builtins(course), "told": course.note}
        course = plan.course(self.store, body, self.rules.arch, self.rules.classes, drifting)
        base = plan.base(self.store, registry.champion(self.store))
        past = registry.past(self.store, self.rules.classes) if self.rules.reuse and base else []
        if not past or base is None or course.new < choice.FEWEST:
            return {"course": msgspec.to_builtins(course), "told": course.note}
        job = {**self._job(split), "models": [base.sha256, *(p.sha256 for p in past)], "before": base.learned}
        scores = self._run("reuse", "reuse", job)["scores"]
        chosen = choice.choose(scores, base.sha256, base.usual, {p.sha256: p.name for p in past})
        if chosen.taken:
            course = plan.Course("taken", taken=chosen.taken, note=chosen.told)
        elif chosen.start and course.stage == "learn":
            start = next(p for p in past if p.sha256 == chosen.start)
            if start.weights and dict(start.arch) == self.rules.arch:
                course = plan.course(self.store, body, self.rules.arch, self.rules.classes, drifting, start)
        told = [chosen.told]
        if not chosen.taken and not chosen.start:  # no better for all
            told += apart.offer(self.store, self.repo if self.rules.reuse_per_camera else None, scores, base.sha256)
        return {"course": msgspec.to_builtins(course), "scores": scores, "told": "; ".join(told)}

    def train(self, split: Outcome, reused: Outcome) -> Outcome:
        course = msgspec.convert(reused["course"], plan.Course)
        if course.stage == "taken":
            return self._take(course)
        if course.stage == "learn":
            return self._learn(split, course)
        rules = self.rules
        fits.require(
            rules.architecture, rules.input_px, len(rules.classes), "all" if course.start else "scratch", batch=fits.BATCH,
            pictures=split["train"], memory_bytes=rules.memory_bytes,
        )  # fmt: skip
        job = {
            **self._job(split), "arch": rules.arch, "start": course.start, "seed": rules.seed, "epochs": rules.epochs,
            "lr": recipes.rate(rules.architecture, fits.BATCH), "zoom": recipes.zoom(rules.architecture),
            "min_samples": rules.least,
        }  # fmt: skip
        result = self._run("train", "train", job)
        told = f"{result['epochs']} epochs, {size_text(result['size'])}{_accuracy(result)}"
        return {**result, "arch": rules.arch, "start": course.start, "learned": split["snapshot"], "told": told}

    def _learn(self, split: Outcome, course: plan.Course) -> Outcome:
        rules = self.rules
        body = snapshots.get(self.store, split["snapshot"])
        cameras = course.cameras or tuple(sorted({s.partition(":")[0] for s, _ in body["train"]}))
        cycle = cycles.get(self.store, self.cycle)
        assert cycle is not None
        blind = plan.unlabelled(
            self.store, cameras, course.since, cycle.started, holdout=rules.holdout, block_s=rules.block_s
        )  # fmt: skip
        job = {
            **self._job(split), "arch": rules.arch, "start": course.start, "before": course.before, "unlabelled": blind,
            "rungs": list(course.rungs), "replay": rules.replay, "camera_cap": rules.camera_cap, "seed": rules.seed,
            "teacher": self._teacher(), "memory_bytes": rules.memory_bytes,
            "kin": plan.taught_beside(self.store, body, course, rules.split, cycle.started),
        }  # fmt: skip
        result = self._run("learn", "learn", job)
        rung = result.get("rung", "")
        # Statistics without labels have learned none: those are as new to the next cycle as they are to this one.
        learned = course.before if rung == "norms" else split["snapshot"]
        told = f"{result.get('note') or rung}: {size_text(result['size'])}{_accuracy(result)}"
        return {**result, "arch": rules.arch, "start": course.start, "learned": learned, "told": told}

    def _take(self, course: plan.Course) -> Outcome:
        """A model that there is goes on as if it had been trained."""
        known = registry.past(self.store, self.rules.classes)
        found = next((p for p in known if p.sha256 == course.taken), None)
        if found is None:
            found = registry.asked(self.store, course.taken, self.rules.classes)
        return {
            "sha256": found.sha256, "weights_sha256": found.weights, "size": found.size, "epochs": 0, "start": "",
            "arch": dict(found.arch), "learned": found.learned, "steps": list(found.steps), "name": found.name,
            "told": f"{found.name} is taken, nothing was trained",
        }  # fmt: skip

    def compress(self, split: Outcome, trained: Outcome) -> Outcome:
        """Candidate rows for the float model and each compressed one; of a model that was compressed before, that one."""
        recipe = {
            "arch": trained["arch"], "weights": trained["weights_sha256"], "seed": self.rules.seed,
            "epochs": trained["epochs"], "start": trained["start"], "learned": trained["learned"], "steps": [],
        }  # fmt: skip
        if word := self._word().said:
            recipe["untested"] = word
        made: list[Outcome] = []
        lines: list[str] = []
        refused: list[str] = []

        def add(steps: Sequence[str], facts: Outcome) -> None:
            if facts["sha256"] in {m["sha256"] for m in made}:
                return
            try:
                release.require_free(self.store, facts["sha256"])
            except Refused as e:
                refused.append(f"{' '.join(steps) or chain.NONE} refused: {e}")
                return
            name = "-".join([trained["arch"]["name"], *(step.replace("=", "") for step in steps)])
            candidate = candidates.add(
                self.store, self.cycle, name=name, sha256=facts["sha256"], size=facts["size"], snapshot=split["snapshot"],
                recipe={**recipe, "steps": list(steps), "facts": facts}, parent=trained["start"],
            )  # fmt: skip
            near = next((f["near"] for f in facts.get("facts", ()) if f.get("near")), None)
            changed = f" ({near['changed']:.0%} changed)" if near else ""
            made.append({"candidate": candidate, "name": name, "sha256": facts["sha256"], "size": facts["size"]})
            lines.append(f"{name} {size_text(facts['size'])}{changed}")
            refused.extend(filter(None, [facts.get("note", "")]))

        as_it_is = trained.get("steps") or word  # without pictures nothing tells what compressing it would cost
        methods = (chain.NONE,) if as_it_is else self.rules.methods
        for method in methods:
            if method == chain.NONE:
                add(trained.get("steps") or (), {"sha256": trained["sha256"], "size": trained["size"]})
                continue
            job = {
                **self._job(split), "sha256": trained["sha256"], "method": method, "seed": self.rules.seed,
                "max_loss": self.rules.compress_loss, "device": self.rules.device,
            }  # fmt: skip
            if before := plan.previous(self.store, trained["arch"], chain.parse(method)):
                job["previous"] = before
            try:
                add(method.split(), self._run(f"compress-{method.replace(' ', '+')}", "compress", job))
            except Refused as e:
                if e.code == "cancelled" or (len(methods) == 1 and not self.rules.search_minutes):
                    raise
                refused.append(f"{method} refused: {e}")
        points = self._search(split, trained, add, refused) if self.rules.search_minutes and not as_it_is else []
        if not made:
            raise Refused("; ".join(refused))
        told = ", ".join([*lines, *refused])
        return {"made": made, "points": points, "told": told}

    def _search(
        self, split: Outcome, trained: Outcome, add: Callable[[Sequence[str], Outcome], None], refused: list[str]
    ) -> list[Outcome]:
        """Candidates of a search over more chains; what it tried, for the page."""
        job = {
            **self._job(split), "sha256": trained["sha256"], "methods": list(self.rules.methods), "seed": self.rules.seed,
            "max_loss": self.rules.limits.max_loss, "min_fps": self.rules.limits.min_fps, "device": self.rules.device,
            "max_minutes": self.rules.search_minutes, "latency": calibrated.known(self.store, self.rules.device),
        }  # fmt: skip
        try:
            found = self._run("search", "search", job)
        except Refused as e:
            if e.code == "cancelled":
                raise
            refused.append(f"the search was refused: {e}")
            return []
        for point in found["kept"]:
            add([] if point["method"] == chain.NONE else point["method"].split(), point)
        keys = ("method", "accuracy", "size", "packed", "fps", "fps_likely", "how", "memory_bytes", "refused")
        return [{key: point[key] for key in keys} for point in found["points"]]

    def retest(self, split: Outcome, made: Outcome) -> Outcome:
        """A report row for every candidate that could be re-tested; why the others could not is told."""
        champion, pinned = registry.champion(self.store), pins.standing(self.store, self.rules.classes)
        beside = {r.sha256 for r in apart.standing(self.store).values() if r.classes == self.rules.classes}
        job = {
            **self._job(split), "candidates": list(dict.fromkeys([*(m["sha256"] for m in made["made"]), *sorted(beside)])),
            "device": self.rules.device, "seconds": self.rules.seconds, "baseline": champion.sha256 if champion else "",
            "threads": 1, "pinned": [list(p) for p in pinned.pairs], "pins_left_out": list(pinned.left_out),
            "workers": self.rules.workers, "scheduler": self.rules.scheduler,
            "latency": calibrated.known(self.store, self.rules.device),
        }  # fmt: skip
        found = self._run("retest", "retest", job)
        tested = []
        for m in made["made"]:
            if (body := found["reports"].get(m["sha256"])) is None:
                tested.append(f"{m['name']} refused: {found['refused'].get(m['sha256'], 'it was not re-tested')}")
                continue
            if not reports.of(self.store, m["candidate"]):
                reports.add(self.store, m["candidate"], self.rules.device, body)
            report = msgspec.convert(body, Report)
            right = f"{report.accuracy.accuracy:.1%}" if report.n else "on no picture"
            tested.append(f"{m['name']} {right}, {report.fps_device.value:.0f} frames/s "
                          f"({report.fps_device.how})")  # fmt: skip
        own = {sha: body["per_camera"] for sha, body in found["reports"].items() if sha in beside}
        return {"told": "; ".join(tested)} | ({"apart": own} if own else {})

    def judge(self, made: Outcome) -> Outcome:
        """A verdict row for every candidate; the smallest that passed is chosen."""
        passed, told = [], []
        for m in made["made"]:
            rows = reports.of(self.store, m["candidate"])
            if not rows:
                told.append(f"{m['name']} could not be re-tested")
                continue
            row = rows[0]
            verdict = gate.judge(msgspec.json.decode(row.body, type=Report), self.rules.limits, self._word().said)
            if verdicts.of(self.store, m["candidate"]) is None:
                verdicts.add(self.store, m["candidate"], row.id, verdict.passed, verdict.reasons)
            passes = "passed, not tested here" if self._word().reason else "passed"
            told.append(f"{m['name']} {passes if verdict.passed else 'refused: ' + verdict.reasons[0]}")
            if verdict.passed:
                passed.append(m)
        chosen = min(passed, key=lambda m: (m["size"], m["name"]))["candidate"] if passed else 0
        return {"chosen": chosen, "told": "; ".join(told)}

    def release(self, tested: Outcome, judged: Outcome) -> Outcome:
        candidate = candidates.get(self.store, judged["chosen"])
        report = msgspec.json.decode(reports.of(self.store, candidate.id)[0].body, type=Report)
        its, px = self.rules, int(candidate.recipe["arch"]["input_px"])
        admit.judge(models.read_model(self.store, candidate.sha256), classes=len(its.classes), px=px)
        word = self._word()
        description = release.Description(
            its.name, its.classes, px, report.known_answer, its.hardware, untested=word.said
        )  # fmt: skip
        stay, told = apart.settle(self.store, report, tested.get("apart", {}))
        number = release.publish(
            self.store, self.repo, candidate=candidate.id, description=description, author=word.author or fleet.GATE,
            apart=stay,
        )  # fmt: skip
        words = [f"release {number}: {candidate.name}, {size_text(candidate.size)}, signed", word.said, *told]
        return {"release": number, "told": "; ".join(filter(None, words))}

    # what the stages share

    def _asked_for(self) -> str:
        """sha256 of the model that the request which began this cycle names; "" = none."""
        return next((str(r.args["model"]) for r in self._requests() if r.args.get("model")), "")

    def _requests(self) -> list[requests.Request]:
        return requests.answered(self.store, begun(self.cycle))

    def _job(self, split: Mapping[str, Any]) -> Outcome:
        return {
            "data_dir": str(self.store.data_dir), "key_file": str(self.rules.key_file), "snapshot": split["snapshot"],
            "classes": list(self.rules.classes), "threads": self.rules.threads, "max_minutes": self.rules.max_minutes,
        }  # fmt: skip

    def _run(self, folder: str, stage: str, job: Outcome) -> Outcome:
        ladder, curve = LADDER.get(stage, stage), list[tuple[int, float | None, float | None]]()

        def progress(p: jobs.Progress) -> None:
            if (p.loss is not None or p.accuracy is not None) and (
                not curve or curve[-1] != (p.epoch, p.loss, p.accuracy)
            ):
                curve.append((p.epoch, p.loss, p.accuracy))
            facts = {"text": p.text, "loss": p.loss, "accuracy": p.accuracy, "running": curve[-POINTS:]}
            used = children.used(job_dir)
            facts |= {"cpu_seconds": used.cpu_seconds, "peak_bytes": used.peak_bytes}
            cycles.stage_progress(self.store, self.cycle, ladder, p.fraction, p.eta_s, facts)

        job_dir = self.store.data_dir / "jobs" / str(self.cycle) / folder
        memory = self.rules.memory_bytes if stage in ("train", "learn") else None
        try:
            return self.run_job(
                stage, job, job_dir, progress=progress, look=self.look, clock=self.clock, memory_bytes=memory,
                stuck_minutes=self.rules.stuck_minutes,
            )  # fmt: skip
        except Unavailable as e:
            if e.code != "no_memory":
                raise
            its, limit = self.rules, f" within {memory / 1e6:.0f} MB" if memory else ""
            raise Unavailable(
                f"{stage} had not enough memory{limit}", code=e.code,
                hint=fits.instead(its.architecture, its.input_px, len(its.classes), memory or 0, stage),
            ) from e  # fmt: skip
        finally:
            self.took.append(children.used(job_dir))


def begun(cycle: int) -> str:
    """The answer to a request that a cycle began by."""
    return f"cycle {cycle}"


def size_text(size: int) -> str:
    """1234567 -> 1.2 MB, 678 -> 678 B."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB" if size >= 1e3 else f"{size} B"


def _accuracy(result: Outcome) -> str:
    accuracy = result.get("tune_accuracy")
    return f", accuracy {accuracy:.1%} on the tuning part" if accuracy is not None else ""
