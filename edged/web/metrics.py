"""GET /metrics: the box's figures in Prometheus' text format, from rows alone. docs/metrics.md says what each means.

Guarantees: cheap to poll, whatever the store holds: no query reads all frames, samples or objects (tests/web/test_metrics.py
asks SQLite for its plans), and what is dear is asked once a minute; totals only ever grow, also over a restart. Does not
guarantee that two figures are of the same moment: the daemon writes its own every ten seconds.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from edged import __version__, health
from edged.publish import rules
from edged.storage import (
    alarms,
    blocked,
    census,
    counters,
    cycles,
    drifts,
    figures,
    gaps,
    gauges,
    labels,
    leaks,
    releases,
    reports,
)
from edged.storage.gauges import RECEIPT_S, SCRUB_S, Gauge
from edged.storage.store import Store
from edged.web import outlook

CONTENT_TYPE = CONTENT_TYPE_LATEST
DROPPED = ("withheld", "refused", "duplicate")
DEAR_S = 60.0

# Gauges of the daemon, as they are: name of the row -> name of the metric and what it is.
DAEMON: Mapping[str, tuple[str, str]] = {
    "queue_frames": ("edged_ingest_queue_frames", "frames and jobs that wait for a scrub child or for later frames"),
    "queue_bytes": ("edged_ingest_queue_bytes", "bytes of frames between arrival and receipt"),
    "queue_age_s": ("edged_ingest_queue_age_seconds", "how long the oldest waiting frame has waited"),
    "cable_connected": ("edged_mqtt_connected", "1 = there is a connection to the broker"),
    "beat_s": ("edged_watchdog_beat_seconds", "how long the last beat took from end to end"),
    "beat_ts": ("edged_watchdog_last_beat_timestamp_seconds", "when a beat was through last"),
    "full_in_days": ("edged_store_full_in_days", "when the disk is full at this rate"),
    "backup_ts": ("edged_backup_last_timestamp_seconds", "when the last backup was made"),
    "daemon_started_ts": ("edged_daemon_start_timestamp_seconds", "when the daemon started"),
    "daemon_rss_bytes": ("edged_daemon_resident_memory_bytes", "memory of the daemon, without its children"),
    "daemon_fds": ("edged_daemon_open_fds", "descriptors that the daemon holds"),
    "daemon_threads": ("edged_daemon_threads", "threads of the daemon"),
}  # fmt: skip

# Totals without labels: name of the counter -> name of the metric and what it is.
TOTALS: Mapping[str, tuple[str, str]] = {
    "frames_in": ("edged_frames_received", "frames and regions that arrived, also those sent again"),
    "bytes:frames_in": ("edged_frames_received_bytes", "bytes of them"),
    "bytes:chunks_out": ("edged_model_sent_bytes", "bytes of models sent to cameras"),
    "sync_bytes": ("edged_sync_bytes", "bytes that left the premises"),
    "journal:records": ("edged_journal_records", "answers that were written to segments"),
    "journal:flushes": ("edged_journal_flushes", "flushes they took: records over flushes is the group size"),
    "retention_objects": ("edged_retention_objects", "pictures and crops that retention removed"),
    "retention_bytes": ("edged_retention_bytes", "bytes of them"),
    "erased_objects": ("edged_erased_objects", "pictures and crops that were erased"),
    "beats": ("edged_watchdog_beats", "beats that came through the whole pipe"),
    "renewals": ("edged_watchdog_reconnects", "connections hung up on since nothing came back"),
    "bug": ("edged_bugs", "errors that edged did not expect; each stands in the log"),
}  # fmt: skip


class Figures(Collector):
    """The page of figures of one store; keep it, since it remembers what is dear."""

    def __init__(
        self, store: Store, runs: Callable[[], bool] | None = None, audit_share: float = labels.AUDIT_SHARE
    ) -> None:
        self._store, self._runs, self._audit_share = store, runs, audit_share
        self._dear: dict[str, tuple[float, float]] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        store, at = self._store, self._store.clock.now()
        totals, measured = counters.all(store), gauges.all(store)
        yield InfoMetricFamily("edged_build", "what runs here", {"version": __version__})
        yield from self._cameras(at)
        yield from _ingest(totals)
        yield from self._kept()
        yield from self._loop(totals)
        yield from _drift(store)
        yield from _privacy(store, totals)
        yield from _daemon(totals, measured)
        yield from _health(store, at, self._runs and self._runs())

    def _cameras(self, at: float) -> Iterable[Metric]:
        up = GaugeMetricFamily("edged_camera_up", "1 = the camera says that it is online", labels=("camera",))
        last = GaugeMetricFamily(
            "edged_camera_last_frame_timestamp_seconds", "receive time of its last stored frame", labels=("camera",)
        )
        missing = GaugeMetricFamily(
            "edged_camera_missing_frames", "numbers that never came, noticed in the last day", labels=("camera",)
        )
        holes = gaps.missing(self._store, at)
        for c in figures.heard(self._store):
            up.add_metric([c.id], float(c.online))
            missing.add_metric([c.id], holes[c.id].frames if c.id in holes else 0)
            if c.last_frame is not None:
                last.add_metric([c.id], c.last_frame)
        yield from (up, last, missing)

    def _kept(self) -> Iterable[Metric]:
        store = self._store
        of = ("camera",)
        held = figures.held(store)
        yield GaugeMetricFamily("edged_store_bytes", "sealed pictures and crops", value=sum(h.bytes for h in held))
        by_camera = GaugeMetricFamily("edged_store_camera_bytes", "of one camera", labels=of)
        objects = GaugeMetricFamily("edged_store_camera_objects", "pictures and crops of one camera", labels=of)
        for h in held:
            by_camera.add_metric([h.camera], h.bytes)
            objects.add_metric([h.camera], h.objects)
        yield from (by_camera, objects)
        yield GaugeMetricFamily("edged_store_quota_bytes", "storage.max_bytes, 0 = none", value=store.max_bytes)
        disk = os.statvfs(store.data_dir)
        yield GaugeMetricFamily("edged_store_free_bytes", "free on its disk", value=disk.f_bavail * disk.f_frsize)
        segments = GaugeMetricFamily("edged_store_segments", "segment files by state", labels=("state",))
        counted = figures.segments(store)
        for state in ("open", "full", "free"):
            segments.add_metric([state], counted.get(state, 0))
        yield segments

    def _loop(self, totals: Mapping[str, int]) -> Iterable[Metric]:
        store = self._store
        queue = self._once("queue", lambda: figures.unlabelled(store))
        yield GaugeMetricFamily("edged_label_queue_items", f"regions without a label, up to {figures.MOST}", queue)
        yield _total(totals, "edged_labels", "labels that were given, also those undone since", "labels", "source")
        apart = GaugeMetricFamily(
            "edged_teacher_disagreement_ratio",
            "audit samples on which the newest teacher and a person differ",
            labels=(),
        )
        differ = self._once("apart", lambda: census.disagreement(store, self._audit_share).share or 0.0)
        if self._once("judged", lambda: census.disagreement(store, self._audit_share).n):
            apart.add_metric((), differ)
        yield apart
        stages = GaugeMetricFamily("edged_cycle_duration_seconds", "of the last cycle's stages", labels=("stage",))
        if last := cycles.latest(store):
            for s in cycles.stages(store, last.id):
                if s.ended is not None:
                    stages.add_metric([s.name], s.ended - s.started)
        yield stages
        if success := figures.last_release(store):
            name = "edged_cycle_last_success_timestamp_seconds"
            yield GaugeMetricFamily(name, "when a cycle ended in a release last", value=success)
        accuracy = GaugeMetricFamily(
            "edged_model_accuracy_ratio", "of the newest release", labels=("model", "split")
        )  # fmt: skip
        cameras = GaugeMetricFamily(
            "edged_rollout_cameras", "what cameras did with the newest release", labels=("status",)
        )
        if release := releases.latest(store):
            if release.candidate is not None and (share := _accuracy(store, release.candidate)) is not None:
                accuracy.add_metric([release.name, "holdout"], share)
            found = outlook.look(store, release, store.clock.now(), rules.DEFAULTS)
            for status, n in sorted(found.counts.items()):
                cameras.add_metric([status.replace(" ", "_")], n)
        yield from (accuracy, cameras, *_rollouts(store))

    def _once(self, name: str, ask: Callable[[], float]) -> float:
        """What `ask` said in the last minute, else what it says now."""
        now = self._store.clock.monotonic()
        if name not in self._dear or now - self._dear[name][0] >= DEAR_S:
            self._dear[name] = now, ask()
        return self._dear[name][1]


def _rollouts(store: Store) -> Iterable[Metric]:
    made = GaugeMetricFamily("edged_rollout_releases", "releases for cameras by their state", labels=("state",))
    for state, n in sorted(Counter(str(r.state) for r in releases.all(store)).items()):
        made.add_metric([state], n)
    yield made
    yield GaugeMetricFamily(
        "edged_rollout_blocked", "hashes that are never released again", value=len(blocked.all(store))
    )


def _accuracy(store: Store, candidate: int) -> float | None:
    found = reports.of(store, candidate)
    body: dict[str, Any] = msgspec.json.decode(found[0].body) if found else {}
    share = (body.get("accuracy") or {}).get("accuracy")
    return None if share is None else float(share)


def _ingest(totals: Mapping[str, int]) -> Iterable[Metric]:
    dropped = CounterMetricFamily("edged_frames_dropped", "frames that were not stored", labels=("reason",))
    for name, n in totals.items():
        if name.partition(":")[0] in DROPPED:
            dropped.add_metric([name], n)
    yield dropped
    yield _total(totals, "edged_receipts", "receipts that were sent", "receipts", "status")
    yield _total(totals, "edged_turned_away", "frames that were to come again, by what was short", "retry", "why")
    receipt = HistogramMetricFamily("edged_receipt_seconds", "from arrival to receipt, but for those sent away")
    _fill(receipt, totals, "receipt_s", RECEIPT_S)
    scrub = HistogramMetricFamily("edged_scrub_seconds", "a scrub child's answer about a frame", labels=("step",))
    for step in ("look", "cover"):
        _fill(scrub, totals, f"scrub_s:{step}", SCRUB_S, step)
    yield from (receipt, scrub)
    yield _total(totals, "edged_scrub_regions", "areas covered in cameras' pictures", "scrubbed", "kind")
    yield _total(totals, "edged_mqtt_messages", "messages with the broker", "mqtt", "direction")


def _drift(store: Store) -> Iterable[Metric]:
    score = GaugeMetricFamily(
        "edged_drift_score", "highest of its classes' newest scores; 1 = at the line", labels=("camera", "test")
    )
    highest: dict[tuple[str, str], float] = {}
    for e in drifts.latest(store):
        highest[e.camera, e.test] = max(e.score, highest.get((e.camera, e.test), 0.0))
    for (camera, test), value in sorted(highest.items()):
        score.add_metric([camera, test], value)
    standing = {s.camera for s in drifts.standing(store)}
    drifting = GaugeMetricFamily("edged_drift_alarm", "1 = this camera drifts", labels=("camera",))
    for camera in sorted({camera for camera, _ in highest}):
        drifting.add_metric([camera], float(camera in standing))
    yield from (score, drifting)


def _privacy(store: Store, totals: Mapping[str, int]) -> Iterable[Metric]:
    yield _total(totals, "edged_privacy_planted", "planted things looked for", "planted", "kind", "size")
    yield _total(totals, "edged_privacy_planted_hidden", "of them hidden", "planted_hidden", "kind", "size")
    what = "planted pictures that came to nothing"
    yield _total(totals, "edged_privacy_planted_unjudged", what, "planted_unjudged", "reason")
    of = ("kind", "size")
    share = GaugeMetricFamily("edged_privacy_recall_ratio", "share of planted things hidden lately", labels=of)
    lower = GaugeMetricFamily("edged_privacy_recall_lower_ratio", "its lower bound (Wilson, 95 %)", labels=of)
    upper = GaugeMetricFamily("edged_privacy_recall_upper_ratio", "its upper bound (Wilson, 95 %)", labels=of)
    for r in leaks.recalls(store):
        if r.share is not None:
            for family, value in ((share, r.share), (lower, r.lower), (upper, r.upper)):
                family.add_metric([r.kind, r.size], value)
    yield from (share, lower, upper)
    standing = {a.code for a in alarms.standing(store)}
    alarm = GaugeMetricFamily("edged_privacy_alarm", "1 = this alarm stands", labels=("code",))
    for code in alarms.CODES:
        alarm.add_metric([code], float(code in standing))
    yield alarm
    if judged := leaks.last(store, judged=True):
        name = "edged_privacy_planted_last_timestamp_seconds"
        yield GaugeMetricFamily(name, "when a planted picture was judged last", value=judged.ts)


def _daemon(totals: Mapping[str, int], measured: Mapping[str, Gauge]) -> Iterable[Metric]:
    for name, (metric, what) in TOTALS.items():
        yield CounterMetricFamily(metric, what, value=totals.get(name, 0))
    cpu = totals.get("daemon_cpu_ms", 0) / 1000
    yield CounterMetricFamily("edged_daemon_cpu_seconds", "CPU that the daemon used, without its children", cpu)
    for name, (metric, what) in DAEMON.items():
        if name in measured and (measured[name].value or name != "full_in_days"):
            yield GaugeMetricFamily(metric, what, value=measured[name].value)
    if written := measured.get("daemon_threads"):
        what = "when the daemon wrote its figures last; old = it does not run"
        yield GaugeMetricFamily("edged_daemon_last_write_timestamp_seconds", what, value=written.ts)


# When the store cannot be read: the verdict alone, so that an alert on it goes off.
FAILED = b"""# HELP edged_health 1 = this is the verdict
# TYPE edged_health gauge
edged_health{verdict="ok"} 0.0
edged_health{verdict="degraded"} 0.0
edged_health{verdict="failed"} 1.0
"""


def _health(store: Store, at: float, runs: bool | None) -> Iterable[Metric]:
    found = health.judge(health.look(store, at, runs=runs))
    verdict = GaugeMetricFamily("edged_health", "1 = this is the verdict", labels=("verdict",))
    for word in ("ok", "degraded", "failed"):
        verdict.add_metric([word], float(word == found.verdict))
    reasons = GaugeMetricFamily("edged_health_reason", "1 = a reason for it", labels=("code",))
    named = {r.code for r in found.reasons}
    for code in sorted({*health.KNOWN, *named}):
        reasons.add_metric([code], float(code in named))
    yield from (verdict, reasons)


def _fill(
    family: HistogramMetricFamily, totals: Mapping[str, int], name: str, bounds: Iterable[float], *labels: str
) -> None:
    """From the counters of meter.py."""
    buckets, n = [], 0
    for bound in bounds:
        n += totals.get(f"{name}:{bound}", 0)
        buckets.append((str(bound), float(n)))
    n += totals.get(f"{name}:inf", 0)
    family.add_metric(labels, [*buckets, ("+Inf", float(n))], totals.get(f"{name}:ms", 0) / 1000)


def _total(totals: Mapping[str, int], metric: str, what: str, prefix: str, *labels: str) -> Metric:
    """Counters called "prefix:a:b" as one metric with labels."""
    family = CounterMetricFamily(metric, what, labels=labels)
    for name, n in totals.items():
        first, *values = name.split(":", len(labels))
        if first == prefix and len(values) == len(labels):
            family.add_metric(values, n)
    return family
