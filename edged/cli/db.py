"""Verbs for the store itself: check, db backup, db restore, db rebuild, db migrate."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edged.cli.main import Context, main, verb
from edged.errors import EXIT_FOUND_BAD, Corrupt, EdgedError, Misconfigured, Refused

if TYPE_CHECKING:
    from edged.config import Config
    from edged.storage.check import Finding

_fast = click.option("--fast", is_flag=True, help="read and hash everything, decrypt nothing")
_clear = click.option("--clear", is_flag=True, help="when all is well, clear the alarm of a rebuilt catalogue")
_over = click.option("-y", "--yes", is_flag=True, help="also in the place of a good store, which is kept aside")
_anew = click.option("-y", "--yes", is_flag=True, help="also when nothing is wrong with the catalogue")


@main.group()
def db() -> None:
    """The store: check it, back it up, restore it, make its catalogue anew."""


@main.command("check")
@_fast
@_clear
@verb
def check(context: Context, fast: bool, clear: bool) -> None:
    """Every invariant of docs/storage.md: the fsck. Exit 3 when one does not hold."""
    _check(context, fast, clear)


@db.command("check")
@_fast
@_clear
@verb
def db_check(context: Context, fast: bool, clear: bool) -> None:
    """The same as `edged check`."""
    _check(context, fast, clear)


def _check(context: Context, fast: bool, clear: bool) -> None:
    from edged.storage import alarms, check

    try:
        with context.store(readonly=True, key=not fast) as store, _bar(context) as told:
            findings = check.run(store, fast=fast, progress=lambda share: told("check", share))
            counted = {
                t: store.value(f"select count(*) from {t}") for t in ("segment", "object", "frame", "sample", "label")
            }
            stands = {a.code: a.text for a in alarms.standing(store)}
    except Corrupt as e:  # not even opened: that is checked, and found bad
        raise Corrupt(str(e), code=e.code, hint=e.hint, exit_code=EXIT_FOUND_BAD) from e
    if clear and not findings:
        with context.store() as store:
            alarms.clear(store, alarms.CATALOGUE_REBUILT)
    rebuilt = "" if clear and not findings else stands.get(alarms.CATALOGUE_REBUILT, "")
    lines = [f"{f.code} {f.subject}: {f.message}" for f in findings]
    if not findings:
        lines.append(f"all invariants hold ({', '.join(_counted(n, name) for name, n in counted.items())})")
    if rebuilt:
        lines.append(f"but an alarm stands: {rebuilt}\n  `edged check --clear` clears it when nothing is found")
    context.out(
        {
            "ok": not findings,
            "findings": _told(findings),
            "counted": counted,
            "fast": fast,
            "catalogue_rebuilt": rebuilt,
        },
        "\n".join(lines),
    )
    if findings:
        sys.exit(EXIT_FOUND_BAD)


@db.command("backup")
@click.argument("dest", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--keep",
    "keep_days",
    type=click.IntRange(min=1),
    default=7,
    show_default=True,
    help="backups to keep: the newest of so many days",
)
@click.option("--verify", is_flag=True, help="read every byte of the newest backup instead of making one")
@click.option("--list", "listing", is_flag=True, help="say which backups there are instead of making one")
@click.option("--backup", "which", default="", help="with --verify: this one, not the newest")
@verb
def db_backup(context: Context, dest: Path, keep_days: int, verify: bool, listing: bool, which: str) -> None:
    """Add a backup of the site to the folder DEST; the daemon may run. No key is in it (docs/backup.md)."""
    from edged.clock import SystemClock
    from edged.storage import audit, backup, destination, gauges

    if listing:
        found = [(f.name, backup.choose(dest, f.name)[1]) for f in destination.folders(dest)]
        context.out(
            {
                "backups": [
                    {"name": n, "made": m.made, "site": m.site, "edged": m.edged, "bytes": m.total} for n, m in found
                ]
            },
            "\n".join(f"{n}  {_size(m.total)}" for n, m in found) or "no whole backup",
        )
        return
    if verify:
        with _bar(context) as told:
            troubles = backup.verify(dest, which, told)
        folder, manifest = backup.choose(dest, which)
        context.out(
            {"ok": not troubles, "backup": folder.name, "bytes": manifest.total,
             "findings": [{"code": t.code, "subject": t.subject, "message": t.message} for t in troubles]},
            "\n".join(f"{t.code} {t.subject}: {t.message}" for t in troubles)
            or f"{folder.name} is whole, {_size(manifest.total)}",
        )  # fmt: skip
        if troubles:
            sys.exit(EXIT_FOUND_BAD)
        return
    config = context.config()
    with _bar(context) as told:
        made = backup.run(
            config.data_dir, dest, SystemClock(), site=config.server.site, config=context.config_path,
            keep_days=keep_days, progress=told,
        )  # fmt: skip
    unnoted = ""
    try:
        with context.store() as store:
            gauges.put(store, {"backup_ts": store.clock.now()})
            detail = {"backup": made.folder.name, "bytes": made.manifest.total}
            audit.append(store, "command line", "backup", config.server.site, detail)
    except (EdgedError, OSError) as e:  # a read-only disk is rescued all the same
        unnoted = f"  the store could not be told of it: {e}"
    names = [f.name for f in made.manifest.models]
    context.out(
        {"backup": made.folder.name, "bytes": made.manifest.total, "copied": made.copied,
         "segments": len(made.manifest.segments), "models": sum(n.endswith(".onnx") for n in names), "keys": False,
         "damaged": list(made.damaged), "noted": not unnoted},
        f"{made.folder}: {_size(made.manifest.total)}, {_size(made.copied)} copied now\n"
        f"  no key is in it: keep {config.keys_dir} and the keyring apart from it, both are needed to restore"
        + "".join(f"\n{line}" for line in (unnoted, *made.damaged) if line),
    )  # fmt: skip
    if made.damaged:
        sys.exit(EXIT_FOUND_BAD)


@db.command("restore")
@click.argument("source", type=click.Path(path_type=Path, file_okay=False))
@click.option("--backup", "which", default="", help="this one, not the newest (`edged db backup --list` names them)")
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="onto a box without config.toml: the folder of the site"
)
@_over
@verb
def db_restore(context: Context, source: Path, which: str, data_dir: Path | None, yes: bool) -> None:
    """Put a backup in the place of an empty or broken store; with --yes of a good one, which is kept aside."""
    from functools import partial

    from edged import site
    from edged.clock import SystemClock
    from edged.storage import restore, sitekey

    config = _config_for(context, source, which, data_dir)
    config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with site.only_daemon(config.data_dir), _bar(context) as told:
        done = restore.run(
            source, config.data_dir, partial(site.open_store, config, key=True), SystemClock(),
            site_key=sitekey.read(site.key_place(config)), keyring_copy=site.keyring_copies(config)[1], which=which,
            replace=yes, progress=told,
        )  # fmt: skip
    lines = [
        f"restored what was backed up at {done.made}: {_counted(done.objects, 'picture')}",
        *([f"erased after the backup, and stay so: {_counted(done.erased, 'picture')}"] if done.erased else []),
        *(
            [f"config.toml names this place now, no longer {done.moved_from}; see it before you start"]
            if done.moved_from
            else []
        ),
        *([f"the store that was there is kept in {done.aside}"] if done.aside else []),
        *(f"{f.code} {f.subject}: {f.message}" for f in done.findings),
    ]
    context.out(
        {"made": done.made, "objects": done.objects, "erased": done.erased, "frames_from_segments": done.frames,
         "moved_from": done.moved_from,
         "aside": str(done.aside) if done.aside else None, "ok": not done.findings, "findings": _told(done.findings)},
        "\n".join(lines),
    )  # fmt: skip
    if done.findings:
        sys.exit(EXIT_FOUND_BAD)


@db.command("rebuild")
@_anew
@verb
def db_rebuild(context: Context, yes: bool) -> None:
    """Make the catalogue anew from what can be read of it, the newest daily copy and the segments; keep the old one."""
    from functools import partial

    from edged import site
    from edged.clock import SystemClock
    from edged.storage import repair

    config = context.config()
    why = repair.look(config.data_dir)
    if why is None and not yes:
        raise Refused(
            "nothing is wrong with the catalogue", code="nothing_wrong", hint="--yes makes it anew all the same"
        )
    with site.only_daemon(config.data_dir), _bar(context) as told:
        done = repair.rebuild(
            config.data_dir, partial(site.open_store, config, key=True), SystemClock(), why or "asked for", told
        )
    context.out(
        {"why": done.why, "damaged": str(done.damaged) if done.damaged else None, "pages": done.pages,
         "bad_pages": done.bad_pages, "rows": done.rows, "copied": done.copied, "frames": done.frames, "lost": done.lost,
         "leftover": done.leftover},
        str(done),
    )  # fmt: skip


@db.command("migrate")
@verb
def db_migrate(context: Context) -> None:
    """Bring the catalogue to this version's schema; the daemon does so by itself at its start."""
    import sqlite3
    from contextlib import closing

    from edged.storage import schema
    from edged.storage.connection import explained
    from edged.storage.store import CATALOGUE

    path = context.config().data_dir / CATALOGUE
    if not path.exists():
        raise Misconfigured(f"no store at {path}", code="no_store", hint="edged init makes one")
    with explained(path), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as conn:
        before = schema.version_of(conn)
    if before != schema.VERSION:
        with context.store(key=True) as store:
            store.rows("pragma optimize")
    context.out(
        {"before": before, "now": schema.VERSION, "changed": before != schema.VERSION},
        f"schema version {schema.VERSION}" + ("" if before == schema.VERSION else f", was {before}"),
    )


def _config_for(context: Context, source: Path, which: str, data_dir: Path | None) -> Config:
    """The site's configuration; on a bare box the one in the backup."""
    import tomllib

    import msgspec

    from edged.config import check, load
    from edged.storage import backup, restore

    if data_dir is None:
        return context.config()
    folder, _ = backup.choose(source, which)
    if (data_dir / "config.toml").exists():
        config = load(data_dir / "config.toml")
    else:
        load(folder / "config.toml")  # says what is wrong with it
        _, text = restore.moved((folder / "config.toml").read_text("utf-8"), data_dir.resolve())
        config = check(tomllib.loads(text), str(folder / "config.toml"))
    server = msgspec.structs.replace(config.server, data_dir=str(data_dir.resolve()))
    return msgspec.structs.replace(config, server=server)


@contextmanager
def _bar(context: Context) -> Iterator[Callable[[str, float], None]]:
    """A progress bar with the time left, on stderr, for a person who watches."""
    hidden = context.as_json or context.quiet or not sys.stderr.isatty()
    with click.progressbar(length=1000, file=sys.stderr, hidden=hidden, show_eta=True) as bar:

        def told(what: str, share: float) -> None:
            if bar.label != what:
                bar.label = what
                bar.pos = 0
            bar.update(max(0, int(share * 1000) - bar.pos))

        yield told


def _told(findings: Sequence[Finding]) -> list[dict[str, str]]:

    return [{"code": f.code, "subject": f.subject, "message": f.message} for f in findings]


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _size(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"
