"""Past models at single cameras: where one is better, who is offered it, and who comes back to the common one.

Guarantees: a camera is offered a past model only where a paired test on new labels of people says so, and never again the
bytes that were given up there; a release for all leaves out only cameras whose own model is better on what is held out there.
A kill is mended by the next call. Does not guarantee that a model which is better on labels so far will be tomorrow: the
rollout watches it as any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edged.publish import aim, fleet, release
from edged.retrain import choice
from edged.retrain.report import Report
from edged.storage import cameras, releases
from edged.storage.releases import ReleaseRow
from edged.storage.store import Store

if TYPE_CHECKING:
    from edged.publish.trust import Repository


def standing(store: Store) -> dict[str, ReleaseRow]:
    """Camera -> the release that it alone, or with others, runs or is offered instead of the common one."""
    return aim.apart(releases.all(store), [c.id for c in cameras.all(store)])


def offer(store: Store, repo: Repository | None, scores: Sequence[Mapping[str, Any]], champion: str) -> list[str]:
    """Sentences on past releases that are better at some cameras by the scores of stage `reuse`; offered there at once, or
    with `repo` None only told, with the command that does it. Raises as `release.go_back`.
    """
    rows, mine = releases.all(store), standing(store)
    spent = {(c, r.sha256) for r in rows if r.state == "halted" for c in r.cameras}
    found = [b for b in choice.by_camera(scores, champion, spent) if b.camera not in mine]
    told = []
    for sha256 in dict.fromkeys(b.sha256 for b in found):
        if not (number := _offered(rows, sha256)):
            continue  # it was brought, and no gate has judged it
        its = [b for b in found if b.sha256 == sha256]
        where = [
            f"{b.camera} ({b.right / b.n:.1%} against {b.own / b.n:.1%} of {b.n} new labels, p = {b.p:.1g})"
            for b in its
        ]
        text = f"release {number} is better at {', '.join(where)}"
        names = [b.camera for b in its]
        if repo is None:
            told.append(f"{text}: `edged model rollback {number} {' '.join(f'--camera {c}' for c in names)}`")
            continue
        why = f"better at {', '.join(names)}"
        made = release.go_back(store, repo, to=number, author=fleet.GATE, why=why, cameras=names)
        told.append(f"{text}: offered there as release {made}")
    return told


def settle(
    store: Store, report: Report, beside: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> tuple[list[str], list[str]]:
    """(cameras that a release of the reported model leaves out, a sentence on each that has had a model of its own).

    `beside`: sha256 -> camera -> right and n of that model on the same hold-out. A camera comes back where the new model is at
    least as good there, and stays where nothing is held out that could tell.
    """
    stay, told = [], []
    for camera, its in sorted(standing(store).items()):
        now, then = report.per_camera.get(camera), (beside.get(its.sha256) or {}).get(camera)
        if now is None or then is None or not now.n or not then["n"]:
            stay.append(camera)
            told.append(f"{camera} stays with release {its.number}: nothing is held out there to compare on")
            continue
        own = then["right"] / then["n"]
        back = now.accuracy >= own
        stay += [] if back else [camera]
        told.append(
            f"{camera} {'comes back from' if back else 'stays with'} release {its.number}, {own:.1%} of {then['n']} held out"
            f" there; the new one {now.accuracy:.1%}"
        )
    return stay, told


def _offered(rows: Sequence[ReleaseRow], sha256: str) -> int:
    """The newest release of these bytes for all cameras that was offered and not halted, 0 = none."""
    known = [r for r in rows if r.sha256 == sha256 and not r.cameras and r.state not in ("waiting", "halted")]
    return known[-1].number if known else 0
