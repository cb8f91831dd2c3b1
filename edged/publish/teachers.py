"""Teachers, the models that label on the box, as releases: numbered, signed, put back by number; no camera is offered one.

A teacher's target is `<name>/<number>.onnx` with `custom.kind` = "teacher" and none of what a camera needs to take it (chunks,
hardware, a known answer): agents refuse it even if they were told to.

Guarantees: `standing` gives what the site's keys vouch for and nothing else, so a row or a file that somebody changed is not
asked: classes and their order are the signed ones, and the child that loads the file hashes the very bytes it runs. A kill
between signature and row is mended by the next call. Does not guarantee that a teacher is any good: audit labels say that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from edged.errors import Refused
from edged.storage import audit, blocked, brought, models, releases, requests, reserve
from edged.storage.brought import DIGITS, Brought
from edged.storage.store import Store

if TYPE_CHECKING:
    from edged.publish.trust import Repository, Target

KIND: Final = "teacher"
KEPT = 8  # releases of teachers that stay signed, so that one can be put back


class _Custom(msgspec.Struct, frozen=True):
    """What is signed about a teacher. `since`: the first release of these bytes, `called`: its name in people's words."""

    release: int
    name: str
    called: str
    classes: tuple[str, ...]
    px: int
    since: int
    kind: str = KIND


@dataclass(frozen=True)
class Teacher:
    """One that may be asked; `classes` in the order of its outputs."""

    name: str
    sha256: str
    classes: tuple[str, ...]
    px: int
    release: int
    since: int

    @property
    def author(self) -> str:
        """Whose labels its labels are: other bytes inherit no trust, and the same ones, put back, lose none."""
        return f"teacher:{self.name}@{self.since}"


def release(store: Store, repo: Repository, teacher: Brought, author: str) -> int:
    """Sign a teacher that was brought here; it is the one that is asked from now on. Returns its number, the old one if it is
    the newest already. Raises Refused for what is none or was retired, Corrupt for a changed file, Unavailable: no signer.
    """
    if teacher.kind != KIND:
        raise Refused(
            f"{teacher.name} is no teacher: a model for cameras is released by the gate", code="no_teacher",
            hint=_to_cameras(store, teacher.sha256),
        )  # fmt: skip
    signed = _signed(repo)
    newest = max(signed, default=0)
    if newest and _same(signed[newest], teacher):
        if releases.get(store, newest) is not None:
            return newest
        if newest >= releases.next_number(store):  # a kill has cost the row
            _record(store, signed[newest], author, "")
            return newest
    return _sign(store, repo, teacher, author, 0)


def go_back(store: Store, repo: Repository, *, to: int, author: str) -> int:
    """Return to an earlier release of a teacher: a new number that names the old bytes. Raises Refused: unknown, no longer
    kept, retired since.
    """
    signed = _signed(repo)
    if to not in signed:
        raise Refused(
            f"release {to} of a teacher is no longer kept: only the last {KEPT} are", code="gone",
            hint="`edged model import FILE --teacher` releases it anew",
        )  # fmt: skip
    newest = max(signed)
    if signed[newest].sha256 == signed[to].sha256:
        return newest
    return _sign(store, repo, brought.get(store, signed[to].sha256), author, to)


def standing(store: Store, repo: Repository, word: str = "") -> Teacher | None:
    """The teacher that is to be asked: the newest release of one of this name, or beginning of its SHA-256 ("" = of any),
    that was not retired. Raises Corrupt when the signed metadata does not verify.
    """
    retired = {b.sha256 for b in brought.all(store, KIND, retired=True) if b.retired is not None}
    for number, target in sorted(_signed(repo).items(), reverse=True):
        c = msgspec.convert(target.custom, _Custom)
        named = word in ("", c.called) or (len(word) >= DIGITS and target.sha256.startswith(word))
        if named and target.sha256 not in retired:
            return Teacher(c.called, target.sha256, c.classes, c.px, number, c.since)
    return None


def unsigned(store: Store, repo: Repository) -> list[Brought]:
    """Teachers that are here and were never released, newest first: nobody asks them."""
    known = {t.sha256 for t in _signed(repo).values()} | {r.sha256 for r in releases.all(store, "teacher")}
    return [b for b in brought.all(store, KIND) if b.sha256 not in known]


def is_teacher(custom: Mapping[str, object]) -> bool:
    """Of a signed target."""
    return custom.get("kind") == KIND


def _to_cameras(store: Store, sha256: str) -> str:
    """How a model that is no teacher is released, from where it stands."""
    short = sha256[:12]
    if blocked.get(store, sha256) is not None:
        return f"it is blocked; if it is good after all: `edged rollout unblock {short} --yes`"
    asked = [r.id for r in requests.pending(store) if r.verb == "cycle" and r.args.get("model") == sha256]
    tested = f"request {asked[0]} has it re-tested" if asked else f"`edged cycle run --model {short}` has it re-tested"
    return (
        f"{tested}, and released if it passes; where too little is labelled for that: `edged model release {short} --untested "
        f"--reason WHY` takes your word; bring it with --teacher if it is to label here"
    )


def _signed(repo: Repository) -> dict[int, Target]:
    """What is signed as a teacher, by number."""
    return {_number(path): target for path, target in repo.targets().items() if is_teacher(target.custom)}


def _sign(store: Store, repo: Repository, teacher: Brought, author: str, returns_to: int) -> int:
    if teacher.retired is not None:
        raise Refused(f"teacher {teacher.name} was retired", hint="`edged model import` brings it back", code="retired")
    data = models.read_model(store, teacher.sha256)
    targets = repo.targets()
    number = max([releases.next_number(store), *(_number(path) + 1 for path in targets)])
    name = re.sub(r"[^a-z0-9]+", "-", teacher.name.lower()).strip("-")[:48] or KIND
    mine = _signed(repo)
    since = min((msgspec.convert(t.custom, _Custom).since for t in mine.values() if _same(t, teacher)), default=number)
    custom = _Custom(number, name, teacher.name, teacher.classes, teacher.px, since)
    described = msgspec.to_builtins(custom) | ({"returns_to": returns_to} if returns_to else {})
    stale = [mine[n].path for n in sorted(mine)[: -(KEPT - 1)]]
    path = f"{name}/{number}.onnx"
    target = reserve.spend(store.data_dir, lambda: repo.add_target(path, data, described, remove=stale))
    _record(store, target, author, f"returns to release {returns_to}" if returns_to else "")
    return number


def _same(target: Target, teacher: Brought) -> bool:
    """The same bytes, read in the same way."""
    c = msgspec.convert(target.custom, _Custom)
    return (target.sha256, c.called, c.classes, c.px) == (teacher.sha256, teacher.name, teacher.classes, teacher.px)


def _record(store: Store, target: Target, author: str, detail: str) -> None:
    """The row and the audit entry of a signed teacher, unless they are there."""
    number = _number(target.path)
    if releases.get(store, number) is not None:
        return
    returns_to = target.custom.get("returns_to")
    with store.transaction():
        for older in releases.all(store, "teacher"):
            if older.state == "complete":
                releases.set_state(store, older.number, "superseded", f"release {number} took its place", author)
        releases.add(
            store, number=number, name=str(target.custom["name"]), candidate=None, sha256=target.sha256,
            size=target.length, target=target.path, classes=target.custom["classes"], detail=detail, kind="teacher",
            state="complete", actor=author, returns_to=returns_to,
        )  # fmt: skip
        facts = {"target": target.path, "sha256": target.sha256, "bytes": target.length, "kind": KIND}
        act = "roll back" if returns_to else "release"
        audit.append(store, author, act, str(number), facts | ({"detail": detail} if detail else {}))


def _number(path: str) -> int:
    return int(path.rsplit("/", 1)[1].removesuffix(".onnx"))
