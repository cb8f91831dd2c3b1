"""Which cameras a release is meant for: all, some alone (`cameras`), or all but some (`apart`). Pure.

Guarantees: a release for some cameras neither replaces nor holds up one for all; of two that are meant for a camera the newer
counts. Does not guarantee that no other camera could take it: what is signed names no camera.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edged.storage.releases import ReleaseRow

_LIVE = ("waiting", "rolling", "paused", "complete")


def covers(release: ReleaseRow, camera: str) -> bool:
    """Whether the camera may be offered it."""
    return camera in release.cameras if release.cameras else camera not in release.apart


def replaces(newer: ReleaseRow, older: ReleaseRow) -> bool:
    """Whether nobody needs the older one once the newer has started."""
    if newer.cameras:
        return bool(older.cameras) and set(older.cameras) <= set(newer.cameras)
    return not set(older.cameras) & set(newer.apart)


def champion(rows: Sequence[ReleaseRow]) -> ReleaseRow | None:
    """Of rows in order the newest for all that was not halted: what cameras run, or are about to, but for those apart."""
    return next((r for r in reversed(rows) if r.state != "halted" and not r.cameras), None)


def stands(rows: Sequence[ReleaseRow], cameras: Iterable[str]) -> ReleaseRow | None:
    """The release that all of these have or are offered already, None where the newest of one differs or was given up."""
    newest = {next((r.number for r in reversed(rows) if covers(r, c)), 0) for c in cameras}
    found = [r for r in rows if r.number in newest and r.state in _LIVE]
    return found[-1] if len(found) == len(newest) and len({r.sha256 for r in found}) == 1 else None


def released_again(rows: Iterable[ReleaseRow], halted: ReleaseRow, camera: str) -> bool:
    """Whether a later release that was started names the same bytes for this camera, which is left alone for having them."""
    return any(
        r.number > halted.number and r.sha256 == halted.sha256 and covers(r, camera)
        and r.state in ("rolling", "paused", "complete") for r in rows
    )  # fmt: skip


def apart(rows: Sequence[ReleaseRow], cameras: Iterable[str]) -> dict[str, ReleaseRow]:
    """Camera -> the release for some cameras alone that it has or is offered instead of the common one, of other bytes."""
    common = champion(rows)
    started = [r for r in rows if r.state in _LIVE and (r.cameras or r.state != "waiting")]
    found = {c: next((r for r in reversed(started) if covers(r, c)), None) for c in cameras}
    return {c: r for c, r in found.items() if r is not None and r.cameras and common and r.sha256 != common.sha256}


def offered(rows: Sequence[ReleaseRow]) -> set[int]:
    """Numbers of the complete releases that newcomers are offered: the newest for all, and what stands beside it."""
    complete = [r for r in rows if r.state == "complete"]
    common = next((r for r in reversed(complete) if not r.cameras), None)
    found = {common.number} if common is not None else set()
    for r in complete:
        if r.cameras and (common is None or r.number > common.number or set(r.cameras) & set(common.apart)):
            found.add(r.number)
    return found


def in_words(release: ReleaseRow) -> str:
    """ "only yard", "all but yard", "" = all."""
    if release.cameras:
        return f"only {', '.join(release.cameras)}"
    return f"all but {', '.join(release.apart)}" if release.apart else ""
