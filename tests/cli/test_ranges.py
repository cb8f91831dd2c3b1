"""What is no number is refused where a number is asked for."""

import click
import pytest

from edged.cli import compress, device, privacy, serve, train  # noqa: F401  # their verbs are looked at
from edged.cli.main import main
from edged.cli.ranges import Range


def options(command):
    for inner in getattr(command, "commands", {}).values():
        yield from options(inner)
    yield from command.params


@pytest.mark.parametrize("text", ["nan", "NaN", "-nan", "inf", "x", "-1"])
def test_what_is_no_finite_number_in_the_range_is_a_usage_error(text):
    with pytest.raises(click.BadParameter):
        Range(0).convert(text, None, None)
    assert Range(0).convert("0.5", None, None) == 0.5


def test_no_verb_takes_a_range_that_lets_nan_through():
    found = [p.type for p in options(main) if isinstance(p.type, click.FloatRange)]
    print(f"{len(found)} options with ranges")
    assert len(found) >= 10
    assert all(isinstance(kind, Range) for kind in found)
