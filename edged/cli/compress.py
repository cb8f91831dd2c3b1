"""`edged compress` and `edged retest`: smaller files of a model, and their re-test, on plain pictures and without a site."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edged.cli.main import Context, main, verb
from edged.cli.ranges import Range
from edged.cli.train import _bar, _say, _span
from edged.errors import EXIT_FOUND_BAD, Refused

if TYPE_CHECKING:
    from edged.retrain.workbench import Model, Workbench

_PATH = click.Path(path_type=Path)
DATA = click.option("--data", type=_PATH, required=True, help="a folder per class, a zip file of them, or IDX files")
TEST = click.option("--test", type=_PATH, help="the same, only to test on; DATA/test is one without this")
DEVICE = click.option("--device", default="atom-x5-e3940", show_default=True, help="see `edged device ls`")
CLASSES = click.option("--classes", default="", help="a,b,... of the model's outputs, if it does not name them itself")
AS_IT_IS = "as it is"
THREADS = click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="processor cores")


def _chains(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
    """As they are written out; a bad one is a usage error."""
    from edged import chain

    try:
        return tuple(dict.fromkeys(chain.text(chain.parse(text)) for text in texts))
    except Refused as e:
        raise click.BadParameter(str(e), context, option) from None


@main.command()
@DATA
@TEST
@click.option("--model", "path", type=_PATH, required=True, help="the folder that `edged train` left, or an ONNX file")
@click.option("-o", "--out", type=_PATH, required=True, help="folder for the files that are made")
@click.option(
    "-m", "--method", "methods", multiple=True, callback=_chains,
    help='a chain of steps, e.g. "channels=0.5 int8"; may be repeated; without any, and without --search: int8',
)  # fmt: skip
@click.option("--search", type=Range(0), default=0.0, help="minutes to look for more chains; 0 = none")
@click.option("--max-loss", type=Range(0, 1), default=0.01, show_default=True, help="that a search may accept")
@click.option(
    "--previous", type=_PATH, help="the file that cameras run now: int8 weights stay near it, for a small delta"
)
@click.option("--minutes", type=Range(0, min_open=True), default=120.0, show_default=True, help="at most, a chain")
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, show_default=True)
@DEVICE
@CLASSES
@THREADS
@verb
def compress(
    context: Context, data: Path, test: Path | None, path: Path, out: Path, methods: tuple[str, ...], search: float,
    max_loss: float, previous: Path | None, minutes: float, seed: int, device: str, classes: str, threads: int,
) -> None:  # fmt: skip
    """Make smaller files of a model, and test what is delivered.

    \b
    edged compress --data DIR --model OUT -o SMALL -m "int8" -m "channels=0.5 qat"
    edged compress --data DIR --model OUT -o SMALL --search 20
    edged compress --data DIR --model OUT2 -o SMALL2 --previous SMALL/int8.onnx
    Steps: docs/compression.md. A killed run goes on with the same command. A chain that is refused is named and the others
    are made; exit code 3 when one was refused and no file was made.
    """
    from edged import chain
    from edged.retrain import workbench
    from edged.retrain.device import find

    find(device)
    chains = list(methods) or ([] if search else ["int8"])
    with workbench.claimed(out):
        model = workbench.bring_in(path, out, _names(classes))
        near = {"previous": workbench.bring_in(previous, out).sha256} if previous else {}
        bench = workbench.Workbench.at(data, out, model.classes, test=test, threads=threads, seed=seed)
        rows: list[dict[str, Any]] = []
        refused: list[dict[str, Any]] = []
        before: dict[str, Any] | None = None

        def attempt(name: str, make: Callable[[], None]) -> None:
            try:
                make()
            except Refused as e:
                refused.append({"method": name, "refused": str(e), "hint": e.hint})
                _say(f"{name}: refused: {e}" + (f"\n  {e.hint}" if e.hint else ""))

        def as_it_is() -> None:
            nonlocal before
            before = _retest(context, bench, model, AS_IT_IS, device, None)
            rows.append(_row(AS_IT_IS, before, model.size, before["size_packed"]))

        def made(method: str, result: dict[str, Any] | None = None) -> None:
            result = result or _stage(
                context, bench, "compress", model, method, method=method, device=device, max_minutes=minutes,
                max_loss=max_loss, **near,
            )  # fmt: skip
            rows.append(_made(context, bench, model, method, result, device, before))

        attempt(AS_IT_IS, as_it_is)
        for method in chains:
            attempt(method, partial(made, method))
        points: list[dict[str, Any]] = []
        if search:
            found = _stage(
                context, bench, "search", model, "search", methods=chains, device=device, max_minutes=search,
                max_loss=max_loss,
            )  # fmt: skip
            points = found["points"]
            _say(f"search: {found['note']}; nothing beats {', '.join(found['front'])}")
            there = {row["sha256"] for row in rows}
            # What no step was made on is in the table already, as it is.
            for point in found["kept"]:
                if point["method"] != chain.NONE and point["sha256"] not in there | {model.sha256}:
                    attempt(point["method"], partial(made, point["method"], point))
    document = {"device": device, "tested_on": bench.tested_on, "files": rows, "refused": refused, "points": points}
    context.out(document, _table(rows, bench, device))
    if refused and all(row["method"] == AS_IT_IS for row in rows):
        sys.exit(EXIT_FOUND_BAD)


@main.command()
@DATA
@TEST
@click.option(
    "--model",
    "path",
    type=_PATH,
    required=True,
    help="an ONNX file, packed or not, or the folder that `edged train` left",
)
@click.option("--baseline", type=_PATH, help="the model to compare with")
@click.option("-o", "--out", type=_PATH, help="where to work; a folder that is removed again without this")
@click.option("--max-loss", type=Range(0, 1), default=0.02, show_default=True, help="against the baseline")
@click.option("--verify-isa", is_flag=True, help="run a few pictures under an emulator of the device's processor too")
@DEVICE
@CLASSES
@THREADS
@verb
def retest(
    context: Context, data: Path, test: Path | None, path: Path, baseline: Path | None, out: Path | None, max_loss: float,
    verify_isa: bool, device: str, classes: str, threads: int,
) -> None:  # fmt: skip
    """Test a delivered file under a device's limits, and say what the gate would say.

    Exit code 3 when the gate would refuse it, or the device does not take it. A baseline must know the same classes.
    """
    import tempfile
    from contextlib import ExitStack

    import msgspec

    from edged.cli import proof
    from edged.retrain import gate, workbench
    from edged.retrain.device import find
    from edged.retrain.report import Report

    find(device)
    with ExitStack() as stack:
        place = out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edged-retest-")))
        stack.enter_context(workbench.claimed(place))
        model = workbench.bring_in(path, place, _names(classes))
        against = workbench.bring_in_baseline(baseline, place, model, _names(classes)) if baseline else None
        bench = workbench.Workbench.at(data, place, model.classes, test=test, threads=threads)
        try:
            body = _retest(
                context, bench, model, path.name, device, against.sha256 if against else None, verify_isa=verify_isa
            )
        except Refused as e:  # of the re-test: the device or the engine does not take this file
            raise Refused(f"refused: {e}", hint=e.hint, code=e.code, exit_code=EXIT_FOUND_BAD) from e
    report = msgspec.convert(body, Report)
    verdict = gate.judge(report, gate.GateLimits(max_loss=max_loss))
    document = {
        "report": body,
        "passed": verdict.passed,
        "reasons": list(verdict.reasons),
        "tested_on": bench.tested_on,
    }
    context.out(document, "\n".join(proof.lines(report, verdict, bench.tested_on)))
    if not verdict.passed:
        sys.exit(EXIT_FOUND_BAD)


def _stage(
    context: Context, bench: Workbench, stage: str, model: Model, name: str, *, label: str = "", **fields: Any
) -> dict[str, Any]:
    from edged.clock import SystemClock, stopwatch

    words = f"{stage} {label or name}" if name != stage else stage
    bar, progress = _bar(context, words)
    bar.label = words
    # Where no bar can be drawn (a log, a pipe) the begin and the end of each stage are told.
    told = not (sys.stderr.isatty() or context.as_json or context.quiet)
    began = stopwatch()
    if told:
        _say(f"{words}: begins")
    try:
        result = bench.run(stage, model, name, progress, SystemClock(), **fields)
        if told:
            _say(f"{words}: {_span(stopwatch() - began)}")
        return result
    except KeyboardInterrupt:
        bar.render_finish()
        _say("interrupted; the same command goes on")
        raise
    finally:
        bar.render_finish()


def _retest(
    context: Context, bench: Workbench, model: Model, name: str, device: str, baseline: str | None, **more: Any
) -> dict[str, Any]:
    fields = {"device": device, "baseline": baseline or "", "threads": 1, **more}
    words = f"{name} {device} {baseline or ''} {more or ''}".strip()
    return _stage(context, bench, "trial", model, words, label=name, **fields)


def _made(
    context: Context, bench: Workbench, model: Model, method: str, result: dict[str, Any], device: str,
    before: dict[str, Any] | None,
) -> dict[str, Any]:  # fmt: skip
    """Re-test a file that was made, hand it over, and its row."""
    from edged.retrain import workbench

    small = workbench.made(bench, model, result)
    body = _retest(context, bench, small, method, device, before["sha256"] if before else None)
    path = bench.out / f"{workbench.file_name(method)}.onnx"
    size, packed = workbench.hand_over(bench, small.sha256, path)
    return _row(method, body, size, packed) | {"file": str(path), "facts": result.get("facts", [])}


def _row(method: str, body: dict[str, Any], size: int, packed: int | None) -> dict[str, Any]:
    pair = body.get("pair")
    return {
        "method": method, "sha256": body["sha256"], "bytes": size, "packed_bytes": packed, "accuracy": body["accuracy"],
        "lost": pair and pair["lost"], "won": pair and pair["won"], "fps": body["fps_device"],
        "latency_ms_p50": body["latency_ms_p50"], "memory_bytes": body["memory_bytes"],
    }  # fmt: skip


def _table(rows: list[dict[str, Any]], bench: Workbench, device: str) -> str:
    from edged.cli.proof import wrapped

    lines = [f"{'method':34} {'file kB':>9} {'packed kB':>9} {'accuracy':>16} {'lost/won':>9} {'frames/s':>12}"]
    for row in rows:
        a, fps = row["accuracy"], row["fps"]
        packed = f"{row['packed_bytes'] / 1000:.1f}"
        pair = "" if row["lost"] is None else f"{row['lost']}/{row['won']}"
        speed = "not known" if not fps or not fps["value"] else f"{fps['value']:.0f} ({fps['lower']:.0f}..)"
        accuracy = f"{a['accuracy']:.2%} of {a['n']}"
        lines.append(f"{row['method']:34} {row['bytes'] / 1000:>9.1f} {packed:>9} {accuracy:>16} {pair:>9} {speed:>12}")
    for row in rows:
        for fact in row.get("facts", ()):
            for text in _noted(fact):
                lines += wrapped(f"{row['method']}: {text}", "")
    how = next((row["fps"]["how"] for row in rows if row["fps"]), "unknown")
    lines += wrapped(
        f"tested on {bench.tested_on}; frames of four regions a second on {device}, {how}, in brackets the least that it "
        "may be", "",
    )  # fmt: skip
    if _alike([row["fps"] for row in rows if row["fps"] and row["fps"]["value"]]):
        lines.append("speeds that differ by less than their bounds are the same")
    lines.append("packed is for storage and transport: it is unpacked before it runs, and makes nothing faster")
    return "\n".join(lines)


def _noted(fact: dict[str, Any]) -> list[str]:
    """What a step says of itself; of `tune`, which layers it wrote anew too."""
    said = [f"{fact['step']}: {fact['note']}"] if fact.get("note") else []
    if fact["step"] != "tune" or fact["note"].startswith("left as it is"):
        return said
    anew = [
        f"{', '.join(row['layers'][:3])}{', ...' if len(row['layers']) > 3 else ''} by {row['chosen']}"
        for row in fact.get("table", ()) if row["chosen"] != "direct"
    ]  # fmt: skip
    return [*said, f"tune wrote anew: {'; '.join(anew)}"] if anew else said


def _alike(speeds: list[dict[str, Any]]) -> bool:
    """Whether two of them differ, and may be the same for all that is known."""
    return any(
        a["value"] != b["value"] and a["lower"] <= b["upper"] and b["lower"] <= a["upper"]
        for i, a in enumerate(speeds) for b in speeds[:i]
    )  # fmt: skip


def _names(text: str) -> tuple[str, ...]:
    return tuple(c.strip() for c in text.split(",") if c.strip())
