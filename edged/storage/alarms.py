"""Alarms: what is wrong with the box until it is not any more.

Guarantees: one standing alarm for each code, since when it stands, and both its ends in the audit log in the same
transaction. Does not guarantee that anybody looks.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from edged.storage import audit
from edged.storage.store import Store

AUTHOR = "edged"
PRIVACY_LEAK = "privacy_leak"  # what should be hidden is to be seen
PRIVACY_UNMEASURED = "privacy_unmeasured"  # nobody knows whether it is
SCRUB_DOWN = "scrub_down"  # no scrub child can start: nothing is taken from any camera
DISK_FULL = "disk_full"  # no room for pictures; cameras keep them
DISK_FAILED = "disk_failed"  # the disk took a write badly; cameras keep their pictures
CATALOGUE_REBUILT = "catalogue_rebuilt"  # the database was damaged; what was lost is said
SEGMENTS_LOST = "segments_lost"  # files with pictures are gone or cut off
RETENTION_HELD = "retention_held"  # the clock claims so much time that too many pictures would go at once
KEYRING = "keyring_copy"  # a copy of the keys is missing, damaged or old
CLOCK_WRONG = "clock_wrong"  # it says a time before this program was made
CLOCK_STEPPED = "clock_stepped"  # it was set by more than a day
SIGNER_DOWN = "signer_down"  # the box's keys cannot be used: what is signed runs out
TRUST_EXPIRES = "trust_expires"  # a signature, the root's above all, ends soon or has ended
DRIFT = "drift"  # what a camera sees is not what its model knows
NO_WAY_BACK = "no_way_back"  # cameras run a release that was halted, and there is none to return to
FITS_NOBODY = "fits_nobody"  # a release rolls that no camera can take
LEFT_OUT = "left_out"  # a camera is there that has no model, since no release fits it
UNSIGNED = "reports_unsigned"  # somebody speaks in a camera's name, or it does not sign
CODES = (
    SCRUB_DOWN, DISK_FULL, DISK_FAILED, CATALOGUE_REBUILT, SEGMENTS_LOST, RETENTION_HELD, PRIVACY_LEAK, PRIVACY_UNMEASURED,
    KEYRING, CLOCK_WRONG, CLOCK_STEPPED, SIGNER_DOWN, TRUST_EXPIRES, DRIFT, NO_WAY_BACK, FITS_NOBODY,
    LEFT_OUT, UNSIGNED,
)  # fmt: skip
PRIVACY = (PRIVACY_LEAK, PRIVACY_UNMEASURED, SCRUB_DOWN)


@dataclass(frozen=True)
class Alarm:
    """`text` is a sentence without its full stop."""

    code: str
    text: str
    since: float


def sound(store: Store, code: str, text: str) -> bool:
    """Raise an alarm, or say anew what one that stands is about; True if it did not stand before."""
    with store.transaction():
        if store.execute("update alarm set text = ? where code = ? and cleared is null", (text, code)):
            return False
        store.execute("insert into alarm (code, text, since) values (?, ?, ?)", (code, text, store.clock.now()))
        audit.append(store, AUTHOR, "alarm.raised", code, {"text": text})
    return True


def stands(store: Store, code: str) -> bool:
    return bool(store.value("select 1 from alarm where code = ? and cleared is null", (code,)))


def clear(store: Store, code: str) -> bool:
    """True if it stood."""
    if not stands(store, code):
        return False
    with store.transaction():
        store.execute("update alarm set cleared = ? where code = ? and cleared is null", (store.clock.now(), code))
        audit.append(store, AUTHOR, "alarm.cleared", code)
    return True


def clear_all(store: Store, codes: Collection[str]) -> list[str]:
    """Those of `codes` that stood. One query when none does."""
    return [a.code for a in standing(store) if a.code in codes and clear(store, a.code)]


def standing(store: Store) -> list[Alarm]:
    """The oldest first."""
    return [
        Alarm(*r) for r in store.rows("select code, text, since from alarm where cleared is null order by since, id")
    ]


def last_cleared(store: Store, code: str) -> float:
    """When an alarm of this code was cleared last, 0 = never."""
    return float(store.value("select max(cleared) from alarm where code = ?", (code,)) or 0)
