"""`edged-agent probe`: how fast this camera runs each kind of layer, to a file or to the box (engine/probe.py).

Guarantees: what is to be sent lies in the state directory until the cable has taken it; a running agent sends it within its
next report, since a second connection of the same camera would throw the first one out. Does not guarantee that the box
keeps it: it takes one an hour.
"""

from __future__ import annotations

import sys
from pathlib import Path

from agent.settings import Settings
from edged import durable
from edged.clock import Clock
from edged.errors import Refused, Unavailable
from edged.wire import messages, topics
from edged.wire.link import Link
from edged.wire.messages import Probed

WAITING = "probe.json"  # in the state directory
LEAF = "probe"
SENT_S = 10.0  # until the broker has taken it


TELL_S = 5.0  # between two lines of progress where stderr is no terminal


def measure(runtime: str, seconds: float, clock: Clock, *, quiet: bool = False) -> Probed:
    """The suite, with its progress on stderr: one line that is written over on a terminal, else a line now and then."""
    from edged.engine import probe  # 1 MiB and 30 ms that a running agent has no use for

    began = told = clock.monotonic()
    shown = not quiet and sys.stderr.isatty()
    if not quiet and not shown:
        print("probing: a hundred small networks are made, loaded and timed", file=sys.stderr, flush=True)

    def progress(share: float, name: str) -> None:
        nonlocal told
        now = clock.monotonic()
        left = f", about {(now - began) * (1 - share) / share:.0f} s left" if share > 0.02 else ""
        if shown:
            print(f"\r\033[K{share:4.0%} {name}{left}", end="", file=sys.stderr, flush=True)
        elif not quiet and now - told >= TELL_S:
            told = now
            print(f"probing: {share:.0%} {name}{left}", file=sys.stderr, flush=True)

    try:
        return probe.run(runtime, seconds=seconds, progress=progress, clock=clock)
    finally:
        if shown:
            print("\r\033[K", end="", file=sys.stderr)


def leave(state: Path, probed: Probed) -> None:
    """Put it where it will be sent from."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    durable.write(state / WAITING, messages.encode(probed))


def send(state: Path, link: Link, site: str, camera: str) -> bool:
    """Send what waits, if anything; False when nothing did. Raises Unavailable when the cable does not take it."""
    path = state / WAITING
    try:
        payload = path.read_bytes()
    except FileNotFoundError:
        return False
    from edged.engine import probe

    try:
        probe.decode(payload)
        link.publish(topics.cam(site, camera, LEAF), payload)
    except Refused:
        path.unlink(missing_ok=True)
        raise
    path.unlink(missing_ok=True)
    return True


def send_now(settings: Settings, clock: Clock) -> None:
    """Connect as this camera and send what waits. Raises Unavailable when the box is away."""
    from edged.wire.paho import PahoLink

    link = PahoLink(settings.endpoint())
    try:
        if not link.wait_connected(SENT_S):
            raise Unavailable(
                f"{settings.broker}: {link.disconnect_reason}", hint="it is kept, and sent by the next run"
            )
        send(Path(settings.state), link, settings.site, settings.camera)
        until = clock.monotonic() + SENT_S
        while link.backlog() and clock.monotonic() < until:
            clock.sleep(0.05)
    finally:
        link.close()
