"""Video files and live cameras, decoded in a child process: a crafted file can make OpenCV abort the whole process.

The parent writes one byte to ask for a picture; the child (`python -m agent.video ...`) answers with two little-endian
uint32 (width, height) and the raw BGR bytes, or with 0, 0 at the end. A file is read at its own speed (pictures are
passed over when `fps` is lower than the clip's); of a live camera the newest picture is given.

Guarantees: the parent survives whatever the child does, and never waits longer than a moment in `poll`; the child ends
when its parent does (its stdin closes).
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import struct
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from agent.source import WAIT_S, Shot, Tally
from edged.clock import Clock
from edged.errors import Misconfigured

HEAD = struct.Struct("<II")
MAX_PIXELS = 4096 * 4096
SILENT_S = 30.0  # a child that says nothing for so long is given up
MEMORY = 4 << 30  # bytes of address space: 4K decoding with threads, and no more


class Ended(Exception):
    """The child gave its last picture; the text says why."""


class VideoChild:
    """One decoder process. `poll` gives the next picture, or None when there is none yet; raises Ended."""

    def __init__(
        self, where: str, *, live: bool, loop: bool, fps: float, clock: Clock, silent_s: float = SILENT_S
    ) -> None:
        self.where, self.live, self._clock, self._silent_s = where, live, clock, silent_s
        self._asked: float | None = None
        environment = {k: v for k, v in os.environ.items() if not k.startswith("EDGED_")}
        environment |= {"OPENCV_IO_MAX_IMAGE_PIXELS": str(MAX_PIXELS), "OPENCV_LOG_LEVEL": "SILENT"}
        environment |= {"OPENCV_FFMPEG_LOGLEVEL": "-8"}
        command = [
            sys.executable,
            "-m",
            "agent.video",
            "live" if live else "file",
            "1" if loop else "0",
            str(fps),
            where,
        ]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def ended(self) -> bool:
        return self._child.poll() is not None

    def poll(self) -> NDArray[np.uint8] | None:
        """uint8 [h, w, 3] BGR, waiting for at most WAIT_S for its first byte."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        if self._asked is None:
            try:
                self._child.stdin.write(b"n")
                self._child.stdin.flush()
            except OSError as e:
                raise Ended(self._death()) from e
            self._asked = self._clock.monotonic()
        ready, _, _ = select.select([self._child.stdout], [], [], WAIT_S)
        if not ready:
            if self._clock.monotonic() - self._asked > self._silent_s:
                self.close()
                raise Ended(f"the decoder said nothing for {self._silent_s:.0f} s")
            return None
        head = self._exactly(HEAD.size)
        width, height = HEAD.unpack(head)
        if width == 0 or width * height > MAX_PIXELS:
            self.close()
            raise Ended("it has no more pictures" if width == 0 else f"{width}x{height} is too large")
        self._asked = None
        return np.frombuffer(self._exactly(width * height * 3), np.uint8).reshape(height, width, 3)

    def close(self) -> None:
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # an unsent byte for a child that is gone
                    pipe.close()
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()

    def _exactly(self, size: int) -> bytes:
        assert self._child.stdout is not None
        data = self._child.stdout.read(size)
        if len(data) != size:
            raise Ended(self._death())
        return data

    def _death(self) -> str:
        self.close()
        code = self._child.returncode
        return f"the decoder was killed by signal {-code}" if code < 0 else f"the decoder left with exit code {code}"


def shots(child: VideoChild, tally: Tally, clock: Clock) -> Iterator[Shot | None]:
    """Pictures with the time at which they came. Raises Misconfigured when a file does not give even one."""
    first = True
    while True:
        try:
            image = child.poll()
        except Ended as e:
            if first and not child.live:
                raise Misconfigured(f"{child.where} is no video that can be read: {e}") from e
            tally.ended = str(e)
            return
        if image is None:
            yield None
            continue
        first = False
        yield Shot(image, clock.now())


def main(arguments: list[str]) -> int:
    """The child. Its stdout carries pictures and nothing else."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    kind, loop, fps, where = arguments[0], arguments[1] == "1", float(arguments[2]), arguments[3]
    import cv2

    video = cv2.VideoCapture(where)
    if kind == "live":
        return _live(video)
    stride = max(1, round((video.get(cv2.CAP_PROP_FPS) or 25) / fps)) if fps > 0 else 1
    fresh = True
    while os.read(0, 1):
        good, image = video.read()
        if not good and loop and not fresh:
            video.release()
            video = cv2.VideoCapture(where)
            good, image = video.read()
        if not good:
            _answer(None)
            return 0
        _answer(np.asarray(image, np.uint8))
        fresh = False
        for _ in range(stride - 1):
            if not video.grab():
                break
    return 0


def _live(video: object) -> int:
    """Takes each picture off the camera as it comes, so that the one that is asked for is new."""
    while video.grab():  # type: ignore[attr-defined]
        ready, _, _ = select.select([0], [], [], 0)
        if not ready:
            continue
        if not os.read(0, 1):
            return 0
        good, image = video.retrieve()  # type: ignore[attr-defined]
        if not good:
            break
        _answer(image)
    _answer(None)
    return 0


def _answer(image: NDArray[np.uint8] | None) -> None:
    if image is None:
        sys.stdout.buffer.write(HEAD.pack(0, 0))
    else:
        height, width = image.shape[:2]
        sys.stdout.buffer.write(HEAD.pack(width, height))
        sys.stdout.buffer.write(np.ascontiguousarray(image).data)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
