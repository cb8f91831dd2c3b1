"""`edged model release`: a teacher becomes a signed release; so does, on a person's word, a model that nothing here can judge."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from edged.cli.ask import confirm, yes_option
from edged.cli.main import Context, verb
from edged.cli.model import AUTHOR, model
from edged.errors import EXIT_UNREACHABLE, EdgedError, Refused

if TYPE_CHECKING:
    from edged.storage.brought import Brought
    from edged.storage.releases import ReleaseRow
    from edged.storage.store import Store

REASON_CHARS = 200


def _reason(_: Any, option: click.Parameter, text: str | None) -> str | None:
    if text is None:
        return None
    text = text.strip()
    if not text or not text.isprintable() or len(text) > REASON_CHARS:
        raise click.BadParameter(f"1 to {REASON_CHARS} printable characters are needed", param=option)
    return text


@model.command("release")
@click.argument("name")
@click.option("--kind", type=click.Choice(["teacher"]), default="teacher", help="those for cameras the gate releases")
@click.option("--untested", is_flag=True, help="one for cameras, where too little is labelled for the gate to judge it")
@click.option("--reason", callback=_reason, help="with --untested: why it may be trusted; kept and shown")
@yes_option("with --untested: do not ask")
@click.option("--wait", is_flag=True, help="with --untested: until it ended, as `edged cycle run --wait`")
@AUTHOR
@verb
def model_release(
    context: Context, name: str, kind: str, untested: bool, reason: str | None, yes: bool, wait: bool, author: str
) -> None:
    """Sign a teacher that was brought here, by its name or the beginning of its SHA-256: it is asked from now on.

    `edged model import --teacher` does so itself; `edged model rollback N` puts an earlier release back.

    With --untested: release a model for cameras on your word. The daemon measures its speed, memory and size, and those
    still refuse it; a canary takes it first; the page and its card say that it was not tested on this site's pictures.
    """
    from edged.storage import brought

    if untested and not reason:
        raise click.UsageError("--untested wants a --reason, which is kept and shown")
    if not untested and (reason or yes or wait):
        raise click.UsageError("--reason, --yes and --wait go with --untested")
    if reason:
        return _vouch(context, name, reason, author, yes=yes, wait=wait)
    with context.store() as store:
        found = brought.find(store, name) if name else None
        if found is None:
            raise brought.unknown(name, brought.all(store))
        number = sign(context, store, found, author)
    return context.out(
        {"release": number, "kind": kind, "sha256": found.sha256, "name": found.name},
        f"release {number}: {found.name} ({found.sha256[:8]}) is asked unless label.teacher.model names another",
    )


def _vouch(context: Context, name: str, reason: str, author: str, *, yes: bool, wait: bool) -> None:
    """Leave the request, and its line in the audit log; the daemon does the rest."""
    from edged import plan, registry, vouched
    from edged.cli import cycle
    from edged.daemon import loop_rules
    from edged.retrain import gate
    from edged.site import daemon_runs
    from edged.storage import audit, brought, requests, snapshots

    config = context.config()
    rules, runs = loop_rules(config), daemon_runs(config.data_dir)
    with context.store() as store:
        sha256 = registry.find(store, name)
        if not sha256:
            raise brought.unknown(name, brought.all(store))
        found = registry.asked(store, sha256, rules.classes)
        body, word = plan.body(store, rules.split), vouched.Word(author, reason)
        held, per_class = len(body["holdout"]), snapshots.per_class(body, "holdout")
        if against := vouched.refusal(body, rules.limits, rules.block_s, word=word, sha256=sha256):
            raise against
        if not yes:
            confirm(
                f"{found.name} ({sha256[:8]}) is not tested here: {gate.short_of(per_class, rules.limits)}",
                "Release it on your word? A canary takes it first.",
            )  # fmt: skip
        with store.transaction():
            number = requests.add(store, "cycle", {"model": sha256, "untested": reason}, author)
            audit.append(store, author, "model.release", sha256, {"untested": reason, "held_out": held})
        if wait and runs:
            return cycle.wait_for(context, store, number)
    told = f"request {number}: the daemon measures its speed, memory and size, and releases it if those are within the limits"
    context.out(
        {"request": number, "sha256": sha256, "held_out": held, "daemon": runs},
        told + ("" if runs else "; it does not run, it begins when it does"),
    )
    if wait:
        sys.exit(EXIT_UNREACHABLE)


def sign(context: Context, store: Store, teacher: Brought, author: str) -> int:
    """Its number. What is raised says that it is here, and not asked."""
    from edged.clock import SystemClock
    from edged.publish import teachers
    from edged.site import open_repository

    try:
        return teachers.release(store, open_repository(context.config(), SystemClock()), teacher, author)
    except EdgedError as e:
        if not isinstance(e, Refused):
            again = f"it is here, and nobody asks it before `edged model release {teacher.sha256[:8]}`"
            e.hint = f"{e.hint}; {again}" if e.hint else again
        raise


def told(row: ReleaseRow | None) -> str:
    """How a teacher stands, for the end of a line."""
    if row is None:
        return ", not released: nobody asks it"
    return f", release {row.number}" + (" (superseded)" if row.state == "superseded" else "")
