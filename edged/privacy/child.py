"""`python -m edged.privacy.child`: the only process in which a camera's picture is decoded.

Reads `Settings`, answers `Hello` after a self-test, then one answer per question until its input ends. Guarantees: a
frame that takes far longer than its deadline kills the process even when the parent is gone; nothing is written but
answers on standard output. Does not guarantee an answer: the parent has the deadline.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from edged.clock import stopwatch
from edged.errors import EdgedError, Misconfigured, Refused
from edged.privacy import confine, jpeg
from edged.privacy.scrub import Withheld
from edged.privacy.talk import (
    LENGTH_BYTES,
    MAX_DOCUMENT,
    Answer,
    Declined,
    Hello,
    Inspect,
    Inspected,
    Look,
    Plant,
    Question,
    Request,
    ScrubOptions,
    Settings,
    pack,
)  # fmt: skip

if TYPE_CHECKING:
    from edged.privacy.picture import Scrubber


def main() -> int:
    """Serve standard input until it ends."""
    began = stopwatch()
    os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(jpeg.MAX_PIXELS)  # read when cv2 is imported
    source = sys.stdin.buffer
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints must not land among the answers
    try:
        settings = msgspec.msgpack.decode(_read(source), type=Settings)
    except msgspec.ValidationError as e:
        _write(out, Declined(-1, "misconfigured", Misconfigured.code, f"the scrub child's settings: {e}"[:400]))
        return 1
    walls = confine.shut_in(settings.options.memory_bytes)
    try:
        scrubber, runtime, weights = _make(settings.options)
    except EdgedError as e:
        ours = isinstance(e, Misconfigured)
        _write(out, Declined(-1, "misconfigured" if ours else "withheld", e.code, str(e)[:400], e.hint[:400]))
        return 1
    rss = _peak_rss()
    start_ms = (stopwatch() - began) * 1e3
    _write(out, Hello(runtime, weights, walls.no_network, walls.no_sockets, walls.memory_limit, rss, start_ms))
    while body := _read(source):
        question = msgspec.msgpack.decode(body, type=Question)
        # The parent kills a late child; this is for a parent that is gone: SIGALRM's default action ends the process.
        signal.setitimer(signal.ITIMER_REAL, settings.deadline_s * 2 + 1)
        answer = _answer(scrubber, question)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _write(out, answer)
    return 0


def _peak_rss() -> int:
    """Bytes; VmHWM, since ru_maxrss is inherited over exec from a large parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _make(options: ScrubOptions) -> tuple[Scrubber, str, dict[str, str]]:
    import cv2

    from edged.privacy import detectors, selftest
    from edged.privacy.picture import Scrubber

    cv2.setNumThreads(1)
    made = detectors.make(options)
    scrubber = Scrubber(made, margin=options.margin, unjudged=options.unjudged)
    selftest.run(scrubber, faces=options.faces, plates=options.plates)
    runtimes = sorted({str(getattr(d, "runtime", "")) for d in made} - {""})
    return scrubber, "+".join(runtimes), {f"{i}:{d.kind}": str(getattr(d, "sha256", "")) for i, d in enumerate(made)}


def _answer(scrubber: Scrubber, question: Question) -> Answer:
    try:
        return _reply(scrubber, question)
    except Refused as e:
        return Declined(question.seq, "refused", e.code, str(e)[:400])
    except Withheld as e:
        return Declined(question.seq, "withheld", e.code, str(e)[:400])
    except MemoryError:
        return Declined(
            question.seq, "withheld", "memory", "the frame needed more memory than the scrub child may have"
        )
    except Exception as e:  # noqa: BLE001 the outermost edge: whatever it was, this frame is withheld
        return Declined(question.seq, "withheld", "child_error", f"{type(e).__name__} in the scrub child")


def _reply(scrubber: Scrubber, question: Question) -> Answer:
    if isinstance(question, Look):
        return scrubber.look(question)
    if isinstance(question, Request):
        return scrubber.scrub(question)
    from edged.privacy import planted

    if isinstance(question, Plant):
        return planted.plant(question)
    assert isinstance(question, Inspect)
    return Inspected(question.seq, planted.inspect(question))


def _read(source: BinaryIO) -> bytes:
    """The next document, b"" at the end of input."""
    head = source.read(LENGTH_BYTES)
    if len(head) < LENGTH_BYTES:
        return b""
    length = int.from_bytes(head, "big")
    if length > MAX_DOCUMENT:
        raise Refused(f"a document of {length} bytes")
    return source.read(length)


def _write(out: BinaryIO, document: msgspec.Struct) -> None:
    data = memoryview(pack(document))
    while data:
        data = data[out.write(data) :]


if __name__ == "__main__":
    sys.exit(main())
