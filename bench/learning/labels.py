"""What a label is worth: accuracy on the changed world against the number of labels, by who chose them.

    queue     the box's label queue with the insights of the present model (margin, disagreement, drift, spread, audit)
    random    drawn evenly from all that arrived
    first     the first of the day, in the order of arrival

One model is learned on the old world (a third of it labelled), the whole new world has arrived, then labels come in
steps and each step's stages run from the first model: snapshot, learn, int8. The delivered file is asked about all that
was not labelled. Sets of one chooser grow: what was labelled at 1 % is among the 2 %.

    shuffled  the negative control: the queue's choice with classes drawn at random. It must not recover.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from bench.learning import chart
from bench.learning.record import Record
from bench.learning.score import Eye
from bench.learning.site import Site, Taught, inside
from bench.learning.worlds import World, share
from edged.storage import labels, queue

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
CHOOSERS = ("queue", "random", "first")
CONTROL_SHARE = 0.1


def run(
    old: World, new: World, record: Record, *, seeds: Sequence[int], name: str = "labels", shares: Sequence[float] = SHARES,
    px: int = 64, architecture: str = "mobilenet-0.25", epochs: int = 14, old_share: float = 1 / 3, stage: str = "learn",
    block_s: float = 900, choosers: Sequence[str] = CHOOSERS, small: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """The whole part; returns what was measured."""
    classes = sorted(old.classes | new.classes)
    eye = Eye(classes, px)
    points: list[dict[str, Any]] = []
    before: list[float] = []
    measured: dict[str, Any] = {}
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="edged-labels-") as folder, Site(
            Path(folder) / "site", classes, (old.name, new.name), px=px, architecture=architecture, epochs=epochs,
            block_s=block_s, run_job=inside,
        ) as site:  # fmt: skip
            first = _old_world(site, old, old_share, seed)
            answers = eye.answers(site.model(first.sha256), new)
            site.arrive(new, answers, first.sha256)
            site.survey(first.sha256)
            start = eye.tally(answers, new)
            before.append(start.accuracy)
            print(f"seed {seed}: {new.name} before {start.text}", flush=True)
            for chooser in (*choosers, *(("shuffled",) if seed == seeds[0] else ())):
                points += _curve(site, eye, old, new, first, chooser, shares, seed, stage)
        # A long run is worth something before it ends.
        done = seeds[: len(before)]
        measured = {
            "old": old.name, "new": new.name, "pictures": len(new.items), "before": [round(b, 4) for b in before],
            "architecture": architecture, "px": px, "stage": stage, "old_labelled": round(old_share, 3),
            "how": "in one process, stages too: real store, queue and stages; pictures not scrubbed, no network",
            "points": points,
        }  # fmt: skip
        _tell(measured, record, name, shares)
        record.write(name, measured, done, small)
    return measured


def _old_world(site: Site, old: World, part: float, seed: int) -> Taught:
    site.arrive(old.some(lambda i: share(i.name, seed) < part))
    site.answer(list(site.truth))
    return site.teach(seed=seed)


def _curve(
    site: Site,
    eye: Eye,
    old: World,
    new: World,
    first: Taught,
    chooser: str,
    shares: Sequence[float],
    seed: int,
    stage: str,
) -> list[dict[str, Any]]:
    """Labels in steps by one chooser, taken back at the end."""
    found, dice = [], random.Random(seed)
    there = [site.sample[new.name, i.name] for i in new.items if (new.name, i.name) in site.sample]
    drawn = dice.sample(there, len(there))
    given: list[str] = []
    truth = dict(site.truth)
    if chooser == "shuffled":
        names = [truth[i] for i in there]
        dice.shuffle(names)
        truth |= dict(zip(there, names, strict=True))
    for part in (_control(shares),) if chooser == "shuffled" else shares:
        wanted = max(2, round(part * len(there))) - len(given)
        if chooser in ("queue", "shuffled"):
            asked = ask(site, new.name, wanted, seed)
        else:
            asked = [i for i in (drawn if chooser == "random" else there) if i not in set(given)][:wanted]
        for sample in asked:
            labels.add(site.store, sample, truth[sample], "human", chooser)
        given += asked
        taught = site.teach(first, seed=seed, stage=stage)
        model = site.model(taught.sha256)
        answers, names_given = eye.answers(model, new), {site.name_of[i] for i in given}
        rest, old_rest = eye.tally(answers, new, names_given), eye.score(model, old, site.labelled(old.name))
        point = {
            "chooser": chooser, "seed": seed, "share": part, "labels": len(given), "rest": rest.facts(),
            "all": eye.tally(answers, new).facts(), "old": old_rest.facts(), "seconds": taught.result.get("seconds"),
            "rung": taught.result.get("rung", stage),
        }  # fmt: skip
        found.append(point)
        print(
            f"seed {seed} {chooser:8} {part:4.0%} {len(given):5} labels: {new.name} {rest.accuracy:.1%}, "
            f"{old.name} {old_rest.accuracy:.1%}, {point['rung']}", flush=True,
        )  # fmt: skip
    labels.undo_author(site.store, chooser)
    return found


def _control(shares: Sequence[float]) -> float:
    return CONTROL_SHARE if CONTROL_SHARE in shares else shares[-1]


def ask(site: Site, camera: str, n: int, seed: int) -> list[str]:
    """The next `n` questions of the queue about one camera, by sample id."""
    waiting = [c for c in queue.candidates(site.store, seed, 1_000_000) if c.sample.camera == camera]
    first = queue.cover(site.store, waiting, n)
    return [asked.sample.id for asked in queue.choose(waiting, n, seed, first=first, known=queue.labelled(site.store))]


def _tell(measured: dict[str, Any], record: Record, name: str, shares: Sequence[float]) -> None:
    rows, drawn = [], []
    for chooser in dict.fromkeys(p["chooser"] for p in measured["points"] if p["chooser"] != "shuffled"):
        line = []
        for part in shares:
            those = [p for p in measured["points"] if p["chooser"] == chooser and p["share"] == part]
            rest = [p["rest"]["accuracy"] for p in those]
            lost = [p["old"]["accuracy"] for p in those]
            rows.append((
                chooser, f"{part:.0%}", str(those[0]["labels"]), f"{mean(rest):.1%}", f"{min(rest):.1%} to {max(rest):.1%}",
                f"{mean(p['all']['accuracy'] for p in those):.1%}", f"{mean(lost):.1%}",
            ))  # fmt: skip
            line.append((100 * part, mean(rest), min(rest), max(rest)))
        drawn.append(chart.Curve(chooser, tuple(line)))
    for p in (p for p in measured["points"] if p["chooser"] == "shuffled"):
        rows.append((
            "shuffled (control)", f"{p['share']:.0%}", str(p["labels"]), f"{p['rest']['accuracy']:.1%}", f"seed {p['seed']}",
            f"{p['all']['accuracy']:.1%}", f"{p['old']['accuracy']:.1%}",
        ))  # fmt: skip
    new, old = measured["new"], measured["old"]
    record.table(
        f"{new} before labels: {mean(measured['before']):.1%}",
        ("chosen by", "labels", "n", f"{new}, the rest", "lowest to highest seed", f"all of {new}", f"{old}, unlabelled"), rows,
    )  # fmt: skip
    count = len(measured["before"])
    record.plot(name, chart.curves(
        f"What labels are worth: {old} to {new}",
        f"accuracy of the delivered int8 file on what nobody labelled; mean and range of {count} seeds; "
        f"{mean(measured['before']):.1%} before",
        drawn, "% of the pictures labelled", "accuracy", log_x=True,
    ))  # fmt: skip
