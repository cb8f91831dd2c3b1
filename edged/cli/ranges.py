"""Numbers on the command line: `click.FloatRange`, less what is no number (NaN is below and above nothing, so that click
lets it through); the number of a release.
"""

from __future__ import annotations

import math
from typing import Any

import click


class Range(click.FloatRange):
    """As `click.FloatRange`; NaN and infinity are usage errors."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class ReleaseNumber(click.IntRange):
    """From 1 on."""

    def __init__(self) -> None:
        super().__init__(min=1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            storable = int(value) < 1 << 63
        except ValueError:
            storable = False
        if not storable:
            self.fail(f"{value!r} is no number of a release; `edged rollout status` lists them", param, ctx)
        return int(super().convert(value, param, ctx))
