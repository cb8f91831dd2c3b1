"""The models that there are: the champion, and past ones that could be released again as they are; which one a word names.

Reads rows, writes none. Guarantees: what is blocked since a release of it was halted, and what its newest re-test refused, is
not among the past ones. Does not guarantee that a past model is good enough: `retrain/choice.py` scores them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edged.errors import Refused
from edged.publish import aim
from edged.publish import release as publishing
from edged.storage import blocked, brought, candidates, models, releases, snapshots, verdicts
from edged.storage.releases import ReleaseRow
from edged.storage.store import Store

PAST = 12  # models that are tried again at most


@dataclass(frozen=True)
class Past:
    """A model that was delivered, or brought: a file that could be released again as it is, or compressed."""

    sha256: str
    name: str
    size: int
    arch: Mapping[str, Any]
    weights: str
    learned: str
    steps: tuple[str, ...]  # compression that it has behind it


def champion(store: Store) -> ReleaseRow | None:
    """The newest release for all that was not halted: what the cameras run, or are about to, but for those apart."""
    return aim.champion(releases.all(store))


def past(store: Store, classes: tuple[str, ...]) -> list[Past]:
    """Models that answer with these classes and are not the champion, newest first: released ones and brought ones. None
    whose newest re-test was refused."""
    now, found = champion(store), dict[str, Past]()
    for release in reversed(releases.all(store)):
        if release.candidate is None or release.classes != classes or release.state == "halted" or release.cameras:
            continue
        made = candidates.get(store, release.candidate)
        found.setdefault(release.sha256, _delivered(made, f"release {release.number} ({made.name})"))
    for model in brought.all(store, "candidate"):
        if model.classes == classes:
            found.setdefault(model.sha256, of_brought(store, model))
    barred = {b.sha256 for b in blocked.all(store)} | ({now.sha256} if now is not None else set())
    return [p for p in found.values() if p.sha256 not in barred and not _refused(store, p.sha256)][:PAST]


def of_brought(store: Store, model: brought.Brought) -> Past:
    """A model from outside as one that could be released: what was exported here and brought back is what it was."""
    name = f"{model.name}, brought by {model.author}"
    if (made := candidates.find(store, model.sha256)) is not None and (made.recipe.get("weights") or not model.weights):
        return _delivered(made, name)
    arch = {"name": str(model.card.get("architecture") or model.name), "input_px": model.px}
    size = models.model_path(store, model.sha256).stat().st_size
    steps = tuple(str(step) for step in model.card.get("steps") or ())
    return Past(model.sha256, name, size, arch, model.weights, "", steps)


def find(store: Store, word: str) -> str:
    """sha256 of the model that a word names, "" = none: "release 3" or "r3", a name or the beginning of a hash (6 digits at
    least) of one that was brought, or made here. Of several of a name the newest that is not the champion.
    """
    if numbered := re.fullmatch(r"(?:release ?|r)(\d{1,9})", word.strip()):
        return next((r.sha256 for r in releases.all(store) if r.number == int(numbered[1])), "")
    if not word:
        return ""
    if model := brought.find(store, word, "candidate"):
        return model.sha256
    now, found = champion(store), ""
    for made in reversed(candidates.all(store)):
        if made.name == word or (len(word) >= 6 and made.sha256.startswith(word)):
            found = found or made.sha256
            if now is None or made.sha256 != now.sha256:
                return made.sha256
    return found


def asked(store: Store, sha256: str, classes: tuple[str, ...]) -> Past:
    """The model that a request names, by its whole hash: brought, or made here. Raises Refused: unknown, retired, other
    classes, its file is gone, blocked since a release of it was halted.
    """
    publishing.require_free(store, sha256)
    try:
        model = brought.get(store, sha256)
    except Refused:
        if (made := _made(store, sha256, classes)) is not None:
            return made
        raise
    if model.retired is not None or model.kind != "candidate":
        word = "was retired" if model.retired is not None else "is a teacher, it is not released"
        raise Refused(f"model {model.name} ({sha256[:12]}) {word}", code="retired")
    if model.classes != classes:
        raise _other(model.name, model.classes, classes)
    return of_brought(store, model)


def _made(store: Store, sha256: str, classes: tuple[str, ...]) -> Past | None:
    """A model that was made here, as it was delivered or would have been. Raises Refused: other classes, no file."""
    made = candidates.find(store, sha256)
    if made is None:
        return None
    told = tuple(snapshots.get(store, made.snapshot)["classes"])
    if told != classes:
        raise _other(made.name, told, classes)
    models.model_path(store, sha256)
    number = next((r.number for r in releases.all(store) if r.sha256 == sha256), 0)
    name = f"release {number} ({made.name})" if number else f"{made.name} of cycle {made.cycle}"
    return _delivered(made, name)


def _delivered(made: candidates.Candidate, name: str) -> Past:
    recipe = made.recipe
    return Past(
        made.sha256, name, made.size, recipe.get("arch") or {}, str(recipe.get("weights", "")),
        str(recipe.get("learned", made.snapshot)), tuple(recipe.get("steps") or ()),
    )  # fmt: skip


def _other(name: str, told: tuple[str, ...], classes: tuple[str, ...]) -> Refused:
    return Refused(
        f"model {name} tells {', '.join(told)}; this site's classes are {', '.join(classes)}, in this order",
        code="other_classes",
    )


def _refused(store: Store, sha256: str) -> bool:
    newest = candidates.find(store, sha256)
    verdict = verdicts.of(store, newest.id) if newest else None
    return verdict is not None and not verdict.passed
