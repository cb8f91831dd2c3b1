"""A candidate that passed becomes a release: numbered, signed, recorded. The only place that makes release rows.

    1. the number: larger than any row's and any signed target's
    2. the signed target `<name>/<number>.onnx` (trust.py), which also drops targets that nobody runs any more
    3. in one transaction: the row (rolling), older rolling releases superseded, their waiting deliveries CANCELED,
       the audit entry

Guarantees: a kill between 2 and 3 is mended by the next call, which finds the signed target of the same candidate and
adds the row; a candidate never gets two releases. Does not guarantee: that anybody takes it (see rollout.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edged.errors import Corrupt, Refused
from edged.publish import deliver, rollout
from edged.storage import audit, cameras, candidates, deliveries, models, releases, reserve, verdicts
from edged.storage.store import Store
from edged.wire.messages import CHUNK_BYTES

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


def publish(store: Store, repo: Repository, *, candidate: int, description: Description, author: str) -> int:
    """Release a candidate; returns its number. Repeating the call returns the same number.

    Raises Refused when the gate did not pass it, Corrupt when its file or the signed metadata is damaged, Misconfigured
    when a signing key is missing.
    """
    if (done := _row_of(store, candidate)) is not None:
        return done
    verdict = verdicts.of(store, candidate)
    if verdict is None or not verdict.passed:
        why = "; ".join(verdict.reasons) if verdict else "it was not re-tested"
        raise Refused(f"candidate {candidate} did not pass the gate and is not released: {why}", code="not_passed")
    row = candidates.get(store, candidate)
    data = models.read_model(store, row.sha256)
    target = _signed_earlier(store, repo, candidate, row.sha256)
    if target is None:
        custom = asdict(description) | {"candidate": candidate}
        # canonical JSON knows no floats: the known answer travels as JSON text
        custom["known_answer"] = json.dumps(dict(description.known_answer), sort_keys=True, separators=(",", ":"))
        custom["classes"], custom["hardware"] = list(description.classes), list(description.hardware)
        target = _sign(store, repo, data, custom)
    _record(store, target, candidate, author, "release", "")
    return _number(target.path)


def go_back(store: Store, repo: Repository, *, to: int, author: str) -> int:
    """Return to an earlier release: a new number that names the old bytes, since cameras refuse lower numbers.

    Returns the new number, or that of the newest release when it holds these bytes already and is not halted.
    Raises Refused for a release that is unknown, was halted, or is no longer signed.
    """
    old = releases.get(store, to)
    if old is None:
        raise Refused(f"there is no release {to}", code="not_found")
    if old.state == "halted":
        raise Refused(f"release {to} was halted: {old.detail}", code="halted")
    newest = releases.latest(store)
    if newest is not None and newest.sha256 == old.sha256 and newest.state in ("rolling", "complete"):
        return newest.number
    signed = repo.targets()
    # What a killed call signed comes first: it may have dropped the old target already.
    target = next((t for t in _unrecorded(store, signed.values()) if t.custom.get("returns_to") == to), None)
    if target is None:
        origin = signed.get(old.target)
        if origin is None:
            raise Refused(f"release {to} is no longer kept: only what cameras run, and the one before", code="gone")
        data = models.read_model(store, old.sha256)
        target = _sign(store, repo, data, dict(origin.custom) | {"returns_to": to})
    _record(store, target, old.candidate, author, "roll back", f"returns to release {to}")
    return _number(target.path)


def withdraw(store: Store, repo: Repository) -> list[str]:
    """Stop vouching for halted releases, so that no forged wish can bring one back; returns their target paths.

    Call it after a halt and at every start. A camera that runs one already goes on.
    """
    halted = {r.target for r in releases.all(store) if r.state == "halted"}
    return [path for path in sorted(halted & set(repo.targets())) if repo.remove_target(path)] if halted else []


def _sign(store: Store, repo: Repository, data: bytes, custom: Mapping[str, Any]) -> Target:
    signed = repo.targets()
    number = max([releases.next_number(store), *(_number(path) + 1 for path in signed)])
    name = str(custom["name"])
    described = dict(custom) | {"release": number, "chunk": CHUNK_BYTES, "chunks": deliver.digests(data)}
    keep = _kept(store, name)
    stale = [path for path, t in signed.items() if t.custom.get("name") == name and _number(path) not in keep]
    path = f"{name}/{number}.onnx"
    return reserve.spend(store.data_dir, lambda: repo.add_target(path, data, described, remove=stale))


def _kept(store: Store, name: str) -> set[int]:
    """Releases that a camera runs or may be told of, and the newest one before."""
    rows = [r for r in releases.all(store) if r.name == name and r.state != "halted"]
    keep = {r.number for r in rows[-1:]} | {r.number for r in rows if r.state == "rolling"}
    keep |= {r.number for r in [r for r in rows if r.state == "complete"][-1:]}
    return keep | {c.reported.version for c in cameras.all(store) if c.reported is not None}


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


def _record(store: Store, target: Target, candidate: int | None, author: str, act: str, detail: str) -> None:
    number = _number(target.path)
    with store.transaction():
        for older in releases.all(store):
            if older.state == "rolling" and older.name == target.custom["name"]:
                releases.set_state(store, older.number, "superseded", f"release {number} took its place")
                for waiting in deliveries.of(store, older.number):
                    if waiting.status == "QUEUED" and "CANCELED" in rollout.TRANSITIONS[waiting.status]:
                        deliveries.upsert(
                            store, older.number, waiting.camera, "CANCELED", detail=f"release {number} took its place"
                        )
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
        )
        facts = {"target": target.path, "sha256": target.sha256, "bytes": target.length, "candidate": candidate}
        audit.append(store, author, act, str(number), facts | ({"detail": detail} if detail else {}))


def _number(path: str) -> int:
    return int(path.rsplit("/", 1)[1].removesuffix(".onnx"))


def fingerprint(root: bytes) -> str:
    """SHA-256 of a root file, for a person to compare on the box and on the camera."""
    return hashlib.sha256(root).hexdigest()
