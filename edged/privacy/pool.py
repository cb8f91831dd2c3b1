"""The parent's end of a scrub child: start it, ask it, and end it when it is late, dead or not to be trusted.

Guarantees: `scrub` returns a `Scrubbed` or raises; it never hands on a picture that `scrub.vouch` did not check; after
a failure the child is killed and a new one starts, so that nothing of one frame can come out with the next. Does not
guarantee: that a frame which kills its child is tried again; it is withheld.
"""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec

import edged
from edged.clock import stopwatch
from edged.errors import EdgedError, Misconfigured, Refused, Unavailable
from edged.privacy import jpeg, talk
from edged.privacy.scrub import Scrubbed, ScrubOptions, Withheld, believe, vouch
from edged.privacy.talk import (
    Declined,
    Done,
    Hello,
    Inspect,
    Inspected,
    Look,
    Plant,
    Planted,
    Polygon,
    Request,
    Seen,
    Settings,
    Spot,
)  # fmt: skip
from edged.wire.messages import Frame

START_S = 60.0  # for imports, compiling the networks and the self-test
STDERR_KEPT = 2000
CHUNK = 1 << 16
ERROR = re.compile(r"[A-Za-z_.]{1,60}(Error|Exception|Interrupt|Exit|error)(:|$)")
HEALTHY = frozenset({"too_dark", "too_blurred", "bad_places"})  # not the child's fault: it may live on

Q = TypeVar("Q", Look, Request, Plant, Inspect)
A = TypeVar("A", Seen, Done, Planted, Inspected)
R = TypeVar("R")


class ScrubChild:
    """One scrub child. Calls from several threads take turns. Use as a context manager or call `close`.

    A call takes at most `deadline_s`, plus START_S while the child is (re)starting. `painted` names a camera's masks
    beyond those of `options`, asked for with every frame. `command` replaces the program that is started; only tests
    need it.
    """

    def __init__(
        self,
        options: ScrubOptions,
        deadline_s: float,
        *,
        painted: Callable[[str], Sequence[Polygon]] = lambda camera: (),
        command: Sequence[str] | None = None,
    ) -> None:
        self._options, self._deadline_s, self._painted = options, deadline_s, painted
        self._command = list(command or (sys.executable, "-P", "-m", "edged.privacy.child"))
        self._lock = threading.Lock()
        self._closed = False
        self._seq = 0
        self._looked: dict[tuple[str, str], tuple[Polygon, ...]] = {}  # masks of frames that are yet to be covered
        self._child: _Child | None = self._start()

    @property
    def pid(self) -> int:
        """Of the child that runs now, 0 = none."""
        child = self._child
        return child.process.pid if child else 0

    @property
    def starting(self) -> bool:
        """Whether a child has yet to say hello: a call may take START_S longer."""
        child = self._child
        return child is None or child.hello is None

    def ready(self) -> Hello:
        """Wait until the child can work; what it says of itself. Raises Misconfigured (a detector's file or runtime is
        missing) or Unavailable (code child_down)."""
        with self._lock:
            return self._ready()

    def look(self, frame: Frame) -> Seen:
        """Where something private is; raises as `scrub` does."""
        h, masks = frame.header, self._masks(frame.camera)
        seen = self._turn(Look(0, frame.camera, frame.kind, h.w, h.h, frame.jpeg, masks), Seen, believe)
        if masks:
            self._looked[frame.camera, h.id] = masks
        return seen

    def scrub(self, frame: Frame, spots: Sequence[Spot] | None = None, *, blank: bool = False) -> Scrubbed:
        """The frame with `spots` covered, or, when there are none given, with what the child finds by itself.

        Raises Refused (a picture that can never be taken), Withheld (privacy cannot vouch: forget this one),
        Unavailable (code child_down: no child could be started; the frame was not tried)."""
        h = frame.header
        regions = tuple((r.x, r.y, r.w, r.h) for r in h.regions)
        masks = self._masks(frame.camera)
        if spots is not None:  # nobody looked under a mask that was removed since: this frame keeps it
            masks += tuple(m for m in self._looked.pop((frame.camera, h.id), ()) if m not in masks)
        request = Request(
            0, frame.camera, frame.kind, h.w, h.h, regions, frame.jpeg, masks,
            None if spots is None else tuple(spots), blank,
        )  # fmt: skip
        return self._turn(request, Done, vouch)

    def plant(self, seed: int, width: int = 1280, height: int = 720) -> Planted:
        """A picture whose private places are known (planted.py); raises as `scrub` does."""
        return self._turn(Plant(0, seed, width, height), Planted, _as_is)

    def inspect(self, jpeg: bytes, spots: Sequence[Spot]) -> tuple[float, ...]:
        """Covered share of each box in a picture that came back scrubbed; raises as `scrub` does."""
        return self._turn(Inspect(0, jpeg, tuple(spots)), Inspected, _one_each)

    def _masks(self, camera: str) -> tuple[Polygon, ...]:
        return (*self._options.masks.get(camera, ()), *self._painted(camera))

    def close(self) -> None:
        """End the child; later calls raise."""
        with self._lock:
            self._closed = True
            if self._child is not None:
                self._child.end()
                self._child = None

    def __enter__(self) -> ScrubChild:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _turn(self, question: Q, wanted: type[A], check: Callable[[Q, A], R]) -> R:
        """Ask, and have the answer checked before the child may get another question."""
        with self._lock:
            try:
                self._ready()
            except Misconfigured as e:
                raise Unavailable(str(e), hint=e.hint, code="child_down") from e
            self._seq += 1
            try:
                asked = _settled(msgspec.structs.replace(question, seq=self._seq))
                return check(asked, self._ask(asked, wanted))
            except (Withheld, Unavailable) as e:
                if e.code not in HEALTHY:
                    self._restart()
                raise

    def _ask(self, question: Q, wanted: type[A]) -> A:
        assert self._child is not None
        answer = _parse(self._child.exchange(talk.pack(question), self._deadline_s))
        if isinstance(answer, Hello) or answer.seq != question.seq:
            raise Withheld("the scrub child answered another question", code="bad_answer")
        if isinstance(answer, wanted):
            return answer
        if not isinstance(answer, Declined):
            raise Withheld("the scrub child answered something else", code="bad_answer")
        if answer.family == "refused":
            raise Refused(answer.message, code=answer.code)
        raise Withheld(answer.message, code=answer.code)

    def _ready(self) -> Hello:
        if self._closed:
            raise Withheld("the scrub child was closed", code="closed")
        if self._child is None:
            self._child = self._start()
        elif self._child.hello is not None and (self._child.process.poll() is not None or self._child.babbles()):
            self._restart()  # it died or spoke unasked between two frames, which no frame has to pay for
        child = self._child
        if child.hello is None:
            try:
                answer = _parse(child.exchange(b"", START_S))
                if isinstance(answer, Declined):
                    raise _cannot_start(answer)
                if not isinstance(answer, Hello):
                    raise Withheld("it answered before it was asked", code="bad_answer")
            except EdgedError as e:
                child.end()
                self._child = None
                if isinstance(e, Misconfigured | Unavailable):
                    raise
                raise Unavailable(f"the scrub child cannot start: {e}", code="child_down") from e
            child.hello = answer
        return child.hello

    def _restart(self) -> None:
        if self._child is not None:
            self._child.end()
        self._child = self._start()

    def _start(self) -> _Child:
        settings = Settings(self._options, self._deadline_s)
        return _Child(self._command, talk.pack(settings))


class _Child:
    """A process and its three pipes."""

    def __init__(self, command: Sequence[str], first: bytes) -> None:
        pipe = subprocess.PIPE
        # The child sees no variable of ours (a key could be among them) and no relative path.
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, cwd="/", env=environment(), close_fds=True
        )
        assert self.process.stdin
        assert self.process.stdout
        assert self.process.stderr
        self._in, self._out, self._err = self.process.stdin, self.process.stdout, self.process.stderr
        for stream in (self._in, self._out, self._err):
            os.set_blocking(stream.fileno(), False)
        self._to_send = memoryview(first)
        self._got = bytearray()
        self._said = b""  # the end of what it wrote to standard error
        self.hello: Hello | None = None

    def exchange(self, document: bytes, deadline_s: float) -> bytes:
        """Send `document` and wait for one whole answer; raises Withheld (timeout, child_died, bad_answer), or
        Unavailable (child_down) when it did not take the whole document."""
        self._to_send = memoryview(bytes(self._to_send) + document)
        end = stopwatch() + deadline_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            selector.register(self._err, selectors.EVENT_READ)
            if self._to_send:
                selector.register(self._in, selectors.EVENT_WRITE)
            while (body := self._take()) is None:
                left = end - stopwatch()
                if left <= 0:
                    raise Withheld(f"the scrub child did not answer within {deadline_s:g} s", code="timeout")
                for key, _ in selector.select(left):
                    if key.fileobj is self._in:
                        self._send(selector)
                    elif key.fileobj is self._out:
                        self._receive()
                    elif not self._listen():
                        selector.unregister(self._err)
        return body

    def babbles(self) -> bool:
        """Whether it has said something, or closed its pipe, before it was asked."""
        try:
            return bool(self._got) or os.read(self._out.fileno(), CHUNK) is not None
        except BlockingIOError:
            return False

    def end(self) -> None:
        """Kill and reap it."""
        self.process.kill()
        self.process.wait()
        for stream in (self._in, self._out, self._err):
            stream.close()

    def _send(self, selector: selectors.BaseSelector) -> None:
        try:
            self._to_send = self._to_send[os.write(self._in.fileno(), self._to_send[:CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError as e:
            raise Unavailable(f"{self._died()}, before it was asked", code="child_down") from e
        if not self._to_send:
            selector.unregister(self._in)

    def _receive(self) -> None:
        data = os.read(self._out.fileno(), CHUNK)
        if not data:
            raise self._died()
        self._got += data

    def _listen(self) -> bool:
        data = os.read(self._err.fileno(), CHUNK)
        self._said = (self._said + data)[-STDERR_KEPT:]
        return bool(data)

    def _take(self) -> bytes | None:
        """One document from what has arrived."""
        if len(self._got) < talk.LENGTH_BYTES:
            return None
        length = int.from_bytes(self._got[: talk.LENGTH_BYTES], "big")
        if length > talk.MAX_DOCUMENT:
            raise Withheld(f"the scrub child announced {length} bytes", code="bad_answer")
        if len(self._got) < talk.LENGTH_BYTES + length:
            return None
        body = bytes(self._got[talk.LENGTH_BYTES : talk.LENGTH_BYTES + length])
        del self._got[: talk.LENGTH_BYTES + length]
        return body

    def _died(self) -> Withheld:
        try:
            status = self.process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return Withheld("the scrub child closed its pipe", code="child_died")
        while True:  # its last words
            try:
                if not self._listen():
                    break
            except BlockingIOError:
                break
        lines = [line for line in self._said.decode("utf-8", "replace").splitlines() if line.strip()]
        words = "".join(c for c in lines[-1][:200] if c.isprintable()) if lines else ""
        if self.hello is not None:  # it has seen pictures: of what it says only the kind of its error goes on
            words = words.partition(":")[0] if ERROR.match(words) else ""
        how = f"killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return Withheld(
            f"the scrub child was {how}" if status < 0 else f"the scrub child {how}: {words}", code="child_died"
        )


def _settled(question: Q) -> Q:
    try:
        return talk.settled(question)
    except msgspec.ValidationError as e:
        raise Withheld(f"this cannot be asked of the scrub child: {e}"[:300], code="bad_places") from e


def _as_is(asked: Q, answer: A) -> A:
    return answer


def _one_each(asked: Inspect, answer: Inspected) -> tuple[float, ...]:
    if len(answer.shares) != len(asked.spots):
        raise Withheld("the scrub child did not look at every box", code="bad_answer")
    return answer.shares


def _parse(body: bytes) -> talk.Answer:
    try:
        return talk.answer_of(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as e:
        where = str(e).rpartition(" - at ")[2] if " - at " in str(e) else ""  # never what stood there
        raise Withheld(
            f"the scrub child's answer cannot be read ({type(e).__name__} {where})"[:300], code="bad_answer"
        ) from e


def _cannot_start(answer: Declined) -> EdgedError:
    if answer.family == "misconfigured":
        return Misconfigured(answer.message, hint=answer.hint)
    return Unavailable(f"the scrub child cannot start: {answer.message}", code="child_down")


def environment() -> dict[str, str]:
    """All that a child sees of ours."""
    # OPENBLAS_CORETYPE and the like are left behind on purpose: a wrong one kills numpy with an illegal instruction.
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(Path(edged.__file__).resolve().parents[1]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",  # 64 MiB of address space each, of which the child has little
        "OPENBLAS_NUM_THREADS": "1",
        "OPENCV_IO_MAX_IMAGE_PIXELS": str(jpeg.MAX_PIXELS),
    }
