"""How large a private thing is, in three words. Pure; pictures and rows mean the same by them."""

from __future__ import annotations

Range = tuple[int, int]  # box widths in pixels, from the first to below the second

SIZES: dict[str, dict[str, Range]] = {
    "face": {"small": (16, 32), "medium": (32, 64), "large": (64, 129)},
    "plate": {"small": (60, 110), "medium": (110, 180), "large": (180, 301)},
}


def size_of(kind: str, px: float) -> str:
    """The size of a box `px` wide: what lies below or above the ranges counts to the nearest of them."""
    ranges = SIZES[kind]
    return next((name for name, (_, below) in ranges.items() if px < below), list(ranges)[-1])


PICTURES = 500  # planted ones; then they come again, so that a healthy scrubber gives the same answers for ever
HIDDEN = 0.9  # of a box must be covered for it to count as hidden

# Share that the default detectors hide of all PICTURES (`python -m edged.privacy.planted.expect`). The alarm is set by it.
EXPECTED: dict[tuple[str, str], float] = {
    ("face", "small"): 0.908, ("face", "medium"): 0.98, ("face", "large"): 0.988,
    ("plate", "small"): 0.994, ("plate", "medium"): 1.0, ("plate", "large"): 1.0,
}  # fmt: skip
