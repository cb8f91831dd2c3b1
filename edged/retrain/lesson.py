"""What the ladder learns from: new and old samples, those that judge, and pictures without labels. Pure.

Guarantees: new samples come first wherever old ones follow; of the old only exemplars (mix.py); what judges is never
trained on. Does not guarantee a tune part with new samples in it: `with_tune` takes some of the new ones where it has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from edged.errors import Refused
from edged.retrain import mix
from edged.retrain.jobs import LearnJob
from edged.retrain.pictures import Pictures

REPLAYED = (600, 2000)  # old samples that are read: as many as new ones, at least and at most this many
MORE = 4000  # further old samples that are read for the last rung
WATCHED = 400  # old tune samples that are looked at for forgetting
TUNE = 0.15  # share of the new samples that judges when the snapshot's tune part has none of them


@dataclass(frozen=True)
class Data:
    """All the ladder sees. `blind` uint8 [n, px, px, 3]: pictures without labels. `more` reads old ones beyond the
    exemplars, for the rung that learns from everything. `kin`: pictures that show what a labelled one shows (storage/kin.py);
    they teach as new ones, and never judge. `lent` of the new ones, the last, are such. `blocks`: in which block of its camera's
    time a new sample was taken, by its id.
    """

    new: Pictures
    old: Pictures
    tune_new: Pictures
    tune_old: Pictures
    blind: NDArray[np.uint8]
    skipped: int = 0
    more: Callable[[], Pictures] | None = None
    kin: Pictures | None = None
    lent: int = 0
    blocks: Mapping[str, int] = field(default_factory=dict)

    @property
    def labelled(self) -> int:
        """New samples that a person or a teacher labelled."""
        return len(self.new) - self.lent

    @property
    def looks(self) -> NDArray[np.int64]:
        """int64 [new tune samples], equal for those of one block of one camera; one whose time is not known stands alone."""
        them = self.tune_new
        ids = them.ids or ("",) * len(them)
        keys: list[object] = [
            (camera, self.blocks[i]) if i in self.blocks else at
            for at, (camera, i) in enumerate(zip(them.cameras, ids, strict=True))
        ]
        number = {key: n for n, key in enumerate(dict.fromkeys(keys))}
        return np.array([number[key] for key in keys], np.int64)

    @property
    def tune(self) -> Pictures:
        """New ones first."""
        return join(self.tune_new, self.tune_old)

    @property
    def train(self) -> Pictures:
        """New ones first."""
        return join(self.new, self.old)


def replayed(new: int) -> int:
    """Old samples that are worth reading for `new` new ones."""
    return max(REPLAYED[0], min(REPLAYED[1], new))


def check(data: Data, job: LearnJob) -> None:
    """Raises Refused where nothing can be learned from: words say what is missing."""
    if len(job.classes) < 2:
        raise Refused(f"one class only ({', '.join(job.classes)}): there is nothing to tell apart", code="one_class")
    if len(data.new) < job.min_samples and set(job.rungs) != {"norms"}:
        raise Refused(
            f"too few new labelled crops to learn from: {len(data.new)} of at least {job.min_samples}"
            + (f" ({data.skipped} could not be read)" if data.skipped else ""),
            hint="label more, over more of the day",
            code="too_few",
        )


def with_tune(data: Data, *, taught: bool = True) -> Data:
    """Where no new sample is in the tune part, the last ones of each new camera judge instead of teaching.

    `taught` False: nothing is trained on labels, so all that have one judge.
    """
    if not taught:
        none = np.empty(0, np.int64)
        blind = np.concatenate([data.blind, data.new.pixels])
        return replace(data, new=subset(data.new, none), tune_new=join(data.tune_new, data.new), blind=blind)
    if len(data.tune_new) or len(data.new) < 10:
        return data
    names = np.array(data.new.cameras, dtype=object)
    last = np.zeros(len(names), bool)
    for name in sorted(set(data.new.cameras)):
        own = np.flatnonzero(names == name)
        last[own[len(own) - round(len(own) * TUNE) :]] = True
    return replace(data, new=subset(data.new, np.flatnonzero(~last)), tune_new=subset(data.new, np.flatnonzero(last)))


def with_kin(data: Data) -> Data:
    """Kin behind the new ones, once it is settled which of those judge."""
    if data.kin is None or not len(data.kin) or not len(data.new):
        return data
    return replace(data, new=join(data.new, data.kin), lent=len(data.kin), kin=None)


def chosen(
    new: Pictures, old: Pictures, tune_new: Pictures, tune_old: Pictures, blind: NDArray[np.uint8], job: LearnJob
) -> Data:
    """Of the old only what replay and the watch on forgetting need."""
    few = mix.exemplars(groups(old, job), replayed(len(new)), job.seed)
    watched = mix.exemplars(groups(tune_old, job), WATCHED, job.seed)
    rest = subset(old, np.setdiff1d(np.arange(len(old)), few))
    further = subset(rest, mix.exemplars(groups(rest, job), MORE, job.seed))
    return Data(new, subset(old, few), tune_new, subset(tune_old, watched), blind, more=lambda: further)


def groups(pictures: Pictures, job: LearnJob) -> list[tuple[str, str]]:
    return [(job.classes[i], camera) for i, camera in zip(pictures.labels.tolist(), pictures.cameras, strict=True)]


def subset(pictures: Pictures, chosen: NDArray[np.int64]) -> Pictures:
    return Pictures(
        pictures.pixels[chosen],
        pictures.labels[chosen],
        tuple(pictures.cameras[i] for i in chosen),
        tuple(pictures.ids[i] for i in chosen) if pictures.ids else (),
    )


def join(*parts: Pictures) -> Pictures:
    """One after the other."""
    return Pictures(
        np.concatenate([p.pixels for p in parts]),
        np.concatenate([p.labels for p in parts]),
        tuple(name for p in parts for name in p.cameras),
        tuple(name for p in parts for name in p.ids),
    )
