"""Models brought from outside: teachers, and candidates trained on a bigger machine. Their files are models/<sha256>.onnx.

Guarantees: a row names a file that `models` holds, and each arrival and retirement is in the audit log with it. Does not
guarantee that a model is any good, nor that its card tells the truth: the cycle's re-test and the audit labels say that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from edged.errors import EXIT_NOT_FOUND, Refused
from edged.storage import audit, keeping, models
from edged.storage.store import Store

Kind = Literal["teacher", "candidate"]
DIGITS = 6  # of a sha256 that name a model


@dataclass(frozen=True)
class Brought:
    """One row; `classes` in the order of its outputs, `weights` sha256 or "", `retired` None = it may be used."""

    sha256: str
    kind: str
    name: str
    classes: tuple[str, ...]
    px: int
    weights: str
    card: dict[str, Any]
    author: str
    created: float
    retired: float | None


def add(
    store: Store,
    kind: Kind,
    *,
    sha256: str,
    name: str,
    classes: Sequence[str],
    px: int,
    author: str,
    weights: str = "",
    card: Mapping[str, Any] | None = None,
    replace: bool = False,
) -> Brought:
    """The files must be there. One that was retired holds from now on, as what it now comes as; so does one that is in
    use, if nothing of it changes or `replace` says that it may.

    Raises Refused: no such file, no name, already here as something else (code "changes"); Corrupt: a changed file.
    """
    if not name or not name.isprintable() or len(name) > 80:
        raise Refused(f"a model needs a name of 1 to 80 printable characters, not {name[:80]!r}", code="bad_name")
    if name != name.strip() or name.startswith("-"):  # a command line would not find it again
        raise Refused(
            f"{name!r} cannot be a model's name: it begins with a dash or has a blank at an end", code="bad_name",
            hint="--name gives it another",
        )  # fmt: skip
    models.model_path(store, sha256)
    if weights:
        models.model_path(store, weights, ".safetensors")
    detail = {"kind": kind, "name": name, "classes": list(classes), "px": px, "weights": weights}
    with store.transaction():
        if not replace:
            for old in _select(store, "where sha256 = ? and retired is null", (sha256,)):
                if changes := _changes(old, {**detail, "classes": tuple(classes)}, dict(card or {})):
                    raise Refused(
                        f"model {old.name} ({sha256[:8]}) is here already; this would change its {'; its '.join(changes)}",
                        hint="say --replace if that is meant",
                        code="changes",
                    )
        store.execute(
            "insert into brought (sha256, kind, name, classes, px, weights, card, author, created)"
            " values (?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict (sha256) do update set kind = excluded.kind,"
            " name = excluded.name, classes = excluded.classes, px = excluded.px, weights = excluded.weights,"
            " card = excluded.card, author = excluded.author, created = excluded.created, retired = null",
            (sha256, kind, name, json.dumps(list(classes)), px, weights, json.dumps(dict(card or {}), sort_keys=True),
             author, store.clock.now()),
        )  # fmt: skip
        audit.append(store, author, "model.import", sha256, detail)
    return get(store, sha256)


def _changes(old: Brought, new: dict[str, Any], card: dict[str, Any]) -> list[str]:
    """What of a row would be another, in words."""
    said = [
        f"{key} from {getattr(old, key)} to {new[key]}"
        for key in ("kind", "name", "px")
        if getattr(old, key) != new[key]
    ]
    if old.classes != new["classes"]:
        said.append(f"classes from {', '.join(old.classes)} to {', '.join(new['classes'])}")
    if old.weights != new["weights"]:
        said.append(f"weights from {old.weights[:8] or 'none'} to {new['weights'][:8] or 'none'}")
    plain = json.loads(json.dumps(card))  # as it would be read back
    if odd := sorted(k for k in old.card.keys() | plain.keys() if old.card.get(k) != plain.get(k)):
        said.append(f"card ({', '.join(odd[:6])}{', ...' if len(odd) > 6 else ''})")
    return said


def retire(store: Store, sha256: str, author: str) -> None:
    """It is not used from now on; its row and file stay. Raises Refused: unknown, retired before, or in use by cameras."""
    with store.transaction():
        if get(store, sha256).retired is not None:
            raise Refused(f"model {sha256[:12]} was retired before", code="retired")
        keeping.require_unused(store, sha256)
        store.execute("update brought set retired = ? where sha256 = ?", (store.clock.now(), sha256))
        audit.append(store, author, "model.retire", sha256)


def get(store: Store, sha256: str) -> Brought:
    """Raises Refused("not_found")."""
    found = _select(store, "where sha256 = ?", (sha256,))
    if not found:
        raise Refused(f"no model {sha256[:12]} was brought here", code="not_found", exit_code=EXIT_NOT_FOUND)
    return found[0]


def all(store: Store, kind: Kind | None = None, *, retired: bool = False) -> list[Brought]:
    """Newest first; those that were retired only when asked for."""
    return _select(
        store, "where (?1 is null or kind = ?1) and (?2 or retired is null) order by created desc, rowid_of desc",
        (kind, retired),
    )  # fmt: skip


def find(store: Store, word: str, kind: Kind | None = None) -> Brought | None:
    """The newest in use with this name or beginning of its sha256 (DIGITS at least); "" = the newest of all."""
    for b in all(store, kind):
        if word in ("", b.name) or (len(word) >= DIGITS and b.sha256.startswith(word)):
            return b
    return None


class _Named(Protocol):
    @property
    def sha256(self) -> str: ...


def unknown(word: str, known: Iterable[_Named]) -> Refused:
    """What to say when `word` names none of them."""
    short = 0 < len(word) < DIGITS and any(k.sha256.startswith(word) for k in known)
    more = f": of a SHA-256 at least {DIGITS} digits are needed" if short else ""
    return Refused(
        f"no model is called {word[:64]!r}{more}", hint="`edged model ls`", code="not_found", exit_code=EXIT_NOT_FOUND
    )


def teacher(store: Store, word: str = "") -> Brought | None:
    """The teacher that is to be asked; None = there is none."""
    return find(store, word, "teacher")


def _select(store: Store, tail: str, params: tuple[Any, ...]) -> list[Brought]:
    rows = store.rows(
        "select sha256, kind, name, classes, px, weights, card, author, created, retired from"
        f" (select *, rowid as rowid_of from brought) {tail}",
        params,
    )
    return [
        Brought(**(dict(r) | {"classes": tuple(json.loads(r["classes"])), "card": json.loads(r["card"])})) for r in rows
    ]
