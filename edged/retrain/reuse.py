"""Stage `reuse`: how well past models do on the labels of now, before anything is trained.

A model of the night, or of rain, may be good enough again (RECL, Khani et al., NSDI 2023). Judged on labels that people gave
in the train and tune parts of the snapshot; the hold-out is left for the re-test.

Guarantees: each model sees the same pictures; a class that it does not know is an answer it gets wrong; a file that does
not run is left out and named. Does not guarantee that a model which did not train on these pictures is told from one that
did: compare on what is new. No torch.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from edged.errors import Corrupt, Refused
from edged.retrain import pictures, source
from edged.retrain.jobs import Progress, ReuseJob
from edged.retrain.pictures import Crop
from edged.retrain.survey import CHUNK, Looker
from edged.storage import labels, snapshots

MOST = 2000  # pictures, new ones first: enough to tell 2 % apart


class Score(Struct, frozen=True):
    """Of `n` pictures `right` were; `new_*` those that the snapshot before had not, or under another class; `per_camera`
    id -> [right, n], and of the new ones alone; `new_pairs` id -> [lost, won] against the first of the job's models: of the
    new ones those that only that one, or only this one, has right.
    """

    sha256: str
    right: int
    n: int
    new_right: int
    new_n: int
    per_camera: dict[str, tuple[int, int]]
    new_per_camera: dict[str, tuple[int, int]]
    new_pairs: dict[str, tuple[int, int]] = {}


class Broken(Struct, frozen=True):
    sha256: str
    why: str


class Reused(Struct, frozen=True):
    """`scores` in the order of the job's models; `broken` could not be run; `skipped` pictures gone or damaged; `left_out`
    labelled ones beyond MOST.
    """

    scores: tuple[Score, ...]
    broken: tuple[Broken, ...] = ()
    skipped: int = 0
    left_out: int = 0


def run(job: ReuseJob, *, progress: Callable[[Progress], None]) -> Reused:
    """The whole stage. Raises Refused: no snapshot, no label of a person in it."""
    progress(Progress(text="reading the labels"))
    with source.open_source(job) as store:
        assert isinstance(store, source.Source)
        people = {s.id: c for s, c in labels.effective(store.store, ("human",))}
        crops = [
            c for part in ("train", "tune") for c in store.crops(part)
            if people.get(c.id) == c.label and c.label in job.classes
        ]  # fmt: skip
        if not crops:
            raise Refused("no label of a person to score past models on", code="too_few")
        known = _known(snapshots.get(store.store, job.before), crops) if job.before else frozenset()
        chosen = some(crops, known, MOST)
        lookers: dict[str, Looker] = {}
        broken: list[Broken] = []
        for sha256 in job.models:
            try:
                lookers[sha256] = Looker.of(store.model(sha256), job.classes, (), job.threads)
            except (Refused, Corrupt) as e:
                broken.append(Broken(sha256, str(e)))
        counts: dict[str, Counter[tuple[str, bool, bool]]] = {sha256: Counter() for sha256 in lookers}
        pairs: dict[str, Counter[tuple[str, bool]]] = {sha256: Counter() for sha256 in lookers}
        skipped = done = 0
        for part in _chunks(chosen):
            images, there = _decoded(part)
            skipped += len(part) - len(there)
            done += len(part)
            first: NDArray[np.bool_] | None = None
            for sha256 in list(lookers) if there else ():
                try:
                    found = lookers[sha256].look(images)[0]
                except Refused as e:
                    broken.append(Broken(sha256, str(e)))
                    del lookers[sha256], counts[sha256]
                    continue
                right = found == np.array([job.classes.index(c.label) for c in there])
                counts[sha256].update((c.camera, c.id not in known, bool(r)) for c, r in zip(there, right, strict=True))
                if sha256 == job.models[0]:
                    first = right
                elif first is not None:
                    differ = zip(there, right, first != right, strict=True)
                    pairs[sha256].update((c.camera, bool(r)) for c, r, d in differ if d and c.id not in known)
            progress(Progress(done / len(chosen), text=f"{len(lookers)} models, {done} of {len(chosen)} pictures"))
    return Reused(
        tuple(_score(sha256, counts[sha256], pairs[sha256]) for sha256 in counts), tuple(broken), skipped,
        len(crops) - len(chosen),
    )  # fmt: skip


def some(crops: Sequence[Crop], known: frozenset[str], most: int) -> list[Crop]:
    """At most `most`, drawn evenly: new ones first, and no less than a quarter old ones while there are any."""
    dice = random.Random(1)
    new, old = [c for c in crops if c.id not in known], [c for c in crops if c.id in known]
    of_new = min(len(new), max(most - len(old), most * 3 // 4))
    return dice.sample(new, of_new) + dice.sample(old, min(len(old), most - of_new))


def _score(sha256: str, counts: Mapping[tuple[str, bool, bool], int], pairs: Mapping[tuple[str, bool], int]) -> Score:
    def shares(only_new: bool) -> dict[str, tuple[int, int]]:
        cameras = sorted({camera for camera, new, _ in counts if new or not only_new})
        return {camera: _share(counts, camera, only_new) for camera in cameras}

    right, n = _share(counts, None, False)
    new_right, new_n = _share(counts, None, True)
    differ = {c: (pairs.get((c, False), 0), pairs.get((c, True), 0)) for c in shares(True)}
    return Score(sha256, right, n, new_right, new_n, shares(False), shares(True), differ)


def _share(counts: Mapping[tuple[str, bool, bool], int], camera: str | None, only_new: bool) -> tuple[int, int]:
    mine = [(r, n) for (c, new, r), n in counts.items() if camera in (None, c) and (new or not only_new)]
    return sum(n for right, n in mine if right), sum(n for _, n in mine)


def _known(body: snapshots.Body, crops: Sequence[Crop]) -> frozenset[str]:
    """Of these crops the ids that the snapshot has under the same class."""
    pairs = {(s, c) for part in snapshots.PARTS for s, c in body[part]}
    return frozenset(c.id for c in crops if (c.id, c.label) in pairs)


def _decoded(crops: Sequence[Crop]) -> tuple[list[NDArray[np.uint8]], list[Crop]]:
    images, there = [], []
    for crop in crops:
        try:
            images.append(pictures.decode(crop.jpeg()))
        except (Refused, Corrupt):
            continue
        there.append(crop)
    return images, there


def _chunks(crops: Sequence[Crop]) -> Iterator[Sequence[Crop]]:
    for start in range(0, len(crops), CHUNK):
        yield crops[start : start + CHUNK]
