"""The watch for drift: rows of samples, insights and labels -> evaluations, and one alarm that names the cameras.

    confidence   margins of a camera's answers, and of each class it names, against its own past
    features     last features of its pictures (what `survey` left), against its own past
    audit        Page-Hinkley on its answers to audit samples that people labelled
    recall       each class: how often people's labels of it were answered so

Guarantees: looks at each camera at most once in EVERY_S, at each sample once, and never at a picture; a new model on a camera
begins anew, by its pictures or by the camera's word alone; a verdict by labels falls when the labels are taken back; what is
odd (not a number, one class, a clock that jumps, silence) is told in words. After a restart the rows are read again and come to
the same verdict, as far as they reach (AT_START). Does not guarantee that drift is told from what is merely new: docs/drift.md.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field

import numpy as np

from edged.clock import Clock
from edged.retrain import drifted
from edged.retrain.series import Look
from edged.retrain.watched import Watched
from edged.storage import alarms, cameras, drifts, watching
from edged.storage.drifts import Evaluation
from edged.storage.store import Store
from edged.storage.watching import Answer

log = logging.getLogger(__name__)

EVERY_S = 30.0
AT_START = 200_000  # newest samples that are read again after a start
AT_ONCE = 20_000
LATE = 50  # answers of another model in a row that make it the present one, whatever the camera's clock says
LABELS_S = 60.0  # labels that were undone are noticed so late


@dataclass(frozen=True)
class DriftRules:
    """`window` samples and `alert_p` as in [drift]; `audit` the share of samples that belong to the audit set."""

    window: int = 500
    alert_p: float = 0.001
    audit: float = 0.1


@dataclass
class _Camera:
    """One camera under one model. `seen` is the number of the newest sample whose features were asked for."""

    model: str
    watched: Watched
    newest_ts: float = -math.inf
    others: int = 0
    looker: str = ""  # the model whose features are watched
    seen: int = 0
    first: int = 0
    pending: dict[tuple[str, str], Look] = field(default_factory=dict)


class Watch:
    """`step` in a thread that may wait for the store; nothing else uses it."""

    def __init__(self, store: Store, rules: DriftRules, clock: Clock) -> None:
        self._store, self._rules, self._clock = store, rules, clock
        self._cameras: dict[str, _Camera] = {}
        self._at = 0  # number of the newest sample that was read
        self._next = -math.inf
        self._labels = -1, -math.inf  # the newest label when labels were looked at last, and when
        self._told: dict[tuple[str, str, str], Evaluation] = {}
        self._ended: list[Evaluation] = []  # by a new model, to be written
        self._reported: dict[str, str] = {}  # the model that each camera said it runs

    def step(self) -> str:
        """Look if it is time and there is something new: a sentence about what was found, "" = nothing to do. Raises
        Unavailable when the store is busy; the next call goes on where this one ended.
        """
        now = self._clock.monotonic()
        if now < self._next:
            return ""
        self._next = now + EVERY_S
        newest = watching.newest(self._store)
        if newest < self._at:  # the catalogue was restored or made anew
            self._cameras.clear()
            self._at = 0
        if not self._at:
            self._at = max(0, newest - AT_START)
        found: list[Evaluation] = []
        while self._at < newest:
            answers = watching.answers(self._store, self._at, self._at + AT_ONCE)
            for a in answers:
                self._take(a)
            self._at = min(newest, self._at + AT_ONCE)
        self._hear()
        for name, camera in self._cameras.items():
            self._take_features(name, camera)
            found += [
                self._evaluation(name, camera, test, class_, look) for (test, class_), look in camera.pending.items()
            ]
            camera.pending.clear()
        found += self._labelled(now)
        told = self._write([*self._ended, *(e for e in found if self._worth(e))])
        self._ended.clear()
        return told

    def _take(self, a: Answer) -> None:
        camera = self._cameras.get(a.camera)
        if camera is None or self._arrives(camera, a):
            if camera is not None:
                log.info("%s runs model %s: its past begins anew", a.camera, a.model[:12])
                for key in [key for key in self._told if key[0] == a.camera]:
                    if ended := drifted.ended(self._told.pop(key), a.model):
                        self._ended.append(ended)
            camera = self._cameras[a.camera] = _Camera(
                a.model, Watched(self._rules.window, self._rules.alert_p), first=a.number, seen=a.number - 1
            )
        if a.model != camera.model:
            return
        camera.newest_ts = max(camera.newest_ts, a.ts)
        for class_, look in camera.watched.take(a.ts, a.class_, a.margin).items():
            camera.pending["confidence", class_] = look

    def _hear(self) -> None:
        """A camera that says it runs another model begins anew before its first picture. Its word is taken once: after that
        its pictures tell."""
        for c in cameras.all(self._store):
            model, known = c.reported.sha256 if c.reported else "", self._cameras.get(c.id)
            if not model or known is None or self._reported.get(c.id) == model:
                continue
            self._reported[c.id] = model
            if known.model == model:
                continue
            log.info("%s says it runs model %s: its past begins anew", c.id, model[:12])
            self._told = {key: e for key, e in self._told.items() if key[0] != c.id}
            self._cameras[c.id] = _Camera(
                model, Watched(self._rules.window, self._rules.alert_p), newest_ts=self._clock.now(),
                first=self._at + 1, seen=self._at,
            )  # fmt: skip
            self._labels = -1, -math.inf  # what stood is looked at now

    def _arrives(self, camera: _Camera, a: Answer) -> bool:
        """Whether a camera's new model has come: pictures that it kept while it was offline are of the old one."""
        if a.model == camera.model:
            camera.others = 0
            return False
        camera.others += 1
        return a.ts > camera.newest_ts or camera.others > LATE

    def _take_features(self, name: str, camera: _Camera) -> None:
        """Those that survey left since; another network's compare with none of before."""
        looker = watching.looker(self._store, name)
        if looker != camera.looker:
            camera.looker, camera.seen = looker, camera.first - 1
            camera.watched.forget_features()
        while looker:
            rows = watching.features(self._store, name, looker, camera.seen, AT_ONCE)
            for r in rows:
                vector = np.frombuffer(r.features, "<f2").astype(np.float32)
                if len(vector) and (look := camera.watched.take_features(r.ts, r.class_, vector)):
                    camera.pending["features", ""] = look
            if not rows:
                break
            camera.seen = rows[-1].number

    def _evaluation(self, name: str, camera: _Camera, test: str, class_: str, look: Look) -> Evaluation:
        p = None if look.answer is None else look.answer.p
        n = look.n if look.answer else look.have
        detail = drifted.told(name, test, class_, look)
        return Evaluation(name, test, camera.model, n, look.score, p, look.alarm, detail, class_)  # type: ignore[arg-type]

    def _labelled(self, now: float) -> list[Evaluation]:
        """Audit and recall, when labels came or some time has passed."""
        newest, before = watching.newest_label(self._store), self._labels
        if newest == before[0] and now - before[1] < LABELS_S:
            return []
        self._labels = newest, now
        found: list[Evaluation] = []
        for name, camera in self._cameras.items():
            held = watching.held(self._store, camera.model, name)
            labelled = watching.labelled(self._store, name, camera.model, self._rules.audit)
            own = drifted.audit(name, camera.model, labelled, held, self._rules.alert_p)
            own += drifted.recall(name, camera.model, labelled, held, self._rules.alert_p)
            stored = drifts.latest(self._store, name)
            found += [*own, *drifted.outdated(name, camera.model, stored, {(e.test, e.class_) for e in own})]
        return found

    def _worth(self, e: Evaluation) -> bool:
        """Classes are told of when something is up or has just ended, the camera as a whole always."""
        key = e.camera, e.test, e.class_
        before = self._told.get(key)
        if before is not None and e.test in ("audit", "recall") and (before.n, before.score) == (e.n, e.score):
            return False
        worth = not e.class_ or before is None or e.score >= 0.5 or before.score >= 0.5 or before.alarm != e.alarm
        if worth:
            self._told[key] = e
        return worth

    def _write(self, looks: list[Evaluation]) -> str:
        if not looks:
            return ""
        with self._store.transaction():
            drifts.add(self._store, looks)
            standing = drifts.standing(self._store)
            if standing:
                more = f" and {len(standing) - 3} more" if len(standing) > 3 else ""
                text = "; ".join(s.sentence for s in standing[:3]) + more
                if alarms.sound(self._store, alarms.DRIFT, text):
                    log.warning("%s", text)
            else:
                alarms.clear(self._store, alarms.DRIFT)
        return (
            "; ".join(s.sentence for s in standing) or f"{len({e.camera for e in looks})} cameras looked at, no drift"
        )
