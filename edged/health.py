"""How the box is: a verdict, and the reasons behind it with what to do about each.

Guarantees: `judge` is pure, and `look` reads rows alone (a few dozen, whatever the store holds), so the daemon's retained
`server/<id>/health`, the page, `/healthz` and `edged status` say the same. Texts name things and no ages: a verdict
changes when something changes. Does not guarantee that what nobody measures is well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec

from edged.clock import day, iso
from edged.errors import Corrupt, EdgedError
from edged.storage import alarms, figures, gaps, gauges
from edged.storage.alarms import Alarm
from edged.storage.figures import Heard
from edged.storage.gauges import Gauge
from edged.storage.store import Store

Word = Literal["ok", "degraded", "failed"]

SILENT_S = 300.0  # a camera that is online says something every few seconds
NO_FRAME_S = 86400.0
FRESH_S = 60.0  # the daemon's gauges are written every ten seconds
QUEUE_S = 60.0  # that a frame waits for a scrub child
AWAY_S = 60.0  # of the broker
FULL_DAYS = 3.0
BACKUP_S = 7 * 86400.0
DAY_S = 86400.0
EARLIEST = 1_793_491_200.0  # 2026-11-01: no clock that is right says less

# What is bad enough for "failed" (pictures do not come in, or leak), and what to do.
KNOWN: Mapping[str, tuple[Word, str]] = {
    "privacy_leak": ("failed", "see the page under Privacy; take cameras off the net until it is cleared"),
    "scrub_down": ("failed", "`edged doctor` says why no scrub child starts"),
    "disk_full": ("failed", "free space on the disk; the text says which limit it is"),
    "disk_failed": ("failed", "see dmesg, replace the disk; cameras keep what was not taken"),
    "catalogue_damaged": ("failed", "restart edged: a start makes the catalogue anew; `edged db rebuild` does so by hand"),
    "queue_stuck": ("failed", "see the load of the machine, and the log"),
    "beat_missed": ("failed", "see the log; the watchdog restarts a daemon that stands still"),
    "daemon_down": ("failed", "systemctl start edged, or `edged run`; its log says why it stopped"),
    "daemon_away": ("failed", "systemctl status edged"),
    "broker_away": ("failed", "start the broker; `edged doctor` tries the door"),
    "broker_mute": ("degraded", "the broker must let `server` write and read edged/1/<site>/#"),
    "privacy_unmeasured": ("degraded", "see the log for what becomes of planted pictures"),
    "camera_offline": ("degraded", "see the camera's power, network and certificate"),
    "camera_revoked": ("degraded", "`edged camera add` issues another certificate for what takes its place"),
    "camera_silent": ("degraded", "see the camera's own log"),
    "full_soon": ("degraded", "free space on the disk, or lower storage.max_age_days: the disk ends before storage.max_bytes"),
    "clock_wrong": ("degraded", "set the clock, or let NTP do it; nothing was deleted for it"),
    "clock_stepped": ("degraded", "see whether the clock is right now; nothing was deleted for it"),
    "backup_none": ("degraded", "edged db backup"),
    "backup_old": ("degraded", "edged db backup; see whether its timer runs"),
    "frames_missing": ("degraded", "see the cameras' spools and disks: numbers of frames are missing"),
    "retention_held": ("degraded", "set the clock; if it is right, `edged data confirm-clock`"),
    "catalogue_rebuilt": ("degraded", "see what was lost, look at the disk (dmesg); `edged check --clear` clears it"),
    "segments_lost": ("degraded", "is a disk not mounted? put the files back, or `edged db restore`; then restart"),
    "drift": ("degraded", "label some of that camera's newest crops; a cycle starts by itself unless [train] on_drift is false"),
    "signer_down": ("degraded", "`edged trust show` says which key is missing; systemctl status edged-signer.socket"),
    "trust_expires": ("degraded", "edged trust renew (docs/trust.md); cameras go on with what they run"),
    "no_way_back": ("degraded", "see the page under Fleet: a better release brings those cameras on, or see what is wrong there"),
    "fits_nobody": ("degraded", "`edged rollout status` says why, by camera; see the cameras' settings"),
    "left_out": ("degraded", "see that camera's settings (hardware, classes, agent), or make a release that is for it too"),
    "reports_unsigned": ("degraded", "update that camera's agent and see its certificate; else find out who speaks for it"),
    "keyring_copy": ("degraded", "`edged doctor` says which copy; put it back in place"),
}  # fmt: skip


@dataclass(frozen=True)
class Reason:
    """`text` is a sentence without its full stop; `since` seconds since 1970 by the box's clock, 0 = not known."""

    code: str
    text: str
    since: float
    hint: str

    @property
    def severity(self) -> Word:
        return KNOWN.get(self.code, ("degraded", ""))[0]


@dataclass(frozen=True)
class Health:
    """The worst reasons first."""

    verdict: Word
    reasons: tuple[Reason, ...]

    def document(self) -> dict[str, object]:
        """{"verdict", "reasons": [{"code", "text", "since" (ISO 8601), "hint"}]}."""
        told = [{"code": r.code, "text": r.text, "since": iso(r.since), "hint": r.hint} for r in self.reasons]
        return {"verdict": self.verdict, "reasons": told}

    def encode(self) -> bytes:
        """What `server/<id>/health` retains."""
        return msgspec.json.encode(self.document())


@dataclass(frozen=True)
class Facts:
    """What there is to judge by. `daemon`: it is the daemon that asks, so it is there. `runs`: whether one holds the site's
    lock; None = not looked at.
    """

    at: float
    alarms: Sequence[Alarm] = ()
    cameras: Sequence[Heard] = ()
    gauges: Mapping[str, Gauge] = field(default_factory=dict)
    missing: Mapping[str, gaps.Missing] = field(default_factory=dict)
    daemon: bool = False
    runs: bool | None = None
    revoked: Mapping[str, float] = field(default_factory=dict)  # by camera since when no certificate of it stands


def look(store: Store, at: float, *, daemon: bool = False, runs: bool | None = None) -> Facts:
    return Facts(
        at, alarms.standing(store), figures.heard(store), gauges.all(store), gaps.missing(store, at), daemon, runs,
        revoked(store),
    )  # fmt: skip


def revoked(store: Store) -> Mapping[str, float]:
    """By camera since when it has but revoked certificates, seconds since 1970."""
    from edged.broker.revocation import shut_out

    try:
        return shut_out(store.data_dir / "keys")
    except Corrupt:  # the daemon's log and `edged camera revoke` say it
        return {}


def judge(facts: Facts) -> Health:
    found = [Reason(a.code, a.text, a.since, _hint(a.code)) for a in facts.alarms]
    found += [
        Reason(code, text, since, _hint(code))
        for code, text, since in (*_of_daemon(facts), *_of_cameras(facts), *_of_store(facts))
        if code not in {r.code for r in found}
    ]
    found.sort(key=lambda r: (r.severity != "failed", list(KNOWN).index(r.code) if r.code in KNOWN else len(KNOWN)))
    worst: Word = "ok" if not found else found[0].severity
    return Health(worst, tuple(found))


def of_camera(facts: Facts, camera: str) -> tuple[Reason, ...]:
    """What is wrong with one camera."""
    missing = {camera: facts.missing[camera]} if camera in facts.missing else {}
    alone = replace(facts, cameras=[c for c in facts.cameras if c.id == camera], missing=missing)
    return tuple(Reason(code, text, since, _hint(code)) for code, text, since in _of_cameras(alone))


def unreadable(e: EdgedError) -> Health:
    """The verdict when the rows that it goes by cannot be read."""
    code = e.code if e.code in KNOWN else "catalogue_damaged" if isinstance(e, Corrupt) else "store_busy"
    return Health("failed", (Reason(code, str(e), 0.0, _hint(code) or e.hint),))


def _hint(code: str) -> str:
    return KNOWN.get(code, ("degraded", ""))[1]


Found = list[tuple[str, str, float]]  # code, text, since


def _of_daemon(facts: Facts) -> Found:
    """The daemon's own figures; old ones say nothing but that nobody writes them."""
    at, known = facts.at, facts.gauges
    written = known.get("daemon_threads")
    if facts.runs is False:
        return [("daemon_down", "the daemon does not run: nothing comes in", 0.0 if written is None else written.ts)]
    if written is None:
        return []
    if not facts.daemon and not -DAY_S < at - written.ts < FRESH_S:
        return [("daemon_away", "the daemon does not run, or cannot write", written.ts)]
    told: Found = []
    if (down := known.get("cable_down_ts")) and down.value and at - down.value > AWAY_S:
        told.append(("broker_away", "there is no connection to the broker: nothing comes in", down.value))
    if (mute := known.get("cable_silent")) and mute.value:
        started = known.get("daemon_started_ts", written).value
        told.append(("broker_mute", "the broker does not hand back what the box sends itself", started))
    if (beat := known.get("beat_ts")) and beat.ts - beat.value > FRESH_S:
        told.append(("beat_missed", "the box does not get through to itself", beat.value))
    if (age := known.get("queue_age_s")) and age.value > QUEUE_S:
        told.append(("queue_stuck", "frames wait for more than a minute to be scrubbed", age.ts - age.value))
    return told


def _of_cameras(facts: Facts) -> Found:
    told: Found = []
    if gone := [c for c in facts.cameras if not c.online and c.id in facts.revoked]:
        text = f"the certificate of {_listed([c.id for c in gone])} is revoked"
        told.append(("camera_revoked", text, min(facts.revoked[c.id] for c in gone)))
    if away := [c for c in facts.cameras if not c.online and c not in gone]:
        told.append(("camera_offline", f"{_names(away)} offline", min(c.last_seen for c in away)))
    if mute := [c for c in facts.cameras if c.online and facts.at - c.last_seen > SILENT_S]:
        told.append(("camera_silent", f"{_names(mute)} online but silent", min(c.last_seen for c in mute)))
    blind = [
        (c, c.last_frame) for c in facts.cameras
        if c.online and c not in mute and c.last_frame is not None and facts.at - c.last_frame > NO_FRAME_S
    ]  # fmt: skip
    if blind:
        text = f"no picture of {_listed([c.id for c, _ in blind])} was stored for a day"
        told.append(("camera_silent", text, min(last for _, last in blind)))
    if facts.missing:
        text = f"frames of {_listed(sorted(facts.missing))} never came"
        told.append(("frames_missing", text, min(m.since for m in facts.missing.values())))
    return told


def _of_store(facts: Facts) -> Found:
    at, known = facts.at, facts.gauges
    told: Found = []
    days = known.get("full_in_days")
    if days is not None and 0 < days.value < FULL_DAYS:
        told.append(("full_soon", f"the disk is full in {_days(days.value)} at this rate", days.ts))
    backup = known.get("backup_ts")
    first = min((c.first_seen for c in facts.cameras), default=at)
    if backup is None and at - first > BACKUP_S:
        told.append(("backup_none", "no backup was ever made", first))
    elif backup is not None and at - backup.value > BACKUP_S:
        told.append(("backup_old", "the last backup is more than a week old", backup.value))
    return told


def _names(cameras: Sequence[Heard]) -> str:
    return f"{_listed([c.id for c in cameras])} {'is' if len(cameras) == 1 else 'are'}"


def _listed(names: Sequence[str], most: int = 5) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _days(days: float) -> str:
    return "less than a day" if days < 1 else f"{days:.0f} day{'' if round(days) == 1 else 's'}"


class ClockWatch:
    """Whether the wall clock was set by more than a day, against the clock that cannot be set.

    `newest` is the latest time that stands in the store: what a run before this one took for now."""

    def __init__(self, now: float, monotonic: float, newest: float = 0.0) -> None:
        self._offset = now - monotonic
        self._told = ""
        self._until = 0.0  # monotonic
        if newest > now + DAY_S:
            self._tell(f"the clock says {day(now)}, at the last run it said {day(newest)}", monotonic)

    def step(self, now: float, monotonic: float) -> tuple[str, str]:
        """(code, text) of an alarm, ("", "") when all is well. A step is told for a day, or until it is undone."""
        if now < EARLIEST:
            return "clock_wrong", f"the clock says {day(now)}, which is long ago"
        by = now - monotonic - self._offset
        if abs(by) > DAY_S:
            self._offset += by
            way = "forward" if by > 0 else "back"
            undone = self._told.startswith("the clock was set") and way not in self._told
            if undone:
                self._told = ""
            else:
                self._tell(f"the clock was set {way} by {abs(by) / DAY_S:.0f} days", monotonic)
        if monotonic > self._until:
            self._told = ""
        return ("clock_stepped", self._told) if self._told else ("", "")

    def _tell(self, text: str, monotonic: float) -> None:
        self._told, self._until = text, monotonic + DAY_S
