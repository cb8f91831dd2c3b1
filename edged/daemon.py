"""`edged run`: what arrives is decoded and looked up in one table; what must happen by itself happens on a tick.

Guarantees: one thread reads the link; it never decodes a picture, trains, or waits for either. Families of errors: what a
camera sent wrong is counted and dropped (Refused), what is away is tried again (Unavailable), what is Corrupt stops the
daemon with an alarm, so that systemd and the operator see it. A part that stands still ends the daemon, too
(edged/pulse.py), with exit code 1.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial

import msgspec

from edged import __version__, health, site
from edged.admit import Limits, Shares
from edged.clock import Clock, SystemClock
from edged.config import PLANTED, Config, size
from edged.errors import Corrupt, Refused, Unavailable
from edged.improve import Loop, Rules
from edged.ingest import Scrubber
from edged.meter import Meter
from edged.privacy import track
from edged.privacy.pool import ScrubChild
from edged.privacy.talk import Plugin, Polygon, ScrubOptions
from edged.publish import deliver, fleet, release, rollout, trust
from edged.pulse import BEAT, Pulse, PulseRules, Watched
from edged.retrain.gate import GateLimits
from edged.storage import alarms, cameras, counters, gauges, masks, models, recover
from edged.storage.store import Store
from edged.storage.upkeep import Upkeep
from edged.watch import Watch, WatchRules
from edged.watchdog import Watchdog, notify
from edged.wire import messages, topics
from edged.wire.link import Link, Message, Will
from edged.wire.messages import Frame, FrameReceipt, Reported, Want
from edged.workers import Workers

log = logging.getLogger(__name__)

TICK_S = 0.5
TALK = Limits(frames_per_s=20.0, burst=200.0, bytes_per_s=1e6)  # of what is no frame, a camera


@dataclass(frozen=True)
class BoxRules:
    """What of the configuration the main loop needs, as flat values."""

    site: str
    server_id: str
    rollout: rollout.Rules
    rate_bytes_per_s: int
    stats_interval_s: float


class Box:
    """The main loop's work, one `step` at a time, on any link and any clock."""

    def __init__(
        self, link: Link, store: Store, repo: trust.Repository, submit: Callable[[Frame], FrameReceipt | None],
        rules: BoxRules, clock: Clock,
    ) -> None:  # fmt: skip
        self._link, self._store, self._repo, self._submit = link, store, repo, submit
        self._rules, self._clock = rules, clock
        self._own = rules.site, "server", rules.server_id
        self._presence = fleet.Presence()
        self._fanout = deliver.Fanout(deliver.Pacer(rules.rate_bytes_per_s, clock), clock, link.backlog)
        self._talk = Shares(TALK)
        self._totals: Counter[str] = Counter()  # since the last write
        self._dropped: Counter[str] = Counter()
        self._counting = threading.Lock()
        newest = max((g.ts for g in gauges.all(store).values()), default=0.0)
        self._clock_watch = health.ClockWatch(clock.now(), clock.monotonic(), newest)
        self._clock_told = ("?", "")
        self._published: dict[str, bytes] = {}
        self._connects = 0
        self._next_tick = self._next_stats = 0.0
        self.failure: BaseException | None = None  # set by `alarm`; the loop ends with it
        self.pulse: Pulse | None = None  # whose messages to ourselves come by the same link
        link.subscribe(topics.cam(rules.site, "+", "#"))
        link.subscribe(topics.server(rules.site, rules.server_id, f"{BEAT}/#"))
        self._handlers: dict[str, Callable[[str, str, Message], None]] = {
            "frame": self._frame,
            "roi": self._frame,
            "state": self._state,
            "info": self._info,
            "stats": self._stats,
            "model/reported": self._reported,
            "model/want": self._want,
        }

    def step(self, timeout_s: float = 0.1) -> None:
        """Handle what has arrived (at most 64 messages), send what is due. Raises Corrupt."""
        due_in = self._fanout.due_in()
        message = self._link.receive(timeout_s if due_in is None else min(timeout_s, due_in))
        for _ in range(64):
            if message is None:
                break
            self._dispatch(message)
            message = self._link.receive(0)
        else:
            if message is not None:
                self._dispatch(message)
        self._send_chunks()
        self._write_totals()
        if self._clock.monotonic() >= self._next_tick:
            self._next_tick = self._clock.monotonic() + TICK_S
            self._tick()
        if self.failure is not None:
            raise Corrupt(f"the daemon stops: {self.failure}") from self.failure

    def answer(self, camera: str, receipt: FrameReceipt) -> None:
        """Send a receipt; called from the ingest threads. One that is lost is asked for again by the resend."""
        with suppress(Unavailable):
            self._link.publish(topics.cam(self._rules.site, camera, "receipt"), messages.encode(receipt))

    def alarm(self, e: BaseException) -> None:
        """A worker met something that is neither the camera's nor the world's fault."""
        if isinstance(e, Corrupt):
            self.failure = e
        else:
            self.count("bug")

    def count(self, name: str, n: int = 1) -> None:
        """Add to a running total; written once a step, since a flood must not cost a transaction for each message."""
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
        receipt = self._submit(frame)
        if receipt is not None:
            self.answer(camera, receipt)

    def _state(self, camera: str, leaf: str, message: Message) -> None:
        cameras.set_online(self._store, camera, message.payload == b"online")

    def _info(self, camera: str, leaf: str, message: Message) -> None:
        cameras.set_info(self._store, camera, messages.decode(message.payload, messages.CameraInfo))

    def _stats(self, camera: str, leaf: str, message: Message) -> None:
        cameras.set_stats(self._store, camera, messages.decode(message.payload, messages.CameraStats))

    def _reported(self, camera: str, leaf: str, message: Message) -> None:
        reported = messages.decode(message.payload, Reported)
        cameras.set_reported(self._store, camera, reported)
        if ignored := fleet.record(self._store, camera, reported, self._clock.now()):
            log.debug("%s: %s", camera, ignored)

    def _want(self, camera: str, leaf: str, message: Message) -> None:
        want = messages.decode(message.payload, Want)
        self._fanout.ask(camera, want, models.model_path(self._store, want.sha256))

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
        connected = self._link.connected()
        if connected and self._link.connects() != self._connects:
            self._connects = self._link.connects()
            self._published.clear()  # a new broker may have forgotten what it retained, and our will may have been sent
        now = self._clock.now()
        with suppress(Unavailable):
            self._watch_clock(now)
        if connected:
            with suppress(Unavailable):
                self._publish_state()
                self._publish_health()
                self._publish_metadata()
                self._roll_out(now)
                if now >= self._next_stats:
                    self._next_stats = now + self._rules.stats_interval_s
                    self._retain("stats", msgspec.json.encode(counters.all(self._store)), retain=False)

    def _watch_clock(self, now: float) -> None:
        code, text = self._clock_watch.step(now, self._clock.monotonic())
        if (code, text) != self._clock_told:
            for old in ("clock_wrong", "clock_stepped"):
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

    def _retain(self, leaf: str, payload: bytes, retain: bool = True) -> None:
        topic = topics.server(self._rules.site, self._rules.server_id, leaf)
        self._link.publish(topic, payload, retain=retain)

    def _publish_metadata(self) -> None:
        """Retain the signed metadata that is current, take back what no longer is."""
        self._repo.refresh_timestamp()
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
        said = fleet.advance(self._store, self._presence, self._rules.rollout, now)
        for sentence in said:
            log.info("%s", sentence)
        if said:
            release.withdraw(self._store, self._repo)
        for camera, desired in fleet.standing(self._store).items():
            payload = messages.encode(desired) if desired is not None else b""
            key = f"desired {camera}"
            if self._published.get(key) != payload:
                self._link.publish(topics.cam(self._rules.site, camera, "model/desired"), payload, retain=True)
                self._published[key] = payload


def box_rules(config: Config) -> BoxRules:
    return BoxRules(
        site=config.server.site, server_id=config.server.id,
        rollout=rollout.Rules(config.rollout.canary, config.rollout.wait_s, config.rollout.timeout_s),
        rate_bytes_per_s=size(config.rollout.rate_bytes_per_s), stats_interval_s=config.mqtt.stats_interval_s,
    )  # fmt: skip


def ingest_limits(config: Config) -> Limits:
    i = config.ingest
    return Limits(
        frames_per_s=i.frames_per_s, burst=i.burst, bytes_per_s=size(i.bytes_per_s), frames=i.queue_frames,
        camera_frames=max(1, i.queue_frames // 4), bytes=size(i.queue_bytes),
        camera_bytes=max(messages.MAX_FRAME_BYTES, size(i.queue_bytes) // 2),
    )  # fmt: skip


def loop_rules(config: Config) -> Rules:
    task, train, limits = config.task, config.train, config.retest.gate
    return Rules(
        name=task.name, classes=task.classes, holdout=task.holdout, block_s=task.block_s, new_labels=train.new_labels,
        architecture=train.architecture, input_px=train.input_px, epochs=train.epochs, max_minutes=train.max_minutes,
        threads=train.threads, seed=train.seed, methods=config.compress.methods, device=config.retest.device.id,
        limits=GateLimits(
            min_holdout=limits.min_holdout, max_loss=limits.max_loss, max_class_loss=limits.max_class_loss,
            min_fps=limits.min_fps, max_memory_bytes=size(limits.max_memory), max_size_bytes=size(limits.max_size),
        ),
        hardware=tuple(sorted({"generic", *(c.hardware for c in config.camera)})), key_file=site.key_file(config),
    )  # fmt: skip


def scrub_options(config: Config) -> ScrubOptions:
    p = config.privacy
    return ScrubOptions(
        faces=p.faces, plates=p.plates, persons=p.persons, text=p.text, screens=p.screens, strict=p.strict,
        face_model=p.face_model, plugins=tuple(Plugin(**msgspec.structs.asdict(d)) for d in p.detector),
        margin=p.margin, unjudged=p.unjudged, runtime=p.runtime,
        masks={c.id: tuple(m.polygon for m in c.mask) for c in config.camera},
    )  # fmt: skip


def watch_rules(config: Config) -> WatchRules:
    p = config.privacy
    kinds = tuple(kind for kind, on in (("face", p.faces), ("plate", p.plates)) if on)
    return WatchRules(p.planted_every_s, p.planted_alarm, kinds)


def pulse_rules(config: Config) -> PulseRules:
    return PulseRules(config.watchdog.every_s, config.watchdog.patience_s, config.privacy.deadline_s)


def start_scrubbers(config: Config, painted: Callable[[str], Sequence[Polygon]]) -> list[Scrubber]:
    """The scrub children; the first is waited for, so that weights or a runtime that are missing are said at once.

    `painted` are a camera's masks beyond those of the configuration."""
    options, p = scrub_options(config), config.privacy
    children = [ScrubChild(options, p.deadline_s, painted=painted) for _ in range(p.children)]
    log.info("scrub children: %s", children[0].ready())
    return list(children)


def run(config: Config) -> None:
    """Everything `edged run` is, in floor order; returns after SIGTERM or SIGINT, raises what must stop the unit."""
    clock = SystemClock()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with ExitStack() as stack:
        watchdog = Watchdog(config.watchdog.loop_s, clock)
        stack.callback(watchdog.leave)  # last of all: what hangs on the way out is ended, too
        stack.enter_context(site.only_daemon(config.data_dir))
        site.mend_store(config, clock)
        store = stack.enter_context(site.open_store(config, key=True))
        log.info("store open at %s (%s)", store.data_dir, recover.run(store))
        repo = site.open_repository(config, clock)
        release.withdraw(store, repo)
        will = Will(topics.server(config.server.site, config.server.id, "state"), b"offline")
        link = site.connect(config, will)
        stack.callback(link.close)
        scrubbers = start_scrubbers(config, masks.Painted(store).of)
        rules = box_rules(config)
        box = Box(link, store, repo, lambda frame: submit(frame), rules, clock)
        meter = Meter(box.count, clock)
        watched = [Watched(s, clock, meter.took) for s in scrubbers]
        p = config.privacy
        over_time = track.Rules(hold=p.hold_frames, back=p.back_frames, gap_s=p.gap_s)
        workers = Workers(
            store, list(watched), meter.answering(box.answer), box.alarm, ingest_limits(config),
            cameras={c.id for c in config.camera}, rules=over_time, delay_s=p.delay_s, clock=clock, count=box.count,
        )  # fmt: skip
        submit = meter.submitting(workers.submit)
        stack.callback(workers.close)
        stack.callback(box.goodbye)
        topic = partial(topics.server, config.server.site, config.server.id)
        pulse = box.pulse = Pulse(
            link, topic, watched, workers.submit_job, partial(touch, store), pulse_rules(config), clock
        )
        watch = Watch(store, workers.submit_job, watch_rules(config), clock)
        loop = Loop(store, loop_rules(config), repo, clock)
        upkeep = Upkeep(store, site.upkeep_rules(config))
        keeping = threading.Thread(target=upkeep.forever, args=(stop, box.alarm), name="upkeep", daemon=True)
        keeping.start()
        stack.callback(keeping.join, 5.0)
        stack.callback(stop.set)
        if copies := site.daily_copy(config, clock):
            threading.Thread(target=copies.forever, args=(stop,), name="daily copy", daemon=True).start()
        improving = threading.Thread(target=loop.forever, args=(stop, box.alarm), name="improve", daemon=True)
        improving.start()
        notify("READY=1")
        log.info("edged %s runs site %s", __version__, config.server.site)
        while not stop.is_set():
            box.step()
            with suppress(Unavailable):  # a busy store; the picture counts as lost
                watch.step()
                meter.step(store, partial(measure, link, workers, store, pulse, clock))
            if why := pulse.step():
                watchdog.give_up(why)
                raise Corrupt(f"the daemon stands still: {why}", code="deaf")
            watchdog.feed()
        watchdog.stop()


def touch(store: Store) -> None:
    """Where a frame's record and rows go, without leaving anything there."""
    store.journal.wait_turn()
    store.value("select 1")


def _wall(clock: Clock, monotonic: float) -> float:
    return clock.now() - (clock.monotonic() - monotonic)


def measure(
    link: Link, workers: Workers, store: Store, pulse: Pulse, clock: Clock
) -> tuple[dict[str, float], dict[str, int]]:
    """What stands and what has come to pass since the start, for /metrics and the verdict."""
    received, sent = link.moved()
    journal = store.journal
    stands = {
        "queue_frames": workers.waiting(), "queue_bytes": workers.held_bytes(), "queue_age_s": workers.age(),
        "cable_connected": link.connected(), "cable_silent": pulse.cable_silent,
    }  # fmt: skip
    if pulse.last is not None:
        stands |= {"beat_s": pulse.took_s, "beat_ts": _wall(clock, pulse.last)}
    stands["cable_down_ts"] = 0 if pulse.away_since is None else _wall(clock, pulse.away_since)
    totals = {
        "mqtt:in": received, "mqtt:out": sent, "journal:flushes": journal.flushes, "journal:records": journal.written,
        "beats": pulse.through, "renewals": pulse.renewals,
    }  # fmt: skip
    return {name: float(value) for name, value in stands.items()}, totals
