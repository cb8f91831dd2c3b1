"""`edged-agent run | test | status | unpack | probe`: what a camera runs. Exit codes: 0 ok, 1 failed, 2 usage, 4 not found,
5 broker away, 75 try later, 78 settings.

Heavy imports (OpenCV, the runtimes, tuf) happen inside the verbs that need them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent import arguments
from agent import settings as settings_file
from edged import durable
from edged.clock import Clock, SystemClock
from edged.errors import EXIT_FAILED, EXIT_NOT_FOUND, EXIT_UNREACHABLE, EdgedError, Misconfigured, Refused, Unavailable

if TYPE_CHECKING:
    from agent.run import Agent, Options
    from agent.settings import Settings
    from agent.source import Shot, Source
    from edged.wire.signature import Signer

SCHEMA_VERSION = 1
PATIENT = ("folder:", "file:", "cnrpark:", "pklot:", "scene:")  # sources that can wait
LIVE = ("v4l2:", "rtsp:")
REOPEN_S = 5.0
TOLD_S = 10.0  # between two words about frames that wait for receipts
CONNECT_S = 10.0  # how long `test` waits for the broker


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code; argparse itself leaves with 2."""
    given = vars(arguments.parser().parse_args(argv))
    verb = given.pop("verb")
    as_json = given.pop("json") | given.pop("json_first")  # it may stand on either side of the verb
    verbose = given.pop("verbose")
    logging.basicConfig(
        stream=sys.stderr, level=logging.DEBUG if verbose else logging.INFO, format="%(levelname)s %(message)s"
    )
    # A forged picture of a few bytes may claim gigapixels; OpenCV reads this when it is first imported.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**26))
    try:
        file = given.pop("config", None)
        if verb == "status":
            return _status(Path(given["state"] or _state_in(file)), as_json)
        if verb == "unpack":
            return _unpack(Path(given["file"]), given["from"], given["out"], as_json)
        if verb == "probe":
            return _probe(file, given, as_json)
        once, wait_s = given.pop("once", False), given.pop("wait", None)
        settings = settings_file.read(Path(file) if file else None, given)
        return _run(settings, once, wait_s) if verb == "run" else _test(settings, as_json)
    except EdgedError as e:
        if as_json:
            print(json.dumps({"error": {"code": e.code, "message": str(e), "hint": e.hint}}), file=sys.stderr)
        else:
            print(f"edged-agent: {e}" + (f"\n  {e.hint}" if e.hint else ""), file=sys.stderr)
        return e.exit_code


# --- run


def _run(settings: Settings, once: bool, wait_s: float | None = None) -> int:
    from agent import run, status

    endpoint = settings.endpoint()
    root = _root(settings)
    stopping = False

    def stop(_number: int, _frame: Any) -> None:
        nonlocal stopping
        stopping = True

    with _alone(Path(settings.state)):
        import cv2

        from edged.wire.paho import PahoLink

        cv2.setNumThreads(settings.threads)
        clock = SystemClock()
        shots = _shots(settings, clock)
        link = PahoLink(endpoint, run.will(settings.site, settings.camera))
        previous = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            agent = run.Agent(
                link, shots, site=settings.site, camera=settings.camera, state_dir=Path(settings.state), clock=clock,
                root=root, options=_options(settings), signer=_signer(settings),
            )  # fmt: skip
            logging.info(
                "camera %s of site %s: %s", settings.camera, settings.site, status.model_words(agent.active.slot)
            )
            waiting = Waiting(agent, clock, wait_s)
            agent.run(lambda: stopping or (once and waiting.is_over()), once=once)
            if once and not stopping and (left := len(agent.spool)):
                raise Unavailable(f"no receipt came for {left} frames in {wait_s:g} s", hint="does `edged run` run?")
        finally:
            link.close()
            shots.close()
            for number, handler in previous.items():
                signal.signal(number, handler)
    return 0


class Waiting:
    """Says now and then that frames wait for receipts; `is_over` when none came for `wait_s` (None = wait on)."""

    def __init__(self, agent: Agent, clock: Clock, wait_s: float | None) -> None:
        self._agent, self._clock, self._wait_s = agent, clock, wait_s
        self._seen = (-1, -1)
        self._since = self._told = clock.monotonic()

    def is_over(self) -> bool:
        now, spool = self._clock.monotonic(), self._agent.spool
        seen = (len(spool), self._agent.taken)
        if seen != self._seen or not (self._agent.ended or spool.half_full()):
            self._seen, self._since = seen, now
        if now - max(self._since, self._told) >= TOLD_S:
            self._told = now
            logging.info("%d frames wait for their receipts", len(spool))
        return self._wait_s is not None and now - self._since >= self._wait_s


def _options(s: Settings) -> Options:
    from agent.active import Probation
    from agent.run import Options

    return Options(
        hardware=s.hardware, runtime=s.runtime, threads=s.threads, window=s.window, resend_after_s=s.resend_after_s,
        stats_every_s=s.stats_every_s, spool_bytes=s.spool_bytes, spool_frames=s.spool_frames, fsync=s.fsync,
        truth=Path(s.truth) if s.truth else None, preview=Path(s.preview) if s.preview else None,
        patient=s.source.startswith(PATIENT), model=s.model, classes=s.classes,
        probation=Probation(
            s.probation_frames, s.probation_s, picture_s=1 / s.fps if s.fps else Probation.picture_s,
            max_slowdown=s.max_slowdown, min_agreement=s.min_agreement, max_shift=s.max_shift, hang_s=s.hang_s, fenced=True,
        ),
    )  # fmt: skip


def _source(s: Settings, clock: Clock) -> Source:
    from agent.source import open_source

    if not s.source:
        raise Misconfigured("no source is given", hint="--source folder:DIR, file:CLIP, v4l2:/dev/video0, scene:PLACE")
    return open_source(s.source, fps=s.fps, clock=clock, limit=s.limit)


def _shots(s: Settings, clock: Clock) -> Generator[Shot | None]:
    """The source; a live camera that went away is opened anew every few seconds, anything else ends.

    Raises Misconfigured only for the first opening: a camera that is unplugged for a while is no reason to give up.
    """
    first = True
    while True:
        try:
            with _source(s, clock) as source:
                yield from source
                logging.warning("%s: %s", s.source, source.tally.ended or "no more pictures")
        except Misconfigured as e:
            if first:
                raise
            logging.warning("%s", e)
        if not s.source.startswith(LIVE) or s.limit is not None:
            return
        first = False
        opens_at = clock.monotonic() + REOPEN_S
        while clock.monotonic() < opens_at:
            yield None


def _root(settings: Settings, *, anew: bool = False) -> bytes:
    """Looked at once, unless `anew`: python-tuf, which can, is not loaded again for the same bytes."""
    try:
        root = Path(settings.root).read_bytes()
    except OSError as e:
        raise Misconfigured(f"root of trust {settings.root}: {e.strerror}", hint="copy it from the box") from e
    note, digest = Path(settings.state) / "root-checked", hashlib.sha256(root).hexdigest().encode()
    with suppress(OSError):
        if not anew and note.read_bytes() == digest:
            return root
    from agent.client import check_root

    check_root(root, settings.root)
    with suppress(OSError):  # then it is looked at again at the next start
        durable.write(note, digest)
    return root


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Two agents on one state directory would give frames the same numbers."""
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise Misconfigured(f"state directory {state}: {e.strerror}") from e
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        os.close(handle)
        raise Unavailable(f"another agent runs on {state}", hint="stop it first, or give --state") from e
    try:
        yield
    finally:
        os.close(handle)


# --- test


def _test(settings: Settings, as_json: bool) -> int:
    """Look at the broker, the source and the model without sending a picture."""
    checks = {"root": _try(lambda: _test_root(settings)), "broker": _try(lambda: _test_broker(settings))}
    checks["source"] = _try(lambda: _test_source(settings))
    checks["model"] = _try(lambda: _test_model(settings))
    if as_json:
        _print_json({"checks": {k: {"ok": ok, "detail": words} for k, (ok, words) in checks.items()}})
    else:
        for name, (ok, words) in checks.items():
            print(f"{'ok  ' if ok else 'FAIL'} {name:7} {words}")
    if not checks["broker"][0]:
        return EXIT_UNREACHABLE
    return 0 if all(ok for ok, _ in checks.values()) else EXIT_FAILED


def _try(check: Callable[[], str]) -> tuple[bool, str]:
    try:
        return True, check()
    except (Refused, Unavailable) as e:
        return False, str(e)


def _test_root(settings: Settings) -> str:
    _root(settings, anew=True)
    return f"{settings.root} is a root of trust"


def _test_broker(settings: Settings) -> str:
    from edged.wire.paho import PahoLink

    endpoint = settings.endpoint()
    link = PahoLink(endpoint)
    try:
        if not link.wait_connected(CONNECT_S):
            raise Unavailable(f"{settings.broker}: {link.disconnect_reason}")
        return f"{settings.broker} takes {settings.camera}"
    finally:
        link.close()


def _test_source(settings: Settings) -> str:
    clock = SystemClock()
    end = clock.monotonic() + CONNECT_S
    with _source(settings, clock) as source:
        for shot in source:
            if shot is not None:
                return f"{settings.source} gives {shot.image.shape[1]}x{shot.image.shape[0]} ({shot.kind})"
            if clock.monotonic() > end:
                break
    raise Unavailable(f"{settings.source} gave no picture")


def _test_model(settings: Settings) -> str:
    from agent.selftest import Known, check
    from agent.slots import Slots
    from agent.status import model_words

    slots = Slots(Path(settings.state) / "slots")
    loaded = slots.load()
    if loaded is None:
        return "no model yet: regions go out unlabelled"
    slot = loaded.slot
    outcome = check(loaded.model, Known(slot.sha256, slot.known_answer), settings.runtime)
    if not outcome.ok:
        raise Refused(f"{model_words(slot)}: {outcome.detail}")
    return f"{model_words(slot)}: {outcome.detail}"


# --- status


def _status(state: Path, as_json: bool) -> int:
    from agent import status

    if as_json:
        _print_json(status.read(state))
    else:
        print("\n".join(status.words(state)))
    return 0


def _signer(s: Settings) -> Signer | None:
    """Signs what this camera reports, with the key that it connects by; None without TLS. Raises Misconfigured."""
    if not s.key:
        return None
    from edged.wire.signature import Signer

    try:
        return Signer(Path(s.cert).read_bytes(), Path(s.key).read_bytes())
    except OSError as e:
        raise Misconfigured(f"cannot read {e.filename}: {e.strerror}", hint="the box's `edged init` made it") from e


def _state_in(file: str | None) -> str:
    """`state` of a settings file that may be incomplete otherwise."""
    if not file:
        raise Misconfigured("which state directory?", hint="--state DIR or --config FILE.toml")
    return settings_file.read(Path(file), {}).state


def _print_json(document: dict[str, Any]) -> None:
    print(json.dumps({"schema_version": SCHEMA_VERSION, **document}, sort_keys=True, indent=1))


# --- probe


def _probe(file: str | None, given: dict[str, Any], as_json: bool) -> int:
    """Without --send no settings are needed. The result goes to FILE, to the box, or to the screen."""
    import msgspec

    from agent import probe
    from edged import durable

    out, send, seconds = given.pop("out"), given.pop("send"), given.pop("seconds")
    settings = settings_file.read(Path(file) if file else None, given) if send or file else None
    if not 0 < seconds <= 3600:
        raise Misconfigured("--seconds is more than 0 and at most 3600")
    if out and not Path(out).parent.is_dir():  # said before the minutes of measuring
        raise Refused(f"there is no folder {Path(out).parent}", hint="make it first", exit_code=EXIT_NOT_FOUND)
    clock = SystemClock()
    runtime = given["runtime"] or (settings.runtime if settings else "auto")
    probed = probe.measure(runtime, seconds, clock, quiet=as_json)
    document = msgspec.to_builtins(probed)
    if out:
        durable.write(Path(out), msgspec.json.format(msgspec.json.encode(probed)))
    told = f"{len(probed.probes)} probes on {probed.processor or 'an unnamed processor'}, {probed.runtime} {probed.version}"
    if send and settings:
        probe.leave(Path(settings.state), probed)
        try:
            with _alone(Path(settings.state)):
                probe.send_now(settings, clock)
            told += f"; sent to {settings.broker}"
        except Unavailable as e:
            if "another agent" not in str(e):
                raise
            told += "; the running agent sends it with its next report"
    if as_json:
        _print_json({"probed": document, "file": out or "", "sent": bool(send)})
    else:
        print(told + (f"; {out} is written" if out else ""))
        if not out and not send:
            print("\n".join(f"{t.ms:10.3f} ms  +-{t.spread:4.0%}  {t.name}" for t in probed.probes))
    return 0


# --- unpack


def _unpack(file: Path, old: str | None, out: str | None, as_json: bool) -> int:
    """The ONNX file of a packed one, or of a delta from `old`, in the memory of a few layers and of `old`."""
    from edged.packed import files

    try:
        file = files.given(file, files.PACKED)
        place = files.place(file, Path(out) if out else None, files.MODEL_SUFFIX)
        read, written = files.unpack(file, place, old=files.given(Path(old)) if old else None)
    except OSError as e:
        raise Refused(f"{e.filename or file}: {e.strerror}", code="not_found") from e
    if as_json:
        _print_json({"file": str(place), "packed": read, "size": written})
    else:
        print(f"{place}: {read} bytes unpacked to {written}, the hash is right")
    return 0
