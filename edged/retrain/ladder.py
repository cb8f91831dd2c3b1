"""The ladder: from the cheapest change of a model to the dearest, until the next one does not pay.

    norms   batch norm's statistics from new pictures, no label used     head    the last layer
    tail    the last blocks, the stem frozen                              all     every layer
    full    every layer, by the recipe of stage `train`, on thousands of the old as well (whole.py)

The first is tried at once. The next three are profiled on a tenth of the samples (probe.py) and the cheapest that is as good as
the best is climbed. Where that one gained nothing, may have left the new far behind the old (the tune split must show that it
did not) or forgot, the last rung follows, at once unless it was the head.

Guarantees: what is left is the best network on the tune split, or Refused when none beats the start; every rung tried is
told, and what old cameras and classes lost; a finished rung is not run again after a kill. Does not read or write models:
arrays and a network in, a network out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from edged.clock import Clock, cpu_seconds
from edged.errors import EdgedError, Refused
from edged.retrain import (
    cache,
    climbed,
    device,
    draws,
    fit,
    foretell,
    lesson,
    norms,
    probe,
    refit,
    rung,
    standing,
    train,
    whole,
    zoo,
)
from edged.retrain.climbed import Climbed, Tried
from edged.retrain.draws import as_train as as_train
from edged.retrain.jobs import LearnJob, Progress
from edged.retrain.standing import Standing

BLIND = 512  # pictures that the first rung looks at
PASSES = 6  # how often each new sample is drawn
LEAST, MOST = 3_000, 16_000  # samples drawn in all
SHORT = 0.1  # accuracy: a rung that may leave the new so far below what the model knew of the old has not done it
NOTHING = 0.05  # of the new at most wrong, as surely: no rung could win anything that the tune split would show


Watch = Callable[[str, nn.Module], None]  # name of the rung, the whole network


def climb(
    net: nn.Sequential,
    data: lesson.Data,
    job: LearnJob,
    folder: Path,
    *,
    clock: Clock,
    progress: Callable[[Progress], None],
    watch: Watch = lambda _name, _net: None,
) -> Climbed:
    """The walk. `net` holds the model's weights and is changed in place; `watch` is shown it after each slice of a rung.

    Raises Refused: too little or one-sided data (see `check`), nothing learned, diverged.
    """
    lesson.check(data, job)
    try:
        settled = lesson.with_kin(lesson.with_tune(data, taught=set(job.rungs) != {"norms"}))
        return _Climb(net, settled, job, folder, clock, progress, watch).run()
    except EdgedError:
        cache.drop(folder)  # features tell of pictures: they stay for a run that was killed, not for one that ended
        raise


@dataclass
class _Climb:
    net: nn.Sequential
    data: lesson.Data
    job: LearnJob
    folder: Path
    clock: Clock
    progress: Callable[[Progress], None]
    watch: Watch
    tried: list[Tried] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stopped: str = ""

    def prepare(self) -> None:
        """How the model that there is stands."""
        self.began = self.clock.monotonic()
        self.tune, self.looks = self.data.tune, self.data.looks
        self.start = self.stand()
        self.start_state = refit.copy(self.net)
        self.best, self.best_state = self.start, self.start_state
        self.best_tried: Tried | None = None

    def run(self) -> Climbed:
        self.prepare()
        if "norms" in self.job.rungs and norms.has_norms(self.net):
            self._norms()
        dearer = [name for name in self.job.rungs if name != "norms"]
        if dearer and not self._done():
            self._trained(dearer)
        if self.best_tried is None:
            told = [t.told for t in self.tried]
            raise Refused(
                "nothing learned: no rung does better than the present model on the tune split "
                f"({self.start.accuracy:.1%} of {len(self.tune)})" + "".join(f"; {t}" for t in (*told, *self.notes)),
                hint="it stays; if that is a surprise, look for wrong labels",
                code="nothing_learned",
            )
        self.net.load_state_dict(self.best_state)
        cache.drop(self.folder)
        self.notes += standing.lost(self.best, self.start, self.tune.labels, self.tune.cameras, self.job.classes)
        if self.data.lent and self.best_tried.name != "norms":
            self.notes.append(
                f"{self.data.lent} pictures that nobody labelled taught beside the {self.data.labelled} new labelled"
                " ones: they show the same"
            )
        note = "; ".join([f"{self.best_tried.name}: {self.start.new_accuracy:.1%} to {self.best.new_accuracy:.1%} of the "
                          f"{self.best.new} new, {self.start.old_accuracy:.1%} to {self.best.old_accuracy:.1%} of the old",
                          *self.notes])  # fmt: skip
        return Climbed(self.net.eval(), self.best_tried, tuple(self.tried), self.start.accuracy, note, self.stopped)

    # looking

    def stand(self) -> Standing:
        found = rung.logits(self.net, rung.entering(self.net, 0, self.tune, None, 1))
        return standing.of(found, self.tune.labels, len(self.data.tune_new))

    def _done(self) -> bool:
        """Whether labels cannot show that anything is left to win: no more errors on the new than one in a hundred, of so many
        that it is no luck."""
        wrong = int((~self.best.right[: self.best.new]).sum())
        if wrong > 0.01 * self.best.new or standing.wrong_at_most(self.best, self.looks) > NOTHING:
            return False
        self.stopped = f"{wrong} of {self.best.new} new tune samples are wrong: a dearer rung could win nothing visible"
        return True

    def _consider(self, tried: Tried, now: Standing, *, dearest: bool = False) -> bool:
        """Keep it where it stands best. `dearest`: it followed since the tune split could not say that the rung before it did,
        so that split must plainly say so to prefer what learned from less."""
        self.tried.append(tried)
        on_new = now.new_accuracy > self.start.new_accuracy or not now.new
        stands = now.worth > self.best.worth or (dearest and not standing.plainly(self.best, now))
        if stands and now.balanced > self.start.balanced and on_new:
            self.best, self.best_state, self.best_tried = now, refit.copy(self.net), tried
            return True
        return False

    def _tried(self, name: str, now: Standing, seconds: float, **more: object) -> Tried:
        told = f"{name} {now.new_accuracy:.1%} new, {now.old_accuracy:.1%} old"
        fields = {"predicted_seconds": 0.0, "predicted_bytes": 0, "epochs": 0, "curve": ()} | more
        return msgspec.convert(
            {
                "name": name, "accuracy": now.accuracy, "new_accuracy": now.new_accuracy,
                "old_accuracy": now.old_accuracy, "cpu_seconds": round(seconds, 2), "peak_bytes": device.peak_rss(),
                "told": told, **fields,
            },
            Tried,
        )  # fmt: skip

    # the first rung

    def _norms(self) -> None:
        """Statistics of the new alone, or mixed with the old ones; kept if labels that nobody trained on say so."""
        self.progress(Progress(0.05, text="norms: measuring what the new pictures look like"))
        before, here = cpu_seconds(), refit.copy(self.net)
        seen = [p for p in (self.data.blind, self.data.new.pixels) if len(p)]
        pixels = np.concatenate(seen)[:BLIND]
        if len(pixels) < 2:
            return
        was = norms.statistics(self.net)
        norms.measure(self.net, pixels)
        now_at = norms.statistics(self.net)
        best = (self.start, refit.copy(self.net))
        for share in (1.0, 0.5):
            self.net.load_state_dict(norms.blend(was, now_at, share), strict=False)
            now = self.stand()
            if share == 1.0 or now.worth > best[0].worth:
                best = (now, refit.copy(self.net))
        now, state = best
        self.net.load_state_dict(state)
        kept = standing.better(now.right, self.start.right) and self._consider(
            self._tried("norms", now, cpu_seconds() - before), now
        )
        if not kept:
            if not self.tried:
                self.tried.append(self._tried("norms", now, cpu_seconds() - before))
            self.net.load_state_dict(here)

    # the others

    def _trained(self, names: Sequence[str]) -> None:
        every = profiles = self._profiles(names)
        if not profiles:
            self.stopped = "no rung fits into the memory that it may use"
            return
        slices = draws.SLICES * probe.SLICES
        while profiles:
            chosen = profiles[0] if len(profiles) == 1 else probe.choose(profiles, slices)
            if chosen.seconds > self._left():
                self.notes.append(f"{chosen.name} would take {chosen.seconds:.0f} s and was left out")
                profiles = [p for p in profiles if p.seconds < chosen.seconds]
                continue
            reached = self.climb_one(chosen)
            if self._done():
                break
            if self._did_it(reached):
                self.stopped = f"{chosen.name} did it: a dearer rung was not needed"
                break
            profiles = [p for p in profiles if p.seconds > chosen.seconds]
            if (
                chosen.name == "head" and profiles
            ):  # what the last layer cannot do, the last blocks often can (measured)
                continue
            if "all" in names and self._full(every):
                break

    def _did_it(self, reached: Standing) -> bool:
        """Whether the new is plainly known better, surely about as well as the old was, and the old not plainly worse.

        Surely: a dearer rung is left out only where the tune split shows that it has little left to win. One that is too small
        to tell, or of too few blocks, leaves out none.
        """
        return (
            standing.gained(reached, self.start)
            and not standing.forgot(reached, self.start)
            and standing.wrong_at_most(reached, self.looks) <= 1 - self.start.old_accuracy + SHORT
        )

    def _full(self, profiles: Sequence[probe.Profile]) -> bool:
        """The last rung, if time and memory allow; whether it was climbed."""
        whole_net = next((p for p in profiles if p.cut == 0), None)
        if whole_net is None:
            return False
        seconds = whole_net.seconds / self._drawn() * whole.drawn(len(self.data.train) + lesson.MORE)
        if seconds > self._left():
            self.notes.append(f"full would take {seconds:.0f} s and was left out")
            return False
        px = self.job.arch.input_px
        # Twice: what is read beside the exemplars is joined with them into one array.
        needed = whole_net.peak_bytes + (2 * lesson.MORE * px * px * 3 if self.data.more else 0)
        if self.job.memory_bytes and needed > self.job.memory_bytes:
            self.notes.append(f"full needs about {needed / 1e6:.0f} MB and was left out")
            return False
        before = cpu_seconds()
        foretold = probe.Profile("full", 0, (), self.start, seconds, needed, 0.0)
        self.net.load_state_dict(self.start_state)
        state = whole.learn(
            self.net, self.data, as_train(self.job), self.job.camera_cap, self.folder,
            limit_s=self._left(), clock=self.clock, tell=self._tell(foretold),
        )  # fmt: skip
        self.watch("full", self.net)
        now = self.stand()
        tried = self._tried(
            "full", now, cpu_seconds() - before, predicted_seconds=round(seconds, 2),
            predicted_bytes=foretold.peak_bytes, epochs=state.epoch, curve=tuple(state.curve),
        )  # fmt: skip
        self.stopped = state.stopped
        if not self._consider(tried, now, dearest=True):
            self.net.load_state_dict(self.start_state)
        return True

    def _left(self) -> float:
        return self.job.max_minutes * 60 - (self.clock.monotonic() - self.began)

    def _profiles(self, names: Sequence[str]) -> list[probe.Profile]:
        found, left_out = foretell.profiles(
            self.net, self.data, self.job, names, drawn=self._drawn(), folder=self.folder, clock=self.clock,
            left=self._left, progress=self.progress,
        )  # fmt: skip
        self.notes += left_out
        return found

    def climb_one(self, chosen: probe.Profile) -> Standing:
        before, here = cpu_seconds(), refit.copy(self.net)
        cut, new, drawn = chosen.cut, self.data.labelled, self._drawn()
        both = draws.copies(self.data.train, self.job, new) if cut else self.data.train
        copies = len(both) // len(self.data.train)
        done = self.folder / f"rung-{chosen.name}.safetensors"
        state = climbed.read(done, self.net)
        if state is None:
            self.progress(Progress(0.2, text=f"{chosen.name}: features"))
            foot = rung.foot(self.net, cut)
            given = rung.entering(self.net, cut, both, self.folder, self.job.threads, foot)
            judged = rung.entering(self.net, cut, self.tune, self.folder, self.job.threads, foot)
            if given.note:
                self.notes.append(given.note)
            tail = self.net[cut:]

            def look(_: nn.Module) -> tuple[float, float]:
                now = standing.of(rung.logits(tail, judged), self.tune.labels, len(self.data.tune_new))
                self.watch(chosen.name, self.net)
                return now.mean_loss, now.accuracy

            state = refit.run(
                tail, rung.drawn_from(given, draws.how(self.job, new)), torch.from_numpy(both.labels),
                torch.from_numpy(np.tile(draws.chances(self.data, self.job, drawn) / copies, copies)),
                draws.recipe(self.job, new, draws.SLICES, drawn // draws.SLICES),
                self.folder / f"{chosen.name}.safetensors", look,
                limit_s=self._left(), clock=self.clock, tell=self._tell(chosen), soft=self._soft(copies),
            )  # fmt: skip
            climbed.keep(done, self.net, state)
            (self.folder / f"{chosen.name}.safetensors").unlink(missing_ok=True)
        now = self.stand()
        tried = self._tried(
            chosen.name, now, cpu_seconds() - before + chosen.spent, predicted_seconds=round(chosen.seconds, 2),
            predicted_bytes=chosen.peak_bytes, epochs=state.epoch, curve=tuple(state.curve),
        )  # fmt: skip
        if state.stopped:
            self.stopped = state.stopped
        if not self._consider(tried, now):
            self.net.load_state_dict(here)
        return now

    def _soft(self, copies: int) -> Tensor | None:
        """What the model it began with says of the old samples: learned from beside their labels, against forgetting."""
        if not len(self.data.old):
            return None
        now = refit.copy(self.net)
        self.net.load_state_dict(self.start_state)
        said = rung.logits(self.net, rung.entering(self.net, 0, self.data.old, None, 1))
        self.net.load_state_dict(now)
        found = torch.full((len(self.data.new) + len(self.data.old), said.shape[1]), torch.nan)
        found[len(self.data.new) :] = torch.from_numpy(said)
        return found.repeat(copies, 1)

    # what the rungs share

    def _drawn(self) -> int:
        """Samples drawn in all."""
        share = 1 - self.job.replay if len(self.data.old) else 1.0
        # Kin make what is drawn more varied, not more.
        return max(LEAST, min(MOST, round(PASSES * self.data.labelled / max(0.05, share))))

    def _tell(self, chosen: probe.Profile) -> refit.Tell:
        reported = -1.0

        def tell(state: fit.State, fraction: float) -> None:
            nonlocal reported
            now = self.clock.monotonic()
            if now - reported < 0.5 and fraction < 1:
                return
            reported = now
            last = state.curve[-1] if state.curve else None
            spent = now - self.began
            self.progress(
                Progress(
                    fraction=min(1.0, 0.2 + 0.75 * fraction),
                    eta_s=round(state.seconds / fraction * (1 - fraction), 1) if fraction > 0.1 and spent else None,
                    text=f"{chosen.name}: {fraction:.0%} of about {chosen.seconds:.0f} s",
                    epoch=state.epoch,
                    loss=last[1] if last else None,
                    accuracy=last[3] if last else None,
                )
            )

        return tell


def start_net(job: LearnJob, weights: bytes) -> nn.Sequential:
    """The network with the model's weights in it. Raises Refused for another network's, Corrupt for damaged ones."""
    torch.manual_seed(job.seed)
    net = zoo.build(job.arch.name, len(job.classes), job.arch.input_px)
    train._load(net, weights, as_train(job))
    last: nn.Sequential = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return last.eval()
