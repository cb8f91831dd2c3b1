"""Right or wrong, by class and by world: what a delivered file answers, held against what is true."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.learning.worlds import World, pixels
from edged import engine
from edged.engine import preprocess
from edged.interval import wilson
from edged.retrain import measure, source


@dataclass(frozen=True)
class Score:
    """`confusion[i][j]`: pictures of class i that were answered j."""

    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]

    @property
    def n(self) -> int:
        return sum(map(sum, self.confusion))

    @property
    def right(self) -> int:
        return sum(row[i] for i, row in enumerate(self.confusion))

    @property
    def accuracy(self) -> float:
        return self.right / self.n if self.n else 0.0

    @property
    def recall(self) -> dict[str, float | None]:
        """Of each class; None where there was no picture of it."""
        rows = zip(self.classes, self.confusion, strict=True)
        return {name: row[i] / sum(row) if sum(row) else None for i, (name, row) in enumerate(rows)}

    @property
    def text(self) -> str:
        """97.6 % (97.2 to 98.0), 6000 of 6147; recall busy 98.0 %, free 95.1 %"""
        low, high = wilson(self.right, self.n)
        recalls = ", ".join(f"{k} {v:.1%}" for k, v in self.recall.items() if v is not None)
        return f"{self.accuracy:.1%} ({low:.1%} to {high:.1%}), {self.right} of {self.n}; recall {recalls}"

    def facts(self) -> dict[str, Any]:
        """For a report in JSON."""
        low, high = wilson(self.right, self.n)
        return {
            "accuracy": round(self.accuracy, 4), "lower": round(low, 4), "upper": round(high, 4), "right": self.right,
            "n": self.n, "recall": {k: None if v is None else round(v, 4) for k, v in self.recall.items()},
            "confusion": {"classes": list(self.classes), "rows": [list(r) for r in self.confusion]},
        }  # fmt: skip


def of(pairs: Iterable[tuple[str, str]], classes: Sequence[str]) -> Score:
    """From (truth, answer); an answer that is no class of the task is wrong and counted in the last column's stead."""
    index = {name: i for i, name in enumerate(classes)}
    table = np.zeros((len(classes), len(classes)), np.int64)
    for truth, answer in pairs:
        t = index[truth]
        table[t, index.get(answer, (t + 1) % len(classes))] += 1
    return Score(tuple(classes), tuple(tuple(int(v) for v in row) for row in table))


@dataclass(frozen=True)
class Answers:
    """Of one file to every picture of a world: class names, scores and margins 0..1; "" for what could not be read."""

    names: tuple[str, ...]
    labels: NDArray[np.str_]
    score: NDArray[np.float32]
    margin: NDArray[np.float32]


class Eye:
    """Worlds prepared once for a model's input size, looked at with as many files as there are to compare."""

    def __init__(self, classes: Sequence[str], px: int) -> None:
        self.classes, self.px = tuple(classes), px
        self._seen: dict[int, tuple[World, NDArray[np.uint8], NDArray[np.bool_]]] = {}

    def prepared(self, world: World) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        known = self._seen.get(id(world))
        if known is None or known[0] is not world:
            known = self._seen[id(world)] = (world, *pixels(world, self.px))
        return known[1], known[2]

    def answers(self, model: bytes, world: World, runtime: str = "auto") -> Answers:
        """By the engine, through the camera's preprocessing."""
        found, read = self.prepared(world)
        if measure.input_px(model) != self.px:
            raise ValueError(f"the model takes {measure.input_px(model)} px, the worlds are prepared for {self.px}")
        own = json.loads(source.metadata(model).get(source.CLASSES, "[]")) or list(self.classes)
        loaded = engine.load(model, runtime=runtime, threads=1)
        labels, scores, margins = [], [], []
        for i in range(0, len(found), 32):
            batch = preprocess.marshal([p.astype(np.float32) for p in found[i : i + 32]])
            index, score, margin = preprocess.decode(loaded.run(batch)[0])
            labels += [own[int(k)] if ok else "" for k, ok in zip(index, read[i : i + 32], strict=True)]
            scores.append(score)
            margins.append(margin)
        return Answers(
            tuple(i.name for i in world.items), np.array(labels, dtype=str), np.concatenate(scores),
            np.concatenate(margins),
        )  # fmt: skip

    def score(self, model: bytes, world: World, without: Collection[str] = (), runtime: str = "auto") -> Score:
        """On every picture of the world that can be read and is not named in `without`."""
        return self.tally(self.answers(model, world, runtime), world, without)

    def tally(self, answers: Answers, world: World, without: Collection[str] = ()) -> Score:
        pairs = zip(world.items, answers.labels, strict=True)
        return of(((i.label, str(a)) for i, a in pairs if a and i.name not in without), self.classes)
