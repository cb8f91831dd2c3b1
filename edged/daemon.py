"""`edged run`: everything that it is, in floor order; and what each part is told of the configuration.

Guarantees: what is Corrupt stops the daemon with an alarm, so that systemd and the operator see it; a part that stands still
ends it, too (edged/pulse.py, edged/watchdog.py), with exit code 1.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import msgspec

from edged import __version__, homeassistant, site
from edged.admit import Limits
from edged.box import Box, BoxRules
from edged.clock import Clock, SystemClock
from edged.config import Config, size
from edged.drifting import DriftRules
from edged.drifting import Watch as DriftWatch
from edged.errors import Corrupt, Misconfigured, Unavailable
from edged.improve import Asked, Loop
from edged.ingest import Scrubber
from edged.meter import Meter
from edged.privacy import track
from edged.privacy.pool import ScrubChild
from edged.privacy.talk import Plugin, Polygon, ScrubOptions
from edged.publish import teachers
from edged.pulse import Pulse, PulseRules, Watched
from edged.retrain import children
from edged.retrain import device as devices
from edged.retrain.gate import GateLimits
from edged.rules import Rules
from edged.storage import masks, recover, repair
from edged.storage.patrol import Patrol
from edged.storage.store import Store
from edged.storage.upkeep import Upkeep
from edged.survey import Rules as SurveyRules
from edged.survey import Survey
from edged.watch import Watch, WatchRules
from edged.watchdog import Watchdog, notify
from edged.wire import messages, topics
from edged.wire.link import Link, Will
from edged.wire.tls import revocations
from edged.workers import Workers

log = logging.getLogger(__name__)

MENDING_S = 600  # at most between two words of progress: a million frames are read without one


def box_rules(config: Config) -> BoxRules:
    return BoxRules(
        site=config.server.site, server_id=config.server.id,
        rollout=site.rollout_rules(config), auto=config.rollout.auto, reports_ca=reports_ca(config),
        revoked=revocations(site.tls_of(config).ca),
        rate_bytes_per_s=size(config.rollout.rate_bytes_per_s), stats_interval_s=config.mqtt.stats_interval_s,
        home=homeassistant.Rules(
            config.homeassistant.discovery, config.homeassistant.discovery_prefix, {c.id: c.name for c in config.camera}
        ),
    )  # fmt: skip


def reports_ca(config: Config) -> bytes:
    """PEM of who must have issued the certificate that a camera signs its reports with; b"" = none need be signed."""
    if not config.rollout.signed_receipts:
        return b""
    path = Path(site.tls_of(config).ca)
    try:
        return path.read_bytes()
    except OSError as e:
        raise Misconfigured(f"cannot read the certificate authority {path}: {e.strerror}") from e


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
        name=task.name, classes=task.classes, holdout=task.holdout, block_s=task.block_s,
        architecture=train.architecture, input_px=train.input_px, epochs=train.epochs, max_minutes=train.max_minutes,
        threads=train.threads, seed=train.seed, methods=config.compress.methods, compress_loss=config.compress.max_loss,
        search_minutes=config.compress.search_minutes, device=devices.configured(config.retest.device.id),
        limits=GateLimits(
            min_holdout=limits.min_holdout, sure=limits.sure, max_loss=limits.max_loss,
            max_class_loss=limits.max_class_loss, max_class_bound=limits.max_class_bound, min_gain=limits.min_gain,
            min_group=limits.min_group, pinned=limits.pinned, min_fps=limits.min_fps,
            max_memory_bytes=size(limits.max_memory), max_size_bytes=size(limits.max_size),
            max_packed_bytes=size(limits.max_packed), max_power_w=limits.max_power,
        ),
        seconds=config.retest.seconds, workers=config.retest.workers, scheduler=config.retest.scheduler,
        hardware=tuple(sorted({"generic", *(c.hardware for c in config.camera)})), key_file=site.key_file(config),
        when=site.when_rules(config), reuse=train.reuse,
        reuse_per_camera=train.reuse_per_camera, replay=train.replay, camera_cap=train.camera_cap,
        teacher=config.label.teacher.model, memory_bytes=size(train.max_memory), stuck_minutes=train.stuck_minutes,
        unlabelled=train.unlabelled,
        audit=config.label.random_audit, agreement=config.label.human_min_agreement,
        accept_above=config.label.teacher.accept_above,
    )  # fmt: skip


def survey_rules(config: Config) -> SurveyRules:
    train = config.train
    return SurveyRules(
        config.task.classes, site.key_file(config), teacher=config.label.teacher.model, threads=train.threads,
        stuck_minutes=train.stuck_minutes, memory_bytes=size(train.max_memory),
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


def drift_steps(config: Config, store: Store, clock: Clock) -> tuple[Callable[[], str], ...]:
    """The watch for drift, unless it is switched off."""
    rules = DriftRules(config.drift.window, config.drift.alert_p, config.label.random_audit)
    return (DriftWatch(store, rules, clock).step,) if config.drift.enabled else ()


def pulse_rules(config: Config) -> PulseRules:
    return PulseRules(config.watchdog.every_s, config.watchdog.patience_s, config.privacy.deadline_s)


def start_scrubbers(config: Config, painted: Callable[[str], Sequence[Polygon]]) -> list[Scrubber]:
    """The scrub children; the first is waited for, so that weights or a runtime that are missing are said at once.

    `painted` are a camera's masks beyond those of the configuration."""
    options, p = scrub_options(config), config.privacy
    children = [ScrubChild(options, p.deadline_s, painted=painted) for _ in range(p.children)]
    log.info("scrub children: %s", children[0].ready())
    return list(children)


def mending(what: str, share: float) -> None:
    """A large catalogue takes minutes to be made anew: systemd is told, so that it does not end the start."""
    notify(f"STATUS=making the catalogue anew: {what}, {share:.0%}\nEXTEND_TIMEOUT_USEC={MENDING_S * 10**6}")


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
        site.mend_store(config, clock, mending)
        store = stack.enter_context(site.open_store(config, key=True, linger_s=site.LINGER_S))
        store.seal.note_start(store)  # from here on an older catalogue is known as such
        repair.miss_segments(store)
        log.info("store open at %s (%s)", store.data_dir, recover.run(store))
        repo = site.open_repository(config, clock)
        for teacher in teachers.unsigned(store, repo):
            log.warning("teacher %s is not released: nobody asks it before `edged model release`", teacher.name)
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
        box.conductor.beside()
        stack.callback(box.conductor.close)
        stack.callback(box.goodbye)
        topic = partial(topics.server, config.server.site, config.server.id)
        pulse = box.pulse = Pulse(
            link, topic, watched, workers.submit_job, partial(touch, store), pulse_rules(config), clock
        )
        watch = Watch(store, workers.submit_job, watch_rules(config), clock)
        asking = partial(children.run, look=Asked(store, clock).look)
        survey = Survey(store, survey_rules(config), clock, asking, repo=repo)
        loop = Loop(store, loop_rules(config), repo, clock, between=(*drift_steps(config, store, clock), survey.step))
        upkeep = Upkeep(store, site.upkeep_rules(config))
        keeping = threading.Thread(target=upkeep.forever, args=(stop, box.alarm), name="upkeep", daemon=True)
        keeping.start()
        stack.callback(keeping.join, 5.0)
        stack.callback(stop.set)
        patrol = Patrol(store.path)
        threading.Thread(target=patrol.forever, args=(stop, box.alarm), name="patrol", daemon=True).start()
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
