"""`edged device`: what the cameras' hardware can do: profiles, calibrations, predictions."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edged.cli.main import Context, main, verb
from edged.cli.ranges import Range
from edged.errors import EXIT_NOT_FOUND, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from edged.engine.probe import Probed
    from edged.retrain.device import Profile
    from edged.retrain.latency import Calibration
    from edged.storage.calibrations import Calibrated

AUTHOR = click.option("--author", default="command line", show_default=True, help="who does it, for the audit log")
DEVICE = click.option("--device", "id", default="atom-x5-e3940", show_default=True, help="see `edged device ls`")
CALIBRATION_BYTES = 64 * 1024  # as much as a camera's message may have
TELL_S = 5.0  # between two lines of progress where stderr is no terminal
_PATH = click.Path(path_type=Path)


@main.group()
def device() -> None:
    """What the cameras' hardware can do: profiles, calibrations, predictions."""


@device.command("ls")
@click.option("--all", "retired", is_flag=True, help="calibrations that were retired too")
@verb
def device_ls(context: Context, retired: bool) -> None:
    """The profiles, and the calibrations that boards sent or people brought."""
    from edged.clock import iso
    from edged.retrain.profiles import PROFILES

    kept = _kept(context, retired)
    lines = [f"{'device':22} {'cores':>5} {'GHz':>5} {'memory':>8} {'watts':>6}  calibrated"]
    for p in PROFILES:
        own = next((c for c in kept if c.device == p.id and c.retired is None), None)
        when = f"{iso(own.created)[:10]} by {own.author}" if own else "no"
        memory = f"{p.memory_bytes / 2**30:.1f} GB" if p.memory_bytes else "-"
        lines.append(f"{p.id:22} {p.cores:5} {p.ghz or '-':>5} {memory:>8} {p.power_w or '-':>6}  {when}")
    if kept:
        lines += ["", f"{'calibration':>11} {'device':26} {'runtime':12} processor"]
        lines += [
            f"{c.id:11} {c.device:26} {c.runtime:12} {c.processor}  ({iso(c.created)[:10]}, {c.author}"
            f"{', retired' if c.retired else ''})" for c in kept
        ]  # fmt: skip
    document = {"profiles": [_profile(p) for p in PROFILES], "calibrations": [_row(c) for c in kept]}
    context.out(document, "\n".join(lines))


@device.command("show")
@click.argument("id")
@verb
def device_show(context: Context, id: str) -> None:
    """One profile: its limits, what a re-test covers of it, and how its speed is known."""
    from edged.retrain import device as devices

    p = devices.find(id)
    fitted = _fitted(context, id, None)
    lines = [p.name, f"instructions {p.isa}; {p.cores} cores", "", "a re-test imposes"]
    lines += [f"  - {c}" for c in p.covered] + ["and does not cover"] + [f"  - {c}" for c in p.not_covered]
    lines += ["", f"speed: {p.basis}"]
    if fitted is not None:
        lines.append("speed: " + _told(fitted))
    document = {"profile": _profile(p), "calibration": _plain(fitted) if fitted is not None else None}
    context.out(document, "\n".join(lines))


@device.command("calibrate")
@DEVICE
@click.option("-o", "--out", type=_PATH, help="write the result there")
@click.option("--runtime", type=click.Choice(["auto", "openvino", "onnxruntime"]), default="auto", show_default=True)
@click.option(
    "--seconds",
    type=Range(1, 3600),
    default=60.0,
    show_default=True,
    help="to measure in, loading not counted",
)
@AUTHOR
@verb
def device_calibrate(context: Context, id: str, out: Path | None, runtime: str, seconds: float, author: str) -> None:
    """Measure how fast this machine runs each kind of layer, under the device's instruction set.

    On the device itself: its calibration. On another machine: this box's own numbers, by which what a re-test measures here is
    carried over to the device once that is calibrated too. Kept in the site if there is one, else in the file of -o.
    """
    import msgspec

    from edged import durable
    from edged.engine import probe_child
    from edged.retrain import calibrated, latency
    from edged.retrain import device as devices

    profile = devices.find(id)
    here = not profile.caps or (bool(profile.processor) and profile.processor in devices.processor())
    on_site = context.config_path.exists()
    if not on_site and out is None:
        raise Refused(
            "there is no site to keep it in", hint="-o FILE.json, or -c config.toml of a site", code="no_place"
        )
    if out is not None and not out.resolve().parent.is_dir():  # said before the minutes of measuring
        raise Refused(
            f"there is no folder {out.parent}", code="not_found", hint="make it first", exit_code=EXIT_NOT_FOUND
        )
    named = id if here else id + calibrated.BOX
    caps = {} if here else profile.environment()
    with _bar(context, f"probing as {named}") as progress:
        probed = probe_child.under(caps, devices.CAPS, runtime=runtime, seconds=seconds, progress=progress)
    fitted = latency.fit(probed, named)
    if out is not None:
        durable.write(out, msgspec.json.format(msgspec.json.encode(probed)))
    row = None
    if on_site:
        with context.store() as store:
            row = calibrated.keep(store, named, probed, author=author)
    told = f"{named}: {_told(fitted)}"
    told += f"\nkept as calibration {row.id}" if row else ""
    told += f"\n{out} is written" if out else ""
    context.out(
        {"device": named, "calibration": _plain(fitted), "id": row.id if row else None, "file": str(out or "")}, told
    )


@device.command("import")
@click.argument("file", type=_PATH)
@click.option("--device", "id", default="", help="which profile it is of; else by its processor")
@AUTHOR
@verb
def device_import(context: Context, file: Path, id: str, author: str) -> None:
    """Bring the file that `edged-agent probe -o` or `edged device calibrate -o` wrote on a board."""
    from edged.retrain import calibrated, latency
    from edged.retrain import device as devices

    probed = _probed(file)
    named = id or calibrated.device_of(probed.processor, "", "")
    if not id and named.startswith("camera-"):
        raise Refused(
            f"no profile has the processor {probed.processor!r}",
            hint="--device ID says which it is",
            code="unknown_device",
        )
    devices.find(named)
    with context.store() as store:
        row = calibrated.keep(store, named, probed, author=author)
    fitted = latency.fit(probed, named, author=author, made=row.created)
    context.out(
        {"id": row.id, "device": named, "calibration": _plain(fitted)}, f"calibration {row.id}: {_told(fitted)}"
    )


@device.command("retire")
@click.argument("number", type=int)
@AUTHOR
@verb
def device_retire(context: Context, number: int, author: str) -> None:
    """Use a calibration no more; its row stays."""
    from edged.storage import calibrations

    with context.store() as store:
        calibrations.retire(store, number, author)
    context.out({"retired": number}, f"calibration {number} is not used any more")


@device.command("predict")
@click.argument("model")
@DEVICE
@click.option("--calibration", type=_PATH, help="a board's file, instead of what the site knows")
@click.option("--px", type=click.IntRange(8, 512), help="side of its input, if it takes any")
@verb
def device_predict(context: Context, model: str, id: str, calibration: Path | None, px: int | None) -> None:
    """Frames/s of MODEL (an ONNX file, a folder that `edged train` left, or a model of the site) on a device, with one to
    four regions. A file is looked at first, as by `edged retest`.
    """
    from edged.retrain import device as devices
    from edged.retrain import latency, speed

    devices.find(id)
    fitted = _fitted(context, id, calibration)
    data = _model(context, model, px or 0)
    if fitted is not None:
        found = {str(n): (e.likely, e.lower, e.upper) for n, e in latency.by_regions(fitted, data).items()}
        how, basis = "estimated", _told(fitted)
    else:
        ran = speed.of(data, speed.Asked(id, seconds=3.0))
        found, how, basis = ran.regions, ran.how, ran.basis
    # 0 frames/s stands for a device without an estimate (`trial.by_regions`).
    rows = {n: [round(v, 2) for v in values] if values[0] else None for n, values in sorted(found.items())}
    document = {"device": id, "how": how, "basis": basis, "fps": rows}
    lines = [f"{'regions':>7} {'frames/s':>9}   from    to   {how}"]
    lines += [
        f"{n:>7} {row[0]:9.1f} {row[1]:6.1f} {row[2]:6.1f}" if row else f"{n:>7} not known" for n, row in rows.items()
    ]
    context.out(document, "\n".join([*lines, basis]))


# --- parts


class _bar:
    """A bar on a terminal with what is left; elsewhere a line every few seconds; nothing with --json or --quiet."""

    def __init__(self, context: Context, label: str) -> None:
        quiet, terminal = context.as_json or context.quiet, sys.stderr.isatty()
        self._label, self._lines, self._told = label, not quiet and not terminal, 0.0
        self._bar = click.progressbar(
            length=1000, label=label, file=sys.stderr, hidden=quiet or not terminal, show_eta=True,
            item_show_func=lambda text: text,
        )  # fmt: skip

    def __enter__(self) -> Callable[[float, str], None]:
        from edged.clock import stopwatch

        self._bar.__enter__()
        began = stopwatch()

        def progress(share: float, name: str) -> None:
            self._bar.update(int(share * 1000) - self._bar.pos, name)
            spent = stopwatch() - began
            if self._lines and (not self._told or spent - self._told >= TELL_S):
                self._told = spent
                left = f", about {spent * (1 - share) / share:.0f} s left" if share > 0.02 else ""
                click.echo(f"edged: {self._label}: {share:.0%} {name}{left}", err=True)

        return progress

    def __exit__(self, *raised: Any) -> None:
        self._bar.__exit__(*raised)


def _kept(context: Context, retired: bool) -> list[Calibrated]:
    from edged.storage import calibrations

    if not context.config_path.exists():
        return []
    with context.store(readonly=True) as store:
        return calibrations.all(store, retired=retired)


def _fitted(context: Context, id: str, file: Path | None) -> Calibration | None:
    """The calibration of a device: the file's, else the site's; None = there is none."""
    from edged.retrain import calibrated, latency
    from edged.retrain import device as devices

    if file is not None:
        fitted = latency.fit(_probed(file), id)
        latency.check(devices.find(id), fitted)
        return fitted
    if not context.config_path.exists():
        return None
    with context.store(readonly=True) as store:
        text = calibrated.known(store, id)
    return latency.decode(text) if text else None


def _model(context: Context, word: str, px: int) -> bytes:
    """What is to run: a file from outside goes through the child that refuses bad ones (`bring`)."""
    path = Path(word)
    if path.exists():
        from edged.retrain import bring

        return bring.look(path, px=px, unnamed=True).model
    if not context.config_path.exists():
        raise Refused(f"there is no file {word[:200]}", code="not_found", exit_code=EXIT_NOT_FOUND)
    from edged.retrain import card
    from edged.storage import models

    with context.store(readonly=True) as store:
        return models.read_model(store, card.of(store, word).sha256)


def _probed(file: Path) -> Probed:
    """What a board wrote. Raises Refused (not_found, bad_calibration)."""
    from edged.engine import probe

    try:
        with file.open("rb") as f:
            payload = f.read(CALIBRATION_BYTES + 1)
    except OSError as e:
        raise Refused(f"{file}: {e.strerror}", code="not_found", exit_code=EXIT_NOT_FOUND) from e
    try:
        return probe.decode(payload)
    except Refused as e:
        raise Refused(
            f"{file} is no calibration: {_plainly(str(e), payload)}", code="bad_calibration",
            hint="`edged-agent probe -o FILE` on the board writes one, or `edged device calibrate -o FILE`",
        ) from e  # fmt: skip


def _plainly(said: str, payload: bytes) -> str:
    """What is wrong with the file, without the parser's words; the field at fault is named where there is one."""
    import json

    if len(payload) > CALIBRATION_BYTES:
        return f"it has more than {CALIBRATION_BYTES} bytes"
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError):
        return "it is not JSON"
    if not isinstance(found, dict):
        return "it is not a JSON object"
    lacking = re.search(r"missing required field `(\w+)`", said)
    if lacking and "$." not in said:
        return f"it has no {lacking[1]}"
    at = re.search(r"`\$\.?([^`]*)`", said)
    where = at[1] if at else ""
    return f"its {where} is not what a probe writes" if where else "it is not what a probe writes"


def _profile(p: Profile) -> dict[str, Any]:
    import dataclasses

    return {k: v for k, v in dataclasses.asdict(p).items() if k != "caps"} | {"caps": dict(p.caps)}


def _row(c: Calibrated) -> dict[str, Any]:
    from edged.clock import iso

    return {
        "id": c.id, "device": c.device, "camera": c.camera, "author": c.author, "processor": c.processor,
        "runtime": c.runtime, "created": iso(c.created), "retired": iso(c.retired) if c.retired else None,
    }  # fmt: skip


def _plain(fitted: Calibration) -> dict[str, Any]:
    import msgspec

    return dict(msgspec.to_builtins(fitted))


def _told(fitted: Calibration) -> str:
    import math

    from edged.clock import day

    errors = ", ".join(f"{precision} {math.expm1(off):.0%}" for precision, off in sorted(fitted.error.items()))
    who = (f" by {fitted.author}" if fitted.author else "") + (f" on {day(fitted.made)}" if fitted.made else "")
    return (
        f"calibrated{who} on {fitted.processor or 'an unnamed processor'} with {fitted.runtime} {fitted.version}, {fitted.cores}"
        f" cores {fitted.scaling:g} times as fast as one; off by at most {errors} on models that it was not fitted to"
    )
