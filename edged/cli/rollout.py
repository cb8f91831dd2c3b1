"""`edged rollout`: start, watch, pause and give up the rollout of a release; `edged model rollback`: back to an earlier one.

Everything but going back is done here and now, in the store, whether the daemon runs or not: it reads the rows at every
turn. Going back has to be signed, which is the daemon's.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

import click

from edged.cli.ask import confirm, yes_option
from edged.cli.main import Context, main, verb
from edged.cli.model import AUTHOR, model
from edged.cli.ranges import ReleaseNumber
from edged.errors import EXIT_FOUND_BAD, EXIT_NOT_FOUND, EXIT_UNREACHABLE, Refused

if TYPE_CHECKING:
    from edged.publish.rules import Rules
    from edged.storage.releases import ReleaseRow
    from edged.storage.store import Store
    from edged.web.outlook import Outlook

BAR = 20  # characters
LOOK_S = 1.0  # between two looks of --watch
ANSWER_S = 60.0  # for the daemon to sign

NUMBER = click.argument("number", type=ReleaseNumber(), required=False)


@main.group()
def rollout() -> None:
    """Which cameras are offered a release, and when."""


@rollout.command("start")
@NUMBER
@click.option("--replace", is_flag=True, help="also while another one is on its way, which is superseded then")
@AUTHOR
@verb
def rollout_start(context: Context, number: int | None, replace: bool, author: str) -> None:
    """Begin to offer a release that waits, the newest if no NUMBER is given.

    While another one rolls or is paused, nothing changes without --replace. With it that one is superseded: nobody new is
    offered it, who waits for it is offered this one, who runs it goes on until this one comes.
    """
    from edged.publish import fleet
    from edged.site import daemon_runs, rollout_rules
    from edged.storage import releases

    config = context.config()
    with context.store() as store:
        on_the_way = {r.number for r in releases.all(store) if r.state in ("rolling", "paused")}
        found = fleet.start(store, number, rollout_rules(config), author, instead=replace)
        over = [r.number for r in releases.all(store) if r.number in on_the_way and r.state == "superseded"]
    text = f"release {found.number} starts" + "".join(f"; release {n} is superseded" for n in over)
    _told(context, found, text, daemon_runs(config.data_dir), {"superseded": over})


@rollout.command("pause")
@NUMBER
@AUTHOR
@verb
def rollout_pause(context: Context, number: int | None, author: str) -> None:
    """Offer a release to nobody new. Cameras that have begun go on, and may still halt it."""
    from edged.publish import fleet
    from edged.site import daemon_runs

    with context.store() as store:
        found = fleet.pause(store, number, author)
    _told(context, found, f"release {found.number} is paused", daemon_runs(context.config().data_dir))


@rollout.command("resume")
@NUMBER
@AUTHOR
@verb
def rollout_resume(context: Context, number: int | None, author: str) -> None:
    """Go on with a release where it was paused."""
    from edged.publish import fleet
    from edged.site import daemon_runs
    from edged.storage import releases

    with context.store() as store:
        found = fleet.resume(store, number, author)
        newer = next((r for r in releases.all(store) if r.name == found.name and r.state == "waiting"), None)
    text = f"release {found.number} goes on"
    if newer is not None and context.config().rollout.auto:
        text += f", until release {newer.number}, which waits, takes its place in a moment"
    _told(context, found, text, daemon_runs(context.config().data_dir))


@rollout.command("abort")
@NUMBER
@click.option("--reason", default="", help="why, for the page and the audit log")
@yes_option("do not ask where no NUMBER is given")
@AUTHOR
@verb
def rollout_abort(context: Context, number: int | None, reason: str, yes: bool, author: str) -> None:
    """Give a release up: its bytes are blocked for good, and cameras that run it are brought back to the last good one.
    One that is taking it takes it first.

    Without NUMBER the newest that waits, rolls or is paused, after a question; one that is complete has to be named.
    """
    from edged.clock import SystemClock
    from edged.publish import fleet, release
    from edged.site import daemon_runs, rollout_rules
    from edged.storage import deliveries
    from edged.web import outlook

    config = context.config()
    with context.store() as store:
        row = fleet.to_abort(store, number)
        if number is None and not yes:
            what = outlook.look(store, row, SystemClock().now(), rollout_rules(config)).after_abort
            confirm(
                f"release {row.number}, {row.name} {row.sha256[:12]}, is {row.state}: its bytes are blocked for good; {what}",
                "Give it up?", f"`edged rollout abort {row.number}` says which; --yes takes the newest without asking",
            )  # fmt: skip
        found = fleet.abort(store, row.number, author, reason)
        stray = sorted(camera for camera, halted in fleet.astray(store) if halted.number == found.number)
        taking = outlook.busy(deliveries.of(store, found.number))
        theirs = [*stray, *taking]
        back = next(release.earlier(store, found, theirs), None) if theirs else None
        becomes = outlook.after_abort(store, found, stray, taking) if theirs else ""
    text = f"release {found.number} is halted and {found.sha256[:12]} is blocked" + (f"; {becomes}" if becomes else "")
    more = {"astray": stray, "taking": taking, "back_to": None if back is None else back.number}
    _told(context, found, text, daemon_runs(config.data_dir), more)


@rollout.command("unblock")
@click.argument("sha256")
@yes_option()
@AUTHOR
@verb
def rollout_unblock(context: Context, sha256: str, yes: bool, author: str) -> None:
    """Let bytes of a halted release be released again; SHA256 or how it begins."""
    from edged.storage import blocked

    with context.store() as store:
        found = blocked.find(store, sha256.lower())
        why = f"{found.sha256[:12]}: release {found.release} was halted: {found.reason}"
        if not yes:
            confirm(why, "Let cameras be offered it again?")
        blocked.remove(store, found.sha256, author)
    named = found.sha256[:12]
    text = (
        f"{named} may be released again: `edged cycle run --model {named}` re-tests and releases it; where too little is "
        f"labelled to judge it: `edged model release {named} --untested --reason WHY`"
    )
    context.out({"sha256": found.sha256, "release": found.release, "reason": found.reason}, text)


@rollout.command("status")
@NUMBER
@click.option("--watch", is_flag=True, help="until it has ended: exit 0 complete, 3 halted or superseded")
@verb
def rollout_status(context: Context, number: int | None, watch: bool) -> None:
    """How rollouts stand: the one of NUMBER with each of its cameras, else the last ones."""
    from edged.clock import SystemClock
    from edged.site import rollout_rules
    from edged.storage import blocked
    from edged.web import outlook

    clock, by = SystemClock(), rollout_rules(context.config())
    configured = [c.id for c in context.config().camera]
    with context.store(readonly=True) as store:
        if watch:
            return _watch(context, store, number, by, configured)
        if number is not None:
            found = outlook.look(store, _release(store, number), clock.now(), by, configured=configured)
            return context.out(found.document(), "\n".join(_lines(found, clock.now(), cameras=True)))
        last = outlook.all(store, clock.now(), by, configured=configured)
        barred = blocked.all(store)
    lines = [line for i, found in enumerate(last) for line in _lines(found, clock.now(), cameras=i == 0)]
    lines += [f"blocked: {b.sha256[:12]} since release {b.release} was halted: {b.reason}" for b in barred]
    document = {
        "rollouts": [found.document() for found in last],
        "blocked": [{"sha256": b.sha256, "release": b.release, "reason": b.reason, "author": b.author} for b in barred],
    }
    return context.out(document, "\n".join(lines) or "nothing has been released yet")


@model.command("rollback")
@click.argument("number", type=ReleaseNumber())
@click.option("--camera", "only", multiple=True, metavar="ID", help="this camera alone; may be given again")
@AUTHOR
@verb
def model_rollback(context: Context, number: int, only: tuple[str, ...], author: str) -> None:
    """Return all cameras, or some alone, to the model of an earlier release. It is a new release that names the old bytes,
    since cameras take no lower number; it starts at once, a canary first, and supersedes what is on its way to them.
    """
    from edged.clock import SystemClock
    from edged.publish import conduct, fleet, release
    from edged.site import daemon_runs
    from edged.storage import releases, requests

    clock, runs = SystemClock(), daemon_runs(context.config().data_dir)
    only = tuple(sorted(set(only)))
    document: dict[str, Any] = {
        "request": None, "to": number, "cameras": list(only), "daemon": runs, "release": None, "superseded": [],
    }  # fmt: skip
    with context.store() as store:
        old = release.may_return(store, number)  # what cannot be is said at once
        already = release.stands(store, old, only)
        if already is not None and old.kind == "student":
            return context.out(document | {"release": already.number}, _nothing_to_do(already, number))
        made = dataclasses.replace(old, number=releases.next_number(store), cameras=only, apart=())  # by the daemon
        over = fleet.replaced(store, made) if old.kind == "student" else []
        args = {"to": number} | ({"cameras": list(only)} if only else {})
        asked = requests.add(store, conduct.ROLLBACK, args, author)
        end = clock.monotonic() + ANSWER_S
        answer = requests.get(store, asked)
        while runs and (answer is None or answer.done is None) and clock.monotonic() < end:
            clock.sleep(0.2)
            runs = daemon_runs(context.config().data_dir)  # before its answer: the last one counts
            answer = requests.get(store, asked)
        now = {r.number: r.state for r in releases.all(store)}
        over = [r for r in over if now.get(r.number) in ("superseded", *_IS)]  # one may have ended meanwhile
    document |= {"request": asked, "daemon": runs, "superseded": [r.number for r in over]}
    ends = "".join(f"; release {r.number}, which {_IS[r.state]}, is superseded" for r in over)
    if answer is None or answer.done is None:
        why = "the daemon does not run; it signs this when it does" if not runs else "the daemon has not answered yet"
        context.out(document, f"asked; {why}" + (f"{ends} then" if over else ""))
        sys.exit(EXIT_UNREACHABLE if runs else 0)
    if answer.result.startswith(conduct.REFUSED):
        raise Refused(answer.result.removeprefix(conduct.REFUSED))
    alone = f", for {', '.join(only)} alone" if only else ""
    document["release"] = int(answer.result.removeprefix("release "))
    context.out(
        document,
        f"{answer.result} names the bytes of release {number}{alone}{ends}; `edged rollout status` tells how it goes",
    )


_IS = {"waiting": "waits", "rolling": "rolls", "paused": "is paused"}
_MOVES = {"waiting": "start", "paused": "resume"}


def _nothing_to_do(already: ReleaseRow, number: int) -> str:
    """A rollback to what cameras have, or are offered already."""
    n, state = already.number, already.state
    text = f"nothing is to be done: release {n}" + (
        "" if n == number else f", which names the bytes of release {number},"
    )
    text += " is the newest and " + _IS.get(state, f"is {state}")
    return text + (f"; `edged rollout {_MOVES[state]} {n}` brings it to cameras" if state in _MOVES else "")


def _told(context: Context, found: ReleaseRow, text: str, daemon: bool, more: dict[str, Any] | None = None) -> None:
    document = {"release": found.number, "state": found.state, "actor": found.actor, "daemon": daemon, **(more or {})}
    context.out(document, text + ("" if daemon else "; the daemon does not run, cameras hear of it when it does"))


def _release(store: Store, number: int) -> ReleaseRow:
    from edged.storage import releases

    found = releases.get(store, number)
    if found is None:
        raise Refused(
            f"there is no release {number}", code="not_found", exit_code=EXIT_NOT_FOUND,
            hint="`edged rollout status` lists them",
        )  # fmt: skip
    return found


def _watch(context: Context, store: Store, number: int | None, by: Rules, configured: list[str]) -> None:
    """Tell every change until the release has ended; progress goes to stderr."""
    from edged.clock import SystemClock
    from edged.storage import releases
    from edged.web import outlook

    clock, said = SystemClock(), ""
    row = releases.latest(store) if number is None else _release(store, number)
    if row is None:
        raise Refused("nothing has been released yet", code="not_found", exit_code=EXIT_NOT_FOUND)
    while True:
        found = outlook.look(store, _release(store, row.number), clock.now(), by, configured=configured)
        if found.release.state in ("complete", "halted", "superseded"):
            context.out(found.document(), "\n".join(_lines(found, clock.now(), cameras=True)))
            sys.exit(0 if found.release.state == "complete" else EXIT_FOUND_BAD)
        counts = ", ".join(f"{n} {status}" for status, n in found.counts.items())
        text = f"release {row.number} {found.release.state}: {counts}"
        if text != said and not context.as_json and not context.quiet:
            click.echo(f"{text}" + (f"; waits for {found.waits}" if found.waits else ""), err=True)
            said = text
        clock.sleep(LOOK_S)


def _lines(found: Outlook, now: float, *, cameras: bool) -> list[str]:
    from edged.web import outlook, words

    r = found.release
    since = words.ago(now - (r.changed or r.created))
    lines = [f"release {r.number} {found.status}: {r.state} {since}, {r.name} {r.sha256[:12]}, {words.size(r.size)}"]
    lines += [f"  {said}" for said in dict.fromkeys((r.detail, found.untested)) if said]
    if found.plan:
        lines.append(f"  {found.plan}")
    for status, n in found.counts.items():
        full = round(BAR * n / found.total) or 1
        lines.append(f"  {status:12}[{'#' * full}{'.' * (BAR - full)}] {n} of {found.total}")
    if found.waits:
        lines.append(f"  waits for {found.waits}")
    if found.still:
        lines.append(f"  {found.still}")
    if found.replaces:
        lines.append(
            f"  takes the place of release {', '.join(map(str, found.replaces))}, if it is started with --replace"
        )
    for d in found.deliveries if cameras else ():
        told = [d.unwell or d.detail, outlook.health(d.health), "" if d.signed is not False else "not signed"]
        share = f" {words.percent(d.progress, 0)}" if d.status == "IN_PROGRESS" else ""
        role = "canary" if d.canary else ""
        rest = "; ".join(t for t in told if t)
        lines.append(f"    {d.camera:16} {role:7}{d.status}{share}{f'  {rest}' if rest else ''}".rstrip())
    for camera, why in found.left_out if cameras else ():
        lines.append(f"    {camera:16} {'':7}left out: {why}")
    lines += [f"    {camera:16} {'':7}has not spoken yet" for camera in found.silent if cameras]
    return lines
