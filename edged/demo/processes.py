"""The processes of a site on one machine: start, watch, start again, stop.

Stands in for systemd in the demo: a process that ends without being told to is started again after a second, at most
ten times. Each writes its output to `<site>/log/<name>.log` and its number to `<site>/run/<name>.pid`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

from edged.clock import Clock
from edged.errors import Unavailable

MAX_RESTARTS = 10


@dataclass
class _Process:
    command: list[str]
    popen: subprocess.Popen[bytes]
    restarts: int = 0


@dataclass
class Processes:
    """Named child processes; `watch` runs in a thread of its own until `stop`."""

    site: Path
    clock: Clock
    confines: dict[str, tuple[str, ...]] = field(default_factory=dict)  # words that a process's command is run by
    _running: dict[str, _Process] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self, name: str, command: list[str]) -> None:
        """Start a process; one of the same name that runs is ended first."""
        with self._lock:
            before = self._running.pop(name, None)
            if before is not None:
                _end(before.popen)
            self._running[name] = _Process(command, self._spawn(name, command))
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
            self._thread.start()

    def restarts(self) -> dict[str, int]:
        """How often each process had to be started again."""
        with self._lock:
            return {name: p.restarts for name, p in self._running.items()}

    def tail(self, name: str, lines: int = 12) -> str:
        """The last lines of a process's log, for an error message."""
        with contextlib.suppress(OSError):
            return "\n".join(self._log(name).read_text(errors="replace").splitlines()[-lines:])
        return ""

    def check(self) -> None:
        """Raises Unavailable, with the end of its log, if a process died more often than it may."""
        with self._lock:
            given_up = [
                n for n, p in self._running.items() if p.popen.poll() is not None and p.restarts >= MAX_RESTARTS
            ]
        for name in given_up:
            raise Unavailable(f"{name} ended {MAX_RESTARTS} times:\n{self.tail(name)}", exit_code=1)

    def stop(self) -> None:
        """SIGTERM in reverse order of start, SIGKILL after ten seconds."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        for process in reversed(self._running.values()):
            process.popen.terminate()
        for name, process in reversed(self._running.items()):
            _end(process.popen)
            (self.site / "run" / f"{name}.pid").unlink(missing_ok=True)

    def _log(self, name: str) -> Path:
        return self.site / "log" / f"{name}.log"

    def _spawn(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        for folder in ("log", "run"):
            (self.site / folder).mkdir(exist_ok=True)
        environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"} | {"PYTHONUNBUFFERED": "1"}
        with self._log(name).open("ab") as log:
            popen = subprocess.Popen(
                [*self.confines.get(name, ()), *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=environment, start_new_session=True,
            )  # fmt: skip
        (self.site / "run" / f"{name}.pid").write_text(f"{popen.pid}\n")
        return popen

    def _watch(self) -> None:
        while not self._stopping.is_set():
            with self._lock:
                ended = [
                    (n, p) for n, p in self._running.items() if p.popen.poll() is not None and p.restarts < MAX_RESTARTS
                ]
            for name, process in ended:
                self.clock.sleep(1.0)
                if self._stopping.is_set():
                    return
                with self._lock:
                    if self._running.get(name) is process:
                        process.restarts += 1
                        process.popen = self._spawn(name, process.command)
            self.clock.sleep(0.2)


def _end(popen: subprocess.Popen[bytes]) -> None:
    """SIGTERM, SIGKILL after ten seconds."""
    popen.terminate()
    try:
        popen.wait(timeout=10)
    except subprocess.TimeoutExpired:
        popen.kill()
        popen.wait()
