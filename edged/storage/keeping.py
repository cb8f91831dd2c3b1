"""Which files of models/ somebody may still need, and what is left when they are set apart: `edged model prune`.

Kept: what a release names (of any state), what is signed and the ways to it, what a camera runs, what was brought here (retired
too), what is blocked, waits in the outbox or was asked for; candidates of the last KEPT cycles and of every release, with the
weights they were made from and started from; and whatever was put or put again within YOUNG_S.

Guarantees: nothing of that goes, also when it is asked for or brought meanwhile: files go while no row can be written; a kill
leaves some of them, for the next time. After a catalogue was rebuilt, and while something is signed that no row names, nothing
goes. Does not guarantee that a candidate of long ago can be released again: its rows and its card stay, its file is gone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edged import durable
from edged.errors import Corrupt, Refused, Unavailable
from edged.storage import alarms, audit, cameras, cycles
from edged.storage.store import Store

KEPT = 8  # cycles whose candidates stay
YOUNG_S = 86400.0
_SUFFIXES = (".onnx", ".safetensors", ".epk", ".epd")


@dataclass(frozen=True)
class Unneeded:
    """A file that nothing names; `size` bytes."""

    path: Path
    size: int


def needed(store: Store) -> set[str]:
    """SHA-256 of every file that a row needs, of models and of weights."""
    found = {str(r[0] or "") for r in store.rows(_NAMED)}
    for row in store.rows(_CANDIDATES, (KEPT,)):
        recipe = json.loads(row["recipe"])
        found |= {row["sha256"], str(recipe.get("weights", "")), str(recipe.get("start", ""))}
    return found - {""}


def require_unused(store: Store, sha256: str) -> None:
    """Raises Refused("in_use") for a model for cameras that is on its way to them, or that one runs by its newest word."""
    on_the_way = store.row(
        "select number, state from release where sha256 = ? and kind = 'student'"
        " and state in ('waiting', 'rolling', 'paused') order by number desc limit 1", (sha256,)
    )  # fmt: skip
    if on_the_way is not None:
        number, state = on_the_way
        raise Refused(
            f"model {sha256[:12]} is in use: its release {number} is {state}", code="in_use",
            hint=f"`edged rollout abort {number}` first, or wait for its end",
        )  # fmt: skip
    runs = [c.id for c in cameras.all(store) if c.model == sha256]
    if runs:
        who = f"{runs[0]} runs it" if len(runs) == 1 else f"{len(runs)} cameras run it, {runs[0]} among them"
        raise Refused(
            f"model {sha256[:12]} is in use: {who}", code="in_use",
            hint="bring them to another release first: `edged model rollback N`, or release a better model",
        )  # fmt: skip


def unneeded(store: Store, signed: Mapping[int, frozenset[str]]) -> list[Unneeded]:
    """The oldest first. `signed`: by release number the SHA-256 of the file and of the ways to it, from the signed metadata.

    Raises Unavailable while something is signed that no row names; Refused after a catalogue was rebuilt;
    Corrupt where what a camera said does not read.
    """
    if alarms.stands(store, alarms.CATALOGUE_REBUILT):
        raise Refused(
            "the catalogue was rebuilt: what it has lost may name any of these files", code="catalogue_rebuilt",
            hint="see docs/backup.md; nothing goes while that alarm stands",
        )  # fmt: skip
    if (odd := store.value(_UNREADABLE)) is not None:
        raise Corrupt(f"what camera {odd} said of itself does not read back", hint="run `edged db check`")
    known = {int(r[0]) for r in store.rows("select number from release")}
    if strange := sorted(set(signed) - known):
        raise Unavailable(
            f"release {strange[0]} is signed and the catalogue does not know it", code="unrecorded",
            hint="the daemon mends that with its next release; a catalogue that was brought back is too old to go by",
        )  # fmt: skip
    keep = needed(store).union(*signed.values())
    old, found = store.clock.now() - YOUNG_S, []
    if not store.models_dir.exists():
        return []
    for path in store.models_dir.iterdir():
        if path.suffix not in _SUFFIXES or path.stem in keep:
            continue
        with suppress(FileNotFoundError):
            stat = path.stat()
            if stat.st_mtime < old:
                found.append((stat.st_mtime, Unneeded(path, stat.st_size)))
    return [u for _, u in sorted(found, key=lambda f: (f[0], f[1].path.name))]


def prune(store: Store, signed: Mapping[int, frozenset[str]], author: str) -> list[Unneeded]:
    """Take them away; returns which. Raises as `unneeded`, and Unavailable while a cycle has not ended."""
    if (running := cycles.running(store)) is not None:
        raise Unavailable(f"cycle {running.id} has not ended", code="busy", hint="its files have no rows yet")
    planned = unneeded(store, signed)
    if not planned:
        return []
    # Before the first goes: a kill in the middle must not leave files gone that no line tells of.
    audit.append(store, author, "model.prune", "models", {"files": len(planned), "bytes": sum(u.size for u in planned)})
    with store.transaction():  # nobody can write a row that names one of them meanwhile
        gone = [u for u in unneeded(store, signed) if u in planned]
        for one in gone:
            one.path.unlink(missing_ok=True)
        durable.sync_folder(store.models_dir)
    return gone


_UNREADABLE = "select id from camera where not json_valid(reported) or not json_valid(info) limit 1"
_NAMED = (
    "select sha256 from release union select sha256 from brought union select weights from brought"
    " union select sha256 from blocked"
    " union select json_extract(args, '$.model') from request where done is null and json_extract(args, '$.model') <> ''"
    " union select json_extract(reported, '$.sha256') from camera where json_valid(reported)"
    " union select json_extract(info, '$.model') from camera where json_valid(info)"
    " union select substr(source, 7) from outbox where source like 'model:%' and state = 'queued'"
)
_CANDIDATES = (
    "select sha256, recipe from candidate where id in (select candidate from release)"
    " or sha256 in (select sha256 from release) or cycle in (select distinct cycle from candidate order by cycle desc limit ?)"
)
