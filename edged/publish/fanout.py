"""What cameras asked for, in passes: cameras are waited for, then each chunk goes once to all of them together.

    gathering   the first question about a file opens a round; others join it
    going       once no camera has joined for GATHER_S (GATHER_MOST_S at most), or all of the last pass have, the union of
                what they lack goes, lowest first; who asks meanwhile for what has gone already is of the next round

Yields to frames and receipts: the next chunk goes only when the broker has taken the last one, and after a rest of `rest`
times as long as that took. So it has 1 / (1 + rest) of whatever there is to be had of the cable, the broker and the
processor, and one chunk is the most that anything waits behind. (Stop-and-wait with a duty cycle; LEDBAT, RFC 6817, has the
same aim but wants a long flow to learn from.) The pacer's rate holds as well.

Guarantees: what is kept is bounded by the files on the box, whatever is asked; a chunk costs one reading and one message for
any number of cameras; only a camera's newest file counts. Does not guarantee that a chunk arrives: cameras ask again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edged.clock import Clock
from edged.errors import Unavailable
from edged.publish import deliver
from edged.publish.deliver import Pacer, Recent
from edged.wire.messages import Want

GATHER_S, GATHER_MOST_S = 1.0, 10.0
SETTLE_S, SETTLE_TIMES = (
    0.5,
    20.0,
)  # how long a chunk may be on its way: so long, and so many times what it took to be taken

_Key = tuple[Path, int]  # a file and the size of its chunks


@dataclass
class _Round:
    """Chunks of one file that somebody lacks. `latest`: when the last camera joined; `new`: by chunk, when somebody last
    asked for it whose first question about the file that was.
    """

    opened: float
    latest: float
    askers: set[str] = field(default_factory=set)
    chunks: set[int] = field(default_factory=set)
    new: dict[int, float] = field(default_factory=dict)


class Fanout:
    """Not thread-safe; all times are the clock's monotonic seconds."""

    POLL_S = 0.002  # how often to look whether a chunk was taken
    REST_S = 1.0  # the longest rest: a cable that was cut for a minute is no slow cable
    CHECK_S = 60.0

    def __init__(
        self, pacer: Pacer, clock: Clock, backlog: Callable[[], int] = lambda: 0, rest: float = 4.0,
        gather: float = GATHER_S,
    ) -> None:  # fmt: skip
        """`backlog`: bytes that were published and that the broker has not yet taken; `gather` 0: nobody is waited for."""
        self._pacer, self._clock, self._backlog, self._rest, self._gather = pacer, clock, backlog, rest, gather
        self._recent = Recent()
        self._asked: dict[str, _Key] = {}  # a camera's newest file
        self._gathering: dict[_Key, _Round] = {}
        self._going: OrderedDict[_Key, _Round] = OrderedDict()  # files in turn
        self._served: tuple[_Key, frozenset[str]] | None = None  # the last pass, and whose it was
        self._out: tuple[float, int] | None = None  # when the last chunk went, and its size, until it is taken
        self._whole: tuple[Path, int, int, int] | None = None  # the file that was last found whole
        self._checked = float("-inf")  # and when

    def ask(self, camera: str, want: Want, path: Path) -> None:
        """Raises as `deliver.require`. A file is not read whole again within CHECK_S: each chunk goes under its own hash."""
        now, stat = self._clock.monotonic(), path.stat() if path.exists() else None
        this = stat and (path, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        checked = this is not None and this == self._whole and now - self._checked < self.CHECK_S
        deliver.require(want, path, checked=checked)
        if not checked:
            self._whole, self._checked = this, now
        key = (path, want.chunk)
        is_new = self._asked.get(camera) != key
        if is_new and camera in self._asked:
            self._forget(camera)
        self._asked[camera] = key
        going = self._going.get(key)
        if going is not None:
            going.askers.add(camera)
        lacking = set(want.chunks) - (going.chunks if going is not None else set())
        if not lacking:
            return
        open_ = self._gathering.setdefault(key, _Round(now, now))
        if camera not in open_.askers:
            open_.askers.add(camera)
            open_.latest = now
        open_.chunks |= lacking
        if is_new:
            open_.new |= dict.fromkeys(lacking, now)

    def due_in(self) -> float | None:
        """Seconds until there may be something to do, None = nothing was asked for."""
        if self._taken() is False:
            return self.POLL_S
        if self._going:
            return self._pacer.due_in()
        waits = [self._waits(key, r) for key, r in self._gathering.items()]
        return max(min(waits), self._pacer.due_in()) if waits else None

    def send(self, publish: Callable[[str, bytes], None]) -> int:
        """The next chunk, if it is time; bytes sent. What `publish` (sha256, bytes) raises goes on: then nothing is
        left to be sent, cameras ask again for what they lack.
        """
        if self._taken() is False:
            return 0
        for key in [k for k, r in self._gathering.items() if k not in self._going and self._waits(k, r) == 0]:
            self._going[key] = self._gathering.pop(key)
        sent = 0
        while self._going and self._pacer.ready() and self._taken() is not False:
            sent += self._send_one(publish)
        return sent

    def _send_one(self, publish: Callable[[str, bytes], None]) -> int:
        key, round_ = self._going.popitem(last=False)
        index = min(round_.chunks)
        round_.chunks.remove(index)
        found = deliver.piece(*key, index)
        if found is None:  # the file went away
            return 0
        if round_.chunks:
            self._going[key] = round_
        else:
            self._served = key, frozenset(round_.askers)
        sha256, data = found
        if not self._recent.first(sha256, self._clock.monotonic(), round_.new.get(index)):
            return 0
        try:
            publish(sha256, data)
        except Unavailable:
            self._going.clear()
            self._gathering.clear()
            self._asked.clear()
            self._out = None
            raise
        self._pacer.spent(len(data))
        self._out = self._clock.monotonic(), len(data)
        return len(data)

    def _waits(self, key: _Key, r: _Round) -> float:
        """Seconds until a round may go."""
        if self._served is not None and self._served[0] == key and r.askers >= self._served[1]:
            return 0.0
        now = self._clock.monotonic()
        return max(0.0, min(r.latest + self._gather, r.opened + GATHER_MOST_S) - now)

    def _forget(self, camera: str) -> None:
        """It asks for another file now; what nobody wants any more does not go."""
        for rounds in (self._gathering, self._going):
            for key, r in list(rounds.items()):
                r.askers.discard(camera)
                if not r.askers:
                    del rounds[key]

    def _taken(self) -> bool | None:
        """Whether the broker has the last chunk; None = there is none to wait for. Once it has, the rest begins."""
        if self._out is None:
            return None
        since, size = self._out
        if self._backlog() >= size:
            return False
        self._out = None
        took = self._clock.monotonic() - since
        self._recent.settle_s = SETTLE_S + SETTLE_TIMES * took  # a slow broker or a busy machine has more on its way
        self._pacer.rest(min(self.REST_S, self._rest * took))
        return True
