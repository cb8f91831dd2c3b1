"""A question before something that is not easily taken back: one way for all verbs.

Guarantees: where nobody can answer nothing is done, whatever stdin holds, and what would be done is said. Does not guarantee
that whoever answers may decide.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from edged.errors import Refused

HINT = "--yes does it without asking"


def yes_option(told: str = "do not ask") -> Callable[[Any], Any]:
    """The option of a verb that asks; it goes on without a question where it is given."""
    return click.option("-y", "--yes", is_flag=True, help=told)


def confirm(what: str, question: str, hint: str = HINT) -> None:
    """Go on after a yes. Raises click.Abort (exit 130) after a no, Refused("not_asked") (exit 1) where stdin is no terminal.

    `what`: what would be done, a sentence or several lines, without a full stop. `hint`: how it is said beforehand.
    """
    if not sys.stdin.isatty():
        raise nobody(what, hint)
    if not click.confirm(f"{what}\n{question}", err=True):
        click.echo("nothing was changed", err=True)
        raise click.Abort


def nobody(what: str, hint: str = HINT) -> Refused:
    """The error where there is no terminal to ask on."""
    return Refused(f"{'; '.join(what.splitlines())}; nobody is there to ask", code="not_asked", hint=hint)
