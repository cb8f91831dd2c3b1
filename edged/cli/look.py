"""Verbs that only look: status, doctor, config, model ls."""

from __future__ import annotations

import json
import sys

import click

from edged.cli.main import Context, main, verb
from edged.errors import EXIT_FOUND_BAD, EXIT_UNREACHABLE


@main.command()
@verb
def status(context: Context) -> None:
    """One sentence and the facts behind it. Exit 5 when the daemon is away."""
    from edged import health, plan
    from edged.clock import SystemClock, iso
    from edged.site import daemon_outdated, daemon_runs, when_rules
    from edged.storage import leaks, views
    from edged.web.verdict import judge, without
    from edged.web.words import count

    at, alive = SystemClock().now(), daemon_runs(context.config().data_dir)
    configured = [c.id for c in context.config().camera]
    with context.store(readonly=True) as store:
        box, cameras = health.judge(health.look(store, at, runs=alive)), views.cameras(store, at)
        known = [r for r in box.reasons if r.code != "daemon_down"]  # said in other words below
        revoked = health.revoked(store)
        verdict = judge(without(views.now(store, at, configured), revoked), None, known).sentence
        decided = plan.when(store, when_rules(context.config()), at, daemon=alive)
        privacy = leaks.measure(store)
    if not alive:
        verdict = f"The daemon does not run. Last known: {verdict}"
    lines = [f"{r.severity}: {r.text}" + (f" ({r.hint})" if r.hint else "") for r in box.reasons]
    lines += [
        f"{c.id:20} {('online' if c.online else 'offline') if alive else 'unknown':8} release {c.release or '-'},"
        f" last seen {iso(c.last_seen)}"
        + (f", certificate revoked {iso(revoked[c.id])}" if c.id in revoked else "")
        + (f", {count(c.missing.frames, 'frame')} missing since {iso(c.missing.since)}" if c.missing else "")
        for c in cameras
    ]
    silent = views.silent([c.id for c in cameras], configured)
    lines += [f"{c}: has not spoken yet" for c in silent]
    facts: list[dict[str, object]] = [
        {
            "id": c.id,
            "spoke": True,
            "online": c.online if alive else None,
            "release": c.release,
            "last_seen": iso(c.last_seen),
            "fps": c.fps,
            "missing": {"frames": c.missing.frames, "since": iso(c.missing.since)} if c.missing else None,
            "revoked": iso(revoked[c.id]) if c.id in revoked else None,
        }
        for c in cameras
    ]
    nothing = {"release": None, "last_seen": None, "fps": None, "missing": None, "revoked": None}
    facts += [{"id": c, "spoke": False, "online": False if alive else None} | nothing for c in silent]
    outdated = daemon_outdated(context.config().data_dir, context.config_path)
    if outdated:
        lines.append(f"note: {context.config_path} is newer than the daemon, which goes by what it read at its start")
    lines.append(f"next cycle: {decided.told}")
    measured = [r for r in privacy.recalls if r.share is not None]
    lines += [
        f"planted {f'{r.kind}, {r.size}':14} {r.hidden} of {r.n} hidden, {r.share:.1%} ({r.lower:.1%} to {r.upper:.1%})"
        for r in measured
    ] or ["planted pictures: nothing measured yet"]
    hidden = {
        "alarms": [{"code": a.code, "text": a.text, "since": iso(a.since)} for a in privacy.alarms],
        "last": None if privacy.last is None else iso(privacy.last),
        "recall": [
            {"kind": r.kind, "size": r.size, "hidden": r.hidden, "n": r.n, "lower": r.lower, "upper": r.upper}
            for r in measured
        ],
        "unjudged": privacy.unjudged,
    }
    document = {
        "verdict": verdict, "daemon": alive, "config_newer": outdated,
        "next_cycle": {"due": decided.why, "waits": decided.waits, "runs": decided.runs},
        "health": box.document(), "cameras": facts,
        "privacy": hidden, "at": iso(at),
    }  # fmt: skip
    context.out(document, "\n".join([verdict, *lines]))
    if not alive:
        sys.exit(EXIT_UNREACHABLE)


@main.command()
@verb
def doctor(context: Context) -> None:
    """What is wrong with this site and this machine. Exit 3 when something is."""
    from edged.clock import SystemClock
    from edged.doctor import examine

    findings = examine(context.config(), SystemClock())
    lines = [
        f"{'ok  ' if f.ok else 'BAD '} {f.what}: {f.text}" + (f"\n       {f.hint}" if f.hint else "") for f in findings
    ]
    bad = [f for f in findings if not f.ok]
    context.out(
        {"ok": not bad, "findings": [{"what": f.what, "ok": f.ok, "text": f.text, "hint": f.hint} for f in findings]},
        "\n".join(lines),
    )
    if bad:
        sys.exit(EXIT_FOUND_BAD)


@main.group()
def config() -> None:
    """The configuration."""


@config.command("check")
@verb
def config_check(context: Context) -> None:
    """Read it and say whether it can work."""
    from edged.doctor import too_large

    warning = too_large(context.config())
    context.out(
        {"ok": True, "path": str(context.config_path), "warnings": [warning] if warning else []},
        f"{context.config_path} is good" + (f"\nwarning: {warning}" if warning else ""),
    )


@config.command("show")
@verb
def config_show(context: Context) -> None:
    """All keys with their values, defaults included."""
    import msgspec

    document = msgspec.to_builtins(context.config())
    context.out({"config": document}, json.dumps(document, indent=2))


@config.command("schema")
def config_schema() -> None:
    """JSON Schema of the configuration."""
    import msgspec

    from edged.config import Config

    click.echo(json.dumps(msgspec.json.schema(Config), indent=2, sort_keys=True))
