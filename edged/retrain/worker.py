"""One process of a re-test: `python -m edged.retrain.worker FOLDER --core N --nice N --parent PID`. Takes orders on its standard
input, answers on its standard output, under the device's limits (`device.Profile.enforce`).

    -> hello    the job                       frames: 8 bytes length (little-endian), then msgpack
    -> order    a task, and for another host's work the model and the crops that it needs
    <- reply    the task's result (JSON), or what it raised

Guarantees: it holds one core, gives way to all else, dies with its parent and opens no network connection; what its
libraries print goes to its standard error. Reads the site's store only when no crops were sent.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import struct
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct

from edged.errors import Corrupt, EdgedError, Refused
from edged.retrain import children, device, limits
from edged.retrain.jobs import RetestJob
from edged.retrain.pictures import Crop

MOST = 1 << 30  # bytes of a frame
_LENGTH = struct.Struct("<Q")


class Sent(Struct, frozen=True):
    """One crop on its way to another host."""

    id: str
    camera: str
    label: str
    jpeg: bytes


class Order(Struct, frozen=True):
    """`task` as JSON of task.Task. None = take it from the store or the job's folder."""

    task: bytes
    model: bytes | None = None
    crops: tuple[Sent, ...] | None = None  # of this slice, or the pinned ones
    train: tuple[Sent, ...] = ()  # that set an integer network's scales


class Reply(Struct, frozen=True):
    """`result` JSON; or `family` of errors.py, "" = none was raised."""

    result: bytes = b""
    family: str = ""
    code: str = ""
    message: str = ""
    hint: str = ""

    def error(self) -> EdgedError | None:
        if not self.family:
            return None
        return children.FAMILIES.get(self.family, Corrupt)(self.message, code=self.code, hint=self.hint)


def put(file: IO[bytes], value: Struct) -> None:
    data = msgspec.msgpack.encode(value)
    file.write(_LENGTH.pack(len(data)) + data)
    file.flush()


def take(file: IO[bytes]) -> bytes:
    """The next frame's body. Raises EOFError: the other end is gone."""
    head = file.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (size,) = _LENGTH.unpack(head)
    if size > MOST:
        raise Corrupt(f"a frame of {size} bytes")
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m edged.retrain.worker", description="edged starts this by itself.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--core", type=int, default=-1)
    parser.add_argument("--nice", type=int, default=children.TRIAL_NICE)
    parser.add_argument("--timed", action="store_true", help="with the device's share of the core")
    parser.add_argument("--parent", type=int, default=0, help="die with this process")
    args = parser.parse_args(argv)
    if args.parent and not limits.die_with(args.parent):
        return 1
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no reply
    if args.core >= 0:
        with contextlib.suppress(OSError):  # a cpuset that has changed
            os.sched_setaffinity(0, {args.core})
    limits.give_way(args.nice)
    job = msgspec.msgpack.decode(take(source), type=RetestJob)
    imposed = device.find(job.device).enforce(job.quota if args.timed else 0)
    try:
        serve(job, args.folder, source, sink, imposed)
    except (EOFError, BrokenPipeError):
        return 0
    return 0


def serve(job: RetestJob, folder: Path, source: IO[bytes], sink: IO[bytes], imposed: tuple[str, ...]) -> None:
    """Orders, one after another, until the other end is gone (EOFError)."""
    from edged.retrain import source as sources
    from edged.retrain.task import Bench, Task

    bench: Bench | None = None
    with contextlib.ExitStack() as stack:
        while True:
            order = msgspec.msgpack.decode(take(source), type=Order)
            try:
                task = msgspec.json.decode(order.task, type=Task)
                if order.crops is not None or order.model is not None:
                    if bench is None:
                        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edged-retest-")))
                        bench = Bench(job, Parcel(), folder, whole=False, imposed=imposed)
                    assert isinstance(bench.store, Parcel)
                    bench.store.fill(order, task.sha256)
                elif bench is None:
                    bench = Bench(job, stack.enter_context(sources.open_source(job)), folder, imposed=imposed)
                reply = Reply(result=msgspec.json.encode(bench.do(task)))
            except EdgedError as e:
                family = next(c.__name__ for c in type(e).__mro__ if c.__module__ == "edged.errors")
                reply = Reply(family=family, code=e.code, message=str(e), hint=e.hint)
            put(sink, reply)


class Parcel:
    """What another host was sent, in the place of the store."""

    def __init__(self) -> None:
        self._models: dict[str, bytes] = {}
        self._order: Order | None = None

    def fill(self, order: Order, sha256: str) -> None:
        if order.model is not None:
            self._models[sha256] = order.model
        self._order = order

    def model(self, sha256: str) -> bytes:
        try:
            return self._models[sha256]
        except KeyError:
            raise Refused(f"model {sha256[:12]} was not sent", code="not_found") from None

    def crops(self, part: str) -> list[Crop]:
        assert self._order is not None
        sent = self._order.train if part == "train" else self._order.crops or ()
        return [Crop(s.id, s.camera, s.label, partial(bytes, s.jpeg)) for s in sent]

    def named(self, pairs: Sequence[tuple[str, str]]) -> list[Crop]:
        return self.crops("pinned")


if __name__ == "__main__":
    sys.exit(main())
