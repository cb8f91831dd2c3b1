"""A question before something that is not easily taken back.

Guarantees: where nobody can answer nothing is done, whatever stdin holds, and what would be done is said. Does not guarantee
that whoever answers may decide.
"""

from __future__ import annotations

import sys

import click

from edged.errors import Refused


def ask(what: str, question: str, hint: str) -> None:
    """Go on after a yes. Raises click.Abort (exit 130) after a no, Refused("not_asked") (exit 1) where stdin is no terminal.

    `what`: what would be done, a sentence without its full stop. `hint`: how it is said beforehand.
    """
    if not sys.stdin.isatty():
        raise Refused(f"{what}; nobody is there to ask", code="not_asked", hint=hint)
    click.confirm(f"{what}\n{question}", abort=True, err=True)
