"""`edged drift`: has a camera's world changed?"""

from __future__ import annotations

import click

from edged.cli.main import Context, main, verb


@main.group()
def drift() -> None:
    """Whether what the cameras see is still what their model knows."""


@drift.command("show")
@click.option("--camera", help="Only this one.")
@verb
def drift_show(context: Context, camera: str | None) -> None:
    """The newest look of each test at each camera, and who drifts since when."""
    from edged.clock import iso
    from edged.errors import EXIT_NOT_FOUND, Refused
    from edged.storage import drifts

    enabled = context.config().drift.enabled
    with context.store(readonly=True) as store:
        standing = [s for s in drifts.standing(store) if camera in (None, s.camera)]
        looks = drifts.latest(store, camera)
        known = drifts.cameras(store)
    if camera is not None and camera not in known:
        raise Refused(
            f"no camera {camera[:63]} was looked at yet", hint="the watch begins when a camera's model has answered",
            code="not_found", exit_code=EXIT_NOT_FOUND,
        )  # fmt: skip
    document = {
        "enabled": enabled,
        "drifting": [
            {"camera": s.camera, "since": iso(s.since), "score": s.score, "text": s.sentence} for s in standing
        ],
        "looks": [
            {
                "camera": e.camera, "class": e.class_, "test": e.test, "model": e.model, "at": iso(e.ts), "n": e.n,
                "score": e.score, "p": e.p, "alarm": e.alarm, "text": e.detail,
            }
            for e in looks
        ],
    }  # fmt: skip
    lines = [f"drift since {iso(s.since)}: {s.sentence}" for s in standing]
    lines += [
        f"{iso(e.ts)} {e.camera:20} {e.test + (' ' + e.class_ if e.class_ else ''):20} {e.score:5.2f}"
        f" {'ALARM' if e.alarm else 'ok   '} {e.detail}"
        for e in looks
    ]
    if not enabled:
        lines.insert(0, "drift is not watched: [drift] enabled is false")
    context.out(document, "\n".join(lines) or "no camera was looked at yet")
