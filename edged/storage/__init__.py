"""The sealed store: a catalogue in SQLite, pictures in sealed files. The only SQL of edged. See docs/storage.md."""

from edged.storage.store import Store

__all__ = ["Store"]
