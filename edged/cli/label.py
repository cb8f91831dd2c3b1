"""`edged label`: what people, the teacher and the cameras said of the pictures."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edged.cli.data import when
from edged.cli.main import Context, main, verb
from edged.errors import EXIT_FAILED, EXIT_FOUND_BAD, EXIT_NOT_FOUND, Misconfigured, Refused

if TYPE_CHECKING:
    from edged.storage.census import Share
    from edged.storage.labelfile import Kept, Report
    from edged.storage.store import Store

FAULTS_TOLD = 20
SOURCE = click.option("--source", type=click.Choice(["human", "teacher"]), default="human", show_default=True)


@main.group()
def label() -> None:
    """What people, the teacher and the cameras said of the pictures."""


@label.command("queue")
@click.option("-n", "limit", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--camera", "cameras", multiple=True, help="only of this camera; may be given again")
@click.option(
    "--since", default="", help="only what the box received from this day, or time (YYYY-MM-DDTHH:MM[:SS], UTC), on"
)
@verb
def label_queue(context: Context, limit: int, seed: int, cameras: tuple[str, ...], since: str) -> None:
    """The samples whose labels would teach most, and why; one in ten drawn by lot.

    --since asks about a change that somebody knows of: the lamp was replaced, it snows.
    """
    from edged.clock import SystemClock
    from edged.storage import cameras as known
    from edged.storage import drifts, queue

    config, start = context.config(), when(since)
    if start is not None and start.timestamp() > SystemClock().now():
        raise click.UsageError(f"--since {since}: that is in the future")
    with context.store(readonly=True) as store:
        if strangers := set(cameras) - {c.id for c in known.all(store)}:
            raise Refused(
                f"nothing has come from a camera {min(strangers)!r}", code="not_found", exit_code=EXIT_NOT_FOUND,
                hint="`edged camera list` names those that have spoken",
            )  # fmt: skip
        drifting = [s.camera for s in drifts.standing(store)]
        asked = queue.ask(
            store, limit, seed, share=config.label.random_audit, drifting=drifting, cameras=cameras,
            since=start.timestamp() if start else 0.0,
        )  # fmt: skip
    document = [
        {
            "sample": a.sample.id, "camera": a.sample.camera, "predicted": a.sample.predicted, "score": a.sample.score,
            "lane": a.lane, "why": a.why, "teacher": a.teacher, "teacher_score": a.sure if a.teacher else None,
        }
        for a in asked
    ]  # fmt: skip
    text = "\n".join(f"{a.sample.id}  {a.sample.predicted or '-'} {a.sample.score:.2f}  {a.why}" for a in asked)
    context.out({"queue": document}, text or "nothing waits for a label")


@label.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@SOURCE
@click.option("--author", required=True, help="who labelled: a person, or the teacher's name")
@click.option("--format", "format_", type=click.Choice(["csv", "jsonl"]), help="default: by the file's name")
@click.option("--dry-run", is_flag=True, help="say what would be imported, and what is wrong; exit 3 if anything is")
@click.option("--overturn", is_flag=True, help="even when many labels of other people are contradicted")
@verb
def label_import(
    context: Context, file: Path, source: str, author: str, format_: str | None, dry_run: bool, overturn: bool
) -> None:
    """Read labels, CSV (`sample,class[,score]`) or JSON lines; all of them or none. FILE - reads standard input.

    `-` as class says "bad crop, cannot say".
    """
    from edged.storage import labelfile, labels

    config = context.config()
    if not author.strip():
        raise click.UsageError("--author is empty: say who labelled, so that it can be taken back by author")
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as e:
        raise Misconfigured(f"cannot read {file}: {e.strerror}", exit_code=EXIT_NOT_FOUND) from e
    kind: labelfile.Format = "jsonl" if (format_ or labelfile.format_of(file.name, data)) == "jsonl" else "csv"
    lines, faults = labelfile.read(data, kind)
    if not data.strip():  # a header alone is a file of no labels, as `label export` writes it of a new site
        raise Refused(
            f"{file} is empty: not one line is in it", code="empty", hint="`edged label export` shows what a file looks like",
            exit_code=EXIT_FOUND_BAD if dry_run else EXIT_FAILED,
        )  # fmt: skip
    with context.store(readonly=dry_run) as store:
        report = labelfile.check(store, lines, config.task.classes, source, author, config.label.random_audit)
        report = dataclasses.replace(report, faults=tuple(sorted((*faults, *report.faults), key=lambda f: f.line)))
        against = "" if overturn else report.overturns
        if dry_run:
            told = [
                _counted(report),
                f"{report.overturns}" + (": needs --overturn" if against else ""),
                _faults(report),
            ]
            context.out(_report(report), "\n".join(t for t in told if t))
            if report.faults or against:
                click.get_current_context().exit(EXIT_FOUND_BAD)
            return
        if report.faults:
            absent = all(f.reason.startswith(labelfile.NO_SAMPLE) for f in report.faults)
            raise Refused(
                f"{file}:{report.faults[0].line}: {len(report.faults)} lines cannot be taken, nothing was imported\n"
                f"{_faults(report)}",
                code="bad_labels", hint="`--dry-run` says what would be imported",
                exit_code=EXIT_NOT_FOUND if absent else EXIT_FAILED,
            )  # fmt: skip
        if against:
            raise Refused(
                f"{file}: {against}; nothing was imported", code="overturns",
                hint="if they are right and the others wrong: --overturn",
            )  # fmt: skip
        n = labels.add_many(store, report.labels, source, author, report.overturned) if report.labels else 0
    again = f", {report.same} already so" if report.same else ""
    context.out({"imported": n, **_report(report)}, f"{n} labels imported{again}")


@label.command("export")
@click.argument("to", type=click.Path(path_type=Path), default=Path("-"), required=False)
@click.option("--source", type=click.Choice(["human", "teacher", "camera"]), default="human", show_default=True)
@click.option("--format", "format_", type=click.Choice(["csv", "jsonl", "folder"]), help="default: by the file's name")
@click.option("--with-pictures", is_flag=True, help="of --format folder: the crops leave the store, unsealed")
@click.option("--force", is_flag=True, help="write over a file of other labels")
@click.option("--author", "actor", default="command line", show_default=True, help="who, for the audit log")
@verb
def label_export(
    context: Context, to: Path, source: str, format_: str | None, with_pictures: bool, force: bool, actor: str
) -> None:
    """Write the labels that count to TO (- = standard output): what `label import` reads.

    `--format folder --with-pictures` makes a new folder TO with the scrubbed crops by class, as `edged train --data` takes
    it; that is written into the audit log.
    """
    from edged.storage import labelfile

    kind = format_ or labelfile.format_of(to.name)
    if (kind == "folder") != with_pictures:
        raise click.UsageError("pictures leave the store by --format folder --with-pictures, and by nothing else")
    with context.store(readonly=not with_pictures, key=with_pictures) as store:
        rows = labelfile.kept(store, source)
        if with_pictures:
            n, gone = _folder(store, rows, to, actor)
            told = f"{n} pictures written to {to}" + (f"; {gone} are gone or damaged" if gone else "")
            context.out({"exported": n, "gone": gone, "to": str(to)}, told)
            return
    text = labelfile.write(rows, "jsonl" if kind == "jsonl" else "csv")
    if str(to) == "-":
        click.echo(text, nl=False)
        return
    data = text.encode()
    if to.is_file() and not force and to.read_bytes() != data:  # a pipe or a device is nobody's labels
        raise Refused(
            f"{to} is there already; nothing is written over",
            code="in_the_way",
            hint="name another file, or say --force",
        )
    to.write_bytes(data)
    context.out({"exported": len(rows), "to": str(to)}, f"{len(rows)} labels written to {to}")


@label.command("undo")
@click.option("--author", required=True, help="take back every label of this author")
@click.option("--since", default="", help="those made from this day, or time (YYYY-MM-DDTHH:MM[:SS], UTC), on")
@click.option("--sample", default="", help="the one on this sample")
@click.option("--by", "actor", default="command line", show_default=True, help="who, for the audit log")
@verb
def label_undo(context: Context, author: str, since: str, sample: str, actor: str) -> None:
    """Take labels back; they stay in the record, marked undone. The next training set has none of them."""
    from edged.storage import labels

    start = when(since)
    with context.store() as store:
        n = labels.undo_author(
            store, author, since=0.0 if start is None else start.timestamp(), sample=sample, by=actor
        )
    more = (
        "; a cycle learns without them from new labels on, or when it is asked for: `edged cycle run`;"
        f" `edged label redo --author {author}` gives them back"
    )
    context.out({"undone": n, "author": author}, f"{_labels(n)} of {author} undone{more if n else ''}")


@label.command("redo")
@click.option("--author", required=True, help="give back what the last `undo` took of this author")
@click.option("--by", "actor", default="command line", show_default=True, help="who, for the audit log")
@verb
def label_redo(context: Context, author: str, actor: str) -> None:
    """Give labels back that were taken back; once more, and those of the undo before come back."""
    from edged.storage import labels

    with context.store() as store:
        n = labels.redo_author(store, author, by=actor)
    context.out({"redone": n, "author": author}, f"{_labels(n)} of {author} {'stands' if n == 1 else 'stand'} again")


def _labels(n: int) -> str:
    return f"{n} label{'' if n == 1 else 's'}"


@label.command("pin")
@click.argument("samples", nargs=-1, required=True, metavar="SAMPLE...")
@click.option("--note", default="", help="why, for people")
@click.option("--author", default="command line", show_default=True, help="who, for the audit log")
@verb
def label_pin(context: Context, samples: tuple[str, ...], note: str, author: str) -> None:
    """Pin pictures that a model got wrong: whoever is released next must get them right. They are no longer learned from."""
    from edged.storage import pins

    with context.store() as store:
        n = pins.add(store, samples, author, note)
        total = len(pins.all(store))
    context.out({"pinned": n, "total": total}, f"{n} pinned, {total} in all")


@label.command("unpin")
@click.argument("samples", nargs=-1, required=True, metavar="SAMPLE...")
@click.option("--author", default="command line", show_default=True, help="who, for the audit log")
@verb
def label_unpin(context: Context, samples: tuple[str, ...], author: str) -> None:
    """Take pins away."""
    from edged.storage import pins

    with context.store() as store:
        n = pins.remove(store, samples, author)
    context.out({"unpinned": n}, f"{n} unpinned")


@label.command("pins")
@verb
def label_pins(context: Context) -> None:
    """The pinned pictures, their class by people's labels now, and which cannot be tested on any more."""
    from edged.storage import pins

    config = context.config()
    with context.store(readonly=True) as store:
        found, standing = pins.all(store), pins.standing(store, config.task.classes)
    lines = [f"{p.sample}  {p.class_ or '-'}  by {p.author}{'  ' + p.note if p.note else ''}" for p in found]
    context.out(
        {"pins": [dataclasses.asdict(p) for p in found], "left_out": list(standing.left_out)},
        "\n".join([*lines, *standing.left_out]) or "nothing is pinned",
    )


@label.command("stats")
@verb
def label_stats(context: Context) -> None:
    """How many labels by whom, how far the teacher is believed, how good the cameras are on audit samples."""
    from edged.storage import census, teaching

    config = context.config()
    wanted = config.label
    share = wanted.random_audit
    with context.store(readonly=True) as store:
        counts = census.counts(store)
        apart, audited = census.disagreement(store, share), census.audited(store, share)
        beliefs = teaching.beliefs(store, share, wanted.human_min_agreement, wanted.teacher.accept_above)
    document = {
        "counts": [
            {"source": c.source, "author": c.author, "class": c.class_, "camera": c.camera, "n": c.n} for c in counts
        ],
        "disagreement": _share(apart),
        "audit_accuracy": {camera or "all": _share(s) for camera, s in audited.items()},
        "teachers": [dataclasses.asdict(dataclasses.replace(b, classes=dict(b.classes))) for b in beliefs],
    }
    lines = []
    for source in sorted({c.source for c in counts}):
        own = [c for c in counts if c.source == source]
        lines.append(f"{source}: {sum(c.n for c in own)} labels")
        for title in ("class", "author", "camera"):
            found: Counter[str] = Counter()
            for c in own:
                found[{"class": c.class_ or "bad crop", "author": c.author, "camera": c.camera}[title]] += c.n
            lines.append(f"  by {title}: " + ", ".join(f"{name} {n}" for name, n in found.most_common()))
    lines += [f"teacher {b.teacher}: {b.told}" for b in beliefs]
    if apart.n:
        lines.append(f"teacher and people differ on {_words(apart)} audit samples that both labelled")
    lines += [
        f"{camera or 'all cameras'} right on {_words(s)} audit samples" for camera, s in audited.items() if s.n
    ] or ["no camera's answer can be judged yet: no audit sample has both an answer of its camera and a person's label"]
    context.out(document, "\n".join(lines) if counts else "no labels yet")


def _folder(store: Store, rows: list[Kept], to: Path, actor: str) -> tuple[int, int]:
    """Crops by class in a new folder; how many, and how many could not be read."""
    from urllib.parse import quote

    from edged.errors import Corrupt
    from edged.storage import audit, samples

    def name(word: str) -> str:
        return quote(word, safe=" ").replace(".", "%2E")

    named = [r for r in rows if r.class_]
    to.mkdir(mode=0o700)
    audit.append(
        store, actor, "label.export", "pictures", {"pictures": len(named), "source": rows[0].source if rows else ""}
    )
    n = gone = 0
    for r in named:
        try:
            jpeg = samples.crop(store, r.sample)
        except (Refused, Corrupt):
            gone += 1
            continue
        folder = to / name(r.class_)
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / f"{name(r.sample)}.jpg").write_bytes(jpeg)
        n += 1
    return n, gone


def _report(report: Report) -> dict[str, Any]:
    return {
        "labels": len(report.labels), "new": report.new, "changed": report.changed, "same": report.same,
        "overturned": dict(report.overturned), "without_picture": report.gone, "audit": report.audit,
        "classes": dict(report.classes), "faults": [dataclasses.asdict(f) for f in report.faults],
    }  # fmt: skip


def _counted(report: Report) -> str:
    classes = ", ".join(f"{c} {n}" for c, n in report.classes.items())
    return (
        f"{len(report.labels)} labels ({classes or 'none'}): {report.new} new, {report.changed} changed, {report.same} already"
        f" so; {report.audit} of the audit set, {report.gone} without a picture"
    )


def _faults(report: Report) -> str:
    lines = [f"line {f.line}: {f.reason}" for f in report.faults[:FAULTS_TOLD]]
    more = len(report.faults) - len(lines)
    return "\n".join(lines + ([f"and {more} more"] if more else []))


def _share(s: Share) -> dict[str, Any]:
    lower, upper = s.interval
    return {"hits": s.hits, "n": s.n, "share": s.share, "lower": lower, "upper": upper}


def _words(s: Share) -> str:
    lower, upper = s.interval
    return f"{s.hits} of {s.n} ({s.hits / s.n:.1%}, likely {lower:.1%} to {upper:.1%})"
