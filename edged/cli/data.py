"""Verbs of the pictures: data ls, show, purge, quota, verify, confirm-clock."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edged.cli.ask import HINT, confirm, yes_option
from edged.cli.main import Context, main, verb
from edged.errors import EXIT_FOUND_BAD, EXIT_NOT_FOUND, Misconfigured, Refused

if TYPE_CHECKING:
    from edged.storage.erasure import Erased, Plan, What
    from edged.storage.listing import Filter
    from edged.storage.store import Store

AUTHOR = click.option("--author", "actor", default="command line", show_default=True, help="who, for the audit log")
CAMERA = click.option("--camera", default="", help="id of a camera")
DAY = click.option("--day", default="", help="YYYY-MM-DD, UTC, by the box's clock at receipt")
FROM = click.option("--from", "since", default="", help="from this day, or time (YYYY-MM-DDTHH:MM[:SS], UTC), on")
TO = click.option("--to", "until", default="", help="until this day, it included, or before this time")
LABEL = click.option("--label", default="", help="with this human label")
BY = click.option("--labelled-by", default="", help="with a human label of this author")
CLASS = click.option("--class", "predicted", default="", help="that the camera took for this class")


@main.group()
def data() -> None:
    """The pictures: what is here, what may go, what must go."""


@data.command("ls")
@CAMERA
@DAY
@FROM
@TO
@CLASS
@LABEL
@BY
@click.option("--samples", "single", is_flag=True, help="every sample, one a line: `purge --samples -` reads them")
@click.option("-n", "limit", type=click.IntRange(min=1), default=None, help="of samples, at most so many, newest first")
@verb
def data_ls(
    context: Context, camera: str, day: str, since: str, until: str, predicted: str, label: str, labelled_by: str,
    single: bool, limit: int | None,
) -> None:  # fmt: skip
    """Pictures by camera and day; or the samples that a filter names. Only what still has a picture."""
    from edged.clock import iso
    from edged.storage import listing

    wanted = _filter(camera, day, since, until, predicted, label, labelled_by)
    if single or predicted or label or labelled_by:
        with context.store(readonly=True) as store:
            rows = listing.samples(store, wanted, -1 if limit is None else limit)
        document = [{**dataclasses.asdict(r), "received": iso(r.received)} for r in rows]
        lines = [r.id for r in rows] if single else [
            f"{r.id:40} {iso(r.received)}  {r.predicted or '-':10} {r.score:4.2f}  {r.label or '-':10} {_bytes(r.size):>9}"
            for r in rows
        ]  # fmt: skip
        context.out({"samples": document}, "\n".join(lines) or "no sample")
        return
    first, last = _days(day, since, until)
    with context.store(readonly=True) as store:
        days = [d for d in listing.days(store, camera) if (not first or d.day >= first) and (not last or d.day <= last)]
    total = {word: sum(getattr(d, word) for d in days) for word in ("pictures", "crops", "labelled", "bytes")}
    head = f"{'camera':20} {'day':10} {'pictures':>9} {'of these':>9} {'labelled':>9} {'bytes':>10}\n{'crops':>51}"
    lines = [f"{d.camera:20} {d.day:10} {d.pictures:9} {d.crops:9} {d.labelled:9} {_bytes(d.bytes):>10}" for d in days]
    foot = f"{'all':20} {'':10} {total['pictures']:9} {total['crops']:9} {total['labelled']:9} {_bytes(total['bytes']):>10}"
    context.out(
        {"days": [dataclasses.asdict(d) for d in days], "total": total},
        "\n".join([head, *lines, foot]) if days else "no picture",
    )


@data.command("show")
@click.argument("id")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="write the picture (JPEG) here; - = standard output")
@verb
def data_show(context: Context, id: str, out: Path | None) -> None:
    """Facts of a sample (CAMERA:FRAME:N) or a frame (CAMERA:FRAME); exit 4 when there is none."""
    from edged import durable
    from edged.clock import iso
    from edged.storage import labels, listing, objects

    with context.store(readonly=True, key=out is not None) as store:
        facts = listing.show(store, id)
        facts |= {"ts": iso(facts["ts"]), "received": iso(facts["received"])}
        if facts["what"] == "sample":
            facts["labels"] = [
                {"class": x.class_, "source": x.source, "author": x.author, "ts": iso(x.ts), "undone": bool(x.undone)}
                for x in labels.of(store, id)
            ]
        picture = b""
        if out is not None:
            if facts["object"] is None:
                raise Refused(f"the picture of {id[:200]} is gone", code="gone", exit_code=EXIT_NOT_FOUND)
            picture = objects.read(store, facts["object"])
    if str(out) == "-":
        sys.stdout.buffer.write(picture)
        return
    if out is not None:
        durable.write(out, picture, mode=0o600)
        facts["written"] = str(out)
    context.out(facts, "\n".join(f"{k:10} {v}" for k, v in facts.items() if v not in ("", None)))


@data.command("purge")
@CAMERA
@DAY
@FROM
@TO
@CLASS
@LABEL
@BY
@click.option(
    "--samples", "file", type=click.Path(path_type=Path, allow_dash=True), help="sample ids, one a line; - = stdin"
)
@click.option("--drop-labels", is_flag=True, help="the labels of these samples go, too")
@click.option("--dry-run", is_flag=True, help="say exactly what would go, and change nothing")
@yes_option()
@AUTHOR
@verb
def data_purge(
    context: Context, camera: str, day: str, since: str, until: str, predicted: str, label: str, labelled_by: str,
    file: Path | None, drop_labels: bool, dry_run: bool, yes: bool, actor: str,
) -> None:  # fmt: skip
    """Erase pictures so that nobody can open them any more, here or in an earlier backup.

    Whole days of a camera, or of all; a time of one (every frame received in it); the samples of a file, or those
    that a label, its author or a class names (with the whole pictures they were cut from). Works while the daemon runs.
    """
    from edged.site import daemon_runs
    from edged.storage import erasure

    with context.store(readonly=True) as store:
        what = _what(store, _filter(camera, day, since, until, predicted, label, labelled_by), day, since, until, file)
        what = erasure.What(what.camera, what.first, what.last, what.samples, what.frames, drop_labels)
        nothing = not (what.single or what.camera or what.first or what.last)
        plan = erasure.Plan() if nothing else erasure.plan(store, what)
    if dry_run:
        context.out({"dry_run": True, **_document(plan)}, _told(plan, drop_labels))
        return
    if not plan.objects and not plan.keys:
        context.out({"erased": 0, "bytes": 0}, "nothing to erase: none of it has a picture")
        return
    if not yes:
        confirm(_told(plan, drop_labels), "Erase this for ever?", f"{HINT}; --dry-run says all of it")
    if daemon_runs(context.config().data_dir):
        done = _by_daemon(context, what, actor)
    else:
        with context.store(key=True) as store, _progress(context) as progress:
            done = erasure.now(store, what, actor, progress)
    context.out(
        {"erased": done.objects, "bytes": done.bytes, "keys": done.keys, "resealed": done.resealed,
         "models": list(done.models), "left": [dataclasses.asdict(x) for x in plan.left]},
        f"{done.objects} pictures ({_bytes(done.bytes)}) erased with {done.keys} data keys; {_bytes(done.resealed)} of"
        " others were sealed anew" + _consequences(plan),
    )  # fmt: skip


@data.command("quota")
@verb
def data_quota(context: Context) -> None:
    """What each camera uses of what, and when it is full."""
    from edged.clock import SystemClock
    from edged.site import upkeep_rules
    from edged.storage import forecast

    rules = upkeep_rules(context.config()).retention
    with context.store(readonly=True) as store:
        found = forecast.of(store, rules, SystemClock().now())
    lines = [f"{'camera':20} {'used':>10} {'limit':>10} {'a day':>10}  forecast"]
    lines += [
        f"{f.camera or 'all':20} {_bytes(f.used):>10} {_bytes(f.limit) if f.limit else '-':>10}"
        f" {'-' if f.per_day is None else _bytes(f.per_day):>10}  {f.told}"
        for f in found
    ]
    context.out(
        {
            "quota": [  # null: all cameras; no limit
                {**dataclasses.asdict(f), "camera": f.camera or None, "limit": f.limit or None, "told": f.told}
                for f in found
            ],
            "max_age_days": rules.max_age_s / 86400,
        },
        "\n".join(lines),
    )


@data.command("verify")
@verb
def data_verify(context: Context) -> None:
    """Open every picture, and check every other invariant of the store. Exit 3 when one does not hold."""
    from edged.storage import check, listing

    with context.store(readonly=True, key=True) as store, _progress(context) as progress:
        findings = check.run(store, progress=progress)
        n = listing.count(store)
    said = [{"code": f.code, "subject": f.subject, "text": f.message} for f in findings]
    context.out(
        {"ok": not findings, "pictures": n, "findings": said},
        "\n".join(f"{f.code} {f.subject}: {f.message}" for f in findings) or f"all {n} pictures open",
    )
    if findings:
        sys.exit(EXIT_FOUND_BAD)


@data.command("confirm-clock")
@AUTHOR
@verb
def data_confirm_clock(context: Context, actor: str) -> None:
    """Say that the clock is right: retention, held since the box seemed to have been off for long, goes on."""
    from edged.storage import alarms, requests, upkeep

    with context.store() as store:
        held = alarms.stands(store, alarms.RETENTION_HELD)
        number = requests.add(store, upkeep.CONFIRM, {}, actor)
    said = "noted; retention goes on within a minute, or at the daemon's next start"
    context.out({"request": number, "held": held}, said if held else "noted; nothing is held back for the clock now")


def _by_daemon(context: Context, what: What, actor: str) -> Erased:
    """Ask the daemon, and wait for it."""
    from edged.clock import SystemClock
    from edged.storage import erasure

    clock = SystemClock()
    with context.store() as store:
        asked = erasure.promise(store, what, actor)
        try:
            with _progress(context) as progress:
                while True:
                    share, done = erasure.standing(store, asked)
                    progress(share)
                    if done is not None:
                        return done
                    clock.sleep(0.2)
        except KeyboardInterrupt:
            click.echo(f"request {asked} stands: the daemon goes on with it", err=True)
            raise click.Abort from None


@contextmanager
def _progress(context: Context) -> Iterator[Callable[[float], None]]:
    """A bar with the time left, once it takes longer than two seconds."""
    from edged.clock import SystemClock

    clock = SystemClock()
    bars: list[Any] = []
    start = clock.monotonic()

    def tell(share: float) -> None:
        if context.as_json or context.quiet or clock.monotonic() - start < 2:
            return
        if not bars:
            bars.append(click.progressbar(length=1000, show_eta=True, file=sys.stderr))
            bars[0].__enter__()
        bars[0].update(int(share * 1000) - bars[0].pos)

    try:
        yield tell
    finally:
        for bar in bars:
            bar.__exit__(None, None, None)


def _what(store: Store, wanted: Filter, day: str, since: str, until: str, file: Path | None) -> What:
    from edged.storage import listing
    from edged.storage.erasure import What

    named = wanted.predicted or wanted.label or wanted.author
    if file is not None:
        if named or wanted.camera or day or since or until:
            raise click.UsageError("--samples names everything by itself: no other filter beside it")
        return What(samples=tuple(_lines(file)))
    if named:
        return What(samples=tuple(r.id for r in listing.samples(store, wanted)))
    if "T" in since or "T" in until:
        return What(frames=tuple(listing.frames(store, wanted)))
    first, last = _days(day, since, until)
    if not (wanted.camera or first or last):
        raise click.UsageError("name a camera, a day, a time, a label, or a file of samples")
    return What(wanted.camera, first, last)


def _lines(file: Path) -> list[str]:
    try:
        with click.open_file(str(file), encoding="utf-8") as f:
            return list(dict.fromkeys(line.strip() for line in f if line.strip() and not line.startswith("#")))
    except (OSError, UnicodeDecodeError) as e:
        raise Misconfigured(f"cannot read {file}: {e}", exit_code=EXIT_NOT_FOUND) from e


def _filter(camera: str, day: str, since: str, until: str, predicted: str, label: str, labelled_by: str) -> Filter:
    from edged.storage.listing import Filter

    if day and (since or until):
        raise click.UsageError("--day, or --from and --to")
    start = when(day or since)
    end = when(day or until)
    if end is not None and "T" not in until:
        end += timedelta(days=1)
    return Filter(
        camera, None if start is None else start.timestamp(), None if end is None else end.timestamp(), predicted,
        label, labelled_by,
    )  # fmt: skip


def _days(day: str, since: str, until: str) -> tuple[str, str]:
    first, last = when(day or since), when(day or until)
    return ("" if first is None else f"{first:%Y-%m-%d}", "" if last is None else f"{last:%Y-%m-%d}")


def when(text: str) -> datetime | None:
    """A day or time that somebody typed, UTC unless it says another zone; None for "". Raises UsageError."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as e:
        raise click.UsageError(f"{text!r} is neither YYYY-MM-DD nor YYYY-MM-DDTHH:MM:SS") from e
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _document(plan: Plan) -> dict[str, Any]:
    return {
        "objects": len(plan.objects), "bytes": plan.bytes, "frames": plan.frames, "samples": len(plan.samples),
        "labelled": plan.labelled, "keys": len(plan.keys) + len(plan.shared), "resealed_objects": plan.others,
        "resealed_bytes": plan.other_bytes, "models": [dataclasses.asdict(m) for m in plan.models],
        "left": [dataclasses.asdict(x) for x in plan.left],
    }  # fmt: skip


def _told(plan: Plan, drop_labels: bool) -> str:
    keys = len(plan.keys) + len(plan.shared)
    lines = [
        f"{len(plan.objects)} pictures ({_bytes(plan.bytes)}): {plan.frames} whole ones,"
        f" {len(plan.samples)} samples, {plan.labelled} of them labelled (labels {'go' if drop_labels else 'stay'})",
        f"{keys} data key{'' if keys == 1 else 's'} would be destroyed",
    ]
    if plan.others:
        lines.append(
            f"{plan.others} other pictures ({_bytes(plan.other_bytes)}) would be sealed anew, since they share a key"
        )
    return "\n".join(lines) + _consequences(plan)


def _consequences(plan: Plan) -> str:
    from edged.clock import iso

    lines = []
    for m in plan.models:
        releases = f", release {', '.join(map(str, m.releases))}" if m.releases else ""
        lines.append(f"model {m.name} ({m.sha256[:12]}{releases}) saw {m.samples} of the samples")
    lines += [f"left the box on {iso(x.sent)}: {x.key}" for x in plan.left]
    return "".join(f"\n{line}" for line in lines)


def _bytes(n: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n:.0f} B"
