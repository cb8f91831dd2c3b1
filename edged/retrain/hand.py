"""The other end of a `worker.py` process: starts it, gives it orders, notices that it died.

Guarantees: a process that is dead or was never started is Died, with how it ended, never a wait without end; it ends with
the thread that started it. Does not guarantee a limit of time for one order: `children.run` watches over the whole stage.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec

from edged.retrain import device, limits, worker
from edged.retrain.jobs import RetestJob
from edged.retrain.worker import Order, Reply


class Died(Exception):
    """The process is gone; the message says how it ended. `signal` 0 = by no signal."""

    def __init__(self, code: int) -> None:
        self.signal = -code if code < 0 else 0
        super().__init__(f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}")


class Hand:
    """One process. Not thread-safe."""

    def __init__(
        self, job: RetestJob, folder: Path, *, core: int = -1, timed: bool = False, log: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        argv = [sys.executable, "-P", "-m", "edged.retrain.worker", str(folder), "--core", str(core)]
        argv += ["--nice", str(max(0, os.getpriority(os.PRIO_PROCESS, 0))), "--parent", str(os.getpid())]
        argv += ["--timed"] if timed else []
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=dict(environment or os.environ)
        )
        self.pid = self._process.pid
        with suppress(BrokenPipeError):  # said when the first answer is waited for
            worker.put(self._stdin, job)

    def ask(self, order: Order) -> Reply:
        """Raises Died."""
        try:
            worker.put(self._stdin, order)
            return msgspec.msgpack.decode(worker.take(self._stdout), type=Reply)
        except (BrokenPipeError, EOFError) as e:
            raise Died(self._process.wait()) from e

    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> float:
        """Ends it; returns the CPU seconds that it took, 0 when it had died."""
        took = limits.cpu_seconds(self.pid)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.2)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        return took

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout


def environment(job: RetestJob) -> dict[str, str]:
    """The device's instruction set and one thread, for a process that is not started by `children.run`."""
    env = {k: v for k, v in os.environ.items() if k not in device.CAPS}
    env |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return env | device.find(job.device).environment()
