"""The crowd's process as its starter has it: orders out, events in."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from bench.broker import cpu_of
from bench.fleets.place import Place
from edged.clock import stopwatch


class Throng:
    """A context manager around `python -m bench.fleets.crowd`."""

    def __init__(self, place: Place) -> None:
        command = [sys.executable, "-m", "bench.fleets.crowd", str(place.folder), str(place.port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._clock = place.clock
        self._heard: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._over = False
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __enter__(self) -> Throng:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # it has ended by itself
            self._order({"end": 1})
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):  # what is left in it for a process that is gone
                pipe.close()

    def connect(self, names: Sequence[str], limit_s: float = 300.0) -> int:
        """Returns how many are online then."""
        self._order({"connect": list(names)})
        return int(self._next("ready", limit_s)["ready"])

    def cut(self, names: Sequence[str], for_s: float, at: float) -> None:
        """Their cables are pulled when they have the share `at` of their next download; they come back by themselves."""
        self._order({"cut": list(names), "for_s": for_s, "at": at})

    def told(self) -> dict[str, int]:
        """Totals since the start."""
        self._order({"tell": 1})
        return dict(self._next("told", 60)["told"])

    def complete(self, release: int, cameras: int, limit_s: float) -> list[float]:
        """Wait until so many have this release; returns when each one was there (monotonic seconds), fewer if it took
        too long."""
        end = stopwatch() + limit_s
        with self._changed:
            while True:
                times = [e["at"] for e in self._heard if e.get("complete") == release]
                left = end - stopwatch()
                if len(times) >= cameras or left <= 0 or self._over:
                    return sorted(times)
                self._changed.wait(min(left, 1.0))

    def cpu(self) -> float:
        return cpu_of(self._process.pid)

    def _order(self, what: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def _next(self, kind: str, limit_s: float) -> dict[str, Any]:
        end = stopwatch() + limit_s
        with self._changed:
            while True:
                found = next((e for e in self._heard if kind in e), None)
                if found is not None:
                    self._heard.remove(found)
                    return found
                if self._over or stopwatch() > end:
                    raise SystemExit(f"the crowd did not say {kind}")
                self._changed.wait(1.0)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self._heard.append(json.loads(line))
                self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()
