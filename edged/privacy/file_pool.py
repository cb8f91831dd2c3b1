"""The parent's end of a file child: start it, hand it one open file at a time, end it when it is late, dead or lies.

Guarantees: this process decodes nothing; a picture is handed on only as a plain JPEG or PNG of the size that was said,
a film only when as many frames came as the child says; after anything but a plain refusal the child is ended, so that
nothing of one file can come out with the next. Does not guarantee: that a file which ends its child is tried again.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from edged.errors import EXIT_NOT_FOUND, EdgedError, Misconfigured, Refused, Unavailable
from edged.privacy import file_talk, jpeg
from edged.privacy.file_talk import (
    Begin,
    Declined,
    DoAudit,
    DoFilm,
    DoPicture,
    GotAudit,
    GotFilm,
    GotFrame,
    GotPicture,
    Opened,
    Ready,
    Task,
)  # fmt: skip
from edged.privacy.pool import environment
from edged.privacy.scrub import Polygon, ScrubOptions, Withheld

START_S = 120.0
COMMAND = (sys.executable, "-P", "-m", "edged.privacy.file_child")

A = TypeVar("A", bound=Struct)


class FileChild:
    """A file child, started when it is needed and again after it failed. Not thread-safe.

    `stall_s` is the longest silence: of the child over one frame or picture, of the encoder over taking one.
    """

    def __init__(
        self, options: ScrubOptions, *, threads: int = 1, stall_s: float = 60.0, command: Sequence[str] = COMMAND
    ) -> None:
        self._begin = Begin(options, threads, stall_s)
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._end: socket.socket | None = None
        self._seq = 0

    @property
    def pid(self) -> int:
        """Of the child that runs now, 0 = none."""
        return self._process.pid if self._process else 0

    @property
    def stall_s(self) -> float:
        return self._begin.stall_s

    @property
    def threads(self) -> int:
        return self._begin.threads

    def __enter__(self) -> FileChild:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End it."""
        if self._end is not None:
            self._end.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._end = self._process = None

    def start(self) -> None:
        """Raises Misconfigured or Unavailable (code child_down) when it cannot work."""
        if self._process is not None:
            return
        ours, theirs = socket.socketpair()
        with theirs:
            env = environment() | {
                "OPENCV_LOG_LEVEL": "SILENT", "OPENCV_FFMPEG_LOGLEVEL": "-8",
                "OMP_NUM_THREADS": str(self._begin.threads), "OPENBLAS_NUM_THREADS": str(self._begin.threads),
            }  # fmt: skip
            env.pop("OPENCV_IO_MAX_IMAGE_PIXELS", None)
            self._process = subprocess.Popen(
                self._command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", env=env,
                process_group=0,  # so that Ctrl-C reaches only us
            )  # fmt: skip
        self._end = ours
        with self._or_end():
            ours.settimeout(START_S)
            file_talk.send(ours, self._begin)
            answer = self._receive()
            if isinstance(answer, Declined):
                if answer.family == "misconfigured":
                    raise Misconfigured(answer.message, hint=answer.hint, code=answer.code)
                raise Unavailable(f"the file child cannot start: {answer.message}", code="child_down")
            if not isinstance(answer, Ready):
                raise self._lied()
            ours.settimeout(self._begin.stall_s)

    def picture(self, source: Path, to: str, masks: Sequence[Polygon] = ()) -> tuple[GotPicture, bytes]:
        """The scrubbed picture as JPEG or PNG. Raises Refused, Withheld, Unavailable."""
        with self._asked(source, DoPicture(0, to, tuple(masks))) as seq:  # type: ignore[arg-type]
            got = self._expect(GotPicture, seq)
            raw = bytearray(got.size)
            self._fill(memoryview(raw))
            _plain(bytes(raw), to, got.width, got.height)
            return got, bytes(raw)

    def audit(self, source: Path, task: DoAudit) -> GotAudit:
        """Raises Refused, Withheld, Unavailable."""
        with self._asked(source, task) as seq:
            got = self._expect(GotAudit, seq)
            if len(got.shares) != len(task.boxes) or len(got.boxes) != len(task.boxes):
                raise self._lied()
            return got

    def film(
        self, source: Path, masks: Sequence[Polygon], opened: Callable[[Opened], Callable[[memoryview], None]]
    ) -> GotFilm:
        """Every frame, BGR, goes to what `opened` returned. Raises Refused, Withheld, Unavailable."""
        with self._asked(source, DoFilm(0, tuple(masks))) as seq:
            about = self._expect(Opened, seq)
            if about.width * about.height > file_talk.MAX_FILM_PIXELS:
                raise self._lied()
            frame = memoryview(bytearray(about.width * about.height * 3))
            take, count = opened(about), 0
            while True:
                answer = self._receive()
                if isinstance(answer, GotFrame) and answer.seq == seq:
                    self._fill(frame)
                    take(frame)
                    count += 1
                elif isinstance(answer, GotFilm) and (answer.seq, answer.frames) == (seq, count):
                    return answer
                else:
                    raise self._no(answer, seq)

    @contextmanager
    def _asked(self, source: Path, task: Task) -> Iterator[int]:
        try:
            file = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as e:
            missing = isinstance(e, FileNotFoundError)
            raise Refused(
                f"cannot read {source}: {e.strerror}", code="not_found" if missing else "unreadable",
                exit_code=EXIT_NOT_FOUND if missing else None,
            ) from e  # fmt: skip
        try:
            self.start()
            self._seq += 1
            with self._or_end():
                assert self._end is not None
                file_talk.send(self._end, msgspec.structs.replace(task, seq=self._seq), file=file)
                yield self._seq
        finally:
            os.close(file)

    @contextmanager
    def _or_end(self) -> Iterator[None]:
        """Whatever goes wrong, unless the child itself said so, it is ended: nothing of it comes with the next file."""
        try:
            yield
        except (Refused, Withheld) as e:
            if e.code in ("bad_answer", "child_died", "timeout"):
                self.close()
            raise
        except TimeoutError as e:
            self.close()
            raise Withheld(f"the file child was silent for {self._begin.stall_s:g} s", code="timeout") from e
        except (ConnectionError, BrokenPipeError) as e:
            raise self._died() from e
        except BaseException:
            self.close()
            raise

    def _expect(self, wanted: type[A], seq: int) -> A:
        answer = self._receive()
        if isinstance(answer, wanted) and getattr(answer, "seq", None) == seq:
            return answer
        raise self._no(answer, seq)

    def _no(self, answer: Any, seq: int) -> EdgedError:
        if isinstance(answer, Declined) and answer.seq == seq:
            if answer.family == "refused":
                return Refused(answer.message, code=answer.code)
            return Withheld(answer.message, code=answer.code)
        return self._lied()

    def _receive(self) -> file_talk.Answer:
        assert self._end is not None
        try:
            body, file = file_talk.receive(self._end)
            if file is not None:
                os.close(file)
            if not body:
                raise self._died()
            answer: file_talk.Answer = msgspec.msgpack.decode(body, type=file_talk.Answer)
        except (ValueError, RecursionError) as e:  # msgspec's errors are ValueErrors
            raise self._lied() from e
        return answer

    def _fill(self, buffer: memoryview) -> None:
        assert self._end is not None
        if not file_talk.receive_into(self._end, buffer):
            raise self._died()

    def _lied(self) -> Withheld:
        return Withheld("the file child's answer does not hold together", code="bad_answer")

    def _died(self) -> Withheld:
        process, how = self._process, "ended"
        if process is not None:
            try:
                status = process.wait(5)
                how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            except subprocess.TimeoutExpired:
                how = "closed its socket"
        self.close()
        return Withheld(f"the process that decodes the file {how}", code="child_died")


def _plain(data: bytes, to: str, width: int, height: int) -> None:
    """Raises Withheld (bad_answer) for a picture that carries more than pixels or is of another size than was said."""
    try:
        if to == "png":
            size = _png(data)
            more: tuple[str, ...] = ()
        else:
            header = jpeg.check(data, max_pixels=file_talk.MAX_PIXELS, max_side=65535)
            size, more = (header.width, header.height), jpeg.metadata(data)
    except Refused as e:
        raise Withheld(f"the file child's picture does not hold: {e}", code="bad_answer") from e
    if more or size != (width, height):
        raise Withheld("the file child's picture is not what it said", code="bad_answer")


def _png(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG (ISO 15948) of nothing but a header and pixels."""
    at, size = 8, (0, 0)
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise Refused("not a PNG", code="bad_picture")
    while at + 12 <= len(data):
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body, at = data[at + 8 : at + 8 + length], at + 12 + length
        if name not in (b"IHDR", b"IDAT", b"IEND") or at > len(data):
            raise Refused("a PNG with more than pixels", code="bad_picture")
        if int.from_bytes(data[at - 4 : at], "big") != zlib.crc32(name + body):
            raise Refused("a damaged PNG", code="bad_picture")
        if name == b"IHDR":
            size = int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big")
        if name == b"IEND":
            break
    if at != len(data) or name != b"IEND":
        raise Refused("a PNG cut short or with bytes behind its end", code="bad_picture")
    return size
