"""An update job on disk: which, how far, how it ended; and which releases have failed here before.

    update/job.json      the job under way, or the last one
    update/failed.json   {"name/number/sha256": times}, the last KEPT releases that failed on this camera

Guarantees: what `note` takes holds for this process at once, and is on disk as soon as the disk takes it (`flush` tries
again); a kill before that leaves an earlier phase, from which every job can go on. `must` waits for nothing: it is on
disk or raises OSError. Two releases that failed twice are told apart by number and bytes, so a newer release of the same
bytes is tried anew.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from edged import durable
from edged.wire.messages import Desired, Health, JobStatus

log = logging.getLogger("edged.agent")

Phase = Literal["metadata", "chunks", "self_test", "probation", "done"]

NEXT: dict[Phase, tuple[Phase, ...]] = {
    "metadata": ("chunks", "done"),
    "chunks": ("self_test", "metadata", "done"),  # metadata: the disk refused, once more from there
    "self_test": ("probation", "metadata", "done"),
    "probation": ("done",),
    "done": (),
}  # and from any phase before probation a new desired release starts over at "metadata"

MAX_TRIES = 2  # of the part in which a model could take the agent down; and failures of one release
KEPT = 32


class Record(Struct, frozen=True):
    """The job under way, or the last one. On disk from its first moment."""

    desired: Desired
    phase: Phase = "metadata"
    status: JobStatus = "IN_PROGRESS"
    progress: float = 0.0
    detail: str = ""
    tries: int = 0  # times that rebuilding, staging and the self-test were begun and not survived; on disk before them
    whole: str = ""  # why a shorter way was left for the whole file
    health: Health | None = None  # once a probation has ended


class Journal:
    """The two files in `folder`; one process, one thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.record = read_record(folder)
        self._failed = _read_failed(folder)
        self._stored = True

    def note(self, record: Record) -> bool:
        """Take it as the record; True if it is another one than before."""
        if record == self.record:
            return False
        self.record, self._stored = record, False
        self.flush()
        return True

    def must(self, record: Record) -> None:
        """Take it only if the disk does. Raises OSError."""
        durable.write(self.folder / "job.json", msgspec.json.encode(record))
        self.record, self._stored = record, True

    def flush(self) -> None:
        """Write what could not be written; costs nothing when there is nothing."""
        if self._stored or self.record is None:
            return
        try:
            self.must(self.record)
        except OSError as e:
            log.error("the job is not on disk yet: %s", e)

    # --- releases that failed

    def failures(self, desired: Desired) -> int:
        """How often this very release has failed here."""
        return self._failed.get(_key(desired), 0)

    def failed(self, desired: Desired, times: int = 1) -> None:
        """Count a failure, for as long as KEPT newer ones have not followed."""
        count = self.failures(desired) + times
        self._failed.pop(_key(desired), None)
        self._failed[_key(desired)] = count
        self._failed = dict(list(self._failed.items())[-KEPT:])
        try:
            durable.write(self.folder / "failed.json", msgspec.json.encode(self._failed))
        except OSError as e:
            log.error("a failure could not be noted: %s", e)


def again(record: Record) -> Record:
    """The same job from its beginning, with what it has learnt: died while rebuilding, it takes the whole file."""
    whole = record.whole
    if not whole and record.phase == "chunks" and record.tries > 0:
        whole = "the agent ended while it rebuilt the model"
    return replace(record, phase="metadata", progress=0.0, detail="", whole=whole)


def read_record(folder: Path) -> Record | None:
    """The job in an update folder, None if there never was one or it is unreadable (the box will say it again)."""
    try:
        return msgspec.json.decode((folder / "job.json").read_bytes(), type=Record)
    except (OSError, msgspec.MsgspecError):
        return None


def _read_failed(folder: Path) -> dict[str, int]:
    try:
        return msgspec.json.decode((folder / "failed.json").read_bytes(), type=dict[str, int])
    except (OSError, msgspec.MsgspecError):
        return {}


def _key(desired: Desired) -> str:
    return f"{desired.name}/{desired.version}/{desired.sha256}"
