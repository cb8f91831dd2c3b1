"""`edged-agent run | test | status`: what a camera runs. Exit codes: 0 ok, 1 failed, 2 usage, 5 broker away, 78
settings.

Heavy imports (OpenCV, the runtimes, tuf) happen inside the verbs that need them.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent import settings as settings_file
from edged import __version__
from edged.clock import Clock, SystemClock
from edged.errors import EXIT_FAILED, EXIT_UNREACHABLE, EdgedError, Misconfigured, Refused, Unavailable

if TYPE_CHECKING:
    from agent.run import Agent, Options
    from agent.settings import Settings
    from agent.slots import Slot
    from agent.source import Shot, Source

SCHEMA_VERSION = 1
PATIENT = ("folder:", "file:", "cnrpark:", "pklot:", "scene:")  # sources that can wait
LIVE = ("v4l2:", "rtsp:")
REOPEN_S = 5.0
TOLD_S = 10.0  # between two words about frames that wait for receipts
CONNECT_S = 10.0  # how long `test` waits for the broker


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code; argparse itself leaves with 2."""
    given = vars(_parser().parse_args(argv))
    verb, as_json = given.pop("verb"), given.pop("json")
    verbose = given.pop("verbose")
    logging.basicConfig(
        stream=sys.stderr, level=logging.DEBUG if verbose else logging.INFO, format="%(levelname)s %(message)s"
    )
    # A forged picture of a few bytes may claim gigapixels; OpenCV reads this when it is first imported.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**26))
    try:
        file = given.pop("config")
        if verb == "status":
            return _status(Path(given["state"] or _state_in(file)), as_json)
        once, wait_s = given.pop("once", False), given.pop("wait", None)
        settings = settings_file.read(Path(file) if file else None, given)
        return _run(settings, once, wait_s) if verb == "run" else _test(settings, as_json)
    except EdgedError as e:
        if as_json:
            print(json.dumps({"error": {"code": e.code, "message": str(e), "hint": e.hint}}), file=sys.stderr)
        else:
            print(f"edged-agent: {e}" + (f"\n  {e.hint}" if e.hint else ""), file=sys.stderr)
        return e.exit_code if isinstance(e, Misconfigured) else EXIT_FAILED


# --- run


def _run(settings: Settings, once: bool, wait_s: float | None = None) -> int:
    from agent import run

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
                root=root, options=_options(settings),
            )  # fmt: skip
            logging.info("camera %s of site %s: %s", settings.camera, settings.site, _model_words(agent.active.slot))
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
        probation=Probation(s.probation_frames, s.probation_s), patient=s.source.startswith(PATIENT),
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


def _root(settings: Settings) -> bytes:
    from agent.metadata import check_root

    try:
        root = Path(settings.root).read_bytes()
    except OSError as e:
        raise Misconfigured(f"root of trust {settings.root}: {e.strerror}", hint="copy it from the box") from e
    check_root(root, settings.root)
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
    _root(settings)
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

    slots = Slots(Path(settings.state) / "slots")
    loaded = slots.load()
    if loaded is None:
        return "no model yet: regions go out unlabelled"
    slot = loaded.slot
    outcome = check(loaded.model, Known(slot.sha256, slot.known_answer), settings.runtime)
    if not outcome.ok:
        raise Refused(f"{_model_words(slot)}: {outcome.detail}")
    return f"{_model_words(slot)}: {outcome.detail}"


# --- status


def _status(state: Path, as_json: bool) -> int:
    """What the state directory says; works beside a running agent."""
    from agent.slots import Slots
    from agent.updater import read_record

    if not (state / "slots").is_dir():
        raise Misconfigured(f"{state} is not an agent's state directory", hint="--state DIR")
    slots = Slots(state / "slots")
    slot, pointer = slots.active(), slots.pointer
    record = read_record(state / "update")
    frames = [p.stat().st_size for p in (state / "spool").glob("*.frame")]
    model = {"name": slot.name, "release": slot.release, "sha256": slot.sha256} if slot else None
    job = None
    if record is not None:
        r = record
        job = {"job": r.desired.job, "status": r.status, "phase": r.phase, "progress": r.progress, "detail": r.detail}
    if as_json:
        _print_json({
            "model": model, "probation": pointer.probation, "job": job,
            "spool": {"frames": len(frames), "bytes": sum(frames)},
        })  # fmt: skip
        return 0
    print(f"model  {_model_words(slot)}{' (on probation)' if pointer.probation else ''}")
    print(f"spool  {len(frames)} frames, {sum(frames)} bytes")
    if job is not None:
        print(f"update {job['job']}: {job['status']} {job['detail']}".rstrip())
    return 0


def _model_words(slot: Slot | None) -> str:
    return f"{slot.name} release {slot.release} ({slot.sha256[:12]})" if slot else "no model"


def _state_in(file: str | None) -> str:
    """`state` of a settings file that may be incomplete otherwise."""
    if not file:
        raise Misconfigured("which state directory?", hint="--state DIR or --config FILE.toml")
    return settings_file.read(Path(file), {}).state


def _print_json(document: dict[str, Any]) -> None:
    print(json.dumps({"schema_version": SCHEMA_VERSION, **document}, sort_keys=True, indent=1))


# --- arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edged-agent", description="The camera's side of edged: takes pictures, labels regions, updates its model."
    )
    parser.add_argument("--version", action="version", version=f"edged-agent {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="run|test|status")
    for verb, words in (
        ("run", "take pictures until SIGTERM"),
        ("test", "try the broker, the source and the model"),
        ("status", "what the state directory says"),
    ):
        sub = verbs.add_parser(verb, help=words, description=words)
        sub.add_argument("--json", action="store_true", help="one JSON document; errors on stderr")
        sub.add_argument("-v", "--verbose", action="store_true")
        sub.add_argument("-c", "--config", metavar="FILE.toml", help="the same keys as the options, with _ for -")
        sub.add_argument("--state", metavar="DIR", help="spool, slots and trust of this camera")
        if verb == "status":
            continue
        sub.add_argument("--site", metavar="ID")
        sub.add_argument("--camera", metavar="ID")
        sub.add_argument("--broker", metavar="HOST:PORT")
        sub.add_argument("--ca", metavar="PEM", help="who signs the broker's certificate")
        sub.add_argument("--cert", metavar="PEM", help="this camera's certificate")
        sub.add_argument("--key", metavar="PEM")
        sub.add_argument("--root", metavar="JSON", help="root of trust for models, from the box")
        sub.add_argument(
            "--source", metavar="SRC", help="folder:DIR, file:CLIP, v4l2:/dev/video0, rtsp://..., scene:PLACE, ..."
        )
        sub.add_argument("--fps", type=float, metavar="N", help="pictures a second at most (5); 0 = as they come")
        sub.add_argument("--limit", type=int, metavar="N", help="end the source after N pictures")
        sub.add_argument("--hardware", metavar="ID", help="releases are signed for hardware (default: generic)")
        sub.add_argument("--runtime", choices=("auto", "openvino", "onnxruntime"))
        sub.add_argument("--threads", type=int, metavar="N")
        if verb == "run":
            sub.add_argument("--truth", metavar="FILE", help="append `frame id,index,class` where the source knows it")
            sub.add_argument("--preview", metavar="JPG", help="local picture with boxes drawn; not scrubbed")
            sub.add_argument("--window", type=int, metavar="N", help="frames in flight (8)")
            sub.add_argument("--resend-after-s", type=float, metavar="S")
            sub.add_argument("--stats-every-s", type=float, metavar="S")
            sub.add_argument("--spool-bytes", type=int, metavar="N")
            sub.add_argument("--spool-frames", type=int, metavar="N")
            sub.add_argument("--probation-frames", type=int, metavar="N", help="pictures that prove a new model (20)")
            sub.add_argument("--probation-s", type=float, metavar="S", help="or seconds, whichever comes first (60)")
            sub.add_argument("--fsync", action=argparse.BooleanOptionalAction, default=None)
            sub.add_argument("--once", action="store_true", help="end when the source has ended and all is receipted")
            sub.add_argument("--wait", type=float, metavar="S", help="with --once: give up when no receipt came for S")
    return parser
