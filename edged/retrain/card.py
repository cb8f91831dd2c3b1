"""Model cards: what a model is, what it was made of and from, and what it was measured to do. Light: no torch, no onnx.

After Mitchell et al., Model Cards for Model Reporting (arXiv 1810.03993). Guarantees: every figure is copied from a row,
none is computed anew but sums; nothing names a picture, only how many there were of which camera and class (the
snapshot's hash stands for the list). Does not guarantee that a card of a model from outside is true: it says who brought
it. Same rows, same card: nothing of the moment it is made enters it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from edged.clock import iso
from edged.errors import Refused
from edged.retrain import nets, tables
from edged.retrain.report import Report, Share
from edged.storage import brought, candidates, reports, snapshots, verdicts
from edged.storage.candidates import Candidate
from edged.storage.store import Store

MAX_ANCESTORS = 100
UNKNOWN_LICENCE = "not stated"
OWN_LICENCE = "made on this site from its own labelled pictures; its operator decides"


class Part(Struct, frozen=True):
    """How many pictures of a split, by class and by camera."""

    n: int
    classes: dict[str, int]
    cameras: dict[str, int]


class Ancestor(Struct, frozen=True):
    """A model that this one was started from. `sha256` of its delivered file."""

    sha256: str
    name: str
    made: str  # ISO 8601
    how: str  # "cycle 3" | "brought by ann"


class Card(Struct, frozen=True, kw_only=True):
    """One model. Empty or None: not known."""

    sha256: str
    name: str
    origin: str  # a sentence
    made: str  # ISO 8601
    tested: str = ""  # ISO 8601; of a model that there was, when it was tested here
    size: int
    classes: tuple[str, ...]
    architecture: str = ""
    px: int = 0
    parameters: int | None = None
    multiply_adds: int | None = None
    steps: tuple[str, ...] = ()  # of compression
    weights: str = ""  # sha256 of the safetensors file
    seed: int | None = None
    epochs: int | None = None
    start: str = ""  # sha256 of the weights it was started from; "" = from scratch
    lineage: tuple[Ancestor, ...] = ()  # parent first
    snapshot: str = ""  # the data's hash
    data: dict[str, Part] = {}  # "train", "tune", "holdout"
    accuracy: Share | None = None  # on the hold-out, human labels
    per_class: dict[str, Share] = {}
    per_camera: dict[str, Share] = {}
    device: str = ""
    frames_per_s: float | None = None
    frames_per_s_how: str = ""
    passed: bool | None = None
    reasons: tuple[str, ...] = ()
    licence: str = UNKNOWN_LICENCE
    claimed: dict[str, Any] = {}  # what came with a model from outside, as it came
    limits: tuple[str, ...] = ()  # what it must not be taken for
    untested: str = ""  # a sentence: a person released it although nothing here could judge it


LIMITS = (
    "It was trained on pictures of this site only: elsewhere its accuracy is unknown.",
    "It must not decide anything about persons.",
)


def of(store: Store, word: str) -> Card:
    """The card of the model whose sha256, or name of a candidate or of one brought here, `word` is (the newest of a
    name; of a sha256 six digits do). Raises Refused("not_found").
    """
    candidate, other = find(store, word)
    if candidate is None:
        assert other is not None
        candidate = next((c for c in candidates.all(store)[::-1] if c.sha256 == other.sha256), None)
        if candidate is None:
            return of_brought(store, other)
    return of_candidate(store, candidate)


def find(store: Store, word: str) -> tuple[Candidate | None, brought.Brought | None]:
    """What a word names, one of the two. Raises Refused("not_found")."""
    known = candidates.all(store)[::-1]
    others = brought.all(store, retired=True)
    if len(word) >= brought.DIGITS:
        for c in known:
            if c.sha256.startswith(word):
                return c, None
        for b in others:
            if b.sha256.startswith(word):
                return None, b
    for c in known:
        if c.name == word or str(c.id) == word:
            return c, None
    for b in others:
        if b.name == word:
            return None, b
    raise brought.unknown(word, (*known, *others))


def of_candidate(store: Store, candidate: Candidate) -> Card:
    """What is said of its making is that of the first candidate, or the model brought here, that it was made of; what was
    measured is its own. Raises Corrupt: its snapshot was changed.
    """
    maker = _maker(store, candidate)
    if isinstance(maker, brought.Brought):
        return _measured(store, candidate, _of_brought(store, candidate, maker))
    made = maker or candidate
    recipe = made.recipe
    arch = candidate.recipe.get("arch") or {}
    body = snapshots.get(store, made.snapshot)
    classes = tuple(body["classes"])
    parameters, macs = _counts(str(arch.get("name", "")), len(classes), int(arch.get("input_px", 0)))
    return _measured(store, candidate, Card(
        sha256=candidate.sha256,
        name=candidate.name,
        origin=f"made here in cycle {made.cycle}" + _again(candidate, made.sha256, made.cycle),
        made=iso(made.created if made.sha256 == candidate.sha256 else candidate.created),
        size=candidate.size,
        classes=classes,
        architecture=str(arch.get("name", "")),
        px=int(arch.get("input_px", 0)),
        parameters=parameters,
        multiply_adds=macs,
        steps=tuple(candidate.recipe.get("steps") or ()),
        weights=str(recipe.get("weights", "")),
        seed=recipe.get("seed"),
        epochs=recipe.get("epochs"),
        start=str(recipe.get("start", "")),
        lineage=lineage(store, made),
        snapshot=made.snapshot,
        data={part: _part(body[part]) for part in ("train", "tune", "holdout")},
        licence=OWN_LICENCE,
        limits=LIMITS,
    ))  # fmt: skip


def _taken(candidate: Candidate) -> bool:
    """Whether nothing was trained for it: a model that there was, tested again or compressed."""
    return candidate.recipe.get("epochs") == 0 and not candidate.recipe.get("start")


def _maker(store: Store, candidate: Candidate) -> Candidate | brought.Brought | None:
    """Where its weights were trained: in the cycle of a candidate, or outside; None = no row says."""
    known, others = candidates.all(store), brought.all(store, retired=True)
    weights = str(candidate.recipe.get("weights", ""))
    trained = [c for c in known if not _taken(c)]
    if found := next((c for c in trained if c.sha256 == candidate.sha256), None):
        return found if _taken(candidate) else candidate
    if not _taken(candidate):
        return candidate
    beside = {c.sha256 for c in known if c.cycle == candidate.cycle}
    return (
        next((b for b in others if b.sha256 == candidate.sha256), None)
        or next((c for c in trained if weights and c.recipe.get("weights") == weights), None)
        or next((b for b in others if weights and b.weights == weights), None)
        or next((b for b in others if b.sha256 in beside), None)
    )


def _again(candidate: Candidate, sha256: str, cycle: int = 0) -> str:
    if candidate.cycle == cycle:
        return ""
    return f"; {'tested' if candidate.sha256 == sha256 else 'compressed'} here in cycle {candidate.cycle}"


def _of_brought(store: Store, candidate: Candidate, model: brought.Brought) -> Card:
    """A model from outside that was tested here, or what was compressed of it: its origin stays."""
    card = of_brought(store, model)
    card = msgspec.structs.replace(card, origin=card.origin + _again(candidate, model.sha256))
    if candidate.sha256 == model.sha256:
        return card
    parent = Ancestor(model.sha256, model.name, iso(model.created), f"brought by {model.author}")
    return msgspec.structs.replace(
        card, sha256=candidate.sha256, name=candidate.name, made=iso(candidate.created), size=candidate.size,
        steps=tuple(candidate.recipe.get("steps") or ()), lineage=(parent,),
    )  # fmt: skip


def _measured(store: Store, candidate: Candidate, card: Card) -> Card:
    """With what the re-test and the gate said of it."""
    rows = reports.of(store, candidate.id)
    report = msgspec.json.decode(rows[0].body, type=Report) if rows else None
    verdict = verdicts.of(store, candidate.id)
    again = "; tested here" in card.origin
    return msgspec.structs.replace(
        card,
        tested=iso(rows[0].created if rows else candidate.created) if again else "",
        accuracy=report.accuracy if report else None,
        per_class=report.per_class if report else {},
        per_camera=report.per_camera if report else {},
        device=report.device if report else "",
        frames_per_s=report.fps_device.value if report else None,
        frames_per_s_how=report.fps_device.how if report else "",
        passed=verdict.passed if verdict else None,
        reasons=verdict.reasons if verdict else (),
        untested=str(candidate.recipe.get("untested", "")),
    )


def of_brought(store: Store, model: brought.Brought) -> Card:
    claimed = dict(model.card)
    name = str(claimed.get("architecture") or "")
    parameters, macs = _counts(name, len(model.classes), model.px)
    what = "teacher" if model.kind == "teacher" else "model"
    gone = f", retired {iso(model.retired)}" if model.retired is not None else ""
    return Card(
        sha256=model.sha256,
        name=model.name,
        origin=f"{what} brought here by {model.author}{gone}; what came with it was not checked",
        made=iso(model.created),
        size=int(claimed.get("size") or 0),
        classes=model.classes,
        architecture=name,
        px=model.px,
        parameters=parameters,
        multiply_adds=macs,
        weights=model.weights,
        licence=str(claimed.get("licence") or UNKNOWN_LICENCE),
        claimed=claimed,
        limits=LIMITS[1:],
    )


def lineage(store: Store, candidate: Candidate) -> tuple[Ancestor, ...]:
    """From its parent back to the first that was trained from scratch or came from outside."""
    made: dict[str, Candidate] = {}
    for c in candidates.all(store):  # of several files made of the same weights, the float one was first or will do
        made.setdefault(str(c.recipe.get("weights", "")), c)
        made.setdefault(c.sha256, c)
    others = {key: b for b in brought.all(store, retired=True) for key in (b.sha256, b.weights) if key}
    found: list[Ancestor] = []
    seen, start = {candidate.sha256, str(candidate.recipe.get("weights", ""))}, _start(candidate)
    while start and start not in seen and len(found) < MAX_ANCESTORS:
        seen.add(start)
        parent = made.get(start)
        if parent is None:
            other = others.get(start)
            if other is not None:
                found.append(Ancestor(other.sha256, other.name, iso(other.created), f"brought by {other.author}"))
            break
        found.append(Ancestor(parent.sha256, parent.name, iso(parent.created), f"cycle {parent.cycle}"))
        start = _start(parent)
    return tuple(found)


def _start(candidate: Candidate) -> str:
    return str(candidate.recipe.get("start") or candidate.parent or "")


def _part(pairs: list[list[str]]) -> Part:
    return Part(
        len(pairs),
        dict(sorted(Counter(label for _, label in pairs).items())),
        dict(sorted(Counter(sample.split(":", 1)[0] for sample, _ in pairs).items())),
    )


def _counts(name: str, classes: int, px: int) -> tuple[int | None, int | None]:
    try:
        rows = nets.layers(name, classes, px)
    except Refused:
        return None, None
    return tables.parameters(rows), tables.macs(rows)


def to_json(card: Card) -> bytes:
    """Keys in order, indented: two cards can be compared line by line."""
    return json.dumps(msgspec.to_builtins(card), indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def from_json(data: bytes) -> Card:
    """Raises Refused for anything else."""
    try:
        return msgspec.json.decode(data, type=Card)
    except msgspec.MsgspecError as e:
        raise Refused(f"not a model card: {e}", code="bad_card") from e


def text(card: Card) -> str:
    """For people, as Markdown."""
    lines = [f"# {plain(card.name)}", "", f"{plain(card.origin)}, {card.tested or card.made}.", ""]
    lines += [f"- {key}: {value}" for key, value in _facts(card).items() if value]
    if card.data:
        lines += ["", "## What it was trained on", "", f"Snapshot `{card.snapshot}`.", ""]
        lines += [
            f"- {part}: {p.n} pictures ({_counted(p.classes)}; {_counted(p.cameras)})" for part, p in card.data.items()
        ]
    if card.accuracy is not None:
        lines += ["", "## What it does", "", "On the hold-out, which no model has learned from, by human labels."]
        lines += ["", "| | right | accuracy | 95 % interval |", "| --- | --- | --- | --- |"]
        shares: Mapping[str, Share] = {"all": card.accuracy} | {f"class {k}": v for k, v in card.per_class.items()}
        shares = {**shares, **{f"camera {k}": v for k, v in card.per_camera.items()}}
        lines += [
            f"| {plain(k)} | {s.right} of {s.n} | {s.accuracy:.1%} | {s.lower:.1%} to {s.upper:.1%} |"
            if s.n
            else f"| {plain(k)} | 0 of 0 | - | - |"
            for k, s in shares.items()
        ]
    if card.reasons:
        found = "could not judge it" if card.untested and card.passed else "passed" if card.passed else "refused"
        lines += ["", f"## The gate: {found}", ""]
        lines += [f"- {plain(reason)}" for reason in card.reasons]
    if card.lineage:
        lines += ["", "## Where it comes from", ""]
        lines += [f"- {plain(a.name)} `{a.sha256[:12]}`, {plain(a.how)}, {a.made}" for a in card.lineage]
    if card.claimed:
        lines += ["", "## What came with it", ""]
        lines += [f"- {plain(k)}: {plain(json.dumps(v))[:300]}" for k, v in sorted(card.claimed.items())]
    if card.limits:
        lines += ["", "## Limits", "", *(f"- {limit}" for limit in card.limits)]
    return "\n".join(lines) + "\n"


def _facts(card: Card) -> dict[str, str]:
    return {
        "SHA-256": f"`{card.sha256}`",
        "size": (f"{card.size / 1000:.0f} kB" if card.size >= 1000 else f"{card.size} B") if card.size else "",
        "classes": ", ".join(plain(c) for c in card.classes),
        "network": plain(card.architecture) + (f", {card.px} px" if card.px else ""),
        "parameters": f"{card.parameters:,}" if card.parameters else "",
        "multiply-adds": f"{card.multiply_adds:,}" if card.multiply_adds else "",
        "compression": ", ".join(card.steps) or ("none" if card.data else ""),
        "weights": f"`{card.weights}`" if card.weights else "",
        "training": f"seed {card.seed}, {card.epochs} epochs, "
        + (f"started from weights `{card.start[:12]}`" if card.start else "from scratch")
        if card.epochs is not None and (card.epochs or card.start)
        else "",
        "speed": f"{card.frames_per_s:.0f} frames/s on {card.device} ({card.frames_per_s_how})"
        if card.frames_per_s is not None
        else "",
        "licence": plain(card.licence),
        "tested": plain(card.untested),
    }


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{plain(k)} {n}" for k, n in counts.items())


def plain(value: str) -> str:
    """One line without control characters or Markdown's and HTML's own: names come from people."""
    return "".join("\\" + c if c in "`*_<>|[]#\\" else c if c.isprintable() else "?" for c in value)
