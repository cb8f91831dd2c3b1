"""Labels that teach nobody: why nothing is trained from scratch, in the same words before a cycle and in its child. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from edged.errors import Refused

LEAST = 40  # labelled crops to train on; what fewer teach is chance


def refusal(taught: Mapping[str, int], least: int = LEAST, unread: int = 0) -> Refused | None:
    """`taught`: samples to train on, of each class of the task; `unread` more are no pictures any more. None = each class
    has some and all together `least`. Else missing_class, which more labels of the others would not mend, or too_few.
    """
    n, missing = sum(taught.values()), [name for name, n in taught.items() if not n]
    if n >= least and not missing:
        return None
    if not missing:
        return Refused(
            f"too few labelled crops to train on: {n} of at least {least}"
            + (f" ({unread} could not be read)" if unread else ""),
            hint="label more, over more of the day", code="too_few",
        )  # fmt: skip
    ways = [f"label crops of {' and of '.join(f'`{name}`' for name in missing)}"]
    if len(taught) - len(missing) > 1:
        ways.append(f"take {'it' if len(missing) == 1 else 'them'} out of `[task] classes`")
    ways.append("bring a model that knows all classes (`edged model import`)")
    return Refused(
        f"no labelled crop in the train split shows: {', '.join(missing)}",
        hint=f"{', or '.join(ways)}", code="missing_class",
    )  # fmt: skip
