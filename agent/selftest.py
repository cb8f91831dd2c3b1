"""Does a model give on this camera the answers that it gave on the box? Asked in a child, before the model may run.

    python -m agent.selftest MODEL KNOWN.json [--runtime auto] [--memory BYTES] [--seconds S]

The child draws the known pictures (`patterns.picture`), runs the model from bytes whose SHA-256 stands in KNOWN.json,
and prints one JSON line {"ok", "detail"}; exit 0 = passed, 1 = failed. A model that crashes, hangs or eats memory
takes only the child with it: it has limits of memory, processor time and written bytes, no network where the kernel
gives it a namespace of its own, and is the first that the kernel ends when memory runs out.

Guarantees: `Child.poll` never blocks, and its answer comes within the time limit of real time, whatever the model does.
Does not guarantee: that the model is good; the box's gate measured that. Inside the service no network namespace may be
made (RestrictNamespaces=yes); there the unit's own IPAddressDeny= holds.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import math
import resource
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from edged.clock import stopwatch
from edged.errors import EdgedError, Refused

TIME_LIMIT_S = 30.0
MEMORY_LIMIT = 1024 * 2**20  # bytes of private memory (RLIMIT_DATA): code and mapped libraries do not count
MAX_PICTURES = 64
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


class KnownAnswer(Struct, frozen=True):
    """Inputs by seed and the logits that the box's reference runtime gave for them."""

    seeds: tuple[int, ...]
    px: int
    logits: tuple[tuple[float, ...], ...]
    tolerance: float  # largest absolute difference of one logit


class Known(Struct, frozen=True):
    """KNOWN.json."""

    sha256: str  # of the model file
    answer: KnownAnswer


@dataclass(frozen=True)
class Outcome:
    ok: bool
    detail: str


class Running(Protocol):
    """A self-test under way."""

    def poll(self) -> Outcome | None:
        """None while it runs."""
        ...

    def stop(self) -> None: ...


class Starter(Protocol):
    """How a self-test is started: `Child` on a camera, `Inline` in a simulated site."""

    def __call__(
        self, model: Path, known: Path, runtime: str, *, time_limit_s: float = TIME_LIMIT_S, memory: int = MEMORY_LIMIT
    ) -> Running: ...


def known_answer(value: object) -> KnownAnswer:
    """Read the known answer of a target's `custom`. Raises Refused.

    Canonical JSON, over which TUF signs, has no fractions, so that numbers may come as strings, or the whole as one.
    """
    try:
        raw = json.loads(value) if isinstance(value, str) else value
        answer = msgspec.convert(raw, KnownAnswer, strict=False)
    except (ValueError, msgspec.ValidationError) as e:
        raise Refused(f"the release's known answer cannot be used: {e}", code="bad_release") from e
    count = len(answer.seeds)
    if not 1 <= count <= MAX_PICTURES or count != len(answer.logits) or not answer.tolerance > 0:
        raise Refused("the release's known answer has no pictures or does not fit itself", code="bad_release")
    return answer


def check(model: bytes, known: Known, runtime: str = "auto") -> Outcome:
    """Run the known pictures through the model, in this process. Raises what the engine raises."""
    import numpy as np

    from edged.engine import admit, load, patterns, preprocess

    if hashlib.sha256(model).hexdigest() != known.sha256:
        return Outcome(False, "the file is not the one that was verified")
    answer = known.answer
    admit.judge(model, classes=len(answer.logits[0]), px=answer.px, most=len(model))
    pictures = [patterns.picture(seed, answer.px) for seed in answer.seeds]
    engine = load(model, runtime=runtime)
    got = engine.run(preprocess.marshal(preprocess.to_float(pictures, answer.px)))[0]
    want = np.asarray(answer.logits, np.float64)
    if got.shape != want.shape:
        return Outcome(False, f"it answered {got.shape} where {want.shape} was expected")
    if not np.isfinite(got).all():
        return Outcome(False, "it answered with numbers that are not finite")
    worst = float(np.abs(got - want).max())
    if worst > answer.tolerance:
        return Outcome(False, f"its answers differ by {worst:.4g} from the known ones (at most {answer.tolerance:.4g})")
    return Outcome(True, f"{len(pictures)} known pictures, largest difference {worst:.4g} ({engine.runtime})")


class Child:
    """A self-test in a child process of its own."""

    def __init__(
        self, model: Path, known: Path, runtime: str = "auto", *, time_limit_s: float = TIME_LIMIT_S,
        memory: int = MEMORY_LIMIT,
    ) -> None:  # fmt: skip
        self._limit_s = time_limit_s
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child; a pipe could fill up and block
        command = [sys.executable, "-P", "-m", "agent.selftest", str(model), str(known), "--runtime", runtime]
        command += ["--memory", str(memory), "--seconds", str(time_limit_s)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._output, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self._began = stopwatch()

    def poll(self) -> Outcome | None:
        code = self._process.poll()
        if code is None:
            if stopwatch() - self._began < self._limit_s:
                return None
            self.stop()
            return Outcome(False, f"self-test took longer than {self._limit_s:g} s")
        self._output.seek(0)
        text = self._output.read(4096)
        self._output.close()
        if code < 0:
            return Outcome(False, f"self-test died by {signal.Signals(-code).name}")
        try:
            said = msgspec.json.decode(text, type=Outcome)
        except msgspec.MsgspecError:
            return Outcome(False, f"self-test ended with exit code {code} and no answer")
        return Outcome(said.ok and code == 0, said.detail)

    def stop(self) -> None:
        """Kill it if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._output.close()


class Inline:
    """A self-test in this very process, for simulated sites whose clock is not the child's. Never on a camera."""

    def __init__(
        self, model: Path, known: Path, runtime: str = "auto", *, time_limit_s: float = TIME_LIMIT_S,
        memory: int = MEMORY_LIMIT,
    ) -> None:  # fmt: skip
        self._outcome = _checked(model, known, runtime)

    def poll(self) -> Outcome:
        return self._outcome

    def stop(self) -> None:
        pass


def _checked(model: Path, known: Path, runtime: str) -> Outcome:
    try:
        return check(model.read_bytes(), msgspec.json.decode(known.read_bytes(), type=Known), runtime)
    except (EdgedError, OSError, ValueError) as e:
        return Outcome(False, f"the model does not run here: {e}")
    except MemoryError:
        return Outcome(False, "the model needs more memory than it may have")


def _shut_in(memory: int, seconds: float) -> None:
    """What the child gives up, before it has read a byte of the model."""
    cpu = math.ceil(4 * seconds) + 1  # threads count one by one; real time is the parent's matter
    for what, most in (
        (resource.RLIMIT_CORE, 0), (resource.RLIMIT_DATA, memory), (resource.RLIMIT_FSIZE, 2**20),
        (resource.RLIMIT_CPU, cpu),
    ):  # fmt: skip
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER | _CLONE_NEWNET)


def main(argv: list[str] | None = None) -> int:
    """The child."""
    parser = argparse.ArgumentParser(prog="python -m agent.selftest")
    parser.add_argument("model", type=Path)
    parser.add_argument("known", type=Path)
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--memory", type=int, default=MEMORY_LIMIT)
    parser.add_argument("--seconds", type=float, default=TIME_LIMIT_S)
    options = parser.parse_args(argv)
    _shut_in(options.memory, options.seconds)
    outcome = _checked(options.model, options.known, options.runtime)
    print(json.dumps({"ok": outcome.ok, "detail": outcome.detail[:400]}), flush=True)
    return 0 if outcome.ok else 1


if __name__ == "__main__":
    sys.exit(main())
