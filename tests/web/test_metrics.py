"""/metrics: it parses, it counts upwards, it is documented, and it costs the same after a year."""

import os
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edged import health
from edged.errors import Corrupt, Unavailable
from edged.meter import Meter
from edged.storage import alarms, blocked, cameras, counters, cycles, gauges, labels, outbox
from edged.storage.gauges import RECEIPT_S
from edged.storage.store import Store
from edged.web.metrics import DEAR_S, Figures
from edged.wire.messages import Frame, FrameHeader, FrameReceipt

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
LARGE = ("frame", "sample", "object", "label", "audit", "outbox", "planted")  # tables that grow


def families(data):
    return list(text_string_to_metric_families(data.decode()))


def samples(data):
    return {(s.name, *sorted(s.labels.items())): s.value for f in families(data) for s in f.samples}


def frame(i, camera="gate"):
    return Frame(camera, FrameHeader(f"b-{i}", 0.0, i, "b", 640, 360), b"jpeg")


def receipt(i, status="stored"):
    return FrameReceipt(f"b-{i}", "0" * 64, status)


class Box:
    """The daemon's counting, without the daemon: a new one is a restart."""

    def __init__(self, store, clock):
        self.store, self.clock, self.flushes = store, clock, 0
        self.meter = Meter(lambda name, n: counters.bump(store, name, n), clock)
        self.submit = self.meter.submitting(lambda frame: None)
        self.answer = self.meter.answering(lambda camera, receipt: None)

    def work(self, first, n, took_s=0.3):
        for i in range(first, first + n):
            self.submit(frame(i))
            self.meter.took("look", "gate", 0.02)
            self.clock.sleep(took_s)
            self.answer("gate", receipt(i))
            self.flushes += 1
        self.clock.sleep(20)
        self.meter.step(self.store, lambda: ({"queue_frames": 3.0}, {"journal:flushes": self.flushes}))


@pytest.fixture
def many(store, clock):
    """Put rows of n frames with four regions each into the store, straight."""

    def fill(n, camera="gate"):
        cameras.set_online(store, camera, True)
        now = clock.now()
        with store.transaction():
            store.execute_many(
                "insert into frame (id, camera, kind, sha256, seq, boot, ts, received, width, height, model, status)"
                " values (?, ?, 'frame', '', ?, 'b', ?, ?, 1, 1, '', 'stored')",
                [(f"b-{i}", camera, i, now, now + i) for i in range(n)],
            )
            store.execute_many(
                "insert into sample (id, camera, frame, ts, received, x, y, w, h, model, predicted, score, margin)"
                " values (?, ?, ?, ?, ?, 0, 0, 1, 1, '', '', 0, 0)",
                [(f"{camera}:b-{i}:{k}", camera, f"b-{i}", now, now + i) for i in range(n) for k in range(4)],
            )
        return [f"{camera}:b-{i}:0" for i in range(n)]

    return fill


class Asked:
    """What a store is asked while one looks, and how much SQLite computes for it."""

    def __init__(self, store):
        self.store, self.sql, self.steps = store, [], 0

    def __enter__(self):
        self.store._conn.set_trace_callback(self.sql.append)
        self.store._conn.set_progress_handler(self._step, 10)
        return self

    def _step(self):
        self.steps += 1
        return 0

    def __exit__(self, *_):
        self.store._conn.set_trace_callback(None)
        self.store._conn.set_progress_handler(None, 0)

    def scans(self):
        """Statements that read a table that grows from end to end."""
        found = []
        for sql in self.sql:
            if not sql.lower().startswith("select"):
                continue
            for row in self.store.rows(f"explain query plan {sql}"):
                words = row["detail"].split()
                if words[0] == "SCAN" and words[1] in LARGE and " limit " not in sql.lower():
                    found.append((row["detail"], sql))
        return found


def test_an_empty_store_has_figures_that_parse(client):
    answer = client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    found = samples(answer.data)
    assert found["edged_build_info", ("version", "0.1.0")] == 1
    assert found["edged_health", ("verdict", "ok")] == 1
    assert found["edged_store_bytes",] == 0
    assert found["edged_store_free_bytes",] > 0
    assert found["edged_frames_received_total",] == 0
    assert not [key for key in found if key[0].startswith("edged_daemon_resident")], "there is no daemon"


def test_every_metric_is_in_the_document_and_nothing_else_is(client, store, clock, many, past, monkeypatch):
    many(1)
    Box(store, clock).work(0, 2)
    gauges.put(store, dict.fromkeys(("queue_bytes", "queue_age_s", "cable_connected", "beat_s", "beat_ts"), 1.0))
    gauges.put(store, {"full_in_days": 9.0, "backup_ts": clock.now()})
    cameras.seen(store, "gate", stored=True)
    cycles.finish(store, cycles.start(store, "why"), "released")
    past.plant(3)
    there = {f"{f.name}_total" if f.type == "counter" else f.name for f in families(client.get("/metrics").data)}
    there = {name if name != "edged_build" else "edged_build_info" for name in there}
    told = set(re.findall(r"^\| `(edged_\w+)", DOCS.read_text(), re.MULTILINE))
    assert there == told


def test_no_total_falls_when_the_daemon_starts_again_or_dies(store, clock):
    figures, seen = Figures(store), {}
    totals = {}
    for run in range(4):
        box = Box(store, clock)  # its own totals begin at 0
        box.work(100 * run, 5 - run)
        now = {
            key: value
            for family in families(figures.text()) if family.type in ("counter", "histogram")
            for key, value in ((( s.name, *sorted(s.labels.items())), s.value) for s in family.samples)
        }  # fmt: skip
        assert not [key for key, value in now.items() if value < seen.get(key, 0)]
        totals, seen = now, now
    assert totals["edged_journal_flushes_total",] == 5 + 4 + 3 + 2
    assert totals["edged_receipts_total", ("status", "stored")] == 14


def test_a_total_that_would_fall_is_found_by_that_test(store, clock):
    """The control: gauges of the process, counted as if they were totals."""
    figures = Figures(store)
    falling = []
    for flushes in (9, 2):
        counters.bump(store, "journal:flushes", flushes - counters.get(store, "journal:flushes"))
        falling.append(samples(figures.text())["edged_journal_flushes_total",])
    assert falling == [9, 2]


def test_how_long_receipts_take_is_a_histogram_with_its_sum(store, clock):
    box = Box(store, clock)
    box.work(0, 3, took_s=0.2)
    box.work(10, 1, took_s=100.0)
    box.submit(frame(20))
    box.answer("gate", receipt(20, "retry"))  # not taken: no time to tell
    found = samples(Figures(store).text())
    assert [found["edged_receipt_seconds_bucket", ("le", str(b))] for b in RECEIPT_S] == [0, 0] + [3] * 8
    assert found["edged_receipt_seconds_bucket", ("le", "+Inf")] == found["edged_receipt_seconds_count",] == 4
    assert found["edged_receipt_seconds_sum",] == pytest.approx(100.6, abs=0.01)
    assert found["edged_receipts_total", ("status", "retry")] == 1
    assert found["edged_scrub_seconds_count", ("step", "look")] == 4


def test_planted_pictures_are_not_timed_as_frames(store, clock):
    box = Box(store, clock)
    box.meter.took("look", "planted", 1.0)
    box.meter.took("plant", "gate", 1.0)
    assert samples(Figures(store).text())["edged_scrub_seconds_count", ("step", "look")] == 0


def test_frames_that_are_never_answered_are_forgotten_in_the_end(store, clock):
    box = Box(store, clock)
    for i in range(5000):
        box.submit(frame(i))
    assert len(box.meter._came) == 4096


def test_a_poll_costs_the_same_whatever_the_store_holds(store, many, clock):
    figures = Figures(store)
    many(50)
    figures.text()  # what is dear is asked once
    with Asked(store) as few:
        figures.text()
    many(20_000, "yard")
    with Asked(store) as lots:
        figures.text()
    assert few.steps > 0
    assert lots.steps < few.steps + 20
    assert lots.scans() == []


def test_what_is_dear_is_asked_once_a_minute(store, many, clock):
    figures = Figures(store)

    def queue():
        return samples(figures.text())["edged_label_queue_items",]

    assert queue() == 0
    store.execute("insert into data_key (id, camera, day, created) values ('k', 'gate', 'd', 0)")
    store.execute(
        "insert into object (id, kind, camera, key_id, size, sha256, created) values ('o', 'crop', 'gate', 'k', 9, '', 0)"
    )
    many(1)
    store.execute("update sample set object = 'o' where id = 'gate:b-0:0'")
    assert queue() == 0
    clock.sleep(DEAR_S)
    assert queue() == 1


@pytest.mark.parametrize(
    "sql", ["select count(*) from frame", "select sum(size) from object", "select count(*) from audit"]
)
def test_a_query_that_reads_a_whole_table_is_found(store, sql):
    """The control of the test above."""
    with Asked(store) as asked:
        store.value(sql)
    assert len(asked.scans()) == 1


def test_labels_count_upwards_by_source_also_when_they_are_undone(store, many):
    first, second = many(2)
    label = labels.add(store, first, "car", "human", "ann")
    labels.add(store, second, "car", "teacher", "t")
    labels.undo(store, label, "ann")
    found = samples(Figures(store).text())
    assert found["edged_labels_total", ("source", "human")] == 1
    assert found["edged_labels_total", ("source", "teacher")] == 1


def test_bytes_that_left_are_counted_once(store):
    n = outbox.add(store, "metrics", "k", "inline", 500, b"x")
    outbox.mark(store, n, "queued")
    assert samples(Figures(store).text())["edged_sync_bytes_total",] == 0
    outbox.mark(store, n, "sent")
    outbox.mark(store, n, "sent")
    assert samples(Figures(store).text())["edged_sync_bytes_total",] == 500


def test_totals_that_stood_before_the_upgrade_are_kept(tmp_path, clock):
    """Labels and parcels of a store of version 3 are counted by the step to version 4."""
    from edged.storage import schema

    assert schema.VERSION >= 4
    step = (Path(schema.__file__).parent / "schema-4.sql").read_text()
    assert "insert into counter select 'labels:'" in step
    with Store.open(tmp_path / "new", clock=clock, site_key=bytes(32)) as store:
        assert "sync_bytes" not in counters.all(store)


def test_the_verdict_stands_in_figures_and_in_healthz(client, store):
    assert client.get("/healthz").get_json() == {"verdict": "ok", "reasons": []}
    alarms.sound(store, "disk_full", "the disk is full")
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert answer.get_json()["reasons"][0]["hint"] == health.KNOWN["disk_full"][1]
    found = samples(client.get("/metrics").data)
    assert found["edged_health", ("verdict", "failed")] == 1
    assert found["edged_health_reason", ("code", "disk_full")] == 1
    assert found["edged_health_reason", ("code", "broker_away")] == 0
    page = client.get("/now").text
    assert "The disk is full" in page
    assert health.KNOWN["disk_full"][1] in page


def test_without_a_daemon_nothing_is_ok_from_the_first_moment(make_app):
    runs = [True]
    client = make_app(runs=lambda: runs[0]).test_client()
    assert client.get("/healthz").status_code == 200
    runs[0] = False
    answer = client.get("/healthz")
    assert (answer.status_code, answer.get_json()["reasons"][0]["code"]) == (503, "daemon_down")
    assert samples(client.get("/metrics").data)["edged_health", ("verdict", "failed")] == 1
    assert "The daemon does not run" in client.get("/now").text


def test_a_box_that_is_degraded_still_takes_traffic(client, store):
    alarms.sound(store, "privacy_unmeasured", "silence")
    answer = client.get("/healthz")
    assert (answer.status_code, answer.get_json()["verdict"]) == (200, "degraded")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Corrupt("the catalogue is damaged", hint="restart edged"), "catalogue_damaged"),
        (Corrupt("the disk failed", code="disk_failed"), "disk_failed"),
        (Unavailable("the store is busy", code="busy"), "store_busy"),
    ],
)
def test_a_store_that_cannot_be_read_is_a_verdict_and_not_a_bug(client, store, monkeypatch, error, code):
    def fails(*_):
        raise error

    monkeypatch.setattr(type(store), "rows", fails)
    monkeypatch.setattr(type(store), "row", fails)
    page = client.get("/")
    assert (page.status_code, page.mimetype) == (503, "text/plain")
    assert str(error) in page.text
    assert error.hint in page.text
    health_ = client.get("/healthz")
    assert (health_.status_code, health_.get_json()["verdict"]) == (503, "failed")
    assert health_.get_json()["reasons"][0]["code"] == code
    figures = client.get("/metrics")
    assert figures.status_code == 503
    assert samples(figures.data)["edged_health", ("verdict", "failed")] == 1


def test_a_catalogue_that_is_overwritten_under_the_page_is_said(client, store):
    for name in ("edged.db", "edged.db-wal"):
        path = store.data_dir / name
        path.write_bytes(os.urandom(path.stat().st_size))
    store._conn.execute("pragma shrink_memory")
    answer = client.get("/healthz")
    assert (answer.status_code, answer.get_json()["reasons"][0]["code"]) == (503, "catalogue_damaged")
    assert client.get("/").status_code == client.get("/metrics").status_code == 503


def test_it_can_be_switched_off(make_app):
    assert make_app(with_metrics=False).test_client().get("/metrics").status_code == 404


def test_rollouts_are_counted_by_state_and_cameras_by_what_they_did(client, past, plain, store):
    past.all_of_it(plain, every=60)
    past.release(3, None, "d4" * 32, 300_000, state="rolling", south="IN_PROGRESS")
    blocked.add(store, "e5" * 32, release=1, reason="ghosts", author="Ada")
    text = client.get("/metrics").text
    assert 'edged_rollout_releases{state="rolling"} 1.0' in text
    assert 'edged_rollout_releases{state="complete"} 1.0' in text
    assert 'edged_rollout_cameras{status="IN_PROGRESS"} 1.0' in text
    assert "edged_rollout_blocked 1.0" in text
