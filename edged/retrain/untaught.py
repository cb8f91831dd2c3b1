"""A class that no label teaches: why nothing is trained from scratch, in the same words before a cycle and in its child. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from edged.errors import Refused


def refusal(taught: Mapping[str, int]) -> Refused | None:
    """`taught`: samples to train on, of each class of the task. None = each class has some."""
    missing = [name for name, n in taught.items() if not n]
    if not missing:
        return None
    ways = [f"label crops of {' and of '.join(f'`{name}`' for name in missing)}"]
    if len(taught) - len(missing) > 1:
        ways.append(f"take {'it' if len(missing) == 1 else 'them'} out of `[task] classes`")
    ways.append("bring a model that knows all classes (`edged model import`)")
    return Refused(
        f"no labelled crop in the train split shows: {', '.join(missing)}",
        hint=f"{', or '.join(ways)}", code="missing_class",
    )  # fmt: skip
