"""Two places for a model, a and b, and one small file that says which of them runs.

    slots/a/model.onnx slots/a/slot.json     what the slot holds: release, classes, SHA-256, known answer
    slots/b/...
    slots/pointer.json                       {active, fallback, probation, loads}; replaced atomically, fsynced

Invariants: 1. a slot that `active` or `fallback` names is never written to; 2. a slot is used only if its file has
the SHA-256 of its slot.json, and the very bytes that were hashed are the ones that are loaded; 3. `loads` is on disk
before a model is loaded and set to 0 only when the model has given an answer, so a model that takes the process down
twice is found and left by the third start; 4. nothing here needs the box: falling back works with the cable cut.

Transitions of the pointer, all of them:

    stage      (committed) fallback := none, then the other slot is written
    switch     active := other, fallback := active, probation, loads := 0
    loading    loads += 1
    answered   loads := 0
    commit     probation := no (fallback stays as the last but one)
    roll_back  active := fallback, fallback := none, committed, loads := 0
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from agent.selftest import MEMORY_LIMIT, Known, KnownAnswer
from edged import durable
from edged.errors import Corrupt, Refused
from edged.wire.messages import Sha256

MAX_LOADS = 2  # a model that never answered after so many loads is left

Name = Literal["a", "b", ""]


class Slot(Struct, frozen=True):
    """What is in a slot."""

    name: str
    release: int
    sha256: Sha256
    classes: tuple[str, ...]
    px: int
    known_answer: KnownAnswer
    returns: bool = False  # a way back to bytes of an earlier release
    memory: int = MEMORY_LIMIT  # bytes that the self-test allows it


class Pointer(Struct, frozen=True):
    active: Name = ""
    fallback: Name = ""
    probation: bool = False
    loads: int = 0  # loads since the last answer


@dataclass(frozen=True)
class Loaded:
    """Verified bytes and what they are."""

    slot: Slot
    model: bytes


class Slots:
    """The two slots of one camera; one process, one thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("a", "b"):
            (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        self.pointer = self._stored = self._read_pointer()

    # --- what is there

    def active(self) -> Slot | None:
        """The slot that should run, or None when there is no model yet."""
        return self._slot(self.pointer.active)

    def load(self) -> Loaded | None:
        """The active model's bytes, verified. Raises Corrupt when they are not what was staged."""
        slot = self.active()
        if slot is None:
            return None
        return Loaded(slot, self._verified(self.pointer.active, slot))

    def fallback(self) -> Loaded | None:
        """The same of the last known good model, None when there is none. Raises Corrupt."""
        slot = self._slot(self.pointer.fallback)
        return Loaded(slot, self._verified(self.pointer.fallback, slot)) if slot else None

    def holding(self, sha256: str, length: int) -> bytes | None:
        """The bytes with this hash, if a slot has them, whatever it says of itself. Not yet vouched for."""
        for name in ("a", "b"):
            path = self.folder / name / "model.onnx"
            with suppress(OSError):
                if path.stat().st_size == length and hashlib.sha256(data := path.read_bytes()).hexdigest() == sha256:
                    return data
        return None

    def size(self) -> int:
        """Bytes of the active model's file, 0 = there is none."""
        try:
            return (self.folder / self.pointer.active / "model.onnx").stat().st_size if self.pointer.active else 0
        except OSError:
            return 0

    def staged_paths(self) -> tuple[Path, Path]:
        """(model file, known-answer file) of the slot that does not run, for the self-test."""
        folder = self.folder / self._other()
        return folder / "model.onnx", folder / "known.json"

    # --- transitions

    def stage(self, slot: Slot, model: bytes) -> None:
        """Write a verified model into the slot that does not run. Raises Refused on probation, or for other bytes."""
        if self.pointer.probation:
            raise Refused("a model is on probation; its fallback must stay", code="busy")
        if hashlib.sha256(model).hexdigest() != slot.sha256:
            raise Refused("the bytes are not those of the release", code="bad_release")
        if self.pointer.fallback or self.pointer != self._stored:  # from now on that slot holds nothing to fall back to
            self._point(replace(self.pointer, fallback=""))
        folder = self.folder / self._other()
        (folder / "slot.json").unlink(missing_ok=True)
        durable.write(folder / "model.onnx", model)
        durable.write(folder / "known.json", msgspec.json.encode(Known(slot.sha256, slot.known_answer)))
        durable.write(folder / "slot.json", msgspec.json.encode(slot))

    def switch(self) -> None:
        """Point to the staged model, on probation. Raises Corrupt if it is not whole."""
        other = self._other()
        slot = self._slot(other)
        if slot is None:
            raise Corrupt("nothing is staged")
        self._verified(other, slot)
        self._point(Pointer(other, self.pointer.active, probation=True))

    def loading(self) -> None:
        """Call right before the active model is loaded."""
        self._point(replace(self.pointer, loads=self.pointer.loads + 1))

    def worn_out(self) -> bool:
        """The active model was loaded twice and never answered: it must not be loaded a third time."""
        return self.pointer.loads >= MAX_LOADS

    def answered(self) -> None:
        """The active model gave an answer."""
        if self.pointer.loads:
            self._point(replace(self.pointer, loads=0))

    def commit(self) -> None:
        """Probation is over, the model stays."""
        self._point(replace(self.pointer, probation=False, loads=0))

    def roll_back(self) -> Slot | None:
        """Back to the last known good model, or to none when there is none that is whole. Returns what runs now.

        It holds for this process even when the disk does not take it yet (`flush`).
        """
        fallback = self.pointer.fallback
        slot = self._slot(fallback)
        if slot is not None:
            try:
                self._verified(fallback, slot)
            except Corrupt:
                slot = None
        self.pointer = Pointer(active=fallback if slot else "")
        with suppress(OSError):
            self._point(self.pointer)
        return slot

    def flush(self) -> None:
        """Write the pointer that could not be written. Raises OSError."""
        if self.pointer != self._stored:
            self._point(self.pointer)

    # --- disk

    def _other(self) -> Literal["a", "b"]:
        return "b" if self.pointer.active == "a" else "a"

    def _slot(self, name: Name) -> Slot | None:
        if not name:
            return None
        try:
            return msgspec.json.decode((self.folder / name / "slot.json").read_bytes(), type=Slot)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None

    def _verified(self, name: Name, slot: Slot) -> bytes:
        try:
            data = (self.folder / name / "model.onnx").read_bytes()
        except OSError as e:
            raise Corrupt(f"slot {name}: {e}") from e
        if hashlib.sha256(data).hexdigest() != slot.sha256:
            raise Corrupt(f"slot {name}: the model on disk is not the one that was verified")
        return data

    def _read_pointer(self) -> Pointer:
        try:
            return msgspec.json.decode((self.folder / "pointer.json").read_bytes(), type=Pointer)
        except FileNotFoundError:
            return Pointer()
        except msgspec.MsgspecError as e:
            raise Corrupt(f"{self.folder / 'pointer.json'}: {e}") from e

    def _point(self, pointer: Pointer) -> None:
        durable.write(self.folder / "pointer.json", msgspec.json.encode(pointer))
        self.pointer = self._stored = pointer
