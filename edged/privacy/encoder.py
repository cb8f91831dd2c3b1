"""Scrubbed frames to a film file: by the `ffmpeg` program where there is one, else by OpenCV without sound.

Guarantees: the process that encodes sees covered frames only; nothing of the source's metadata is copied, only its
sound; no shell, and no protocol but files and pipes. Does not guarantee variable frame times: the film runs at the
source's mean rate. `python -m edged.privacy.encoder` is OpenCV's end: raw BGR frames on standard input.
"""

from __future__ import annotations

import os
import selectors
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from edged.clock import stopwatch
from edged.errors import Misconfigured, Unavailable

CONTAINERS = (".mp4", ".m4v", ".mov", ".mkv", ".avi")
QUIET = ("-hide_banner", "-nostdin", "-loglevel", "error", "-y")
PLAIN = ("-map_metadata", "-1", "-map_chapters", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact")
QUALITY = ("-preset", "veryfast", "-crf", "20")
SAID_KEPT = 400
START_S = 60.0  # for its imports

Sound = Literal["copied", "encoded", "none"]


def ffmpeg() -> str | None:
    """The program on the PATH."""
    return shutil.which("ffmpeg")


def command(program: str | None, out: Path, width: int, height: int, fps: float, threads: int) -> list[str]:
    """What encodes raw BGR frames from standard input into `out`, without sound."""
    if program is None:
        return [sys.executable, "-P", "-m", "edged.privacy.encoder", str(out), str(width), str(height), repr(fps)]
    # A picture of an odd side has no half as many colour samples.
    colours = "yuv420p" if width % 2 == 0 and height % 2 == 0 else "yuv444p"
    return [
        program, *(word for word in QUIET if word != "-nostdin"), "-protocol_whitelist", "file,pipe",
        "-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{width}x{height}", "-r", f"{fps:.6f}", "-i", "pipe:0",
        "-an", "-c:v", "libx264", *QUALITY, "-pix_fmt", colours, "-threads", str(threads), *PLAIN, _url(out),
    ]  # fmt: skip


def with_sound(program: str, film: Path, source: Path, out: Path, how: Sound) -> list[str]:
    """What joins the encoded film with the sound of `source`; "none" succeeds only where it has none."""
    sound = ("-c:a", "aac", "-b:a", "160k") if how == "encoded" else ("-c:a", "copy")
    wanted = "1:a?" if how == "none" else "1:a"
    return [
        program, *QUIET, "-protocol_whitelist", "file", "-i", _url(film), "-vn", "-protocol_whitelist", "file",
        "-i", _url(source), "-map", "0:v:0", "-map", wanted, "-c:v", "copy", *sound, *PLAIN,
        "-map_metadata:s", "-1", "-movflags", "+faststart", _url(out),
    ]  # fmt: skip


def _url(path: Path) -> str:
    return f"file:{path}"  # a name such as "concat:a" is a protocol to ffmpeg


class Encoder:
    """A process that encodes. `write` each frame, then `finish`; `kill` in any case."""

    def __init__(self, command: Sequence[str], stall_s: float, environment: dict[str, str]) -> None:
        self._stall_s, self._begins_s = stall_s, START_S
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 closed in kill
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=self._said, stderr=self._said, env=environment, bufsize=0,
                process_group=0,
            )  # fmt: skip
        except OSError as e:
            self._said.close()
            raise Misconfigured(f"{command[0]} does not start: {e.strerror}") from e
        assert self._process.stdin
        self._in = self._process.stdin
        os.set_blocking(self._in.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._in, selectors.EVENT_WRITE)

    def write(self, data: memoryview) -> None:
        """Raises Unavailable (code encoder) when it does not take the frame in time, or ended."""
        while len(data):
            if not self._selector.select(self._stall_s + self._begins_s):
                raise Unavailable(f"the encoder took no frame for {self._stall_s:g} s", code="encoder")
            try:
                data = data[os.write(self._in.fileno(), data) :]
            except BlockingIOError:
                continue
            except BrokenPipeError as e:
                raise Unavailable(f"the encoder ended early: {self.said()}", code="encoder") from e
        self._begins_s = 0.0

    def finish(self) -> None:
        """No more frames; waits until the file is whole. Raises Unavailable (code encoder)."""
        self._selector.close()
        self._in.close()
        try:
            status = self._process.wait(self._stall_s + START_S)  # what it still holds is encoded now
        except subprocess.TimeoutExpired as e:
            raise Unavailable(f"the encoder did not end within {self._stall_s:g} s", code="encoder") from e
        if status:
            raise Unavailable(f"the encoder failed: {self.said()}", code="encoder")

    def said(self) -> str:
        """Its last words."""
        size = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, size - SAID_KEPT))
        words = self._said.read().decode("utf-8", "replace").strip().splitlines()
        return "".join(c for c in words[-1] if c.isprintable()) if words else "it said nothing"

    def kill(self) -> None:
        """End it, if it has not ended; may be called again."""
        self._selector.close()
        self._in.close()
        self._process.kill()
        self._process.wait()
        self._said.close()


def run(words: Sequence[str], limit_s: float, environment: dict[str, str]) -> bool:
    """Whether a command ended well within its time."""
    began = stopwatch()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment, process_group=0
        )
        try:
            return process.wait(max(1.0, limit_s - (stopwatch() - began))) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            process.kill()
            process.wait()


def main(words: Sequence[str]) -> int:
    """OUT WIDTH HEIGHT FPS; frames on standard input."""
    import cv2
    import numpy as np

    out, width, height, fps = words[0], int(words[1]), int(words[2]), float(words[3])
    kind = "XVID" if out.endswith(".avi") else "mp4v"
    film = cv2.VideoWriter(out, cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*kind), fps, (width, height))
    if not film.isOpened():
        print(f"OpenCV cannot write {Path(out).suffix} films here", file=sys.stderr)
        return 1
    frame = np.empty((height, width, 3), np.uint8)
    buffer, source = frame.data.cast("B"), sys.stdin.buffer
    while True:
        got = 0
        while got < len(buffer) and (n := os.readv(source.fileno(), [buffer[got:]])):
            got += n
        if got < len(buffer):
            break
        film.write(frame)
    film.release()
    return 1 if got else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
