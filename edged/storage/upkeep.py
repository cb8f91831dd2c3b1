"""What the store does by itself, beside the frames that come in: reserve, retention, room in segments, keys, old rows.

    every second    what was asked for: erasures, "the clock is right"
    every 10 s      the reserve of disk space (reserve.py); is there a segment left to write to?
    every minute    retention, then room in segments (clean.py); at once when there is none left
    every hour      data keys that seal nothing any more, the copies of the keyring, rows of long ago, the forecast

Guarantees: an erasure that was asked for is finished, if need be by the next process; no step holds the store's lock for
longer than a batch, so that frames come in meanwhile. Does not guarantee when: one thing is done after the other.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from edged.clock import day, synchronised
from edged.errors import Corrupt, Refused, Unavailable
from edged.storage import alarms, clean, counters, erasure, forecast, gauges, pruning, requests, reserve, retention
from edged.storage.ageing import DAY, Ageing
from edged.storage.store import Store

log = logging.getLogger(__name__)

RESERVE_S, RETENTION_S, HOUR_S = 10.0, 60.0, 3600.0
ASKED_S = 10.0  # between two attempts
CONFIRM = "confirm-clock"


@dataclass(frozen=True)
class Rules:
    """Rows of frames without a picture go after `retention.row_age_s`, and while the catalogue takes more than `row_bytes`
    (0 = any) the oldest before that. `reserve` bytes, 0 = none.
    """

    retention: retention.Rules
    row_bytes: int = 0
    reserve: int = reserve.SIZE


class Upkeep:
    """The work of one process; `step` does what is due."""

    def __init__(self, store: Store, rules: Rules, vouched: Callable[[], bool] = synchronised) -> None:
        self._store, self._rules, self._clock = store, rules, store.clock
        self._vouched = vouched  # whether somebody else than a person confirms the clock
        self._ageing = Ageing(store)
        self._next_asked = self._next_reserve = self._next_retention = self._next_hour = 0.0
        self._held = 0.0
        self._stop: threading.Event | None = None

    def forever(self, stop: threading.Event, alarm: Callable[[BaseException], None], every_s: float = 1.0) -> None:
        """Until `stop`; what is nobody's fault but ours goes to `alarm`."""
        self._stop = stop
        while not stop.wait(every_s):
            try:
                self.step()
            except (Unavailable, Refused) as e:
                log.warning("the store's upkeep waits: %s", e)
            except Exception as e:
                log.exception("the store's upkeep stopped")
                alarm(e)
                if isinstance(e, Corrupt):
                    return

    def step(self) -> None:
        now = self._clock.monotonic()
        if now >= self._next_reserve:
            self._next_reserve = now + RESERVE_S
            reserve.step(self._store.data_dir, self._rules.reserve)
            if self._short():
                self._next_retention = now
        if now >= self._next_asked:
            try:
                self._asked()
            except Unavailable as e:
                log.warning("what was asked for waits: %s", e)
                self._next_asked = now + ASKED_S
                if e.code == "disk_full":
                    self._next_retention = now
        if now >= self._next_retention:
            self._next_retention = now + RETENTION_S
            self._retain(retention.within_disk(self._rules.retention, self._store))
            self._make_room()
        if now >= self._next_hour:
            self._next_hour = now + HOUR_S
            self._hourly()

    def _asked(self) -> None:
        for asked in requests.pending(self._store):
            if asked.verb == erasure.VERB:
                try:
                    erasure.run(self._store, asked.id, self._go_on)
                except Refused as e:
                    log.error("erasure %d: %s", asked.id, e)
                    requests.done(self._store, asked.id, str(e))
            elif asked.verb == CONFIRM:
                self._ageing.confirm()
                requests.done(self._store, asked.id, "confirmed")
                self._next_retention = 0.0

    def _go_on(self, _: float) -> None:
        if self._stop is not None and self._stop.is_set():
            raise Unavailable("the daemon stops, and goes on with it at the next start", code="stopping")

    def _retain(self, rules: retention.Rules) -> None:
        done = retention.run(self._store, rules, self._ageing)
        self._held = done.held
        if done.objects:
            counters.bump_all(self._store, {"retention_objects": done.objects, "retention_bytes": done.bytes})
            log.info("retention took %d pictures, %d bytes%s", done.objects, done.bytes, ", and goes on" * done.more)
        if done.held and self._vouched():
            self._ageing.confirm()
            log.info("a time server vouches for the clock: the box was off for %.1f days", done.held / DAY)
        elif done.held:
            text = (
                f"by the clock the box was off for {done.held / DAY:.0f} days: nothing goes by age for them until"
                " a time server or `edged data confirm-clock` says that this is so"
            )
            if alarms.sound(self._store, alarms.RETENTION_HELD, text):
                log.error("%s", text)
        elif alarms.clear(self._store, alarms.RETENTION_HELD):
            log.info("retention goes on")

    def _make_room(self) -> None:
        if not self._store.has_key:
            return
        clean.free_empty(self._store)
        if self._short():
            clean.run(self._store)
        if self._short():
            # Padding and what is half empty take room that `max_bytes` of pictures does not see.
            self._retain(retention.pressed(self._rules.retention, self._store))
            clean.run(self._store)

    def _short(self) -> bool:
        """Too few segments are left to write to."""
        room = clean.room(self._store)
        return room.free + room.more < clean.SPARE

    def _hourly(self) -> None:
        now = self._clock.now()
        if self._store.has_key:
            with self._store.journal.settled():  # a row that is owed needs its key, however the clock leapt
                self._store.seal.destroy_unused(self._store, day(now - DAY))
            troubles = self._store.seal.trouble(self._store)
            if not troubles:
                alarms.clear(self._store, alarms.KEYRING)
            elif alarms.sound(self._store, alarms.KEYRING, text := "; ".join(t.text for t in troubles)[:400]):
                log.error("keyring: %s", text)
        if self._rules.retention.row_age_s and not self._held:
            pruning.run(
                self._store, self._ageing.received_before(self._rules.retention.row_age_s),
                young=self._ageing.received_before(pruning.YOUNG_S), max_bytes=self._rules.row_bytes,
            )  # fmt: skip
        with suppress(Unavailable):
            disk = forecast.of(self._store, self._rules.retention, now)[0]
            soon = disk.days if disk.first == "disk" and disk.days is not None else 0.0
            gauges.put(self._store, {"full_in_days": soon})
