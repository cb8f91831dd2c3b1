"""`edged model`: the models made here or brought here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edged.cli.main import Context, main, verb
from edged.errors import Refused

if TYPE_CHECKING:
    from edged.retrain.bring import Found
    from edged.retrain.device import Profile
    from edged.storage.brought import Brought
    from edged.storage.store import Store

AUTHOR = click.option("--author", default="command line", show_default=True, help="who does it, for the audit log")
PICTURES = 200  # that set the scales of a file of integers
FACT_CHARS = 300  # of a fact that came with a model; longer ones (curves) are left out of its card


@main.group()
def model() -> None:
    """The models made here or brought here."""


@model.command("ls")
@click.option("--all", "retired", is_flag=True, help="those that were retired too")
@verb
def model_ls(context: Context, retired: bool) -> None:
    """Candidates with size, accuracy on the hold-out, verdict and release; and what was brought here."""
    import dataclasses

    from edged.cli import release
    from edged.clock import iso
    from edged.storage import blocked, brought, releases, views
    from edged.web import words

    with context.store(readonly=True) as store:
        rows = views.models(store)
        others = brought.all(store, retired=retired)
        taught = {r.sha256: r for r in releases.all(store, "teacher")}  # the newest of each
        barred = {b.sha256: b for b in blocked.all(store)}
    lines = [
        f"{m.name:24} {m.sha256[:8]} {words.size(m.size):>8}  "
        f"{f'{m.accuracy:6.1%}' if m.accuracy is not None and m.n else '     -'}  "
        f"{'release ' + str(m.release) if m.release else 'passed' if m.passed else 'refused' if m.passed is False else '-'}"
        + (", not tested here" if m.untested else "")
        + (f", blocked: {barred[m.sha256].reason}" if m.sha256 in barred else "")
        for m in rows
    ] + [
        f"{b.name:24} {b.sha256[:8]} {b.kind}, brought {iso(b.created)[:10]} by {b.author}"
        f"{', retired' if b.retired else ''}{release.told(taught.get(b.sha256)) if b.kind == 'teacher' else ''}" for b in others
    ]  # fmt: skip
    document = {
        "models": [{**dataclasses.asdict(m), "blocked": m.sha256 in barred} for m in rows],
        "brought": [
            {
                **dataclasses.asdict(b),
                "created": iso(b.created),
                "retired": b.retired and iso(b.retired),
                "release": taught[b.sha256].number if b.sha256 in taught else None,
            }
            for b in others
        ],
    }
    context.out(document, "\n".join(lines) or "no model yet")


@model.command("show")
@click.argument("name")
@verb
def model_show(context: Context, name: str) -> None:
    """The facts of one model: by its name, or the beginning of its SHA-256."""
    import msgspec

    from edged.retrain import card

    with context.store(readonly=True) as store:
        found = card.of(store, name)
    context.out({"card": msgspec.to_builtins(found)}, card.text(found).split("\n## ")[0].strip())


@model.command("card")
@click.argument("name")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="FILE.md or FILE.json instead of the screen")
@click.option("--force", is_flag=True, help="write over another file")
@verb
def model_card(context: Context, name: str, out: Path | None, force: bool) -> None:
    """The whole model card: lineage, data, accuracy with its interval, verdict, licence."""
    import msgspec

    from edged import durable
    from edged.retrain import card

    with context.store(readonly=True) as store:
        found = card.of(store, name)
    if out is None:
        return context.out({"card": msgspec.to_builtins(found)}, card.text(found).rstrip())
    data = card.to_json(found) if out.suffix == ".json" else card.text(found).encode()
    if out.is_file() and not force and out.read_bytes() != data:
        raise Refused(
            f"{out} is there already; nothing is written over",
            code="in_the_way",
            hint="name another file, or say --force",
        )
    durable.write(out, data)
    return context.out({"file": str(out)}, f"{out} is written")


@model.command("export")
@click.argument("name")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="a folder; made if need be")
@click.option("--for", "device", default="", help="a device: the file that it is given, and what was not tried of it")
@AUTHOR
@verb
def model_export(context: Context, name: str, out: Path, device: str, author: str) -> None:
    """Write model.onnx, its weights and its card to a folder, which `edged model import` takes on another box; or, for a
    device of another kind, that device's own file.
    """
    from edged import durable
    from edged.retrain import bring, card
    from edged.retrain import device as devices
    from edged.storage import audit, models

    notes: tuple[str, ...] = ()
    profile = devices.find(device) if device else None
    with context.store(key=profile is not None and profile.numbers == "int8") as store:
        found = card.of(store, name)
        files = {bring.MODEL: models.read_model(store, found.sha256)}
        if profile:
            more, notes = _for_device(store, profile, files[bring.MODEL])
            files |= {**more, "delivered.txt": "".join(f"{line}\n" for line in notes).encode()}
        elif found.weights:
            files[bring.WEIGHTS] = models.read_model(store, found.weights, ".safetensors")
        files |= {bring.CARD: card.to_json(found), "card.md": card.text(found).encode()}
        _free(out, found.sha256)
        out.mkdir(parents=True, exist_ok=True)
        for file, data in files.items():
            durable.write(out / file, data)
        about = {"files": sorted(files)} | ({"device": device} if device else {})
        audit.append(store, author, "model.export", found.sha256, about)
    document = {"folder": str(out), **about} | ({"notes": list(notes)} if device else {})
    context.out(document, "\n".join([f"{out}: {', '.join(sorted(files))}", *notes]))


def _for_device(store: Store, profile: Profile, model: bytes) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """A device's own file, and what is to be said of it. Scales of integers are found on the newest snapshot's crops."""
    from edged.retrain import deliver

    made = deliver.write(profile, model, _pictures(store, model) if profile.numbers == "int8" else ())
    return made.files, made.notes


def _pictures(store: Store, model: bytes) -> tuple[Any, ...]:
    import json

    from edged.retrain import measure, pictures, source
    from edged.storage import snapshots

    newest = store.db.execute("select id from snapshot order by created desc, rowid desc limit 1").fetchone()
    if newest is None:
        return ()
    classes = json.loads(source.metadata(model).get(source.CLASSES, "[]")) or snapshots.get(store, newest[0])["classes"]
    crops = source.Source(store, newest[0]).crops("train")
    some = crops[:: max(1, len(crops) // PICTURES)][:PICTURES]
    return tuple(pictures.load(some, classes, measure.input_px(model)).batches(16))


def _free(out: Path, sha256: str) -> None:
    """Refused where something else than this model lies there."""
    import hashlib

    from edged.retrain import bring

    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    old = out / bring.MODEL
    if old.is_file() and hashlib.sha256(old.read_bytes()).hexdigest() == sha256:
        return
    what = "holds another model" if old.is_file() else "is not empty" if out.is_dir() else "is no folder"
    raise Refused(f"{out} {what}; nothing is written over", hint="name a new or an empty folder", code="not_empty")


def _numbers(_: Any, option: click.Parameter, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError as e:
        raise click.BadParameter(f"{text!r}: numbers with commas between them are needed", param=option) from e


@model.command("import")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--teacher", is_flag=True, help="it labels pictures here and goes to no camera")
@click.option("--name", default="", help="what to call it; else its network or its file's name")
@click.option("--classes", default="", help="a,b,... of its outputs, in order, if it does not say them itself")
@click.option("--px", default=0, help="side of its input, if it takes any")
@click.option("--scale", default=0.0, help="what it divides 0..255 by: 255 for a file that takes 0..1")
@click.option("--mean", default="", callback=_numbers, help="subtracted after that: one number, or R,G,B")
@click.option("--std", default="", callback=_numbers, help="divided by after that: one number, or R,G,B")
@click.option("--licence", default="", help="under which it may be used")
@click.option("--replace", is_flag=True, help="change what is known of a model that is here already")
@AUTHOR
@verb
def model_import(
    context: Context, path: Path, teacher: bool, name: str, classes: str, px: int, scale: float,
    mean: tuple[float, ...], std: tuple[float, ...], licence: str, replace: bool, author: str,
) -> None:  # fmt: skip
    """Bring a model here: a folder that `edged train` or `edged model export` made, or an ONNX file.

    It is looked at and run in a child first. A teacher is asked from then on; any other model is compressed, re-tested and
    judged like one that was trained here.
    """
    from edged.cli.release import sign
    from edged.retrain import bring
    from edged.storage import brought

    task = context.config().task.classes
    named = tuple(c.strip() for c in classes.split(",")) if classes else ()
    found = bring.look(path, task, classes=named, px=px, scale=scale, mean=mean, std=std)
    arch = found.proven.architecture
    with context.store() as store:
        known = next((b for b in brought.all(store) if b.sha256 == found.sha256), None)
        called = name or (known.name if known else arch or path.resolve().stem)
        against = "" if teacher else _against(context, store, found.sha256)
        document = _keep(
            store, found, "teacher" if teacher else "candidate", called, author, licence, known, replace,
            ask=not teacher and not against,
        )  # fmt: skip
        if teacher:
            document["release"] = sign(context, store, brought.get(store, document["sha256"]), author)
        else:
            document["against"] = against
    told = [f"{document['name']} ({document['sha256'][:8]}), {found.proven.px} px, classes {', '.join(task)}"]
    told += [f"- {line}" for line in (*found.proven.changes, *found.proven.notes)]
    if teacher:
        told.append(
            f"release {document['release']}: the teacher that is asked unless label.teacher.model names another"
        )
    elif against:
        told.append(f"no cycle is asked for: {against}")
    else:
        told.append(f"request {document['request']}: the daemon compresses, re-tests and judges it")
    context.out(document, "\n".join(told))


def _against(context: Context, store: Store, sha256: str) -> str:
    """Why it is not going to be released for sure, a sentence; "" = the gate can judge it."""
    from edged import plan
    from edged.daemon import loop_rules
    from edged.retrain import gate
    from edged.storage import blocked, snapshots

    if (bar := blocked.get(store, sha256)) is not None:
        return (
            f"these bytes are blocked since release {bar.release} was halted: {bar.reason} (if they are good after all: "
            f"`edged rollout unblock {sha256[:12]} --yes`, which tells how to go on)"
        )
    rules = loop_rules(context.config())
    held = snapshots.per_class(plan.body(store, rules.split), "holdout")
    against = gate.lacking(held, rules.limits)
    ways = f"label some, then `edged cycle run --model {sha256[:8]}`; or give your word: `edged model release {sha256[:8]} "
    return f"{against} ({ways}--untested --reason WHY`)" if against else ""


def _keep(
    store: Store, found: Found, kind: Any, name: str, author: str, licence: str, known: Brought | None, replace: bool,
    *, ask: bool,
) -> dict[str, Any]:  # fmt: skip
    """Its files, its row, its line in the audit log and, if a cycle is to `ask`, the request for it: all or none.

    A model that was exported here keeps the card that it has here.
    """
    import json

    from edged.storage import brought, models, requests

    proven, facts = found.proven, dict(found.facts)
    if known is not None and facts.get("sha256") == found.sha256:
        card = known.card | ({"licence": licence} if licence else {})
    else:
        claimed = facts.pop("claimed", None)  # of a card: what came with it to the box that it was exported from
        facts = {k: v for k, v in facts.items() if v not in (None, "", [], {})}
        facts = (claimed if isinstance(claimed, dict) else {}) | facts
        facts = {k: v for k, v in facts.items() if len(json.dumps(v)) <= FACT_CHARS}
        card = facts | {
            "size": len(found.model), "architecture": proven.architecture, "changes": list(proven.changes),
            "notes": list(proven.notes), "licence": licence or str(facts.get("licence", "")),
            "steps": [proven.method] if proven.method else [],
        }  # fmt: skip
    sha256 = models.put_model(store, found.model)
    weights = models.put_model(store, found.weights, ".safetensors") if found.weights else ""
    with store.transaction():
        row = brought.add(
            store, kind, sha256=sha256, name=name, classes=proven.classes, px=proven.px, author=author, weights=weights,
            card=card, replace=replace,
        )  # fmt: skip
        request = requests.add(store, "cycle", {"model": sha256}, author) if ask else None
    return {
        "name": row.name, "sha256": sha256, "kind": kind, "px": row.px, "classes": list(row.classes), "weights": weights,
        "changes": list(proven.changes), "notes": list(proven.notes), "request": request,
    }  # fmt: skip


@model.command("retire")
@click.argument("name")
@AUTHOR
@verb
def model_retire(context: Context, name: str, author: str) -> None:
    """Stop using a model that was brought here; its file and its row stay. Not while it is rolled out, or a camera runs it."""
    from edged.storage import brought

    with context.store() as store:
        found = brought.find(store, name) if name else None
        if found is None:
            raise brought.unknown(name, brought.all(store))
        brought.retire(store, found.sha256, author)
    context.out({"retired": found.sha256}, f"{found.name} ({found.sha256[:8]}) is not used any more")


@model.command("prune")
@click.option("--dry-run", is_flag=True, help="say what would go, and take nothing")
@AUTHOR
@verb
def model_prune(context: Context, dry_run: bool, author: str) -> None:
    """Take away model files that nothing needs any more: neither a release, what is signed, a camera, what was brought or
    blocked, nor a candidate of the last cycles (docs/models.md). Exits 75 while a cycle or another job is at work.
    """
    from edged.clock import SystemClock
    from edged.retrain import children
    from edged.site import open_repository
    from edged.storage import keeping
    from edged.web import words

    config = context.config()
    targets = open_repository(config, SystemClock()).targets().values()
    signed = {int(t.custom["release"]): {t.sha256, *(w["sha256"] for w in t.custom.get("ways", ()))} for t in targets}
    vouched = {number: frozenset(files) for number, files in signed.items()}
    with context.store(readonly=dry_run) as store:
        if dry_run:
            found = keeping.unneeded(store, vouched)
        else:
            with children.alone(str(config.data_dir)):  # a job puts files before it says so
                found = keeping.prune(store, vouched, author)
    size = sum(f.size for f in found)
    what = f"{words.count(len(found), 'file')}, {words.size(size)}"
    lines = [f"{f.path.name}  {words.size(f.size)}" for f in found] if dry_run else []
    context.out(
        {"dry_run": dry_run, "files": [f.path.name for f in found], "bytes": size},
        "\n".join([*lines, f"{what} would go" if dry_run else f"{what} gone"]) if found else "every file is needed",
    )


@model.command("fit")
@click.argument("name", default="")
@click.option("--px", default=0, help="side of the input; 0 = as configured, or 64")
@click.option("--pictures", default=2000, show_default=True, help="labelled pictures to learn from")
@click.option(
    "--memory", default="", help="what may be used, e.g. 1500MB; else as configured, and never more than there is"
)
@verb
def model_fit(context: Context, name: str, px: int, pictures: int, memory: str) -> None:
    """Whether a network can be trained here: memory and time of each, estimated. Exits 3 if NAME cannot."""
    import dataclasses

    from edged.config import size
    from edged.errors import EXIT_FOUND_BAD
    from edged.retrain import fits, nets

    config = context.config() if context.config_path.exists() else None  # it can be asked before there is a site
    allowed = size(memory or (config.train.max_memory if config else 0))
    limit = min(allowed or fits.box_memory(), fits.box_memory())
    px = px or (config.train.input_px if config else 64)
    classes = len(config.task.classes) if config else 2
    if name:  # an unknown one is refused here
        px = min(max(px, nets.sides(name)[0]), nets.sides(name)[1])
    speed = fits.measure_speed()
    rows = fits.table(px, classes, names=[name] if name else nets.LISTED, pictures=pictures, speed=speed)
    document = {
        "memory_bytes": limit, "pictures": pictures, "basis": rows[0].basis,
        "rows": [{**dataclasses.asdict(r), "parts": dict(r.parts), "fits": r.within(limit)} for r in rows],
    }  # fmt: skip
    lines = [
        f"{'network':16}{'px':>4}  {'what is trained':38}{'memory':>8}{'CPU time':>10}  fits {fits.size_text(limit)}"
    ]
    lines += [
        f"{r.name:16}{r.px:4}  {fits.WORDS[r.rung]:38}{fits.size_text(r.peak_bytes):>8}{fits.time_text(r.cpu_seconds):>10}"
        f"  {r.within(limit)}" for r in rows
    ]  # fmt: skip
    lines.append(f"all estimated, {pictures} pictures, {rows[0].basis}")
    if name:
        said = fits.advise(name, px, classes, memory_bytes=limit, pictures=pictures, speed=speed)
        document["advice"] = list(said)
        lines += said
    context.out(document, "\n".join(lines))
    if name and next(r for r in rows if r.rung == "scratch").within(limit) == "no":
        click.get_current_context().exit(EXIT_FOUND_BAD)
