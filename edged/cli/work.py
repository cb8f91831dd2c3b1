"""Verbs that ask for work: label, cycle, train, sync."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from edged.cli.main import Context, main, verb
from edged.errors import EXIT_FOUND_BAD, Misconfigured, Refused


@main.group()
def label() -> None:
    """What people, the teacher and the cameras said of the pictures."""


@label.command("queue")
@click.option("-n", "limit", default=20, show_default=True)
@click.option("--seed", default=1, show_default=True)
@verb
def label_queue(context: Context, limit: int, seed: int) -> None:
    """The samples whose labels would teach most."""
    from edged.storage import labels

    with context.store(readonly=True) as store:
        rows = labels.queue(store, limit, seed=seed)
    document = [{"sample": s.id, "camera": s.camera, "predicted": s.predicted, "score": s.score} for s in rows]
    context.out({"queue": document}, "\n".join(f"{s.id}  {s.predicted or '-'} {s.score:.2f}" for s in rows))


@label.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--source", type=click.Choice(["human", "teacher"]), default="human", show_default=True)
@click.option("--author", required=True)
@verb
def label_import(context: Context, file: Path, source: str, author: str) -> None:
    """Read `sample,class` lines; all of them or none."""
    import csv

    from edged.storage import labels

    classes = context.config().task.classes
    try:
        with file.open(newline="") as f:
            rows = [row for row in csv.reader(f) if row and not row[0].startswith("#")]
    except OSError as e:
        raise Misconfigured(f"cannot read {file}: {e.strerror}", exit_code=4) from e
    for n, row in enumerate(rows, 1):
        if len(row) != 2 or row[1] not in classes:
            raise Refused(f"{file}:{n}: {','.join(row)!r} is not `sample,class` with a class of {', '.join(classes)}")
    with context.store() as store:
        labels.add_many(store, [(sample, class_) for sample, class_ in rows], source, author)
    context.out({"imported": len(rows)}, f"{len(rows)} labels imported")


@label.command("undo")
@click.option("--author", required=True, help="take back every label of this author")
@verb
def label_undo(context: Context, author: str) -> None:
    """Take labels back; they stay in the record, marked undone."""
    from edged.storage import labels

    with context.store() as store:
        n = labels.undo_author(store, author)
    context.out({"undone": n}, f"{n} labels of {author} undone")


@main.group()
def cycle() -> None:
    """The loop: label, train, compress, re-test, gate, release."""


@cycle.command("run")
@click.option("--author", default="command line", show_default=True)
@verb
def cycle_run(context: Context, author: str) -> None:
    """Ask the daemon for a cycle now."""
    from edged.storage import requests

    with context.store() as store:
        number = requests.add(store, "cycle", {}, author)
    context.out({"request": number}, "asked; `edged status` and the page tell how it goes")


@main.command()
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="folder with one folder of pictures per class"
)
@click.option("--model", "architecture", required=True, help="e.g. mobilenet-0.25, lenet-5")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="folder for the model and its facts")
@click.option("--px", default=0, help="side of the network's input; 0 = 32 for LeNets, 64 otherwise")
@click.option("--epochs", default=14, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--threads", default=0, help="0 = one per core")
@click.option("--minutes", default=120.0, show_default=True)
@verb
def train(
    context: Context, data: Path, architecture: str, out: Path, px: int, epochs: int, seed: int, threads: int,
    minutes: float,
) -> None:  # fmt: skip
    """Train a model on a folder of pictures, here or on a bigger machine."""
    import os

    from edged import durable
    from edged.clock import SystemClock
    from edged.retrain import folder, jobs

    if not data.is_dir():
        raise Misconfigured(f"there is no folder {data}", exit_code=4)
    classes = list(folder.classes(data))
    job = {
        "folder": str(data.resolve()), "data_dir": str(out.resolve()), "classes": classes,
        "arch": {"name": architecture, "input_px": px or (32 if architecture.startswith("lenet") else 64)},
        "epochs": epochs, "seed": seed, "threads": threads or os.cpu_count() or 1,
    }  # fmt: skip
    jobs.check("train", job)
    out.mkdir(parents=True, exist_ok=True)
    bar = click.progressbar(length=1000, label=f"training {architecture}", file=sys.stderr, hidden=context.as_json)
    with bar:
        result = jobs.run(
            "train", job, out / "job", max_minutes=minutes, clock=SystemClock(),
            progress=lambda p: bar.update(int(p.fraction * 1000) - bar.pos),
        )  # fmt: skip
    for sha256, suffix in ((result["sha256"], ".onnx"), (result["weights_sha256"], ".safetensors")):
        durable.write(out / f"model{suffix}", (out / "models" / f"{sha256}{suffix}").read_bytes())
    facts = {**result, "classes": classes, "arch": job["arch"], "seed": seed}
    durable.write(out / "facts.json", json.dumps(facts, indent=2, sort_keys=True).encode())
    context.out(
        facts,
        f"{out / 'model.onnx'}: {result['size'] / 1000:.0f} kB, accuracy {result['tune_accuracy']:.1%} of"
        f" {result['tune_samples']} pictures kept for tuning (the last fifth of each class by name)",
    )


@main.group()
def sync() -> None:
    """What may leave the box, and what did. Default: nothing."""


@sync.command("preview")
@verb
def sync_preview(context: Context) -> None:
    """Exactly what would leave now, and what is held back by which rule."""
    import dataclasses

    from edged.publish import cloud

    config = context.config()
    rules = config.sync.rules()
    with context.store(readonly=True) as store:
        items = cloud.preview(store, rules)
    lines = [
        f"{'would leave' if i.allowed else 'held back':12} {i.kind:16} {i.size:>10} B  {i.key}  ({i.why})"
        for i in items
    ]
    context.out({"items": [dataclasses.asdict(i) for i in items]}, "\n".join(lines) or "nothing would leave")


@sync.command("push")
@verb
def sync_push(context: Context) -> None:
    """Send what the rules permit, once. Exit 3 when the cloud refused something."""
    from edged.serve import sync_once

    sent, refused = sync_once(context.config())
    context.out({"sent": sent, "refused": refused}, f"{sent} objects left, {refused} refused")
    if refused:
        sys.exit(EXIT_FOUND_BAD)


@sync.command("run")
@verb
def sync_run(context: Context) -> None:
    """Send what the rules permit, every [sync] interval_s: the only process that talks to the cloud."""
    from edged.serve import sync_forever

    sync_forever(context.config())
