"""Real agent processes with a supervisor that does what systemd/edged-agent.service says: started again RestartSec after
any end, and killed beyond MemoryMax (looked at every LOOK_S here, by the kernel there).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from agent.pipeline import encode
from agent.slots import Pointer, Slot
from bench.broker import resident
from bench.fleets.faulty import picture
from bench.fleets.place import HARDWARE, SITE, Place
from edged.clock import SystemClock

HOOK = Path(__file__).parent / "hook"
PICTURES = 12
RESTART_S = 3.0  # RestartSec
MEMORY_MAX = 768 * 2**20  # MemoryMax=75% of a camera with 1 GiB
LOOK_S = 0.05


class Cameras:
    """One `edged-agent run` for each camera of the place; a context manager. `settings`: keys of the agent's file."""

    def __init__(
        self, place: Place, *, fps: float = 2.0, restart_s: float = RESTART_S, settings: Mapping[str, float] | None = None
    ) -> None:  # fmt: skip
        self.place, self._restart_s = place, restart_s
        self._fps = fps
        self._settings = place.folder.parent / "agent.toml"
        self._settings.write_text("".join(f"{k} = {v:g}\n" for k, v in (settings or {}).items()))
        self.pictures = place.folder.parent / "pictures"
        self.pictures.mkdir()
        for i in range(PICTURES):
            (self.pictures / f"{i:02}.jpg").write_bytes(encode(picture(i % 2 == 0, i)))
        self.ends: dict[str, list[int]] = {name: [] for name in place.cameras}  # exit codes, oldest first
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._stop = threading.Event()
        self._lock = threading.Lock()
        (place.folder.parent / "log").mkdir()

    def __enter__(self) -> Cameras:
        for name in self.place.cameras:
            self._start(name)
        self._watch = threading.Thread(target=self._supervise, name="supervisor")
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._watch.join()
        with self._lock:
            for process in self._running.values():
                process.send_signal(signal.SIGTERM)
            for process in self._running.values():
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def pid(self, camera: str) -> int:
        with self._lock:
            return self._running[camera].pid

    def log(self, camera: str) -> str:
        return self._log(camera).read_text(errors="replace")

    def state(self, camera: str) -> tuple[Slot | None, Pointer]:
        """What the camera's disk says that it runs, and how sure it is of that."""
        slots = self.place.folder / "cameras" / camera / "slots"
        try:
            pointer = msgspec.json.decode((slots / "pointer.json").read_bytes(), type=Pointer)
            if not pointer.active:
                return None, pointer
            return msgspec.json.decode((slots / pointer.active / "slot.json").read_bytes(), type=Slot), pointer
        except FileNotFoundError:
            return None, Pointer()

    def _log(self, camera: str) -> Path:
        return self.place.folder.parent / "log" / f"{camera}.log"

    def _start(self, camera: str) -> None:
        place = self.place
        keys = place.tls(camera)
        command = [
            sys.executable, "-P", "-m", "agent", "run", "--site", SITE, "--camera", camera,
            "--broker", f"127.0.0.1:{place.port}", "--ca", keys.ca, "--cert", keys.cert, "--key", keys.key,
            "--root", str(place.folder / "tuf" / "1.root.json"), "--state", str(place.folder / "cameras" / camera),
            "--source", f"folder:{self.pictures}?kind=roi&loop=1", "--fps", f"{self._fps:g}",
            "--hardware", HARDWARE, "--runtime", "onnxruntime", "--threads", "1", "--no-fsync", "-c", str(self._settings),
        ]  # fmt: skip
        path = os.pathsep.join(p for p in (str(HOOK), os.environ.get("PYTHONPATH", "")) if p)
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        with self._log(camera).open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        with self._lock:
            self._running[camera] = process

    def _supervise(self) -> None:
        clock, due = SystemClock(), dict[str, float]()
        while not self._stop.is_set():
            now = clock.monotonic()
            with self._lock:
                self._limit_memory()
                ended = {n: p.returncode for n, p in self._running.items() if p.poll() is not None and n not in due}
            for name, code in ended.items():
                self.ends[name].append(code)
                due[name] = now + self._restart_s
            for name in [n for n, at in due.items() if at <= now]:
                del due[name]
                self._start(name)
            self._stop.wait(LOOK_S)

    def _limit_memory(self) -> None:
        for process in self._running.values():
            with suppress(OSError, IndexError):
                if process.poll() is None and resident(process.pid) > MEMORY_MAX:
                    process.kill()
