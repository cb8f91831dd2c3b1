"""Scrub files: what a file child gives is put in its place (pictures), or encoded and put there (films).

Guarantees: an output appears whole under its name or not at all, also when the child
dies, stalls or contradicts itself, and on Ctrl-C; nothing is overwritten unless asked for, an input never. Does not
guarantee: that all private content is found.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct, field

from edged import durable
from edged.clock import stopwatch
from edged.errors import EXIT_FOUND_BAD, EdgedError, Refused, Unavailable
from edged.privacy import encoder
from edged.privacy.batch import Work
from edged.privacy.encoder import Encoder
from edged.privacy.file_pool import FileChild
from edged.privacy.file_talk import Opened
from edged.privacy.pool import environment
from edged.privacy.scrub import Polygon, Withheld

MEMORY = 6 << 30  # of the child's address space: a picture of 120 megapixels, or a film in 4K

Progress = Callable[[int, int], None]  # frames done, frames announced (0 = not known)


class Outcome(Struct, frozen=True):
    """What became of one file. `status`: done, there (was before, left as it is), withheld, refused, failed.

    `hidden` counts covered areas by kind (in a film over all frames), `blank` frames that are grey all over by reason;
    `sound`: copied, encoded, none, left_out (a film without ffmpeg, or sound that cannot be read).
    """

    file: str
    out: str
    kind: str
    status: str
    code: str = ""
    message: str = ""
    width: int = 0
    height: int = 0
    frames: int = 0
    looks: int = 0
    hidden: dict[str, int] = field(default_factory=dict)
    blank: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    fps: float = 0.0
    sound: str = ""
    encoder: str = ""
    ms: dict[str, float] = field(default_factory=dict)


def scrub(
    child: FileChild, work: Work, *, masks: Sequence[Polygon] = (), overwrite: bool = False, sound: bool = True,
    progress: Progress = lambda done, of: None,
) -> Outcome:  # fmt: skip
    """Scrub one file. Raises Refused, Withheld, Unavailable, Misconfigured, and then there is no output."""
    if not overwrite and work.target.exists():
        raise Refused(f"{work.target} is there already", hint="--overwrite replaces it", code="there")
    try:
        work.target.parent.mkdir(parents=True, exist_ok=True)
        if work.kind == "picture":
            return _picture(child, work, masks, overwrite)
        return _film(child, work, masks, overwrite, sound, progress)
    except OSError as e:
        raise Unavailable(f"cannot write {work.target}: {e.strerror}", code="cannot_write") from e


def outcome_of(work: Work, error: EdgedError) -> Outcome:
    """Of a file that was not scrubbed."""
    status = (
        "there" if error.code == "there"
        else "withheld" if isinstance(error, Withheld)
        else "refused" if isinstance(error, Refused)
        else "failed"
    )  # fmt: skip
    return Outcome(str(work.source), "", work.kind, status, error.code, str(error))


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """3 when something was withheld, else 1 when something could not be scrubbed, else 0."""
    states = {outcome.status for outcome in outcomes}
    return EXIT_FOUND_BAD if "withheld" in states else 1 if states & {"refused", "failed"} else 0


def _picture(child: FileChild, work: Work, masks: Sequence[Polygon], overwrite: bool) -> Outcome:
    began = stopwatch()
    got, raw = child.picture(work.source, "png" if work.target.suffix.lower() == ".png" else "jpeg", masks)
    _put(lambda: durable.write(work.target, raw, replace=overwrite), work.target)
    blank = {got.unjudged: 1} if got.unjudged else {}
    return Outcome(
        str(work.source), str(work.target), "picture", "done", width=got.width, height=got.height, frames=1, looks=1,
        hidden=got.hidden, blank=blank, seconds=stopwatch() - began, ms=got.ms,
    )  # fmt: skip


def _film(
    child: FileChild, work: Work, masks: Sequence[Polygon], overwrite: bool, sound: bool, progress: Progress
) -> Outcome:
    program = encoder.ffmpeg()
    began = stopwatch()
    silent, whole = (_temporary(work.target, part) for part in ("film", "whole"))
    running: list[Encoder] = []
    about: list[Opened] = []

    def opened(said: Opened) -> Callable[[memoryview], None]:
        about.append(said)
        words = encoder.command(program, silent, said.width, said.height, said.fps, child.threads)
        running.append(Encoder(words, child.stall_s, environment()))
        done = 0

        def take(frame: memoryview) -> None:
            nonlocal done
            running[0].write(frame)
            done += 1
            progress(done, said.frames)

        return take

    try:
        got = child.film(work.source, masks, opened)
        running[0].finish()
        finished, how = (
            _with_sound(program, silent, work.source, whole, child.stall_s) if sound else (silent, "left_out")
        )
        _put(lambda: _place(finished, work.target, overwrite), work.target)
    finally:
        for process in running:
            process.kill()
        silent.unlink(missing_ok=True)
        whole.unlink(missing_ok=True)
    seconds = stopwatch() - began
    return Outcome(
        str(work.source), str(work.target), "film", "done", width=about[0].width, height=about[0].height,
        frames=got.frames, looks=got.looks, hidden=got.hidden, blank=got.blank, seconds=seconds,
        fps=got.frames / seconds, sound=how, encoder="ffmpeg" if program else "opencv", ms=got.ms,
    )  # fmt: skip


def _with_sound(program: str | None, silent: Path, source: Path, whole: Path, stall_s: float) -> tuple[Path, str]:
    """The finished film, and what became of its sound."""
    if program is None:
        return silent, "left_out"
    limit_s = stall_s + silent.stat().st_size / 1e6
    for how in ("copied", "encoded", "none"):
        if encoder.run(encoder.with_sound(program, silent, source.resolve(), whole, how), limit_s, environment()):
            return whole, how
    return silent, "left_out"


def _temporary(target: Path, part: str) -> Path:
    return target.with_name(f".{target.stem}.{os.getpid()}.{part}.tmp{target.suffix}")


def _place(finished: Path, target: Path, overwrite: bool) -> None:
    descriptor = os.open(finished, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if overwrite:
        os.replace(finished, target)
    else:
        os.link(finished, target)
    durable.sync_folder(target.parent)


def _put(place: Callable[[], None], target: Path) -> None:
    try:
        place()
    except FileExistsError as e:
        raise Refused(f"{target} is there already", hint="--overwrite replaces it", code="there") from e
