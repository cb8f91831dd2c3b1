"""Fetching the bytes of one release: which way, what to ask for and when, when to give up.

Guarantees: a chunk is asked for again only when it did not come, or came damaged; the time that it may take altogether
grows with the size and counts only while there is a cable, so that one who sends a byte now and then cannot hold a camera
for ever (the specification of The Update Framework calls that slow retrieval). Does not guarantee: that what came is the
release; python-tuf looks at that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent import offer, ways
from agent.chunks import Part
from agent.offer import Offer
from edged.errors import Refused, Unavailable
from edged.wire.messages import Want, Way

WANT_AT_ONCE = 256


@dataclass(frozen=True)
class Limits:
    """Seconds, bytes, bytes a second."""

    ask_again_s: float = 5.0
    damaged_again_s: float = 3.5  # the box sends no chunk twice within 3 s
    metadata_s: float = 120.0
    stall_s: float = 600.0
    way_stall_s: float = 60.0  # of a shorter way, then the whole file is fetched
    slack_s: float = 900.0  # whatever the size
    min_rate: float = 2048.0  # slower than that on the whole is given up
    max_bytes: int = offer.MAX_MODEL_BYTES


class Download:
    """One file on its way into `folder`: the whole one, or a shorter `way` to it. `now` is monotonic seconds."""

    def __init__(
        self, folder: Path, o: Offer, have: str, limits: Limits, now: float, *, whole: bool = False,
        here: bytes | None = None,
    ) -> None:  # fmt: skip
        """`have`: SHA-256 of the running model; `here`: the release's bytes, where a slot has them. Raises OSError."""
        self.offer, self._limits, self._here = o, limits, here
        self.way: Way | None = None if whole or here is not None else ways.choose(o.custom.ways, o.bytes, have)
        self.sha256, self.bytes = (self.way.sha256, self.way.bytes) if self.way else (o.sha256, o.bytes)
        chunks = self.way.chunks if self.way else o.custom.chunks
        self.part = Part(folder, self.sha256, self.bytes, o.custom.chunk, chunks)
        self._asked: frozenset[int] = frozenset()
        self._ask_at = self._moved_at = self._last = now
        self._spent = 0.0  # seconds with a cable
        self._damaged = False

    @property
    def complete(self) -> bool:
        return self._here is not None or not self.part.missing(1)

    @property
    def progress(self) -> float:
        """0..1"""
        return self.part.have / max(1, self.part.total)

    def put(self, sha256: str, data: bytes, now: float) -> bool:
        """A chunk that somebody asked for, perhaps we; True if it brought something. Raises Refused when it is damaged."""
        try:
            filled = self.part.put(sha256, data)
        except Refused:
            self._damaged, self._ask_at = True, min(self._ask_at, now + self._limits.damaged_again_s)
            raise
        if filled:
            self._moved_at = now
            if not self._damaged:  # as long as chunks come, asking again would only double them
                self._ask_at = now + self._limits.ask_again_s
        return filled

    def step(self, now: float, connected: bool, send: Callable[[Want], None]) -> str:
        """Ask for what is lacking, if it is time. Returns why to give up, or ""."""
        elapsed, self._last = max(0.0, now - self._last), now
        if connected:
            self._spent += elapsed
        else:
            self._moved_at = now  # time without a cable is nobody's fault
        part, limits = self.part, self._limits
        if now - self._moved_at > (limits.way_stall_s if self.way else limits.stall_s):
            return f"{part.have} of {part.total} chunks came, then none any more"
        allowed = limits.slack_s + self.bytes / limits.min_rate
        if self._spent > allowed:
            return f"{part.have} of {part.total} chunks came in {self._spent:.0f} s: too slow"
        outstanding = self._asked & set(part.missing())
        if now >= self._ask_at or not outstanding:
            want = part.missing(WANT_AT_ONCE)
            self._ask_at = now + limits.ask_again_s
            try:
                send(Want(self.sha256, want, self.offer.custom.chunk))
            except Unavailable:
                return ""
            self._asked, self._damaged = frozenset(want), False
        return ""

    def read(self, old: Callable[[], bytes | None]) -> bytes:
        """The release's bytes, not yet vouched for; `old` gives the running model's file, for a delta.

        Raises Refused or Corrupt when the way does not lead there, OSError.
        """
        if self._here is not None:
            here, self._here = self._here, None  # the self-test needs the memory
            return here
        data = self.part.read()
        if self.way is None:
            return data
        return ways.rebuild(self.way, data, old() if self.way.form == "delta" else None, self.offer.bytes)
