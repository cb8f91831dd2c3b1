"""`edged train`: a model from a folder of pictures, here or on a bigger machine, in one process or under torchrun."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edged.cli.main import Context, main, verb
from edged.cli.ranges import Range
from edged.errors import EXIT_FOUND_BAD

if TYPE_CHECKING:
    from edged.retrain.jobs import Progress

_PATH = click.Path(path_type=Path)
LINES = 20  # of progress where no bar can be drawn (a log, a pipe)


@main.command()
@click.option("--data", type=_PATH, required=True, help="a folder per class, a zip file of them, or IDX files")
@click.option("--test", type=_PATH, help="the same, only to test on; DATA/test is one without this")
@click.option("--model", "architecture", required=True, help="e.g. mobilenet-0.25, lenet-5, vgg-16")
@click.option("-o", "--out", type=_PATH, required=True, help="folder for the model and its facts")
@click.option("--classes", default="", help="names, comma separated: of the labels 0, 1, ... or of the folders to take")
@click.option("--px", default=0, help="side of the network's input; 0 = as usual for the network")
@click.option("--epochs", type=click.IntRange(0, 1000), default=0, help="passes over the data; 0 = as usual")
@click.option(
    "--batch", type=click.IntRange(0, 1024), default=0, help="pictures a step, over all processes; 0 = as usual"
)
@click.option("--lr", type=Range(0, 1), default=0.0, help="learning rate; 0 = as usual, by the batch")
@click.option(
    "--augment", type=click.Choice(["none", "light", "camera"]), default="light", show_default=True,
    help="light: shifts and some light; camera: mirrored (wide networks: zoomed) too, with patches as the scrubber leaves",
)  # fmt: skip
@click.option(
    "--precision", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto", show_default=True,
    help="of products; auto: mixed on CUDA, float32 on a CPU",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, show_default=True)
@click.option("--threads", type=click.IntRange(0, 64), default=0, help="per process; 0 = the cores, divided")
@click.option("--minutes", type=Range(0, min_open=True), default=120.0, show_default=True, help="at most")
@click.option("--fresh", is_flag=True, help="begin anew where a run was begun or finished")
@verb
def train(
    context: Context, data: Path, test: Path | None, architecture: str, out: Path, classes: str, px: int, epochs: int,
    batch: int, lr: float, augment: str, precision: str, seed: int, threads: int, minutes: float, fresh: bool,
) -> None:  # fmt: skip
    """Train a model on pictures, here or on a bigger machine.

    \b
    torchrun --nproc-per-node 2 -m edged train ...    the same over two processes (or GPUs)
    A killed run goes on with the same command.
    """
    from edged.retrain import order, recipes, spread

    def make() -> order.Order:
        settings = recipes.settings(architecture, augment, px=px, epochs=epochs, batch=batch, lr=lr)  # type: ignore[arg-type]
        return order.make(
            data, out, settings, test=test, classes=[c.strip() for c in classes.split(",") if c.strip()],
            precision=precision, seed=seed, threads=order.threads(threads), max_minutes=minutes,
        )  # fmt: skip

    bar, progress = _bar(context, architecture, lines=True)
    bad: list[str] = []

    def finish(asked: order.Order, result: dict[str, Any]) -> None:
        bar.render_finish()
        bad.extend(_finish(context, asked, result))

    if spread.called():
        from edged.retrain import torchrun

        torchrun.run(make, fresh=fresh, said=_say, progress=progress, finish=finish)
    else:
        asked = make()
        with order.claimed(asked, fresh=fresh) as said:
            _say(said)
            try:
                result = _in_child(asked, progress)
            except KeyboardInterrupt:
                bar.render_finish()
                _say("interrupted; the same command goes on")
                raise
            finish(asked, result)
    if "no_better_than_guessing" in bad:
        sys.exit(EXIT_FOUND_BAD)


def _in_child(asked: Any, progress: Callable[[Progress], None]) -> dict[str, Any]:
    import msgspec

    from edged.clock import SystemClock
    from edged.retrain import children

    job = msgspec.to_builtins(asked.job)
    return children.run("train", job, asked.job_dir, clock=SystemClock(), progress=progress, nice=10)


def _finish(context: Context, asked: Any, result: dict[str, Any]) -> list[str]:
    """Write what is left; the codes of what speaks against it."""
    from edged.clock import SystemClock
    from edged.retrain import outcome
    from edged.web import words

    found = outcome.facts(asked, result, SystemClock().now())
    outcome.write(asked, found)
    for warning in found["warnings"]:
        _say(warning["text"])
    context.out(found, f"{asked.out / 'model.onnx'}: {words.size(found['size'])}, {outcome.sentence(found)}")
    return [warning["code"] for warning in found["warnings"]]


def _bar(context: Context, name: str, *, lines: bool = False) -> tuple[Any, Callable[[Progress], None]]:
    """`lines`: where no bar can be drawn some LINES are said instead."""
    shown = sys.stderr.isatty() and not (context.as_json or context.quiet)
    bar = click.progressbar(
        length=1000, label=f"training {name}", file=sys.stderr, hidden=not shown, show_eta=False,
        item_show_func=lambda text: text,
    )  # fmt: skip

    told = lines and not (shown or context.as_json or context.quiet)
    last: tuple[str, int] = "", -1

    def progress(now: Progress) -> None:
        nonlocal last
        left = "" if now.eta_s is None else f", {_span(now.eta_s)} left"
        accuracy = "" if now.accuracy is None else f", {now.accuracy:.1%}"
        bar.update(int(now.fraction * 1000) - bar.pos, f"{now.text}{accuracy}{left}")
        step = now.text.split(" ")[0], int(now.fraction * LINES)
        if told and step != last:
            last = step
            share = f"{now.fraction:.0%}, " if now.fraction else ""
            _say(f"training {name}: {share}{now.text}{accuracy}{left}")

    return bar, progress


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60} h {minutes % 60} min"
        if minutes >= 60
        else f"{minutes} min {rest} s"
        if minutes
        else f"{rest} s"
    )


def _say(text: str) -> None:
    if text:
        click.echo(f"edged: {text}", err=True)
