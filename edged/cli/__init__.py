"""The command line: `main.py` holds the group and its edge, the other files one family of verbs each."""

from edged.cli import (  # noqa: F401 each registers its verbs on `main`
    compress,
    cycle,
    data,
    db,
    device,
    drift,
    homeassistant,
    key,
    label,
    look,
    mask,
    model,
    pack,
    privacy,
    release,
    rollout,
    serve,
    train,
    trust,
    work,
)
from edged.cli.main import main

__all__ = ["main"]
