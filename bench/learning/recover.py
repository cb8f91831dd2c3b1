"""What it costs to recover from a drift: accuracy over CPU seconds of every way, each in a process of its own.

    full      the yardstick: plain PyTorch, NCHW, every layer, all labelled pictures old and new, AdamW, half a cosine, 14
              epochs, the augmentation of stage `train`, from the same weights
    ladder    what stage `learn` does, all rungs
    norms, head, tail, all      the ladder with that rung alone

Both see the same train part of the same labels and the same tune part; the test sets are seen by neither. CPU seconds are
those of the whole child: interpreter, imports, features, export to ONNX and its check; not the reading of the pictures (both
get arrays) and not the looks at the test sets that draw the curve. `ladder` is run without such looks. Peak memory is the
child's before the test sets are touched. The negative control is `shuffled`: the ladder on labels drawn at random, which must
not recover.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.learning.chart import Curve, curves
from edged.clock import SystemClock, cpu_seconds
from edged.retrain.pictures import Pictures

STRATEGIES = ("full", "ladder", "norms", "head", "tail", "all", "shuffled")
EPOCHS, LR = 14, 1e-3  # of the yardstick
WITHIN = 0.005
PLAIN = "plain fine-tune"  # the yardstick's name where people look: the ladder has a rung `full`, too
ROOT = Path(__file__).parents[2]


def run(
    train_old: Pictures,
    train_new: Pictures,
    test_sets: Mapping[str, Pictures],
    *,
    classes: Sequence[str],
    arch: str = "mobilenet-0.25",
    seed: int = 1,
    strategies: Sequence[str] = STRATEGIES,
    champion: bytes = b"",
    folder: Path | None = None,
    moments: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """{"before": {set: accuracy}, "strategies": {name: {"cpu_s", "peak_bytes", "accuracy", "curve", ...}}}.

    Pictures of each set are in the order of time. The first test set is the new domain, the one to recover on. `champion`:
    weights trained on `train_old` (safetensors of stage `train`); b"" = they are trained here first. `moments`: the block of
    time that a new picture is of, by its id.
    """
    with tempfile.TemporaryDirectory(prefix="recover-") as temporary:
        work = folder or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        parts = {"old": train_old, "new": train_new}
        for name, given in parts.items():
            judges = blocks(given)
            _save(work / name, given, np.flatnonzero(~judges))
            _save(work / f"tune_{name}", given, np.flatnonzero(judges))
        for name, given in test_sets.items():
            _save(work / f"test_{name}", given, np.arange(len(given)))
        facts = {
            "classes": list(classes), "arch": arch, "px": int(train_old.pixels.shape[1]), "seed": seed,
            "tests": list(test_sets),
        }  # fmt: skip
        (work / "moments.json").write_text(json.dumps(dict(moments or {})))
        (work / "facts.json").write_text(json.dumps(facts))
        if champion:
            (work / "champion.safetensors").write_bytes(champion)
        elif not (work / "champion.safetensors").exists():
            _child("champion", work)
        before = _child("before", work)["accuracy"]
        found = {name: _child(name, work) for name in strategies}
    return {
        **facts, "samples": {k: len(v) for k, v in {**parts, **test_sets}.items()}, "before": before,
        "strategies": found, **compared(found, list(test_sets)),
    }  # fmt: skip


def blocks(given: Pictures, of: int = 12, judging: Sequence[int] = (3, 9)) -> NDArray[np.bool_]:
    """Which pictures judge: two of twelve consecutive blocks of each camera, so that neighbours stand together."""
    names = np.array(given.cameras, dtype=object)
    out = np.zeros(len(given), bool)
    for name in sorted(set(given.cameras)):
        own = np.flatnonzero(names == name)
        out[own] = np.isin(np.arange(len(own)) * of // max(1, len(own)), judging)
    return out


def compared(found: Mapping[str, Mapping[str, Any]], tests: Sequence[str]) -> dict[str, Any]:
    """How many times cheaper `ladder` is than `full`: against its whole run, and against the moment when its curve first
    came within half a point of its end; None where the ladder did not come within half a point itself. `times_reached`: how
    many times sooner than full's end one of the ladder's rungs, climbed alone, was within half a point of it: what the
    ladder would win if it stopped there; it cannot know, and goes on to be better. None = no rung came so far."""
    if "full" not in found or "ladder" not in found or found["ladder"].get("refused"):
        return {"times_whole": None, "times_first": None, "times_reached": None}
    full, ladder, new = found["full"], found["ladder"], tests[0]
    first = next(row[0] for row in full["curve"] if row[1][new] >= full["accuracy"][new] - WITHIN)
    first += full["cpu_s"] - full["curve"][-1][0]  # imports and export belong to a run that ends there, too
    equal = ladder["accuracy"][new] >= full["accuracy"][new] - WITHIN
    return {
        "equal": equal, "short_by": round(full["accuracy"][new] - ladder["accuracy"][new], 4),
        "times_whole": round(full["cpu_s"] / ladder["cpu_s"], 2), "times_first": round(first / ladder["cpu_s"], 2),
        "times_reached": reached(found, new),
    }  # fmt: skip


def reached(found: Mapping[str, Mapping[str, Any]], new: str) -> float | None:
    """CPU seconds of the whole of `full` over those at which a rung alone was as right on `new`, its imports and export too."""
    full = found["full"]
    enough = full["accuracy"][new] - WITHIN
    moments = []
    for name in ("head", "tail", "all"):
        way = found.get(name, {})
        curve = way.get("curve", ())
        moments += [t + way["cpu_s"] - curve[-1][0] for t, accuracy in curve if accuracy[new] >= enough]
    return round(full["cpu_s"] / min(moments), 2) if moments else None


def plot(result: Mapping[str, Any], title: str) -> str:
    """Accuracy on the new domain over CPU seconds, all strategies."""
    new = result["tests"][0]
    drawn = []
    for name, facts in result["strategies"].items():
        rows = [(t, a[new]) for t, a in facts.get("curve", ())]
        if facts.get("accuracy"):
            rows.append((facts["cpu_s"], facts["accuracy"][new]))
        drawn.append(Curve(PLAIN if name == "full" else name, tuple((t, a, a, a) for t, a in rows if t > 0)))
    before = result["before"][new]
    return curves(title, f"{new}: {before:.1%} before; {result['arch']} at {result['px']} px, one core", drawn,
                  "CPU seconds", "accuracy on the new domain", log_x=True)  # fmt: skip


# one strategy, in a child


def _child(strategy: str, work: Path) -> dict[str, Any]:
    env = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    out = work / f"{strategy}.json"
    if not out.exists():
        command = [sys.executable, "-m", "bench.learning.recover", strategy, str(work)]
        subprocess.run(command, cwd=ROOT, env=env, check=True)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


class _Child:
    """The measured process; what is spent on looks at the test sets is taken off its CPU seconds."""

    def __init__(self, strategy: str, work: Path) -> None:
        import torch

        from edged.retrain import jobs, ladder, lesson

        torch.set_num_threads(1)
        self.strategy, self.work = strategy, work
        self.facts = json.loads((work / "facts.json").read_text())
        self.looked = 0.0
        self.curve: list[tuple[float, dict[str, float]]] = []
        arch = {"name": self.facts["arch"], "input_px": self.facts["px"]}
        rungs = [strategy] if strategy in jobs.RUNGS else list(jobs.RUNGS)
        job = {
            "data_dir": "", "classes": self.facts["classes"], "arch": arch, "seed": self.facts["seed"], "start": "0",
            "rungs": rungs, "max_minutes": 60,
        }  # fmt: skip
        self.job = msgspec.convert(job, jobs.LearnJob)
        self.ladder, self.lesson = ladder, lesson

    def spent(self) -> float:
        return cpu_seconds() - self.looked

    def start(self) -> Any:
        return self.ladder.start_net(self.job, (self.work / "champion.safetensors").read_bytes())

    def tests(self, net: Any) -> dict[str, float]:
        from edged.retrain import fit

        before = cpu_seconds()
        training = net.training
        found = {n: round(fit.score(net, _load(self.work / f"test_{n}"), 128)[1], 5) for n in self.facts["tests"]}
        net.train(training)
        self.looked += cpu_seconds() - before
        return found

    def look(self, net: Any) -> None:
        at = self.spent()
        self.curve.append((round(at, 3), self.tests(net)))

    def run(self) -> dict[str, Any]:
        if self.strategy == "before":
            return {"accuracy": self.tests(self.start())}
        if self.strategy == "champion":
            return self.champion()
        more = self.full() if self.strategy == "full" else self.climbed()
        from edged.retrain import device, export

        net = more.pop("net")
        if net is not None:
            export.to_onnx(net, self.facts["px"])
        result = {"cpu_s": round(self.spent(), 3), "peak_bytes": device.peak_rss(), "curve": self.curve, **more}
        return result | {"accuracy": self.tests(net if net is not None else self.start())}

    def champion(self) -> dict[str, Any]:
        from edged.retrain import fit, jobs, train, zoo

        job = msgspec.structs.replace(self.ladder.as_train(self.job), seed=self.facts["seed"])
        assert isinstance(job, jobs.TrainJob)
        import torch

        torch.manual_seed(job.seed)
        net = zoo.build(job.arch.name, len(job.classes), job.arch.input_px).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        old, tune = _load(self.work / "old"), _load(self.work / "tune_old")
        fit.fit(net, old, tune, job, self.work / "ck", clock=SystemClock(), progress=lambda *_: None)
        (self.work / "champion.safetensors").write_bytes(train.weights_of(net, job))
        return {"cpu_s": self.spent()}

    def full(self) -> dict[str, Any]:
        """Written out, so that nothing of ours makes it slower or faster than the recipe says."""
        import math

        import torch
        from torch import nn

        from edged.retrain import fit

        job = self.ladder.as_train(self.job)
        net = self.start().to(memory_format=torch.contiguous_format)
        both = self.lesson.join(_load(self.work / "old"), _load(self.work / "new"))
        pixels, labels = torch.from_numpy(both.pixels), torch.from_numpy(both.labels)
        optimiser = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=0.01)
        steps = len(labels) // 32
        torch.manual_seed(self.facts["seed"])
        for epoch in range(EPOCHS):
            dice = torch.Generator().manual_seed(self.facts["seed"] * 1000 + epoch)
            order = torch.randperm(len(labels), generator=dice)[: steps * 32]
            net.train()
            for i, chosen in enumerate(order.chunk(steps)):
                at = (epoch * steps + i) / (EPOCHS * steps)
                for group in optimiser.param_groups:
                    group["lr"] = LR * 0.5 * (1 + math.cos(math.pi * at))
                images = fit.augment(pixels[chosen], dice, job, 1.0).contiguous()
                loss = nn.functional.cross_entropy(net(images), labels[chosen])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
            self.look(net)
        return {"net": net.eval()}

    def climbed(self) -> dict[str, Any]:
        from edged.errors import Refused

        new, old = _load(self.work / "new"), _load(self.work / "old")
        tune_new, tune_old = _load(self.work / "tune_new"), _load(self.work / "tune_old")
        if self.strategy == "shuffled":
            new, tune_new = (self._shuffled(p) for p in (new, tune_new))
        chosen = self.lesson.chosen(new, old, tune_new, tune_old, new.pixels[:0], self.job)
        data = replace(chosen, blocks=json.loads((self.work / "moments.json").read_text()))
        quiet = self.strategy in ("ladder", "shuffled")
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            try:
                climbed = self.ladder.climb(
                    self.start(), data, self.job, Path(folder), clock=SystemClock(), progress=lambda _: None,
                    watch=(lambda *_: None) if quiet else lambda _name, net: self.look(net),
                )  # fmt: skip
            except Refused as e:
                return {"net": None, "refused": str(e)}
        return {
            "net": climbed.net, "rung": climbed.kept.name, "note": climbed.note, "stopped": climbed.stopped,
            "tried": msgspec.to_builtins(climbed.tried),
        }  # fmt: skip

    def _shuffled(self, given: Pictures) -> Pictures:
        drawn = np.random.default_rng(self.facts["seed"]).permutation(given.labels)
        return Pictures(given.pixels, drawn, given.cameras, given.ids)


def _save(path: Path, given: Pictures, chosen: NDArray[np.int64]) -> None:
    np.save(path.with_suffix(".npy"), given.pixels[chosen])
    rest = [
        given.labels[chosen].tolist(),
        *([of[i] for i in chosen] if of else [] for of in (given.cameras, given.ids)),
    ]
    path.with_suffix(".json").write_text(json.dumps(rest))


def _load(path: Path) -> Pictures:
    labels, cameras, ids = json.loads(path.with_suffix(".json").read_text())
    return Pictures(np.load(path.with_suffix(".npy")), np.array(labels, np.int64), tuple(cameras), tuple(ids))


if __name__ == "__main__":
    result = _Child(sys.argv[1], Path(sys.argv[2])).run()
    (Path(sys.argv[2]) / f"{sys.argv[1]}.json").write_text(json.dumps(result))
