"""`edged model pack | unpack | delta`: models as they are kept and sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from edged.cli.data import _progress
from edged.cli.main import Context, verb
from edged.cli.model import model
from edged.errors import Corrupt, Misconfigured, Refused

NAMED = 3  # tensors in a warning
_PATH = click.Path(path_type=Path)


@model.command("pack")
@click.argument("file", type=_PATH)
@click.option("-o", "--out", type=_PATH, help="else FILE with the suffix .epk")
@verb
def model_pack(context: Context, file: Path, out: Path | None) -> None:
    """Make an ONNX file small for storage and transport; unpacked, it is the same file again, and no slower or faster.

    Any ONNX file: what would hinder it from running here is said, and it is packed all the same.
    """
    from edged import packed
    from edged.packed import files

    file = files.given(file)
    out = files.place(file, out, files.SUFFIX)
    onnx = file.read_bytes()
    with _named(file):
        data = packed.pack(onnx)
    files.keep(data, out)
    for line in () if context.quiet else _doubts(onnx):
        click.echo(f"edged: {file}: packed all the same; as a model here it is refused: {line}", err=True)
    found = packed.look(data, most=len(onnx))
    _tell(context, found, str(out), f"{out}: {len(onnx)} bytes packed into {len(data)}")


@model.command("delta")
@click.argument("old", type=_PATH)
@click.argument("new", type=_PATH)
@click.option("-o", "--out", type=_PATH, help="else NEW with the suffix .epd")
@verb
def model_delta(context: Context, old: Path, new: Path, out: Path | None) -> None:
    """What makes NEW of OLD, for cameras that have OLD. `unpack --from OLD` gives NEW again, to the byte.

    A release has deltas from what cameras run by itself (docs/delivery.md); this is to look at them, or to carry one by hand.
    """
    from edged.packed import delta, facts, files, parts

    old, new = files.given(old), files.given(new)
    out = files.place(new, out, files.DELTA_SUFFIX)
    before, after = old.read_bytes(), new.read_bytes()
    for path, data in ((old, before), (new, after)):
        with _named(path):
            parts.find(data)  # a delta of anything else is longer than its file
    with _progress(context) as progress:
        data = delta.make(before, after, progress)
    files.keep(data, out)
    found = facts.look_delta(before, data, most=len(after))
    _tell(context, found, str(out), f"{out}: {len(data)} bytes make the {len(after)} of {new} from {old}")


def _bytes(_: Any, option: click.Parameter, text: str) -> int:
    from edged.config import size

    try:
        return size(text)
    except Misconfigured as e:
        raise click.BadParameter(f"{text!r}: bytes are needed, or a number with KB, MB or GB", param=option) from e


@model.command("unpack")
@click.argument("file", type=_PATH)
@click.option("--from", "source", type=_PATH, metavar="OLD", help="the file that a delta starts from")
@click.option("-o", "--out", type=_PATH, help="else FILE with the suffix .onnx")
@click.option("--most", default="1GB", show_default=True, callback=_bytes, help="refuse what unpacks to more than that")
@verb
def model_unpack(context: Context, file: Path, source: Path | None, out: Path | None, most: int) -> None:
    """The very ONNX file that was packed, or that a delta leads to; nothing is written unless its SHA-256 is right."""
    from edged import packed
    from edged.packed import facts, files

    file = files.given(file, files.PACKED)
    old = files.given(source) if source else None
    out = files.place(file, out, files.MODEL_SUFFIX)
    with _named(file):
        _, written = files.unpack(file, out, old=old, most=most)
    data = file.read_bytes()
    found = packed.look(data, most=most) if old is None else facts.look_delta(old.read_bytes(), data, most=most)
    _tell(context, found, str(out), f"{out}: {len(data)} bytes unpacked to {written}")


def _doubts(onnx: bytes) -> list[str]:
    """What other verbs would refuse it for, as far as its bytes tell; sentences."""
    from edged.engine import admit
    from edged.packed import parts

    said = []
    if bad := parts.not_numbers(onnx):
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        said.append(f"not all its weights are numbers: {', '.join(ascii(n)[1:-1][:80] for n in bad[:NAMED])}{more}")
    try:
        admit.judge(onnx, most=len(onnx))
    except Refused as e:
        said.append(str(e))
    return said


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What is wrong with a file, with its name."""
    try:
        yield
    except (Refused, Corrupt) as e:
        if str(path) in str(e):
            raise
        raise type(e)(f"{path}: {e}", hint=e.hint, code=e.code, exit_code=e.exit_code) from e


def _tell(context: Context, found: Any, out: str, said: str) -> None:
    """Sizes, the ratio, and a table that adds up to both files."""
    import dataclasses

    def row(name: str, shape: str, size: int, packed: int, coder: str = "") -> str:
        return f"{name[:32]:32} {shape:>18} {size:>11} {packed:>10}  {coder}".rstrip()

    text = [
        f"{said}, 1 : {found.ratio:.1f}, sha256 {found.sha256}",
        f"{'tensor':32} {'shape':>18} {'bytes':>11} {'packed':>10}  coder",
        *(row(p.name, "x".join(map(str, p.dims)), p.size, p.packed, p.coder) for p in found.parts),
        row("graph: all but the tensors", "", found.graph, found.graph_packed, "deflate"),
        row("head", "", 0, found.head),
        row("in all", "", found.size, found.packed),
    ]
    context.out({"file": out, **dataclasses.asdict(found), "ratio": round(found.ratio, 2)}, "\n".join(text))
