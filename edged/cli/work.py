"""`edged sync`: what may leave the box, and what did."""

from __future__ import annotations

import sys

from edged.cli.main import Context, main, verb
from edged.errors import EXIT_FOUND_BAD


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
