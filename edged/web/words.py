"""How the page says numbers: durations, ages, sizes, shares. Pure; plain English, no locale."""

from __future__ import annotations

from datetime import UTC, datetime

STAGES = {
    "snapshot": "freezing the samples",
    "reuse": "trying the models there are",
    "train": "training",
    "compress": "compressing",
    "retest": "re-testing under the camera's limits",
    "gate": "judging the candidates",
    "release": "signing the release",
}


def duration(seconds: float) -> str:
    """0.4 s, 20 s, 3 min, 2 h, 5 days: one unit, as one would say it."""
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s" if seconds >= 0.05 and round(seconds, 1) != round(seconds) else f"{seconds:.0f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} days"


def ago(seconds: float) -> str:
    """How long since; whole seconds."""
    return "just now" if seconds < 1 else f"{duration(round(seconds))} ago"


def size(count: float) -> str:
    """1234567 -> 1.2 MB, 678 -> 678 B."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    if count < 1e3:
        return f"{count:.0f} B"
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def percent(share: float | None, digits: int = 1) -> str:
    """0.9731 -> 97.3 %; None -> a dash."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def points(difference: float) -> str:
    """A difference of shares in percentage points, signed: +2.3."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def clock_time(ts: float) -> str:
    """Hours, minutes and seconds in UTC."""
    return datetime.fromtimestamp(ts, UTC).strftime("%H:%M:%S")


def axis_time(ts: float, step: float) -> str:
    """A tick of the time axis: seconds, minutes or days, whatever the step can tell apart."""
    form = "%H:%M:%S" if step < 60 else "%H:%M" if step < 86400 else "%d %b"
    return datetime.fromtimestamp(ts, UTC).strftime(form)


def count(n: int, noun: str, plural: str = "") -> str:
    """2 -> "2 cameras", 1 -> "1 camera"."""
    return f"{number(n)} {noun if n == 1 else plural or noun + 's'}"


def listed(names: list[str], most: int = 3) -> str:
    """a, b and c; a, b, c and 4 more."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"


def unspoken(names: list[str]) -> str:
    """Of cameras that the configuration names and that never spoke."""
    return f"{listed(names)} {'has' if len(names) == 1 else 'have'} not spoken yet"


def number(n: int) -> str:
    """12345 -> 12 345, by a narrow space."""
    return f"{n:,}".replace(",", "\u202f")


def sentence_case(text: str) -> str:
    """The first letter large, the rest as it is; without a full stop."""
    text = text.strip().rstrip(".")
    return text[:1].upper() + text[1:]
