"""A candidate that passed becomes a release: numbered, signed, recorded. The only place that makes release rows.

    1. the number: larger than any row's and any signed target's
    2. the signed target `<name>/<number>.onnx` (trust.py), which also drops targets that nobody runs any more
    3. in one transaction: the row (waiting; fleet.py starts it), an older one that waits superseded, the audit entry

Guarantees: a kill between 2 and 3 is mended by the next call, which finds the signed target of the same candidate and
adds the row; a candidate never gets two releases; bytes that are blocked get none. Does not guarantee: that anybody takes
it (see rollout.py).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from msgspec import to_builtins

from edged.errors import EXIT_NOT_FOUND, Corrupt, Refused
from edged.publish import aim, deliver, fleet
from edged.storage import audit, blocked, candidates, deliveries, models, releases, reports, reserve, verdicts
from edged.storage import cameras as camera_rows
from edged.storage.store import Store

if TYPE_CHECKING:
    from edged.publish.trust import Repository, Target


@dataclass(frozen=True)
class Description:
    """What is signed about a model besides its bytes. `known_answer` as made by the trial; `px` its input's side."""

    name: str
    classes: Sequence[str]
    px: int
    known_answer: Mapping[str, Any]
    hardware: Sequence[str]  # hardware ids that it was tested for
    min_agent: str = ""  # oldest agent that can run it, "" = any
    untested: str = ""  # a sentence: who released it although nothing here could judge it, and why


def publish(
    store: Store, repo: Repository, *, candidate: int, description: Description, author: str, apart: Sequence[str] = ()
) -> int:
    """Release a candidate, for all cameras but `apart`; returns its number. Repeating the call returns the same number.

    Raises Refused when the gate did not pass it or its bytes are blocked, Corrupt when its file or the signed metadata is
    damaged, Misconfigured when a signing key is missing.
    """
    if (done := _row_of(store, candidate)) is not None:
        return done
    verdict = verdicts.of(store, candidate)
    if verdict is None or not verdict.passed:
        why = "; ".join(verdict.reasons) if verdict else "it was not re-tested"
        raise Refused(f"candidate {candidate} did not pass the gate and is not released: {why}", code="not_passed")
    row = candidates.get(store, candidate)
    require_free(store, row.sha256)
    data = models.read_model(store, row.sha256)
    target = _signed_earlier(store, repo, candidate, row.sha256)
    if target is None:
        custom = asdict(description) | {"candidate": candidate}
        custom["known_answer"] = _text(description.known_answer)
        custom["classes"], custom["hardware"] = list(description.classes), list(description.hardware)
        if not description.untested:
            del custom["untested"]
        target = _sign(store, repo, data, custom)
    _record(store, target, candidate, author, "release", description.untested, apart=apart)
    return _number(target.path)


def require_free(store: Store, sha256: str) -> None:
    """Raises Refused("blocked") for bytes of a release that was halted."""
    if (bar := blocked.get(store, sha256)) is not None:
        raise Refused(
            f"model {sha256[:12]} is blocked since release {bar.release} was halted: {bar.reason}", code="blocked",
            hint=f"if it is good after all: `edged rollout unblock {sha256[:12]} --yes`",
        )  # fmt: skip


def may_return(store: Store, to: int) -> releases.ReleaseRow:
    """The release, if it may be returned to. Raises Refused as `go_back`; whether it is still signed is not looked at."""
    old = releases.get(store, to)
    if old is None:
        raise Refused(
            f"there is no release {to}", code="not_found", exit_code=EXIT_NOT_FOUND,
            hint="`edged rollout status` lists them",
        )  # fmt: skip
    if old.state == "halted":
        sha256 = old.sha256[:12]
        free = f"`edged rollout unblock {sha256} --yes`, then " if blocked.get(store, old.sha256) is not None else ""
        raise Refused(
            f"release {to} was halted: {old.detail}", code="halted",
            hint=(
                f"if its model is good after all: {free}`edged cycle run --model {sha256}`; where too little is labelled to "
                f"judge it: `edged model release {sha256} --untested --reason WHY`"
            ),
        )  # fmt: skip
    if old.state == "waiting":
        raise Refused(f"release {to} has not been offered yet", code="waiting", hint=f"`edged rollout start {to}`")
    require_free(store, old.sha256)
    return old


def require_cameras(store: Store, cameras: Sequence[str]) -> list[str]:
    """Raises Refused for one that never spoke; returns all there are."""
    known = [c.id for c in camera_rows.all(store)]
    if unknown := sorted(set(cameras) - set(known)):
        raise Refused(
            f"there is no camera {', '.join(unknown)}", code="not_found", exit_code=EXIT_NOT_FOUND,
            hint=f"cameras: {', '.join(known) or 'none'}",
        )  # fmt: skip
    return known


def stands(store: Store, old: releases.ReleaseRow, cameras: Sequence[str]) -> releases.ReleaseRow | None:
    """The newest release of these cameras, () = all, if it holds these bytes already and is not halted: nothing is to be done
    to return to them. Raises Refused for a camera that is unknown.
    """
    known = require_cameras(store, cameras)
    newest = aim.stands(releases.all(store), cameras or (*known, ""))  # "": a camera that is yet to come
    return newest if newest is not None and newest.sha256 == old.sha256 else None


def go_back(
    store: Store, repo: Repository, *, to: int, author: str, why: str = "", cameras: Sequence[str] = (),
    apart: Sequence[str] = (),
) -> int:  # fmt: skip
    """Return to an earlier release: a new number that names the old bytes, since cameras refuse lower numbers.

    `cameras`: for these alone; else for all but `apart`. Returns the new number, or that of the newest release for them
    when it holds these bytes already and is not halted. Raises Refused for a release that is unknown, was halted, was never
    offered, is blocked, or of which nobody knows any more what was signed; for a camera that is unknown.
    """
    from edged.publish import teachers

    old = may_return(store, to)
    if old.kind == teachers.KIND:  # nobody is offered that one
        if cameras:
            raise Refused(f"release {to} is of a teacher, which no camera runs", code="teacher")
        return teachers.go_back(store, repo, to=to, author=author)
    cameras = tuple(sorted(set(cameras)))
    if (already := stands(store, old, cameras)) is not None:
        return already.number
    signed = repo.targets()
    # What a killed call signed comes first: it may have dropped the old target already.
    target = _signed_return(store, signed.values(), to, cameras)
    if target is None:
        custom = {"ways": []} | _described(store, signed, old) | {"returns_to": to, "cameras": list(cameras)}
        target = _sign(store, repo, models.read_model(store, old.sha256), custom)
    detail = f"returns to release {to}" + (f": {why}" if why else "")
    _record(store, target, old.candidate, author, "roll back", detail, returns_to=to, cameras=cameras, apart=apart)
    return _number(target.path)


def rescue(store: Store, repo: Repository) -> tuple[int, ...]:
    """For cameras that run a release which was halted since: a release that names the last good bytes again.

    Returns its number, () when nobody needs one, or one is on its way; a way back is made once, so that one that does not
    help begins no loop. Raises Refused("no_way_back") when there are no such bytes.
    """
    stray = fleet.astray(store)
    if not stray:
        return ()
    worst = max((r for _, r in stray), key=lambda r: r.number)
    mine = [camera for camera, r in stray if r.number == worst.number]
    rows = [r for r in releases.all(store) if r.name == worst.name and all(aim.covers(r, c) for c in mine)]
    if any(r.number > worst.number and (r.returns_to is not None or r.state in ("rolling", "paused")) for r in rows):
        return ()
    signed = repo.targets()
    for old in earlier(store, worst, mine):
        kept = old.target in signed or _signed_return(store, signed.values(), old.number, worst.cameras)
        if kept and _whole(store, old.sha256):
            why = f"release {worst.number} was halted"
            made = go_back(
                store, repo, to=old.number, author=fleet.BOX, why=why, cameras=worst.cameras, apart=worst.apart
            )
            return (made,)
    *others, last = sorted(mine)
    who = f"{', '.join(others)} and {last} run" if others else f"{last} runs"
    raise Refused(
        f"{who} release {worst.number}, which was halted, and there is no earlier one to return to", code="no_way_back",
        hint="release a better model, or see what is wrong there",
    )  # fmt: skip


def earlier(store: Store, worst: releases.ReleaseRow, cameras: Sequence[str]) -> Iterator[releases.ReleaseRow]:
    """What these cameras, which run `worst`, may be brought back to, the best first; nothing of it needs to be signed still.

    The complete releases, the newest first; then what was replaced on its way, and worked on one of these cameras.
    """
    barred = {b.sha256 for b in blocked.all(store)} | {worst.sha256}
    rows = [
        r for r in releases.all(store)
        if r.name == worst.name and all(aim.covers(r, c) for c in cameras) and r.sha256 not in barred
        and (worst.cameras or not r.cameras)  # one for all brings back to a common one
    ]  # fmt: skip
    yield from (r for r in reversed(rows) if r.state == "complete")
    for r in reversed(rows):
        told = deliveries.of(store, r.number) if r.state == "superseded" and r.number < worst.number else []
        if any(d.camera in cameras and d.status == "SUCCEEDED" and not d.unwell for d in told):
            yield r


def _whole(store: Store, sha256: str) -> bool:
    try:
        models.read_model(store, sha256)
    except (Corrupt, Refused):
        return False
    return True


def _signed_return(store: Store, signed: Iterable[Target], to: int, cameras: Sequence[str]) -> Target | None:
    """What a killed call has signed."""
    for target in _unrecorded(store, signed):
        if target.custom.get("returns_to") == to and target.custom.get("cameras", []) == list(cameras):
            return target
    return None


def _described(store: Store, signed: Mapping[str, Target], old: releases.ReleaseRow) -> dict[str, Any]:
    """What is signed about a release besides its bytes. One that is signed no more: as its re-test found it, for the
    hardware of the newest of its name. Raises Refused("gone") where there is no such report.
    """
    alike = [t for t in signed.values() if t.custom.get("name") == old.name and t.custom.get("kind") != "teacher"]
    same = [t for t in alike if t.sha256 == old.sha256]
    if (origin := signed.get(old.target) or next(iter(same), None)) is not None:
        return dict(origin.custom)
    found = reports.of(store, old.candidate) if old.candidate is not None else []
    answer = json.loads(found[0].body).get("known_answer") if found else None
    if not alike or not answer or old.candidate is None:
        raise Refused(f"release {old.number} is no longer kept: only what cameras run, and the one before", code="gone")
    newest = max(alike, key=lambda t: _number(t.path)).custom
    px = int(candidates.get(store, old.candidate).recipe["arch"]["input_px"])
    made = Description(old.name, old.classes, px, answer, newest["hardware"], str(newest.get("min_agent", "")))
    custom = asdict(made) | {"candidate": old.candidate, "known_answer": _text(answer)}
    return custom | {"classes": list(old.classes), "hardware": list(newest["hardware"])}


def _text(answer: Mapping[str, Any]) -> str:
    """A known answer as JSON text: canonical JSON knows no floats."""
    return json.dumps(dict(answer), sort_keys=True, separators=(",", ":"))


def withdraw(store: Store, repo: Repository) -> list[str]:
    """Stop vouching for halted releases, so that no forged wish can bring one back; returns their target paths.

    Call it after a halt and at every start. A camera that runs one already goes on.
    """
    halted = {r.target for r in releases.all(store, None) if r.state == "halted"}
    return [path for path in sorted(halted & set(repo.targets())) if repo.remove_target(path)] if halted else []


def _sign(store: Store, repo: Repository, data: bytes, custom: Mapping[str, Any]) -> Target:
    from edged.publish import ways  # numpy, which the page does without

    signed = repo.targets()
    number = max([releases.next_number(store), *(_number(path) + 1 for path in signed)])
    name = str(custom["name"])
    chunk = deliver.chunk_bytes(len(data))
    described = dict(custom) | {"release": number, "chunk": chunk, "chunks": deliver.digests(data, chunk)}
    if "ways" in custom:  # a way back is signed by the thread that answers cameras: it makes none
        described["ways"] = ways.still(store, custom["ways"]) if custom.get("chunk") == chunk else []
    else:
        described["ways"] = to_builtins(ways.make(store, data, _running(store), chunk=chunk))
    keep = _kept(store, name)
    mine = {path for path, t in signed.items() if t.custom.get("name") == name and t.custom.get("kind") != "teacher"}
    stale = [path for path in mine if _number(path) not in keep]
    path = f"{name}/{number}.onnx"
    target = reserve.spend(store.data_dir, lambda: repo.add_target(path, data, described, remove=stale))
    ways.drop(store, {way["sha256"] for t in repo.targets().values() for way in t.custom.get("ways", ())})
    return target


def _running(store: Store) -> list[str]:
    """SHA-256 of the files that cameras run, the commonest first, then of what they may be about to run."""
    now = Counter(c.reported.sha256 for c in camera_rows.all(store) if c.reported is not None and c.reported.sha256)
    last = [r.sha256 for r in reversed(releases.all(store)) if r.state != "halted"]
    return [*(sha256 for sha256, _ in now.most_common()), *last[:2]]


def _kept(store: Store, name: str) -> set[int]:
    """Releases that a camera runs or may be told of, and the newest one before."""
    rows = [r for r in releases.all(store) if r.name == name and r.state != "halted"]
    keep = {r.number for r in rows[-1:]} | {r.number for r in rows if r.state in ("waiting", "rolling", "paused")}
    keep |= aim.offered(rows)
    return keep | {c.reported.version for c in camera_rows.all(store) if c.reported is not None}


def _signed_earlier(store: Store, repo: Repository, candidate: int, sha256: str) -> Target | None:
    """The target that a killed call left for this candidate."""
    for target in _unrecorded(store, repo.targets().values()):
        if target.custom.get("candidate") == candidate and "returns_to" not in target.custom:
            if target.sha256 != sha256:
                raise Corrupt(f"target {target.path} was signed for candidate {candidate} with other bytes")
            return target
    return None


def _unrecorded(store: Store, targets: Iterable[Target]) -> list[Target]:
    """Signed targets newer than any row: the row is what a kill has cost."""
    number = releases.next_number(store)
    return [target for target in targets if _number(target.path) >= number]


def _row_of(store: Store, candidate: int) -> int | None:
    rows = [r for r in releases.all(store) if r.candidate == candidate]
    return rows[0].number if rows else None


def _record(
    store: Store,
    target: Target,
    candidate: int | None,
    author: str,
    act: str,
    detail: str,
    returns_to: int | None = None,
    cameras: Sequence[str] = (),
    apart: Sequence[str] = (),
) -> None:
    number = _number(target.path)
    with store.transaction():
        releases.add(
            store,
            number=number,
            name=target.custom["name"],
            candidate=candidate,
            sha256=target.sha256,
            size=target.length,
            target=target.path,
            classes=target.custom["classes"],
            detail=detail,
            state="waiting",
            actor=author,
            returns_to=returns_to,
            hardware=target.custom.get("hardware", ()),
            min_agent=target.custom.get("min_agent", ""),
            cameras=cameras,
            apart=apart,
        )
        *before, made = releases.all(store)
        for older in before:
            if older.state == "waiting" and older.name == made.name and aim.replaces(made, older):
                fleet.replace(store, older, number)
        facts = {"target": target.path, "sha256": target.sha256, "bytes": target.length, "candidate": candidate}
        audit.append(store, author, act, str(number), facts | ({"detail": detail} if detail else {}))


def _number(path: str) -> int:
    return int(path.rsplit("/", 1)[1].removesuffix(".onnx"))


def fingerprint(root: bytes) -> str:
    """SHA-256 of a root file, for a person to compare on the box and on the camera."""
    return hashlib.sha256(root).hexdigest()
