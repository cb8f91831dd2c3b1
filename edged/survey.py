"""Looks at new crops now and then, between cycles: hashes, features, answers of the present model, a teacher's labels.

Guarantees: one step does bounded work and ends; what the child leaves is believed only where it reads as it must; a model
or a teacher that fails is left aside for a while, longer each time, and the rest goes on without it; the file between
child and store is overwritten before it goes. Does not guarantee that every crop is looked at: the newest come first,
and after a new release only the newest are looked at again.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edged.clock import Clock
from edged.errors import EdgedError, Refused
from edged.publish import aim, teachers, trust
from edged.retrain import children
from edged.storage import disk, insights, labels, releases, supersede
from edged.storage.insights import Insight
from edged.storage.store import Store

log = logging.getLogger(__name__)

LOOK_S = 30.0  # between two looks at what waits
AGAIN = 3000  # newest samples that a new model, or a new teacher, looks at
ASIDE_S, LONGEST_ASIDE_S = 60.0, 6 * 3600.0
FOLDER = "survey"  # in jobs/


@dataclass(frozen=True)
class Rules:
    """What of the configuration a survey needs, as flat values."""

    classes: tuple[str, ...]
    key_file: Path
    teacher: str = ""  # name or beginning of the sha256; "" = the newest that was released
    least: int = 50  # crops that nobody looked at, before a child is started for them
    longest_s: float = 600.0  # that one of them waits
    most: int = 1000  # crops in one step
    max_minutes: float = 10.0
    stuck_minutes: float = 10.0
    memory_bytes: int = 0  # of the child; 0 = any
    threads: int = 1


@dataclass(frozen=True)
class _Work:
    samples: tuple[str, ...]
    model: str
    teacher: teachers.Teacher | None

    def suspect(self, e: EdgedError | None = None) -> str:
        """What is tried without, should this fail."""
        if e is not None and e.code in ("disk_full", "disk_failed"):
            return "survey"
        return f"teacher {self.teacher.sha256}" if self.teacher else f"model {self.model}" if self.model else "survey"


@dataclass
class Survey:
    """One for each daemon, used by one thread."""

    store: Store
    rules: Rules
    clock: Clock
    run_job: Callable[..., dict[str, Any]] = children.run
    repo: trust.Repository | None = None  # vouches for the teacher; None: none is asked
    _next: float = 0.0
    _aside: dict[str, tuple[float, float]] = field(default_factory=dict)  # until when, and for how long it was
    _unreadable: set[str] = field(default_factory=set)  # gone or damaged: not tried again before a restart
    _swept: bool = False
    _idle_at: tuple[object, ...] = ()  # the store's marker, model and teacher when nothing waited

    def step(self) -> str:
        """Look whether crops wait, at most every LOOK_S seconds, and look at a batch of them; returns a sentence, "" when
        there was nothing to do. Raises what the store raises.
        """
        now = self.clock.monotonic()
        if now < self._next:
            return ""
        self._next = now + LOOK_S
        if not self._swept:  # a survey that was killed may have left what it saw
            clear(self.store.data_dir / "jobs" / FOLDER)
            self._swept = True
        if self._is_aside("survey", now):
            return ""
        work = self._due(now)
        return self._look(work) if work is not None else ""

    # what is due

    def _due(self, now: float) -> _Work | None:
        store, rules = self.store, self.rules
        model = present_model(store)
        model = "" if self._is_aside(f"model {model}", now) else model
        teacher = teachers.standing(store, self.repo, rules.teacher) if self.repo is not None else None
        if teacher is not None and self._is_aside(f"teacher {teacher.sha256}", now):
            teacher = None
        marker = (insights.marker(store), model, teacher.sha256 if teacher else "")
        if marker == self._idle_at:
            return None
        most = rules.most + len(self._unreadable)
        new = self._readable(insights.missing(store, most))
        labelled = self._readable(insights.unhashed(store, most))
        again = insights.missing(store, most, model, window=AGAIN) if model else []
        again += insights.unasked(store, teacher.author, most, window=AGAIN) if teacher else []
        again = self._readable(again)
        if not new and not again and not labelled:
            self._idle_at = marker
        waited = store.clock.now() - insights.waiting(store)[1] if new else 0.0
        # A clock that stepped back makes nothing wait for ever: `least` comes in time.
        if not labelled and set(again) <= set(new) and len(new) < rules.least and waited < rules.longest_s:
            return None
        chosen = tuple(dict.fromkeys((*new, *labelled, *again)))[: rules.most]
        return _Work(chosen, model, teacher) if chosen else None

    def _readable(self, ids: Sequence[str]) -> list[str]:
        return [i for i in ids if i not in self._unreadable]

    # the child

    def _look(self, work: _Work) -> str:
        rules, teacher = self.rules, work.teacher
        folder = self.store.data_dir / "jobs" / FOLDER
        told = insights.asked(self.store, teacher.author, work.samples) if teacher else set()
        job = {
            "data_dir": str(self.store.data_dir), "key_file": str(rules.key_file), "classes": list(rules.classes),
            "samples": list(work.samples), "sha256": work.model, "teacher": teacher.sha256 if teacher else "",
            "teacher_classes": list(teacher.classes) if teacher else [], "told": sorted(told), "threads": rules.threads,
            "max_minutes": rules.max_minutes,
        }  # fmt: skip
        try:
            clear(folder)
            result = self.run_job(
                "survey", job, folder, clock=self.clock, stuck_minutes=rules.stuck_minutes,
                memory_bytes=rules.memory_bytes or None,
            )  # fmt: skip
            seen = read(folder, result, work.samples, rules.classes, work.model)
            clear(folder)
        except EdgedError as e:
            return "" if e.code == "busy" else self._failed(work, e)
        self._aside.pop(work.suspect(), None)
        self._aside.pop("survey", None)
        self._unreadable.update(seen.unreadable)
        self._idle_at = ()
        with self.store.transaction():
            written = insights.add_many(self.store, seen.insights)
            there = insights.hashes(self.store, [sample for sample, _, _ in seen.taught])
            taught = [t for t in seen.taught if t[0] in there] if teacher else []
            if taught and teacher:
                labels.add_many(self.store, taught, "teacher", teacher.author)
        said = f"looked at {written} of {len(work.samples)} crops in {seen.seconds:.1f} s"
        said += f" with model {work.model[:12]}" if work.model else " without a model"
        said += f"; {len(taught)} labels of {teacher.author}" if taught and teacher else ""
        said += f"; {len(seen.unreadable)} could not be read" if seen.unreadable else ""
        said += f"; {seen.note}" if seen.note else ""
        log.info("%s", said)
        return said

    def _failed(self, work: _Work, e: EdgedError) -> str:
        """Whoever may be at fault is left aside, the dearest guess first."""
        who = work.suspect(e)
        delay = min(2 * self._aside.get(who, (0.0, ASIDE_S / 2))[1], LONGEST_ASIDE_S)
        self._aside[who] = (self.clock.monotonic() + delay, delay)
        said = f"the survey failed; {who[:20]} is left aside for {delay / 60:.0f} minutes: {e}"
        log.warning("%s", said)
        return said

    def _is_aside(self, who: str, now: float) -> bool:
        return now < self._aside.get(who, (0.0, 0.0))[0]


def present_model(store: Store) -> str:
    """sha256 of the newest release for all that was not halted: what cameras run, or are about to; "" = there is none."""
    found = aim.champion(releases.all(store))
    return found.sha256 if found is not None else ""


def clear(folder: Path) -> None:
    """What a survey left, this one or one that was killed: features tell of a picture, so they are overwritten. Raises
    Unavailable.
    """
    with disk.explained(folder):
        for path in [*folder.glob("*.safetensors"), *folder.glob(".*.safetensors.*.tmp")]:
            supersede.discard(path)
        shutil.rmtree(folder, ignore_errors=True)


# what the child says


@dataclass(frozen=True)
class Seen:
    """What a child left. `taught`: sample, class ("" = none of the task's), score."""

    insights: tuple[Insight, ...]
    taught: tuple[tuple[str, str, float], ...]
    unreadable: tuple[str, ...]
    seconds: float
    note: str


def read(folder: Path, result: dict[str, Any], wanted: Sequence[str], classes: Sequence[str], model: str) -> Seen:
    """The child ran a file that came from outside: what it left is held against what it may say. Raises Refused."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        seen, unreadable = [str(s) for s in result["samples"]], tuple(str(s) for s in result["unreadable"])
        name, n = str(result["file"]), len(seen)
        if name != Path(name).name or not {*seen, *unreadable} <= set(wanted) or len(set(seen)) < n:
            raise ValueError("it names what it was not asked for")
        path = folder / name
        if path.stat().st_size > 1_000_000 + 1000 * len(wanted):
            raise ValueError("its file is too large")
        rows = load(path.read_bytes())
        for column, kind in _COLUMNS.items():
            if (
                rows[column].dtype != np.dtype(kind)
                or len(rows[column]) != n
                or rows[column].ndim != (column in _WIDE) + 1
            ):
                raise ValueError(f"{column} is {rows[column].dtype} {rows[column].shape}")
        for column in ("answer", "teacher"):
            if n and not (rows[column].min() >= -1 and rows[column].max() < len(classes)):
                raise ValueError(f"{column} is no class")
        for column in ("score", "margin", "teacher_score"):
            if not ((rows[column] >= 0) & (rows[column] <= 1.0001)).all():
                raise ValueError(f"{column} is no share")
        if rows["features"].shape[1] > 64 or not np.isfinite(rows["features"]).all():
            raise ValueError("features are no numbers, or too many")
        seconds, note = float(result["seconds"]), str(result["note"])[:200]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as e:
        raise Refused(f"what the survey left cannot be taken: {e}", code="bad_survey") from e

    names = [*classes, ""]  # -1 is the last
    packed = rows["features"].astype("<f2")
    made = tuple(
        Insight(
            sample, int(rows["hash"][i]), model, names[int(rows["answer"][i])], min(1.0, float(rows["score"][i])),
            min(1.0, float(rows["margin"][i])), packed[i].tobytes() if packed.shape[1] else None,
        )
        for i, sample in enumerate(seen)
    )  # fmt: skip
    taught = tuple(
        (sample, names[int(rows["teacher"][i])], round(min(1.0, float(rows["teacher_score"][i])), 6))
        for i, sample in enumerate(seen)
        if rows["asked"][i]
    )
    return Seen(made, taught, unreadable, seconds, note)


_COLUMNS = {
    "hash": "i8", "answer": "i8", "score": "f4", "margin": "f4", "features": "f2", "asked": "u1", "teacher": "i8",
    "teacher_score": "f4",
}  # fmt: skip
_WIDE = ("features",)
