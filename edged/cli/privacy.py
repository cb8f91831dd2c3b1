"""Verbs that scrub files and measure the scrubber: privacy scrub, audit, test. They need no site."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from edged.cli.main import Context, main, verb
from edged.cli.ranges import Range
from edged.errors import EXIT_FOUND_BAD, EXIT_NOT_FOUND, Misconfigured, Refused, Unavailable

if TYPE_CHECKING:
    from edged.privacy.file_pool import FileChild
    from edged.privacy.files import Outcome
    from edged.privacy.scrub import Polygon, ScrubOptions

TERMINATED = 128 + signal.SIGTERM
DETECTION = (
    click.option("--faces/--no-faces", default=True, show_default=True, help="hide faces"),
    click.option("--plates/--no-plates", default=True, show_default=True, help="hide number plates"),
    click.option("--strict", is_flag=True, help="every detector at its full size: slower, misses less"),
    click.option("--face-model", type=click.Path(path_type=Path), help="an own YuNet ONNX file"),
    click.option("--margin", default=0.25, show_default=True, help="grow boxes by this share on each side"),
    click.option("--runtime", type=click.Choice(["auto", "openvino", "onnxruntime"]), default="auto"),
    click.option("--threads", type=click.IntRange(0, 64), default=0, help="0 = one for each core that may be used"),
)


@main.group()
def privacy() -> None:
    """Scrub pictures and films; measure what the scrubber hides."""


def _detection(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(DETECTION):
        function = option(function)
    return function


@privacy.command("scrub")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="file or folder; default NAME.scrubbed beside it")
@_detection
@click.option("--unjudged", type=click.Choice(["withhold", "blank", "keep"]), default="withhold", show_default=True,
              help="what becomes of a picture too dark or blurred to judge; in a film such frames are grey")  # fmt: skip
@click.option("--mask", "masks", multiple=True, metavar='"x,y x,y x,y"', help="always hide this, shares of 0..1")
@click.option("--camera", help="hide what this camera's masks in config.toml hide")
@click.option("--keep-audio/--no-audio", "sound", default=True, show_default=True, help="a film's sound (by ffmpeg)")
@click.option(
    "--stall",
    "stall_s",
    type=Range(1, 3600),
    default=60.0,
    show_default=True,
    help="seconds of silence that end a file",
)
@click.option("--overwrite", is_flag=True, help="replace outputs that are there already")
@verb
def scrub(
    context: Context, source: Path, out: Path | None, unjudged: Literal["withhold", "blank", "keep"],
    masks: tuple[str, ...], camera: str | None, sound: bool, stall_s: float, overwrite: bool, threads: int,
    **detection: Any,
) -> None:  # fmt: skip
    """Hide faces and number plates in a picture, a film, or a folder of them.

    Covered places are filled with one colour before anything is encoded; metadata is left out. Exit 3 when a picture
    was withheld (it could not be judged, or its decoder failed), 1 when a file could not be scrubbed.
    """
    from edged.errors import EdgedError
    from edged.privacy import batch, files

    polygons = (*map(_polygon, masks), *_masks_of(context, camera))
    options = _options(unjudged=unjudged, **detection)
    if not (options.faces or options.plates or polygons):
        raise click.UsageError("with --no-faces and --no-plates there is nothing to hide but a --mask")
    plan = batch.plan(source, out)
    outcomes: list[Outcome] = []
    with _terminated(), _child(options, threads, stall_s) as child, _Progress(context, len(plan.works)) as bar:
        child.start()
        for work in plan.works:
            bar.next(work.source.name)
            try:
                done = files.scrub(
                    child, work, masks=polygons, overwrite=overwrite, sound=sound, progress=bar.frames
                )  # fmt: skip
            except Misconfigured:
                raise
            except EdgedError as e:
                done = files.outcome_of(work, e)
                if (not source.is_dir() and done.status != "withheld") or e.code == "child_down":
                    raise
            outcomes.append(done)
    _tell(context, source, outcomes, len(plan.others))


@privacy.command("test")
@click.argument("file", type=click.Path(path_type=Path))
@_detection
@verb
def test(context: Context, file: Path, threads: int, **detection: Any) -> None:
    """What would be hidden in a picture: kinds and boxes, nothing of their content. Writes no picture."""
    options = _options(unjudged="blank", **detection)
    with _child(options, threads, 60.0) as child:
        got, _ = child.picture(file, "jpeg")
    boxes = [dict(zip(("kind", "x", "y", "w", "h"), box, strict=True)) for box in got.boxes]
    lines = [f"{kind} {x},{y} {w}x{h}" for kind, x, y, w, h in got.boxes]
    if got.unjudged:
        lines = [f"it is {got.unjudged.replace('_', ' ')} to be judged, so all of it would be hidden"]
    size = f"{got.width}x{got.height}"
    context.out(
        {"file": str(file), "width": got.width, "height": got.height, "hidden": got.hidden, "boxes": boxes,
         "unjudged": got.unjudged, "ms": got.ms},
        "\n".join([f"{file} ({size}): {_count(got.hidden) or 'nothing to hide was found'}", *lines]),
    )  # fmt: skip


@privacy.command("audit")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--boxes", type=click.Path(path_type=Path), required=True, help="CSV: file,x,y,w,h[,kind]")
@_detection
@click.option("--size", metavar="WxH", help="shrink pictures into frames of this size first, e.g. 1280x720")
@click.option("--darken", type=float, default=1.0, metavar="F", help="night-like copies in F of the light, e.g. 0.06")
@click.option("--unjudged", type=click.Choice(["withhold", "keep"]), default="withhold", show_default=True)
@click.option("--at-least", multiple=True, metavar="KIND[:PIXELS]=SHARE", help="e.g. face:16=0.95; exit 3 below it")
@verb
def audit(
    context: Context, folder: Path, boxes: Path, size: str | None, darken: float, at_least: tuple[str, ...],
    unjudged: Literal["withhold", "keep"], threads: int, **detection: Any,
) -> None:  # fmt: skip
    """Measure on annotated pictures what is hidden, and what is hidden for nothing.

    The CSV's first row names its columns: file,x,y,w,h[,kind] or file,xmin,ymin,xmax,ymax[,kind], in pixels; a row with
    a file alone is a picture with nothing in it; a kind that begins with "ignore" may be hidden or not. A box is hidden
    when 90 % of it is covered in the picture as it would be delivered.
    """
    from edged.errors import EdgedError
    from edged.privacy import audit as measure
    from edged.privacy.file_talk import DoAudit

    if not folder.is_dir():
        raise Refused(f"there is no folder {folder}", code="not_found", exit_code=EXIT_NOT_FOUND)
    fit = _size(size)
    if not 0 < darken <= 1:
        raise click.BadParameter("a share of the light, above 0 and up to 1", param_hint="--darken")
    try:
        limits = [measure.limit_of(text) for text in at_least]
    except ValueError as e:
        raise click.BadParameter("KIND=SHARE or KIND:PIXELS=SHARE", param_hint="--at-least") from e
    annotated = measure.read_boxes(boxes)
    result = measure.Audit()
    options = _options(unjudged=unjudged, **detection)
    with _terminated(), _child(options, threads, 60.0) as child, _Progress(context, len(annotated)) as bar:
        child.start()
        for one in annotated:
            bar.next(one.file)
            try:
                got = child.audit(folder / one.file, DoAudit(0, one.boxes, one.others, fit, darken))
            except (Misconfigured, Unavailable):
                raise
            except EdgedError as e:
                result.withheld[e.code] += 1
            else:
                result.add(one, got)
    report = result.report()
    missed = result.missed(limits)
    context.out({**report, "missed": missed}, "\n".join([measure.table(report), *(f"NOT MET {m}" for m in missed)]))
    if missed:
        sys.exit(EXIT_FOUND_BAD)


def _options(*, face_model: Path | None, **more: Any) -> ScrubOptions:
    import msgspec

    from edged.privacy.files import MEMORY
    from edged.privacy.scrub import ScrubOptions

    if face_model is not None and not face_model.is_file():
        raise Refused(f"there is no file {face_model}", code="not_found", exit_code=EXIT_NOT_FOUND)
    model = str(face_model.resolve()) if face_model else ""
    try:
        return msgspec.convert(
            msgspec.to_builtins(ScrubOptions(face_model=model, memory_bytes=MEMORY, **more)), ScrubOptions
        )
    except msgspec.ValidationError as e:
        raise click.UsageError(str(e)) from e


def _child(options: ScrubOptions, threads: int, stall_s: float) -> FileChild:
    from edged.privacy.file_pool import FileChild

    return FileChild(options, threads=threads or len(os.sched_getaffinity(0)), stall_s=stall_s)


def _polygon(text: str) -> Polygon:
    try:
        corners = tuple((float(x), float(y)) for x, y in (corner.split(",") for corner in text.split()))
    except ValueError as e:
        raise click.BadParameter(f"{text!r} is not x,y x,y x,y", param_hint="--mask") from e
    if len(corners) < 3 or not all(0 <= edge <= 1 for corner in corners for edge in corner):
        raise click.BadParameter(f"{text!r} is not three corners or more, each 0..1", param_hint="--mask")
    return corners


def _masks_of(context: Context, camera: str | None) -> tuple[Polygon, ...]:
    if camera is None:
        return ()
    for known in context.config().camera:
        if known.id == camera:
            return tuple(mask.polygon for mask in known.mask)
    raise Refused(f"{context.config_path} knows no camera {camera}", code="not_found", exit_code=EXIT_NOT_FOUND)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and 16 <= int(width) <= 8192 and 16 <= int(height) <= 8192):
        raise click.BadParameter(f"{text!r} is not WxH", param_hint="--size")
    return int(width), int(height)


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM cleans up as Ctrl-C does."""

    def stop(*_: object) -> None:
        sys.exit(TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Progress:
    """A bar on stderr with the time left: a thousand steps for each file."""

    def __init__(self, context: Context, count: int) -> None:
        hidden = context.as_json or context.quiet
        self._bar: Any = click.progressbar(
            length=1000 * max(1, count), file=sys.stderr, hidden=hidden, item_show_func=lambda item: item
        )
        self._begun, self._name, self._at = 0, "", 0.0

    def __enter__(self) -> _Progress:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._to(1000 * self._begun, self._name)
        self._bar.__exit__(*error)

    def next(self, name: str) -> None:
        """The file before is done."""
        from edged.clock import stopwatch

        self._name, self._at = name, stopwatch()
        self._to(1000 * self._begun, name)
        self._begun += 1

    def frames(self, done: int, of: int) -> None:
        """Of the film that runs."""
        from edged.clock import stopwatch

        fps = done / max(stopwatch() - self._at, 1e-3)
        share = min(1.0, done / of) if of else 0.0
        self._to(1000 * (self._begun - 1) + int(999 * share), f"{self._name}, frame {done}, {fps:.1f} frames/s")

    def _to(self, position: int, item: str) -> None:
        self._bar.update(max(0, position - self._bar.pos), item)


def _tell(context: Context, source: Path, outcomes: Sequence[Outcome], others: int) -> None:
    import msgspec

    from edged.privacy.files import exit_code

    states = [o.status for o in outcomes]
    lines = [_line(o) for o in outcomes if o.status != "there"]
    if states.count("there"):
        lines.append(f"{states.count('there')} were there already and left as they are (--overwrite replaces them)")
    if others:
        lines.append(f"{others} files are neither pictures nor films and were not copied")
    if not outcomes:
        lines.append(f"there is no picture or film in {source}")
    context.out({"files": [msgspec.to_builtins(o) for o in outcomes], "others": others}, "\n".join(lines))
    if code := exit_code(outcomes):
        sys.exit(code)


def _line(o: Outcome) -> str:
    if o.status != "done":
        return f"{o.status.upper()} {o.file}: {o.message}"
    words = [_count(o.hidden) or "nothing to hide was found"]
    if o.kind == "film":
        words.insert(0, f"{o.frames} frames, {o.fps:.1f} a second")
        if o.sound == "left_out":
            words.append("sound left out" + (" (there is no ffmpeg here)" if o.encoder != "ffmpeg" else ""))
        elif o.sound != "none":
            words.append("sound kept")
    words += [f"{n} grey all over ({why.replace('_', ' ')})" for why, n in o.blank.items()]
    return f"{o.out}: {'; '.join(words)}"


def _count(hidden: dict[str, int]) -> str:
    """Areas, not things: two faces that touch are one area."""
    return ", ".join(f"{n} area{'s' * (n != 1)} of {kind}s hidden" for kind, n in sorted(hidden.items()) if n)
