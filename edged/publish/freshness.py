"""Keeps the signatures fresh while the daemon runs, and says so when that fails or the root ends.

Guarantees: a signer that fails is asked again every ten minutes, not every turn; it raises an alarm and never ends the
daemon, whose pictures go on. Metadata that was changed by something else is Corrupt and does end it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from edged.clock import Clock
from edged.errors import Misconfigured, Refused, Unavailable
from edged.publish import standing
from edged.storage import alarms
from edged.storage.store import Store

if TYPE_CHECKING:
    from edged.publish.trust import Repository

AGAIN_S = 600.0

log = logging.getLogger(__name__)


class Freshness:
    """One `step` whenever there is time; cheap unless something must be signed."""

    def __init__(self, store: Store, repo: Repository, clock: Clock) -> None:
        self._store, self._repo, self._clock = store, repo, clock
        self._not_before = float("-inf")
        self._down, self._said = alarms.stands(store, alarms.SIGNER_DOWN), "?"

    def step(self) -> None:
        """Raises Corrupt; Unavailable when the store is busy."""
        if self._clock.monotonic() < self._not_before:
            return
        try:
            self._repo.refresh_timestamp()
        except (Unavailable, Refused, Misconfigured, OSError) as e:
            self._not_before = self._clock.monotonic() + AGAIN_S
            self._down = True
            if alarms.sound(self._store, alarms.SIGNER_DOWN, f"nothing can be signed: {e}"):
                log.error("nothing can be signed: %s", e)
        else:
            if self._down:
                alarms.clear(self._store, alarms.SIGNER_DOWN)
                self._down = False
        told = standing.expiring(self._repo.expires(), self._clock.now())
        said = "; ".join(w.text for w in told)
        if said != self._said:
            if said:
                alarms.sound(self._store, alarms.TRUST_EXPIRES, said)
            else:
                alarms.clear(self._store, alarms.TRUST_EXPIRES)
            self._said = said
