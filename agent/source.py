"""Where a camera's pictures come from, behind one word: `open_source("scene:north?phase=day", ...)`.

    scene:PLACE?seed=&phase=day|night&phase-file=&start=&step=&stride=&regions=boxes|motion   the generated street
    folder:DIR?loop=&kind=frame|roi&truth=folder       pictures, by name
    file:CLIP?loop=                                    a video file
    v4l2:/dev/video0    rtsp://...                     a camera
    cnrpark:DIR?camera=&every=&offset=&start=&stop=&after=&hold-file=    patches in order of their time
    pklot:DIR?sequence=                                whole pictures with their marked spaces

Guarantees: a spec that cannot work raises Misconfigured with the reason before the first picture (a video file that is
none: at the first); a picture that cannot be read is skipped and counted; None means "nothing yet", so that the loop
of the caller never waits longer than about 0.2 s; videos are decoded in a child process. Does not guarantee: that a
live camera comes back once it has ended: the caller opens it anew.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from edged.clock import Clock
from edged.errors import Misconfigured

Box = tuple[int, int, int, int]  # x, y, w, h in pixels
Kind = Literal["frame", "roi"]

WAIT_S = 0.2  # the longest that asking for the next picture sleeps


@dataclass(frozen=True)
class Shot:
    """One picture. `image` uint8 [h, w, 3] BGR; `ts` seconds since 1970 by the camera's (or the scene's) clock.

    `regions` None: motion decides; otherwise at most four boxes inside the picture. `truth`, where known, is the class
    of each region, in their order. `kind` "roi": the whole picture is one region. `jpeg` is the picture as
    it came, if it came as JPEG.
    """

    image: NDArray[np.uint8]
    ts: float
    regions: tuple[Box, ...] | None = None
    truth: tuple[str, ...] | None = None
    kind: Kind = "frame"
    jpeg: bytes | None = None


@dataclass
class Tally:
    """What happened to a source so far; `ended` says in words why it gave its last picture."""

    skipped: int = 0
    ended: str = ""


class Source:
    """An iterator of Shot | None at no more than `fps` pictures a second; close it, or use it as a context manager."""

    def __init__(
        self, shots: Iterator[Shot | None], tally: Tally, *, fps: float, clock: Clock, limit: int | None,
        close: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._shots, self.tally, self._clock, self._close = shots, tally, clock, close
        self._gap = 1 / fps if fps > 0 else 0.0
        self._due = clock.monotonic()
        self._left = limit

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> Shot | None:
        if self._left == 0:
            raise StopIteration
        wait = self._due - self._clock.monotonic()
        if wait > 0:
            self._clock.sleep(min(wait, WAIT_S))
            if wait > WAIT_S:
                return None
        shot = next(self._shots)
        if shot is not None:
            now = self._clock.monotonic()
            self._due = max(self._due + self._gap, now)  # what was late is not made up for by a burst
            self._left = None if self._left is None else self._left - 1
        return shot

    def close(self) -> None:
        self._close()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_source(spec: str, *, fps: float, clock: Clock, limit: int | None = None) -> Source:
    """Opens `spec` (see the module). `fps` 0 = as fast as they come; `limit` ends it after that many pictures.

    Raises Misconfigured for an unknown kind, option or place, and for a file or folder that is not there.
    """
    kind, _, rest = spec.partition(":")
    if kind not in _OPENERS:
        raise Misconfigured(f"unknown source {spec!r}{_nearest(kind, _OPENERS)}", hint=f"one of {', '.join(_OPENERS)}")
    if kind == "rtsp":  # its query belongs to the camera
        where, options = spec, Options("rtsp", {})
    else:
        where, _, query = rest.partition("?")
        options = Options(kind, dict(parse_qsl(query, keep_blank_values=True)))
    tally = Tally()
    shots, close = _OPENERS[kind](where, options, tally, fps, clock)
    options.all_known()
    return Source(shots, tally, fps=fps, clock=clock, limit=limit, close=close)


class Options:
    """The part of a spec behind the question mark; every read names an option, and what nobody read is an error."""

    def __init__(self, kind: str, values: dict[str, str]) -> None:
        self._kind, self._values, self._asked = kind, values, set[str]()

    def text(self, name: str, default: str = "", among: tuple[str, ...] = ()) -> str:
        self._asked.add(name)
        value = self._values.get(name, default)
        if among and value not in among:
            raise Misconfigured(f"{self._kind}: {name}={value!r} must be one of {', '.join(among)}")
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        value = self.text(name, str(default))
        try:
            number = float(value)
        except ValueError as e:
            raise Misconfigured(f"{self._kind}: {name}={value!r} is no number") from e
        if not low <= number <= high:
            raise Misconfigured(f"{self._kind}: {name}={value} must be from {low:g} to {high:g}")
        return number

    def whole(self, name: str, default: int, low: int = 0, high: int = 2**31) -> int:
        number = self.number(name, default, low, high)
        if number != int(number):
            raise Misconfigured(f"{self._kind}: {name}={number:g} must be a whole number")
        return int(number)

    def yes(self, name: str) -> bool:
        return self.text(name, "0", ("0", "1", "no", "yes", "false", "true")) in ("1", "yes", "true")

    def all_known(self) -> None:
        for name in self._values.keys() - self._asked:
            raise Misconfigured(f"{self._kind}: unknown option {name!r}{_nearest(name, self._asked)}")


def _nearest(word: str, known: set[str] | dict[str, Opener]) -> str:
    near = difflib.get_close_matches(word, sorted(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


Opened = tuple[Iterator[Shot | None], Callable[[], None]]
Opener = Callable[[str, Options, Tally, float, Clock], Opened]


def _done() -> None:
    return None


def _scene(where: str, options: Options, tally: Tally, fps: float, clock: Clock) -> Opened:
    from agent import scene_source

    return scene_source.shots(where, options), _done


def _folder(where: str, options: Options, tally: Tally, fps: float, clock: Clock) -> Opened:
    from agent import replay

    return replay.folder(Path(where), options, tally, clock), _done


def _cnrpark(where: str, options: Options, tally: Tally, fps: float, clock: Clock) -> Opened:
    from agent import replay

    return replay.cnrpark(Path(where), options, tally, clock), _done


def _pklot(where: str, options: Options, tally: Tally, fps: float, clock: Clock) -> Opened:
    from agent import replay

    return replay.pklot(Path(where), options, tally), _done


def _video(where: str, options: Options, tally: Tally, fps: float, clock: Clock, *, live: bool) -> Opened:
    from agent import video

    if not where.startswith("rtsp:") and not Path(where).exists():
        raise Misconfigured(f"there is no {'camera' if live else 'video'} at {where}")
    loop = options.yes("loop") if not live else False
    child = video.VideoChild(where, live=live, loop=loop, fps=fps, clock=clock)
    return video.shots(child, tally, clock), child.close


def _file(where: str, options: Options, tally: Tally, fps: float, clock: Clock) -> Opened:
    return _video(where, options, tally, fps, clock, live=False)


def _camera(where: str, options: Options, tally: Tally, fps: float, clock: Clock) -> Opened:
    return _video(where, options, tally, fps, clock, live=True)


_OPENERS: dict[str, Opener] = {
    "scene": _scene, "folder": _folder, "file": _file, "v4l2": _camera, "rtsp": _camera, "cnrpark": _cnrpark,
    "pklot": _pklot,
}  # fmt: skip
