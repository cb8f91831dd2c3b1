"""The command line: `main.py` holds the group and its edge, the other files one family of verbs each."""

from edged.cli import data, db, key, look, mask, privacy, serve, work  # noqa: F401 each registers its verbs on `main`
from edged.cli.main import main

__all__ = ["main"]
