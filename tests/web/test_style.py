"""The style sheet: text can be read, by day and by night."""

import re
from importlib.resources import files

import pytest

CSS = files("edged.web").joinpath("static/page.css").read_text()
LIGHT, DARK = (
    dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", CSS, re.S)
)
PAIRS = [
    *((ink, ground) for ink in ("ink", "soft", "accent") for ground in ("ground", "card")),
    *((ink, "fill") for ink in ("ink", "soft")),
    *((level, f"{level}-fill") for level in ("good", "warn", "bad", "busy")),
    *((level, "ground") for level in ("good", "warn", "bad", "busy")),
    ("on-accent", "accent"),
]


def luminance(colour):
    """WCAG 2.2 relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("ink", "ground"), PAIRS)
def test_text_has_a_contrast_of_at_least_4_5(ink, ground):
    for scheme in (LIGHT, DARK):
        assert contrast(scheme[ink], scheme[ground]) >= 4.5


@pytest.mark.parametrize("line", [f"c{i}" for i in range(5)])
def test_lines_of_the_plot_have_a_contrast_of_at_least_3(line):
    for scheme in (LIGHT, DARK):
        assert contrast(scheme[line], scheme["card"]) >= 3


def test_nothing_comes_from_elsewhere():
    assert "//" not in re.sub(r"/\*.*?\*/", "", CSS, flags=re.S)
    assert "@import" not in CSS
