"""The daemon's main loop, one step at a time: what arrives is looked up in one table, what is due is sent on a tick.

Guarantees: `step` never decodes a picture, trains, or waits for either, and it comes back within TURN_S and the one message
or write that it is busy with. What a camera sent wrong is counted and dropped (Refused), what is away is tried again
(Unavailable), what is Corrupt ends the loop.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edged import __version__, health, homeassistant
from edged.admit import Limits, Shares
from edged.broker import revocation
from edged.clock import Clock
from edged.config import PLANTED
from edged.errors import Corrupt, Refused, Unavailable
from edged.ingest import sha256
from edged.publish import deliver, fanout, fleet, rollout, trust
from edged.publish.conduct import Conductor
from edged.publish.freshness import Freshness
from edged.pulse import BEAT, Pulse
from edged.storage import alarms, cameras, counters, drifts, gauges, models
from edged.storage.store import Store
from edged.wire import messages, topics
from edged.wire.link import Link, Message
from edged.wire.messages import Frame, FrameReceipt, Reported, Want
from edged.wire.signature import REVOKED, SIGNED, Verifier

log = logging.getLogger(__name__)

TICK_S = 0.5
TURN_S = 5.0  # after which no more messages are taken in one step
PROBES = Limits(frames_per_s=1 / 600, burst=2.0, bytes_per_s=1e4, others=1024)  # each costs a fit
TALK = Limits(frames_per_s=20.0, burst=200.0, bytes_per_s=1e6, others=1024)  # of what is no frame, a camera

# What is neither signed nor answered with a receipt. Not "state": that a camera is there or left stays known.
BARE = frozenset({"stats", "model/want", "probe"})


@dataclass(frozen=True)
class BoxRules:
    """What of the configuration the main loop needs, as flat values."""

    site: str
    server_id: str
    rollout: rollout.Rules
    rate_bytes_per_s: int
    stats_interval_s: float
    auto: bool = True  # releases start by themselves
    reports_ca: bytes = b""  # PEM; info and reports on models count only if a camera of it signed them; b"" = all count
    revoked: Path | None = None  # the list of revoked certificates of that CA, where it lies once there is one
    home: homeassistant.Rules = field(default_factory=homeassistant.Rules)


class Box:
    """The main loop's work, one `step` at a time, on any link and any clock."""

    def __init__(
        self, link: Link, store: Store, repo: trust.Repository, submit: Callable[[Frame], FrameReceipt | None],
        rules: BoxRules, clock: Clock,
    ) -> None:  # fmt: skip
        self._link, self._store, self._repo, self._submit = link, store, repo, submit
        self._rules, self._clock = rules, clock
        self._own = rules.site, "server", rules.server_id
        self._home = homeassistant.Announcer(link, store, rules.site, rules.server_id, rules.home, clock)
        self.conductor = Conductor(store, repo, rules.rollout, rules.auto)
        self._verifier = Verifier(rules.reports_ca, rules.revoked) if rules.reports_ca else None
        self._words: dict[tuple[str, str, str], tuple[Reported, float, bool | None]] = {}  # not yet written
        self._doubted: dict[tuple[str, str], str] = {}  # cameras whose last word of a kind did not verify, and why
        alarms.clear(store, alarms.UNSIGNED)  # retained ones come again, and raise it again
        self._shut_out: Mapping[str, float] = {}  # cameras of which the keys have but revoked certificates, since when
        self._proved: dict[str, int] = {}  # by camera the serial of the certificate that it signed with last
        self._keys_unread = ""
        self._watch_keys()
        self._freshness = Freshness(store, repo, clock)
        self._fanout = fanout.Fanout(deliver.Pacer(rules.rate_bytes_per_s, clock), clock, link.backlog)
        self._talk, self._probes = Shares(TALK), Shares(PROBES)
        self._totals: Counter[str] = Counter()  # since the last write
        self._dropped: Counter[str] = Counter()
        self._counting = threading.Lock()
        newest = max((g.ts for g in gauges.all(store).values()), default=0.0)
        self._clock_watch = health.ClockWatch(clock.now(), clock.monotonic(), newest)
        self._clock_told = ("?", "")
        self._published: dict[str, bytes] = {}
        self._desired: dict[str, bytes] | None = None  # by camera what it must be told; None = to be read
        self._connects = 0
        self._drift = -1, frozenset[str]()  # the newest evaluation that was published, and who drifts
        self._next_tick = self._next_stats = 0.0
        self.failure: BaseException | None = None  # set by `alarm`; the loop ends with it
        self.pulse: Pulse | None = None  # whose messages to ourselves come by the same link
        link.subscribe(topics.server(rules.site, rules.server_id, f"{BEAT}/#"))
        self._handlers: dict[str, Callable[[str, str, Message], None]] = {
            "info": self._info,  # first: what is retained says who has a certificate that stands, before frames come
            "frame": self._frame,
            "roi": self._frame,
            "state": self._state,
            "stats": self._stats,
            "model/reported": self._reported,
            "model/want": self._want,
            "probe": self._probe,
        }
        for leaf in self._handlers:  # one by one: of cam/+/# each receipt that we send would come back to us
            link.subscribe(topics.cam(rules.site, "+", leaf))

    def step(self, timeout_s: float = 0.1) -> None:
        """Handle what has arrived (at most 64 messages), send what is due. Raises Corrupt."""
        began, due_in = self._clock.monotonic(), self._fanout.due_in()
        message = self._link.receive(timeout_s if due_in is None else min(timeout_s, due_in))
        quiet = message is None
        for _ in range(64):
            if message is None:
                break
            self._dispatch(message)
            late = self._clock.monotonic() - began > timeout_s + TURN_S  # another process holds the store
            message = None if late else self._link.receive(0)
        else:
            if message is not None:
                self._dispatch(message)
        self._send_chunks()
        due = self._clock.monotonic() >= self._next_tick
        if due or quiet:  # not for each handful of a flood: the store may be held by a commit just now
            self._write_totals()
            with suppress(Unavailable):
                self._write_words()
        if due:
            self._next_tick = self._clock.monotonic() + TICK_S
            self._tick()
        if self.failure is not None:
            raise Corrupt(f"the daemon stops: {self.failure}") from self.failure

    def answer(self, camera: str, receipt: FrameReceipt) -> None:
        """Send a receipt; called from the ingest threads. One that is lost is asked for again by the resend."""
        timed = msgspec.structs.replace(receipt, ts=self._clock.now())
        with suppress(Unavailable):
            self._link.publish(topics.cam(self._rules.site, camera, "receipt"), messages.encode(timed))

    def alarm(self, e: BaseException) -> None:
        """A worker met something that is neither the camera's nor the world's fault."""
        if isinstance(e, Corrupt):
            self.failure = e
        else:
            self.count("bug")

    def count(self, name: str, n: int = 1) -> None:
        """Add to a running total; written when nothing else is to be done, or on the tick."""
        with self._counting:
            self._totals[name] += n

    def goodbye(self) -> None:
        """Say that we leave, so that nobody waits for the last will."""
        with suppress(Unavailable):
            self._retain("state", b"offline")

    # what arrives

    def _dispatch(self, message: Message) -> None:
        if self.pulse is not None:
            self.pulse.hears()
        try:
            address = topics.parse(message.topic)
            if self.pulse is not None and (address.site, address.branch, address.id) == self._own:
                self.pulse.heard(address.leaf, message.payload)
                return
            handler = self._handlers.get(address.leaf)
            if handler is None or address.branch != "cam" or address.site != self._rules.site or not message.payload:
                return
            if address.id == PLANTED:
                raise Refused(f'"{PLANTED}" is no camera', code="reserved_name")
            if handler != self._frame and self._talk.take(
                self._talk.of(address.id), len(message.payload), self._clock.monotonic()
            ):
                raise Refused(f"{address.id} says too much", code="too_often")
            if address.leaf in BARE and self._is_shut_out(address.id):
                raise Refused(f"the certificate of {address.id} is revoked", code="revoked")
            handler(address.id, address.leaf, message)
        except Refused as e:
            self.count(f"refused:{e.code}")
            self._dropped[e.code] += 1
            n = self._dropped[e.code]
            if n & (n - 1) == 0:  # the 1st, 2nd, 4th, 8th ...: a hostile camera must not fill the log
                log.warning("dropped a message on %s (%d so far): %s", message.topic, n, e)
        except Unavailable as e:
            log.warning("could not handle a message on %s: %s", message.topic, e)

    def _frame(self, camera: str, leaf: str, message: Message) -> None:
        self.count("frames_in")
        self.count("bytes:frames_in", len(message.payload))
        frame = messages.frame_of(camera, leaf, message.properties, message.payload, self._clock.now())
        if self._is_shut_out(camera):
            self.count("refused:revoked")
            if not self._talk.take(self._talk.of(camera), 0, self._clock.monotonic()):
                why = f"the certificate of {camera} is revoked"
                self.answer(camera, FrameReceipt(frame.header.id, sha256(frame), "refused", why))
            return
        receipt = self._submit(frame)
        if receipt is not None:
            self.answer(camera, receipt)

    def _is_shut_out(self, camera: str) -> bool:
        """A broker may not have heard of it, or go on with a connection that it let in before (mosquitto)."""
        if camera not in self._shut_out:
            return False
        proved = self._proved.get(camera)  # with one that this box's keys do not have
        return proved is None or self._verifier is None or not self._verifier.stands(proved)

    def _state(self, camera: str, leaf: str, message: Message) -> None:
        cameras.set_online(self._store, camera, message.payload == b"online")

    def _info(self, camera: str, leaf: str, message: Message) -> None:
        self._require_signed(camera, leaf, message)
        cameras.set_info(self._store, camera, messages.decode(message.payload, messages.CameraInfo))

    def _stats(self, camera: str, leaf: str, message: Message) -> None:
        cameras.set_stats(self._store, camera, messages.decode(message.payload, messages.CameraStats))

    def _reported(self, camera: str, leaf: str, message: Message) -> None:
        now, signed = self._clock.now(), self._require_signed(camera, leaf, message)
        reported = messages.decode(message.payload, Reported)
        key = camera, reported.job, reported.status
        self._words.pop(key, None)
        self._words[key] = reported, now, signed

    def _write_words(self) -> None:
        """What cameras said of their models since the last time, with one flush: a thousand say each second how far they
        are. Of a camera's words on one job the last of each status counts. What a kill loses here stands at the broker.
        """
        if not self._words:
            return
        with self._store.transaction():
            for (camera, _, _), (reported, now, signed) in self._words.items():
                cameras.set_reported(self._store, camera, reported)
                if ignored := fleet.record(self._store, camera, reported, now, self._rules.rollout, signed=signed):
                    log.debug("%s: %s", camera, ignored)
        self._words.clear()

    def _require_signed(self, camera: str, leaf: str, message: Message) -> bool | None:
        """True: by that camera; None: no signature is asked for. Raises Refused, and an alarm stands from then on."""
        if self._verifier is None:
            return None
        try:
            self._proved[camera] = self._verifier.check(
                camera, message.topic, message.payload, message.properties, self._clock.now()
            )
        except Refused as e:
            known = e.code == REVOKED and camera in self._shut_out  # which is said already, and was wanted
            self._doubt(camera, leaf, "" if known else str(e))
            raise Refused(str(e), code=f"{SIGNED[leaf]}_{e.code}") from e
        self._doubt(camera, leaf, "")
        return True

    def _doubt(self, camera: str, leaf: str, why: str) -> None:
        """An alarm stands for as long as the last of some camera's words that it must sign did not verify."""
        if self._doubted.get((camera, leaf), "") == why:
            return
        self._doubted[camera, leaf] = why
        doubted = [(of, text) for (of, _), text in sorted(self._doubted.items()) if text]
        if doubted:
            first, text = doubted[0]
            others = len({of for of, _ in doubted} - {first})
            more = f"; and {others} other cameras" if others else ""
            alarms.sound(self._store, alarms.UNSIGNED, f"{text}{more}: it counts for no rollout")
        else:
            alarms.clear(self._store, alarms.UNSIGNED)

    def _want(self, camera: str, leaf: str, message: Message) -> None:
        want = messages.decode(message.payload, Want)
        self._fanout.ask(camera, want, models.sent_path(self._store, want.sha256))

    def _probe(self, camera: str, leaf: str, message: Message) -> None:
        from edged.retrain import calibrated

        if self._probes.take(self._probes.of(camera), len(message.payload), self._clock.monotonic()):
            raise Refused(f"{camera} sends its probe too often", code="too_often")
        known = cameras.get(self._store, camera)
        hardware = known.info.hw if known is not None and known.info is not None else ""
        kept = calibrated.receive(self._store, camera, message.payload, hardware)
        log.info("%s: calibration %d of %s (%s)", camera, kept.id, kept.device, kept.processor)

    # what happens by itself

    def _send_chunks(self) -> None:
        """What the pace allows now; the rest waits for the next step."""
        if self._fanout.due_in() is None:
            return

        def publish(sha256: str, data: bytes) -> None:
            self._link.publish(topics.model(self._rules.site, f"chunk/{sha256}"), data)

        with suppress(Unavailable):
            self.count("bytes:chunks_out", self._fanout.send(publish))

    def _write_totals(self) -> None:
        with self._counting:
            totals, self._totals = self._totals, Counter()
        try:
            counters.bump_all(self._store, totals)
        except Unavailable:
            with self._counting:
                self._totals.update(totals)

    def _tick(self) -> None:
        self._watch_keys()
        connected = self._link.connected()
        if connected and self._link.connects() != self._connects:
            self._connects = self._link.connects()
            self._drift = -1, self._drift[1]
            self._published.clear()  # a new broker may have forgotten what it retained, and our will may have been sent
        now = self._clock.now()
        with suppress(Unavailable):
            self._watch_clock(now)
        if connected:
            with suppress(Unavailable):
                self._publish_state()
                self._publish_health()
                self._publish_drift()
                self._publish_metadata()
                self._roll_out(now)
                self._home.step()
                if now >= self._next_stats:
                    self._next_stats = now + self._rules.stats_interval_s
                    self._retain("stats", msgspec.json.encode(counters.all(self._store)), retain=False)

    def _watch_keys(self) -> None:
        """Who is shut out by now; keys or a list that do not read change nothing."""
        try:
            self._shut_out, self._keys_unread = revocation.shut_out(self._store.data_dir / "keys"), ""
        except Corrupt as e:
            if str(e) != self._keys_unread:
                log.error("%s; who was revoked before stays shut out", e)
            self._keys_unread = str(e)

    def _watch_clock(self, now: float) -> None:
        code, text = self._clock_watch.step(now, self._clock.monotonic())
        if (code, text) != self._clock_told:
            for old in (alarms.CLOCK_WRONG, alarms.CLOCK_STEPPED):
                if old != code:
                    alarms.clear(self._store, old)
            if code and alarms.sound(self._store, code, text):
                log.error("%s", text)
            self._clock_told = code, text

    def _publish_state(self) -> None:
        for leaf, payload in (("state", b"online"), ("info", msgspec.json.encode({"version": __version__}))):
            if self._published.get(leaf) != payload:
                self._retain(leaf, payload)
                self._published[leaf] = payload

    def _publish_health(self) -> None:
        payload = health.judge(health.look(self._store, self._clock.now(), daemon=True)).encode()
        if self._published.get("health") != payload:
            self._retain("health", payload)
            self._published["health"] = payload

    def _publish_drift(self) -> None:
        """Each camera's `drift`, retained, when it was looked at again; an event when one begins or ends."""
        newest = drifts.newest(self._store)
        if newest == self._drift[0]:
            return
        standing = {s.camera: s for s in drifts.standing(self._store)}
        said = drifts.scores(self._store)
        for camera, (score, p) in said.items():
            since = standing[camera].since if camera in standing else None
            payload = messages.encode(messages.DriftState(round(score, 3), p, since))
            self._link.publish(topics.cam(self._rules.site, camera, "drift"), payload, retain=True)
        for camera in sorted(self._drift[1] ^ standing.keys()):
            text = standing[camera].sentence if camera in standing else f"{camera}: the drift is over"
            event = {"type": "drift", "id": camera, "ts": self._clock.now(), "on": camera in standing, "text": text}
            self._retain("event", msgspec.json.encode(event), retain=False)
        self._drift = newest, frozenset(standing)

    def _retain(self, leaf: str, payload: bytes, retain: bool = True) -> None:
        topic = topics.server(self._rules.site, self._rules.server_id, leaf)
        self._link.publish(topic, payload, retain=retain)

    def _publish_metadata(self) -> None:
        """Retain the signed metadata that is current, take back what no longer is."""
        self._freshness.step()
        files = self._repo.files()
        for name in [n for n in self._published if n.endswith(".json") and n not in files]:
            self._link.publish(topics.model(self._rules.site, f"meta/{name}"), b"", retain=True)
            del self._published[name]
        # timestamp.json last: it names the others
        for name in sorted(files, key=lambda n: n == "timestamp.json"):
            if self._published.get(name) != files[name]:
                self._link.publish(topics.model(self._rules.site, f"meta/{name}"), files[name], retain=True)
                self._published[name] = files[name]

    def _roll_out(self, now: float) -> None:
        """Take the steps that are due; then every camera's retained `model/desired` says what the rows say."""
        turn = self.conductor.turn(now)
        for sentence in turn.said:
            log.info("%s", sentence)
        for number, why in turn.halted:
            event = {
                "type": "rollout_failed",
                "id": rollout.job_of(number),
                "ts": now,
                "text": f"release {number}: {why}",
            }
            self._retain("event", msgspec.json.encode(event), retain=False)
        if turn.looked:
            self._desired = None
        if self._desired is None:
            standing = fleet.standing(self._store).items()
            self._desired = {c: messages.encode(desired) if desired is not None else b"" for c, desired in standing}
        for camera, payload in self._desired.items():
            key = f"desired {camera}"
            if self._published.get(key) != payload:
                self._link.publish(topics.cam(self._rules.site, camera, "model/desired"), payload, retain=True)
                self._published[key] = payload
