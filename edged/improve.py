"""WALK 2: a model gets better. Each stage leaves a row; a finished stage is never run again.

    due? -> snapshot -> reuse -> train -> compress -> re-test each candidate -> gate -> sign and release

Guarantees: kill anything at any point and the next `run_once` goes on at the first unfinished stage of the same cycle;
what is released has passed the gate on the bytes that are delivered, judged on human labels only; nothing is trained where
too little is held out to pass; a cycle that cannot go on ends in words, and the next one may begin. Does not guarantee that
a cycle ends with a release: a refusal is a result, with reasons, and is shown.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from edged import due, plan
from edged.clock import Clock
from edged.errors import Corrupt, EdgedError, Misconfigured, Refused, Unavailable
from edged.publish import trust
from edged.retrain import children, tidy
from edged.rules import Rules
from edged.steps import Outcome, RunJob, Steps, begun
from edged.storage import cycles, drifts, requests
from edged.storage.store import Store

log = logging.getLogger(__name__)

TRIES = {"child_killed": 3, "stuck": 2}  # of a stage whose child ended like that
STARTS = 10  # of a stage, by daemons that were all killed in it
PAUSE_S = 30.0  # after what the cycle waits for was not there

State = Literal["released", "refused", "failed"]


@dataclass(frozen=True)
class Loop:
    """The parts a cycle works with. `between` are called while no cycle is due, in turn; each does a little and returns."""

    store: Store
    rules: Rules
    repo: trust.Repository
    clock: Clock
    run_job: RunJob = children.run
    between: Sequence[Callable[[], object]] = ()
    _drift: Drift = field(default_factory=lambda: Drift())

    def due(self) -> due.Due:
        """Whether a cycle should run now and why, or what is waited for. Only looks."""
        return plan.when(self.store, self.rules.when, self.clock.now(), self._drift.standing(self.store))

    def why(self) -> str:
        """Why a cycle should run now, a sentence; "" = it should not."""
        return self.due().why

    def run_once(self, why: str) -> State:
        """One cycle, or the rest of an interrupted one; returns its end state.

        Raises Unavailable while the cycle has to wait as it is (another job of this site runs); Corrupt, and what is a
        bug, when it has ended as failed.
        """
        running = cycles.running(self.store)
        cycle = running.id if running else self._begin(why)
        state: State = "failed"
        try:
            state, detail = self._walk(cycle)
        except Refused as e:
            state, detail = "refused", _words(e)
        except (Unavailable, Misconfigured) as e:
            if e.code == "busy":
                raise
            detail = _words(e)
        except Corrupt as e:
            self._end(cycle, "failed", _words(e))
            if e.code != "child_failed":  # a bug in a child is no damage to the store
                raise
            return "failed"
        except Exception as e:
            self._end(cycle, "failed", f"a bug: {type(e).__name__}: {e}")
            raise
        self._end(cycle, state, detail)
        return state

    def _begin(self, why: str) -> int:
        """A cycle's row; requests for one are answered with it. One that names a model has a cycle of its own."""
        with self.store.transaction():
            cycle = cycles.start(self.store, why)
            asked = [r for r in requests.pending(self.store) if r.verb == "cycle"]
            model = asked[0].args.get("model") if asked else None
            for request in asked:
                if request.args.get("model") == model:
                    requests.done(self.store, request.id, begun(cycle))
        return cycle

    def _end(self, cycle: int, state: State, detail: str) -> None:
        cycles.finish(self.store, cycle, state, detail)
        for request in requests.pending(self.store):
            if request.verb == "cancel":
                requests.done(self.store, request.id, f"cycle {cycle} {state}")
        log.info("cycle %d %s: %s", cycle, state, detail)
        tidy.jobs(self.store.data_dir / "jobs")

    def _walk(self, cycle: int) -> tuple[State, str]:
        look = Cancel(self.store, self.clock).look
        steps = Steps(
            self.store, self.rules, self.repo, self.clock, self.run_job, cycle, look,
            lambda: self._drift.standing(self.store),
        )  # fmt: skip
        split = self._stage(steps, "snapshot", steps.snapshot)
        steps.enough(split)
        reused = self._stage(steps, "reuse", lambda: steps.reuse(split))
        trained = self._stage(steps, "train", lambda: steps.train(split, reused))
        made = self._stage(steps, "compress", lambda: steps.compress(split, trained))
        tested = self._stage(steps, "retest", lambda: steps.retest(split, made))
        judged = self._stage(steps, "gate", lambda: steps.judge(made))
        if not judged["chosen"]:
            return "refused", judged["told"]
        released = self._stage(steps, "release", lambda: steps.release(tested, judged))
        return "released", released["told"]

    def _stage(self, steps: Steps, name: str, work: Callable[[], Outcome]) -> Outcome:
        """The recorded outcome, or the work's; a child that was killed or stood still is started again."""
        known = cycles.outcome(self.store, steps.cycle, name)
        if known is not None:
            return known
        tried: dict[str, int] = {}
        while True:
            steps.look()
            steps.took.clear()
            if cycles.stage_start(self.store, steps.cycle, name) > STARTS:
                raise Unavailable(
                    f"{name} was begun {STARTS} times and the daemon was ended in it each time",
                    hint="`journalctl` tells by whom; out of memory is likely", code="gave_up",
                )  # fmt: skip
            try:
                outcome = work()
            except Unavailable as e:
                if e.code == "busy":
                    cycles.stage_put_off(self.store, steps.cycle, name)
                tried[e.code] = tried.get(e.code, 0) + 1
                if tried[e.code] >= TRIES.get(e.code, 1):
                    raise
                log.warning("%s, try %d: %s", name, tried[e.code], e)
                continue
            if steps.took:
                outcome |= {
                    "cpu_seconds": round(sum(t.cpu_seconds for t in steps.took), 1),
                    "peak_bytes": max(t.peak_bytes for t in steps.took),
                }
            cycles.stage_finish(self.store, steps.cycle, name, outcome)
            return outcome

    def forever(self, stop: threading.Event, alarm: Callable[[BaseException], None], every_s: float = 1.0) -> None:
        """Look once a second whether a cycle is due, until `stop`; what is nobody's fault but ours goes to `alarm`."""
        pause = every_s
        while not stop.wait(pause):
            pause = every_s
            try:
                self._turn()
            except Unavailable as e:
                log.warning("the cycle waits: %s", e)
                pause = max(every_s, PAUSE_S)
            except Exception as e:
                log.exception("the cycle stopped")
                alarm(e)
                pause = max(every_s, PAUSE_S)
                if isinstance(e, Corrupt):
                    return

    def _turn(self) -> None:
        if why := self.why():
            self.run_once(why)
            return
        for request in requests.pending(self.store):
            if request.verb == "cancel":
                requests.done(self.store, request.id, "no cycle runs")
        failed: list[Exception] = []
        for step in self.between:
            try:
                step()
            except Exception as e:  # one that fails must not keep the others from their turn  # noqa: BLE001
                failed.append(e)
        if failed:
            raise next((e for e in failed if isinstance(e, Corrupt)), failed[0])


class Drift:
    """The cameras that drift; asked again only when there is a newer evaluation."""

    def __init__(self) -> None:
        self._seen, self._found = -1, tuple[due.Drifting, ...]()

    def standing(self, store: Store) -> tuple[due.Drifting, ...]:
        if (newest := drifts.newest(store)) != self._seen:
            self._found, self._seen = plan.standing(store), newest
        return self._found


class Cancel:
    """Looks, once a second at most, whether somebody wants the cycle to end."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock, self._looked = store, clock, float("-inf")

    def look(self) -> None:
        """Raises Refused("cancelled"), in `Asked` Unavailable("busy")."""
        if abs(self._clock.monotonic() - self._looked) < 1.0:
            return
        self._looked = self._clock.monotonic()
        for request in requests.pending(self._store):
            self._judge(request.verb, request.author)

    def _judge(self, verb: str, author: str) -> None:
        if verb == "cancel":
            raise Refused(f"cancelled by {author}", code="cancelled")


class Asked(Cancel):
    """The same for what runs between cycles: it makes room as soon as one is asked for."""

    def _judge(self, verb: str, author: str) -> None:
        if verb == "cycle":
            raise Unavailable(f"a cycle was asked for by {author}", code="busy")


def _words(e: EdgedError) -> str:
    return f"{e}" + (f" ({e.hint})" if e.hint else "")
