"""`python -m edged.privacy.file_child`: where picture and film files are decoded, scrubbed and handed back.

Serves a socket (its standard input) until it closes. Guarantees: it is shut in before it sees a byte of a file: no new
sockets, no programs, no file can be written, memory is limited; files arrive as open descriptors; one frame that takes
far longer than its time ends the process even when the parent is gone. Does not guarantee an answer: decoders can end
the process; the parent treats that as a file that could not be scrubbed.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from edged.errors import EdgedError, Misconfigured, Refused
from edged.privacy import confine, file_talk
from edged.privacy.file_talk import (
    Answer,
    Begin,
    Declined,
    DoAudit,
    DoFilm,
    DoPicture,
    GotFilm,
    GotFrame,
    GotPicture,
    Opened,
    Question,
    Ready,
    Task,
)  # fmt: skip
from edged.privacy.scrub import Withheld

if TYPE_CHECKING:
    from edged.privacy.detect import Detector

USUAL_FPS = 25.0  # of a film whose container does not say
WHOLE = 0.9  # share of the announced frames below which a film counts as cut short
MAX_FILE = 512 * 1024 * 1024  # of a picture


def main() -> int:
    """Serve until the other end closes."""
    os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(file_talk.MAX_PIXELS)  # read when cv2 is imported
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "protocol_whitelist;none"  # a playlist must not open other files
    end = socket.socket(fileno=os.dup(0))
    body, _ = file_talk.receive(end)
    begin = msgspec.msgpack.decode(body, type=Begin)
    walls = confine.shut_in(begin.options.memory_bytes, nice=0)
    try:
        bench = _Bench(begin)
    except EdgedError as e:
        family = "misconfigured" if isinstance(e, Misconfigured) else "withheld"
        file_talk.send(end, Declined(-1, family, e.code, str(e)[:400], e.hint[:400]))  # type: ignore[arg-type]
        return 1
    file_talk.send(end, Ready(walls.no_network, walls.no_sockets))
    while True:
        body, file = file_talk.receive(end)
        if not body or file is None:
            return 0
        task = msgspec.msgpack.decode(body, type=Question)
        if isinstance(task, Begin):
            return 1
        try:
            for answer, raw in bench.answers(task, file):
                file_talk.send(end, answer, raw)
        except BrokenPipeError:  # the parent lost interest
            return 1


class _Bench:
    """The detectors, loaded once, and what is done with them."""

    def __init__(self, begin: Begin) -> None:
        import cv2

        from edged.privacy import detectors, selftest
        from edged.privacy.photo import Photographs
        from edged.privacy.picture import Scrubber

        cv2.setNumThreads(begin.threads)
        options = begin.options
        self._begin, self._options = begin, options
        self._made: list[Detector] = detectors.make(options, begin.threads)
        selftest.run(Scrubber(self._made, margin=options.margin), faces=options.faces, plates=options.plates)
        self._photographs = Photographs(self._made, margin=options.margin, unjudged=options.unjudged)

    def answers(self, task: Task, file: int) -> Iterator[tuple[Answer, bytes | memoryview]]:
        """What the parent gets, each with the raw part behind it; `file` is closed."""
        try:
            with self._limited():
                if isinstance(task, DoFilm):
                    work = self._film(task, file)
                else:
                    data = _whole(file)
                    work = iter([self._picture(task, data) if isinstance(task, DoPicture) else self._audit(task, data)])
            while True:
                with self._limited():
                    answer = next(work, None)
                if answer is None:
                    return
                yield answer
        except (Refused, Withheld) as e:
            family = "refused" if isinstance(e, Refused) else "withheld"
            yield Declined(task.seq, family, e.code, str(e)[:400]), b""  # type: ignore[arg-type]
        except MemoryError:
            yield Declined(task.seq, "withheld", "memory", "the file needs more memory than its process may have"), b""
        except BrokenPipeError:
            raise
        except Exception as e:  # noqa: BLE001 the outermost edge: whatever it was, this file is not handed on
            yield Declined(task.seq, "withheld", "child_error", f"{type(e).__name__} in the file child"), b""

    @contextmanager
    def _limited(self) -> Iterator[None]:
        # The parent ends a late child; this is for a parent that is gone: SIGALRM's default action ends the process.
        signal.setitimer(signal.ITIMER_REAL, self._begin.stall_s * 2 + 1)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _picture(self, task: DoPicture, data: bytes) -> tuple[Answer, bytes]:
        from edged.privacy import photo

        done = self._photographs.cover(photo.decode(data), task.masks)
        raw = photo.encode(done.image, task.to)
        height, width = done.image.shape[:2]
        return GotPicture(task.seq, width, height, len(raw), done.hidden, done.boxes, done.unjudged, done.ms), raw

    def _audit(self, task: DoAudit, data: bytes) -> tuple[Answer, bytes]:
        from edged.privacy import examine

        return examine.examine(task, data, self._photographs, self._options.margin), b""

    def _film(self, task: DoFilm, file: int) -> Iterator[tuple[Answer, bytes | memoryview]]:
        import cv2
        import numpy as np

        from edged.privacy.film import Film
        from edged.privacy.picture import Scrubber

        flags = [cv2.CAP_PROP_N_THREADS, self._begin.threads]
        with os.fdopen(file, "rb") as source:
            head = source.read(12)
            source.seek(0)
            counted = head[4:8] == b"ftyp" or head[:4] + head[8:] == b"RIFFAVI "  # others only guess from their length
            film = cv2.VideoCapture(source, cv2.CAP_FFMPEG, flags)  # type: ignore[call-overload]  # any reader will do
            if not film.isOpened():
                raise Refused("the film is damaged, cut short or of a kind that is not known", code="bad_film")
            announced = film.get(cv2.CAP_PROP_FRAME_COUNT) if counted else 0.0
            announced = int(announced) if math.isfinite(announced) and 0 < announced < 1e9 else 0
            fps = film.get(cv2.CAP_PROP_FPS)
            fps = float(fps) if math.isfinite(fps) and 0.1 <= fps <= 1000 else USUAL_FPS
            if film.get(cv2.CAP_PROP_FRAME_WIDTH) * film.get(cv2.CAP_PROP_FRAME_HEIGHT) > file_talk.MAX_FILM_PIXELS:
                raise Refused("the film's frames are too large", code="oversized")
            unjudged = "keep" if self._options.unjudged == "keep" else "withhold"  # Film makes such frames grey
            scrubber = Scrubber(self._made, margin=self._options.margin, unjudged=unjudged)  # type: ignore[arg-type]
            reel = Film(scrubber, fps, masks=task.masks, margin=self._options.margin)
            read = 0
            while True:
                more, image = film.read()
                if more and (image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8):
                    raise Refused("the film's frames are of a kind that is not known", code="bad_film")
                if more and not read:
                    height, width = image.shape[:2]
                    if width * height > file_talk.MAX_FILM_PIXELS:
                        raise Refused("the film's frames are too large", code="oversized")
                    yield Opened(task.seq, width, height, fps, announced), b""
                read += more
                for done in reel.push(np.ascontiguousarray(image, np.uint8)) if more else reel.end():
                    yield GotFrame(task.seq), done.image.data.cast("B")
                if not more:
                    break
            film.release()
        if not read:
            raise Refused("the film has no frame that decodes", code="bad_film")
        if read < WHOLE * announced:
            raise Refused(f"the film is cut short: {read} of {announced} frames decode", code="truncated")
        tally = reel.tally
        yield GotFilm(task.seq, tally.frames, tally.looks, dict(tally.hidden), dict(tally.blank), tally.ms), b""


def _whole(file: int) -> bytes:
    with os.fdopen(file, "rb") as source:
        data = source.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise Refused(f"a picture file of more than {MAX_FILE} bytes", code="oversized")
    if not data:
        raise Refused("the file is empty", code="bad_picture")
    return data


if __name__ == "__main__":
    sys.exit(main())
