"""Worlds shown to real cameras: which picture each answer belongs to, and who labelled it.

Guarantees: an answer counts for the picture that it was given to, also when a camera's program starts again (each showing has
a truth file of its own, and a program begins its showing anew); a picture counts once, with its last answer. Does not guarantee
that every picture shown is in the store: the scrubber may withhold one.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2

from bench.learning import score
from bench.learning.worlds import Item, World
from edged import site as sites
from edged.demo.story import Story
from edged.errors import Corrupt
from edged.storage import labels, queue, samples

QUIET_S = 6.0  # without a new region, a camera that has shown everything is done


@dataclass
class Showing:
    """One run of a source on a camera: `items` in the order in which it gives them."""

    camera: str
    items: tuple[Item, ...]
    truth: Path

    def shown(self) -> dict[str, str]:
        """Sample id -> name of the picture, as far as it has come. Raises Corrupt when truth and items disagree."""
        found: dict[str, str] = {}
        if not self.truth.exists():
            return found
        text, at = self.truth.read_text(), {"": 0}
        for row in csv.reader(text[: text.rfind("\n") + 1].splitlines()):
            if len(row) != 3:
                continue
            boot = row[0].split("-")[0]
            n = at.get(boot, 0)
            at[boot] = n + 1
            item = self.items[n % len(self.items)]
            if item.label != row[2]:
                raise Corrupt(f"{self.truth.name}: row {n} of {boot} is {row[2]}, {item.name} is {item.label}")
            found[f"{self.camera}:{row[0]}:{row[1]}"] = item.name
        return found


def lay_out(world: World, folder: Path, every: int = 1, offset: int = 0) -> tuple[str, tuple[Item, ...]]:
    """The agent's word for a world (every n-th of it from `offset`), and its pictures in that order."""
    items = world.items[offset::every]
    if world.source.startswith("cnrpark:"):
        return f"{world.source}&every={every}&offset={offset}", items
    if world.source:
        return world.source, world.items
    kept = []
    for n, item in enumerate(items):
        image = item.image()
        if image is None:
            continue
        place = folder / f"{n:06d}" / item.label
        place.mkdir(parents=True)
        cv2.imwrite(str(place / "picture.png"), image)
        kept.append(item)
    return f"folder:{folder}?kind=roi&truth=folder", tuple(kept)


@dataclass
class Cast:
    """The cameras of a running story and all that they have shown."""

    story: Story
    fps: float
    showings: list[Showing] = field(default_factory=list)

    def show(self, world: World, every: int = 1, offset: int = 0) -> Showing:
        """Point the camera that is called like the world at it; a camera that joins takes the fleet's model first."""
        from edged.storage import releases

        number, story = len(self.showings), self.story
        source, items = lay_out(world, story.site / f"shown-{number}", every, offset)
        showing = Showing(world.name, items, story.site / f"truth-{world.name}-{number}.csv")
        release = releases.latest(story.store)
        if release is not None and world.name not in story.sources:
            self._point(showing, source, fps=0.01)
            story.sources[world.name] = source
            story.wait(lambda: story.has(world.name, release.number), f"{world.name} takes release {release.number}")
        self.showings.append(showing)
        self._point(showing, source, self.fps)
        return showing

    def _point(self, showing: Showing, source: str, fps: float) -> None:
        story, camera = self.story, showing.camera
        command = sites.agent_command(story.site, "demo", "127.0.0.1", story.config.mqtt.port, camera)
        command += ["--spool-frames", "16", "--probation-s", "15", "--source", source, "--fps", str(fps)]
        command += ["--truth", str(showing.truth)]
        story.processes.start(f"camera-{camera}", command)
        story.sources[camera] = source

    def until(self, showing: Showing, part: float, text: str) -> None:
        """Wait until so much of it was shown and what is stored of that has settled."""
        wanted = int(part * len(showing.items))
        self.story.wait(lambda: len(set(showing.shown().values())) >= wanted, text)
        if part >= 1:
            last, since = -1, self.story.clock.monotonic()

            def quiet() -> bool:
                nonlocal last, since
                n, now = samples.count(self.story.store, showing.camera), self.story.clock.monotonic()
                if n != last:
                    last, since = n, now
                return now - since >= QUIET_S

            self.story.wait(quiet, f"the last of {text}")

    def names(self) -> dict[str, str]:
        """Sample id -> picture, of every showing."""
        return {k: v for showing in self.showings for k, v in showing.shown().items()}

    def labelled(self, camera: str) -> set[str]:
        """Names of a camera's pictures that a person labelled."""
        names = self.names()
        return {names[s.id] for s, _ in labels.effective(self.story.store) if s.camera == camera and s.id in names}

    def answered(self, showing: Showing, model: str, classes: Sequence[str], without: Collection[str]) -> score.Score:
        """The camera's own answers as they came over the wire, given by `model`, to pictures not named in `without`."""
        shown, truth = showing.shown(), {i.name: i.label for i in showing.items}
        last: dict[str, str] = {}
        for s in samples.since(self.story.store, 0.0):
            name = shown.get(s.id)
            if name is not None and s.model == model and name not in without:
                last[name] = s.predicted
        return score.of(((truth[name], answer) for name, answer in last.items()), classes)

    def label(self, showing: Showing, n: int, seed: int) -> int:
        """Ask the queue about what was shown, answer with the truth by the command line; returns how many."""
        by_name, store = {i.name: i.label for i in showing.items}, self.story.store
        truth = {sample: by_name[name] for sample, name in showing.shown().items()}
        waiting = [c for c in queue.candidates(store, seed, 1_000_000) if c.sample.id in truth]
        first = queue.cover(store, waiting, n)
        asked = [a.sample.id for a in queue.choose(waiting, n, seed, first=first, known=queue.labelled(store))]
        if not asked:
            return 0
        file = self.story.site / f"labels-{self.story.clock.now():.3f}.csv"
        with file.open("w", newline="") as f:
            csv.writer(f).writerows((sample, truth[sample]) for sample in asked)
        subprocess.run(
            [sys.executable, "-m", "edged", "-q", "-c", str(self.story.config_path), "label", "import", str(file),
             "--author", "bench"], check=True, timeout=600,
        )  # fmt: skip
        return len(asked)
