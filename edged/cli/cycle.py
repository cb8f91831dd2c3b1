"""`edged cycle`: ask for one, see what it would do, what it does and did, end it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from edged.cli.main import Context, main, verb
from edged.errors import EXIT_FAILED, EXIT_FOUND_BAD, EXIT_NOT_FOUND, EXIT_UNREACHABLE, Refused

if TYPE_CHECKING:
    from edged.storage.store import Store

LOOK_S = 0.5  # between two looks of --wait
SILENT_S = 2.0  # after which it says what it waits for


@main.group()
def cycle() -> None:
    """The loop: label, train, compress, re-test, gate, release."""


@cycle.command("run")
@click.option("--author", default="command line", show_default=True)
@click.option(
    "--model", "word", default="",
    help="one that was brought, or made here (name, hash, `release 3`): re-tested and released, not trained",
)  # fmt: skip
@click.option("--overturn", is_flag=True, help="learn also from labels that contradict much of what was learned")
@click.option("--dry-run", is_flag=True, help="say what would be done, and do nothing")
@click.option(
    "--wait", is_flag=True, help="until it has ended: exit 0 released, 3 refused, 1 failed, 5 the daemon ended"
)
@verb
def cycle_run(context: Context, author: str, word: str, overturn: bool, dry_run: bool, wait: bool) -> None:
    """Ask the daemon for a cycle now, whatever the hours."""
    from edged import registry
    from edged.site import daemon_runs
    from edged.storage import cycles, requests

    args: dict[str, Any] = {"overturn": True} if overturn else {}
    if word:
        with context.store(readonly=True) as store:
            model = registry.find(store, word)
        if not model:
            raise Refused(
                f"no model {word!r} was brought or made here",
                hint="`edged model ls` names them",
                exit_code=EXIT_NOT_FOUND,
            )
        args["model"] = model
    if dry_run:
        return _dry_run(context, str(args.get("model", "")), overturn)
    runs = daemon_runs(context.config().data_dir)
    with context.store() as store:
        running = cycles.running(store)
        number = requests.add(store, "cycle", args, author)
        if wait and runs:
            try:
                return wait_for(context, store, number)
            except KeyboardInterrupt:
                click.echo(
                    f"no longer waited for; request {number} stays: `edged cycle cancel` takes it back", err=True
                )
                raise
    told = "asked; " + (f"it begins when cycle {running.id}, which runs, has ended; " if running and runs else "")
    told += "`edged status` and the page tell how it goes"
    if not runs:
        after = f" and has ended cycle {running.id}, which was interrupted" if running else ""
        told = f"asked; the daemon does not run, it begins when it does{after}"
    document = {"request": number, "daemon": runs, "after": running.id if running else None}
    context.out(document, told)
    if wait:
        sys.exit(EXIT_UNREACHABLE)


def _dry_run(context: Context, model: str, overturn: bool) -> None:
    from edged import plan, preview, vouched
    from edged.clock import SystemClock
    from edged.daemon import loop_rules
    from edged.site import daemon_runs, when_rules
    from edged.web.words import duration, size

    config = context.config()
    rules = loop_rules(config)
    with context.store(readonly=True) as store:
        found = preview.of(store, rules.split, rules.arch, model)
        decided = plan.when(store, when_rules(config), SystemClock().now(), daemon=daemon_runs(config.data_dir))
    forecast = preview.forecast(found, rules.arch, len(rules.classes), rules.memory_bytes)
    against = vouched.refusal(found.body, rules.limits, rules.block_s, sha256=model, anew=found.anew, least=rules.least)
    contradicted = "" if overturn else found.against
    counts = ", ".join(f"{n} {part}" for part, n in found.counts.items())
    limit = size(rules.memory_bytes)
    fits = {"yes": f"fits into {limit}", "perhaps": f"may not fit into {limit}", "no": f"does not fit into {limit}"}
    lines = [
        f"due now: {decided.why}" if decided.why else decided.runs or f"not due by itself: {decided.waits}",
        f"snapshot: {counts}",
        *([f"  {contradicted}: it would end here (if they are right: --overturn)"] if contradicted else []),
        *([f"  {against}: it would end here ({against.hint})"] if against else []),
        *([f"tried first: {', '.join(found.past)}"] if found.past else []),
        f"{found.course.stage}: {found.course.note}",
        *(
            f"  {f.name:8} about {duration(f.seconds)} of CPU and {size(f.bytes)} (estimated), {fits[f.fits]}"
            for f in forecast
        ),
        f"compress: {', '.join(rules.methods)}",
        *([f"search: {_minutes(rules.search_minutes)} over more chains"] if rules.search_minutes else []),
        f"retest: on {rules.device}; at least {rules.limits.min_holdout} samples held out are needed",
    ]
    document = {
        "due": decided.why, "waits": decided.waits, "runs": decided.runs, "snapshot": found.counts, "past": list(found.past),
        "stage": found.course.stage, "new_samples": found.course.new, "rungs": list(found.course.rungs),
        "forecast": [{"rung": f.name, "cpu_seconds": f.seconds, "bytes": f.bytes, "fits": f.fits} for f in forecast],
        "note": found.course.note, "refused": contradicted or str(against or ""), "methods": list(rules.methods),
        "device": rules.device, "search_minutes": rules.search_minutes,
    }  # fmt: skip
    context.out(document, "\n".join(lines))


def _minutes(n: float) -> str:
    return f"{n:g} minute" + ("" if n == 1 else "s")


def wait_for(context: Context, store: Store, number: int) -> None:
    """Until the cycle that this request began has ended, or the daemon has; progress goes to stderr."""
    from edged.clock import SystemClock
    from edged.site import daemon_runs
    from edged.storage import cycles, requests

    clock, said = SystemClock(), ""
    silent_until = clock.monotonic() + SILENT_S
    while True:
        clock.sleep(LOOK_S)
        runs = daemon_runs(context.config().data_dir)  # before the rows: what it wrote as its last is looked at
        request = requests.get(store, number)
        begun = request is not None and request.done is not None
        result = request.result if request is not None else ""
        found = cycles.get(store, int(result.removeprefix("cycle "))) if result.startswith("cycle ") else None
        if begun and found is None:  # taken back before it began
            context.out({"request": number, "result": result}, result)
            sys.exit(EXIT_FAILED)
        if found is not None and found.ended is not None:
            context.out(_document(store, found.id), f"cycle {found.id} {found.state}: {found.detail}")
            sys.exit({"released": 0, "refused": EXIT_FOUND_BAD}.get(found.state, EXIT_FAILED))
        if not runs:
            what = f"cycle {found.id} goes on" if found is not None else f"request {number} begins"
            document = {"request": number, "daemon": False, "cycle": found.id if found is not None else None}
            context.out(document, f"the daemon does not run any more; {what} when it does")
            sys.exit(EXIT_UNREACHABLE)
        if found is not None:
            text = _at(store, found.id)
        elif clock.monotonic() >= silent_until:
            before = cycles.running(store)
            text = f"request {number} waits for " + (f"the end of cycle {before.id}" if before else "the daemon")
        else:
            text = said
        if text != said and not context.as_json and not context.quiet:
            click.echo(text, err=True)
        said = text


def _at(store: Store, number: int) -> str:
    from edged.storage import cycles

    stages = cycles.stages(store, number)
    if not stages:
        return f"cycle {number} begins"
    last = stages[-1]
    return f"cycle {number}: {last.name}" + ("" if last.ended else f" {last.progress:.0%}")


@cycle.command("cancel")
@click.option("--author", default="command line", show_default=True)
@verb
def cycle_cancel(context: Context, author: str) -> None:
    """End the cycle that runs; it does not begin again on the same labels. Where none runs, or it is ending already, those
    that were asked for are taken back. Exit 4 when there is neither.
    """
    from edged.site import daemon_runs
    from edged.storage import cycles, requests

    with context.store() as store:
        running = cycles.running(store)
        pending = requests.pending(store)
        waiting = [r for r in pending if r.verb == "cycle"]
        ends = next((r.id for r in pending if r.verb == "cancel"), 0) if running else 0
        if not waiting and (running is None or ends):
            what = f"cycle {running.id} is ending already" if running else "no cycle runs"
            raise Refused(what, code="not_found", exit_code=EXIT_NOT_FOUND)
        number = ends
        if running and not ends:
            number = requests.add(store, "cancel", {}, author)
        else:
            for request in waiting:
                requests.done(store, request.id, f"taken back by {author}")
    named = ", ".join(f"request {r.id} of {r.author}" for r in waiting)
    document: dict[str, Any] = {
        "request": number, "cycle": running.id if running else None, "taken_back": [], "waiting": []
    }  # fmt: skip
    document["waiting" if running and not ends else "taken_back"] = [r.id for r in waiting]
    if running is None or ends:
        return context.out(document, f"the cycle that was asked for is taken back: {named}")
    ended = "in a moment" if daemon_runs(context.config().data_dir) else "when the daemon runs, which it does not now"
    stays = f"; still asked for: {named} (`edged cycle cancel` once more takes it back)" if waiting else ""
    context.out(document, f"asked; cycle {running.id} ends {ended}{stays}")


@cycle.command("list")
@click.option("-n", "limit", default=20, show_default=True)
@verb
def cycle_list(context: Context, limit: int) -> None:
    """The last cycles, newest first, and what the next one waits for."""
    from edged import plan
    from edged.clock import SystemClock, iso
    from edged.site import daemon_runs, when_rules
    from edged.storage import cycles

    now, alive = SystemClock().now(), daemon_runs(context.config().data_dir)
    with context.store(readonly=True) as store:
        found = cycles.all(store)[:limit]
        decided = plan.when(store, when_rules(context.config()), now, daemon=alive)
    rows = [
        {"id": c.id, "state": c.state, "why": c.why, "detail": c.detail, "started": iso(c.started),
         "ended": iso(c.ended) if c.ended else None}
        for c in found
    ]  # fmt: skip
    lines = [
        f"{c.id:5}  {iso(c.started)[:16]}  {_state(c.state, alive):8}  {c.why}" + (f": {c.detail}" if c.detail else "")
        for c in found
    ]
    lines.append(f"next: {decided.told}")
    context.out({"cycles": rows, "due": decided.why, "waits": decided.waits, "runs": decided.runs}, "\n".join(lines))


@cycle.command("show")
@click.argument("number", type=int, required=False)
@verb
def cycle_show(context: Context, number: int | None) -> None:
    """One cycle, the last if none is named: its stages with what they took, and the rungs that were tried."""
    from edged.site import daemon_runs
    from edged.storage import cycles
    from edged.web.words import duration, size

    alive = daemon_runs(context.config().data_dir)
    with context.store(readonly=True) as store:
        found = cycles.get(store, number) if number is not None else cycles.running(store) or cycles.latest(store)
        if found is None:
            what = f"no cycle {number}" if number is not None else "no cycle has run yet"
            raise Refused(what, code="not_found", exit_code=EXIT_NOT_FOUND)
        document = _document(store, found.id)
    document["interrupted"] = found.state == "running" and not alive
    later = "; goes on when the daemon runs" if document["interrupted"] else ""
    lines = [
        f"cycle {found.id} {_state(found.state, alive)}{later}: {found.why}"
        + (f"\n  {found.detail}" if found.detail else "")
    ]
    for s in document["stages"]:
        took = duration(s["seconds"]) if s["seconds"] is not None else f"{s['progress']:.0%}"
        if s["eta_s"]:
            took += f", {duration(s['eta_s'])} left"
        cpu = f", {duration(s['cpu_seconds'])} of CPU" if s["cpu_seconds"] else ""
        memory = f", {size(s['peak_bytes'])} at most" if s["peak_bytes"] else ""
        lines.append(f"{s['name']:10} {took}{cpu}{memory}" + (f"  {s['told']}" if s["told"] else ""))
        lines += [
            f"    {r['name']:8} {r['accuracy']:6.1%}  {duration(r['cpu_seconds'])} of CPU"
            + (f" ({duration(r['predicted_seconds'])} predicted)" if r.get("predicted_seconds") else "")
            + (f", {size(r['peak_bytes'])}" if r.get("peak_bytes") else "")
            for r in s["rungs_tried"]
        ]
    context.out(document, "\n".join(lines))


def _state(state: str, daemon: bool) -> str:
    """A cycle that has not ended is at work only while there is a daemon."""
    return "interrupted" if state == "running" and not daemon else state


def _document(store: Store, number: int) -> dict[str, Any]:
    from edged.clock import iso
    from edged.storage import cycles

    found = cycles.get(store, number)
    assert found is not None
    stages = [
        {
            "name": s.name, "started": iso(s.started), "ended": iso(s.ended) if s.ended else None,
            "seconds": round(s.ended - s.started, 1) if s.ended else None, "progress": s.progress, "eta_s": s.eta_s,
            "told": str(s.detail.get("told") or s.detail.get("text") or ""),
            "cpu_seconds": s.detail.get("cpu_seconds"), "peak_bytes": s.detail.get("peak_bytes"),
            "rungs_tried": s.detail.get("rungs_tried") or [],
        }
        for s in sorted(cycles.stages(store, number), key=lambda s: cycles.STAGES.index(s.name))
    ]  # fmt: skip
    return {
        "cycle": found.id, "state": found.state, "why": found.why, "detail": found.detail, "started": iso(found.started),
        "ended": iso(found.ended) if found.ended else None, "stages": stages,
    }  # fmt: skip
