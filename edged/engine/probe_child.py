"""`python -m edged.engine.probe_child RUNTIME SECONDS`: the probe in a process of its own, so that a device's caps hold in it
(libraries read them when they load) and a runtime that crashes under them takes nobody along.

Progress as "share name" lines on stderr, the result as one JSON document on stdout; 3 and {"refused": ...} for a Refused.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping

import msgspec

from edged.clock import SystemClock
from edged.engine import probe
from edged.engine.probe import Probed
from edged.errors import EXIT_FOUND_BAD, Corrupt, EdgedError, Misconfigured


def under(
    caps: Mapping[str, str], known: Collection[str], *, runtime: str, seconds: float,
    progress: Callable[[float, str], None],
) -> Probed:  # fmt: skip
    """Run the suite in a child under `caps`, without any of the `known` ones of ours. Raises Misconfigured: no such runtime;
    Corrupt: the child crashed (the probe it was at is named)."""
    env = {k: v for k, v in os.environ.items() if k not in known} | dict(caps) | {"OMP_WAIT_POLICY": "PASSIVE"}
    argv = [sys.executable, "-P", "-m", "edged.engine.probe_child", runtime, repr(seconds)]
    last = ""
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        try:
            for line in child.stderr:
                share, _, name = line.rstrip("\n").partition(" ")
                if share.replace(".", "", 1).isdigit():
                    last = name
                    progress(float(share), name)
            said = child.stdout.read()
        except BaseException:
            child.kill()
            raise
    if child.returncode == 0:
        return probe.decode(said.encode())
    if child.returncode == EXIT_FOUND_BAD:
        raise Misconfigured(str(json.loads(said)["refused"]))
    raise Corrupt(f"the probe ended with {child.returncode} at {last!r}", code="child_failed")


def main(argv: list[str]) -> int:
    def progress(share: float, name: str) -> None:
        print(f"{share:.4f} {name}", file=sys.stderr, flush=True)

    try:
        found = probe.run(argv[0], seconds=float(argv[1]), progress=progress, clock=SystemClock())
    except EdgedError as e:
        print(json.dumps({"refused": str(e)}))
        return EXIT_FOUND_BAD
    print(msgspec.json.encode(found).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
