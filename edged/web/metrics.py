"""GET /metrics: the box's figures in Prometheus' text format, from rows alone.

Guarantees: cheap to poll (a few indexed queries, no picture); totals only ever grow. Does not guarantee that two figures
are of the same moment.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from edged import __version__
from edged.storage import alarms, counters, leaks
from edged.storage.store import Store

CONTENT_TYPE = CONTENT_TYPE_LATEST
DROPPED = ("withheld", "refused", "duplicate")


def text(store: Store) -> bytes:
    """The page of figures."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Rows(store))
    return generate_latest(registry)


class _Rows(Collector):
    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterable[Metric]:
        totals = counters.all(self._store)
        yield InfoMetricFamily("edged_build", "what runs here", {"version": __version__})
        yield _total(totals, "edged_scrub_regions", "areas covered in cameras' pictures", "scrubbed", "kind")
        dropped = CounterMetricFamily("edged_frames_dropped", "frames that were not stored", labels=("reason",))
        for name, n in totals.items():
            if name.partition(":")[0] in DROPPED:
                dropped.add_metric([name], n)
        yield dropped
        yield _total(totals, "edged_privacy_planted", "planted things looked for", "planted", "kind", "size")
        yield _total(totals, "edged_privacy_planted_hidden", "of them hidden", "planted_hidden", "kind", "size")
        yield _total(
            totals,
            "edged_privacy_planted_unjudged",
            "planted pictures that came to nothing",
            "planted_unjudged",
            "reason",
        )
        yield from self._recall()
        standing = {a.code for a in alarms.standing(self._store)}
        alarm = GaugeMetricFamily("edged_privacy_alarm", "1 = this alarm stands", labels=("code",))
        for code in alarms.CODES:
            alarm.add_metric([code], float(code in standing))
        yield alarm
        if judged := leaks.last(self._store, judged=True):
            name = "edged_privacy_planted_last_timestamp_seconds"
            yield GaugeMetricFamily(name, "when a planted picture was judged last", value=judged.ts)

    def _recall(self) -> Iterable[Metric]:
        of = ("kind", "size")
        share = GaugeMetricFamily("edged_privacy_recall_ratio", "share of planted things hidden lately", labels=of)
        lower = GaugeMetricFamily("edged_privacy_recall_lower_ratio", "its lower bound (Wilson, 95 %)", labels=of)
        upper = GaugeMetricFamily("edged_privacy_recall_upper_ratio", "its upper bound (Wilson, 95 %)", labels=of)
        for r in leaks.recalls(self._store):
            if r.share is not None:
                for family, value in ((share, r.share), (lower, r.lower), (upper, r.upper)):
                    family.add_metric([r.kind, r.size], value)
        yield from (share, lower, upper)


def _total(totals: dict[str, int], metric: str, what: str, prefix: str, *labels: str) -> Metric:
    """Counters called "prefix:a:b" as one metric with labels."""
    family = CounterMetricFamily(metric, what, labels=labels)
    for name, n in totals.items():
        first, *values = name.split(":", len(labels))
        if first == prefix and len(values) == len(labels):
            family.add_metric(values, n)
    return family
