"""The demo's folder, ports and configuration on this machine."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

from edged.demo import plans
from edged.errors import Misconfigured


def settings(plan: plans.Plan) -> str:
    """What the demo sets differently from a real site, as TOML."""
    return f"""\
[storage]
min_free = "100MB"

[train]
new_labels = 1000000  # the demo asks for its cycles
on_drift = false
epochs = {plan.epochs}
input_px = {plan.input_px}
architecture = "{plan.architecture}"
max_minutes = 12
threads = 1  # the cameras, the scrub children and the broker live on the same few cores

[retest.gate]
max_loss = 0.05  # a play holds out 100 to 200 pictures: too few to show that no more than 2 points are lost (docs/retest.md)

[rollout]
canary = 1
wait_s = 2
timeout_s = 120
"""


def clear(site: Path) -> None:
    """Make room for a new play; only ever removes a folder that a demo made."""
    marker = site / ".edged-demo"
    if site.exists() and any(site.iterdir()) and not marker.exists():
        raise Misconfigured(f"{site} is not empty and was not made by a demo", hint="`edged demo --dir OTHER`")
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    marker.touch()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def can_listen(port: int) -> bool:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
