"""What leaves, against a real S3 server in a process of its own: nothing without a rule, each object once, all audited."""

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from edged.clock import SystemClock
from edged.errors import Misconfigured, Unavailable
from edged.publish import cloud, release
from edged.publish.cloud import CloudTarget
from edged.publish.release import Description
from edged.storage import audit, erasure, outbox, segments
from edged.storage.store import Store

ALL = dict.fromkeys(cloud.KINDS, True)
SECRET = "s3cr3t-w0rd"
CROP = b"\xff\xd8 a scrubbed crop " + bytes(4000)


@pytest.fixture(scope="session")
def server():
    """moto's server on a port of its own choice; yields the address."""
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "moto_server"), "-p", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        else:
            pytest.fail("moto_server did not start")
        drain = threading.Thread(target=process.stderr.read, daemon=True)
        drain.start()
        yield found[0]
    finally:
        process.terminate()
        process.wait()
        drain.join(5)
        process.stderr.close()


def _request(url, method, data=b""):
    plain = {"Content-Type": "application/octet-stream"}
    with urllib.request.urlopen(urllib.request.Request(url, data=data, method=method, headers=plain)) as answer:
        answer.read()


class Bucket:
    """The other side, as its owner sees it."""

    def __init__(self, server, name):
        self.server, self.name = server, name
        _request(f"{server}/{name}", "PUT")
        self.store = S3Store(
            name, endpoint=server, access_key_id="owner", secret_access_key="s", region="us-east-1",
            client_options={"allow_http": True}, virtual_hosted_style_request=False,
        )  # fmt: skip

    def names(self):
        return sorted(item["path"] for page in obstore.list(self.store) for item in page)

    def read(self, name):
        return bytes(obstore.get(self.store, name).bytes())

    def put(self, name, data):
        obstore.put(self.store, name, data)

    def target(self, **other):
        known = {"endpoint": self.server, "bucket": self.name, "access_key_id": "k", "secret_access_key": SECRET}
        return CloudTarget(**(known | {"prefix": "plant-a"} | other))


@pytest.fixture
def bucket(server, request):
    return Bucket(server, re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:60].strip("-"))


@pytest.fixture
def site(store, repo, rows, known_answer):
    """One of everything that could leave: a report, a label with its crop, a model."""
    rows.labelled_crop(CROP, "car")
    candidate = rows.candidate()
    release.publish(
        store, repo, candidate=candidate, author="Ada Lovelace",
        description=Description("vehicle", ("a", "b"), 32, known_answer, ("generic",)),
    )  # fmt: skip
    return store


def left(store):
    """The audit rows of what left, oldest first, as (name, detail)."""
    return [(e.subject, json.loads(e.detail)) for e in reversed(audit.rows(store, 10_000)) if e.act == "left"]


def push(store, bucket, rules, clock, **how):
    cloud.fill(store, rules)
    return cloud.push(store, bucket.target(), rules, clock, **how)


# what may leave


@pytest.mark.parametrize("rules", [{}, dict.fromkeys(cloud.KINDS, False)])
def test_without_a_rule_that_allows_it_nothing_leaves(site, bucket, clock, rules):
    assert push(site, bucket, rules, clock) == cloud.Pushed(0, 0, 0, 0, 0.0)
    assert bucket.names() == []
    assert outbox.all(site) == []
    assert left(site) == []
    assert all(not item.allowed for item in cloud.preview(site, rules))


@pytest.mark.parametrize("kind", cloud.KINDS)
def test_an_allowed_kind_leaves_alone(site, bucket, clock, kind):
    assert push(site, bucket, {kind: True}, clock).sent == 1
    assert [name.split("/")[:2] for name in bucket.names()] == [["plant-a", kind]]


def test_the_preview_is_exactly_what_then_leaves(site, bucket, clock):
    rules = {"metrics": True, "scrubbed_crops": True, "models": False}
    would = cloud.preview(site, rules)
    push(site, bucket, rules, clock)
    arrived = {name: len(bucket.read(name)) for name in bucket.names()}
    assert {f"plant-a/{i.key}": i.size for i in would if i.allowed} == arrived
    assert {(i.kind, i.why) for i in would if not i.allowed} == {
        ("labels", "no rule allows labels"), ("models", "the rule for models forbids it"),
    }  # fmt: skip
    assert [i for i in cloud.preview(site, rules) if i.allowed] == []


def test_the_preview_needs_neither_the_key_nor_a_writable_store(site, clock):
    before = cloud.preview(site, ALL)
    with Store.open(site.data_dir, clock=clock, site_key=None, readonly=True) as reader:
        assert cloud.preview(reader, ALL) == before
    assert {i.kind for i in before} == set(cloud.KINDS)


def test_a_crop_arrives_as_the_scrubbed_jpeg(site, bucket, clock):
    push(site, bucket, {"scrubbed_crops": True}, clock)
    assert bucket.read(bucket.names()[0]) == CROP


def test_no_name_of_a_camera_or_a_person_leaves(site, bucket, clock):
    push(site, bucket, ALL, clock)
    everything = b"".join(name.encode() + bucket.read(name) for name in bucket.names())
    for secret in (b"gate-north", b"Ada", b"Lovelace", b"night shift", b"whole picture"):
        assert secret not in everything
    assert b"accuracy" in everything


def test_whole_pictures_are_no_kind(site, bucket, clock):
    for kind in ("frames", "raw", "frame", "pictures"):
        for call in (cloud.preview, cloud.fill):
            with pytest.raises(Misconfigured, match="can leave the box"):
                call(site, {kind: True})
        with pytest.raises(Misconfigured):
            cloud.push(site, bucket.target(), {kind: True}, clock)


def test_a_rule_that_was_taken_back_holds_what_is_queued_already(site, bucket, clock):
    cloud.fill(site, ALL)
    assert cloud.push(site, bucket.target(), {"metrics": True}, clock).sent == 1
    assert [name.split("/")[1] for name in bucket.names()] == ["metrics"]
    waiting = {i.kind: i.allowed for i in cloud.preview(site, {"metrics": True})}
    assert waiting == {"labels": False, "scrubbed_crops": False, "models": False}


# once, and written down


def test_every_object_that_left_is_one_audit_row_with_its_hash(site, bucket, clock):
    pushed = push(site, bucket, ALL, clock)
    noted = left(site)
    assert sorted(name for name, _ in noted) == bucket.names()
    for name, detail in noted:
        data = bucket.read(name)
        assert (detail["bytes"], detail["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert pushed == cloud.Pushed(4, sum(d["bytes"] for _, d in noted), 0, 0, 0.0)
    assert audit.verify(site) == len(audit.rows(site, 10_000))


def test_sending_again_sends_nothing(site, bucket, clock):
    push(site, bucket, ALL, clock)
    assert cloud.fill(site, ALL) == 0
    assert push(site, bucket, ALL, clock).sent == 0
    assert len(left(site)) == 4


class Kill(BaseException):
    """The process dies here."""


def test_a_kill_between_sending_and_noting_costs_nothing(site, bucket, clock, monkeypatch):
    cloud.fill(site, ALL)
    for when in ("mark", "append"):
        with monkeypatch.context() as broken:
            broken.setattr(*((outbox, "mark") if when == "mark" else (audit, "append")), _die)
            with pytest.raises(Kill):
                cloud.push(site, bucket.target(), ALL, clock)
        assert len(bucket.names()) == 1
        assert left(site) == []
    assert cloud.push(site, bucket.target(), ALL, clock).sent == 4
    assert sorted(name for name, _ in left(site)) == bucket.names()


def _die(*_, **__):
    raise Kill


CHILD = """
import sys
from pathlib import Path
from edged.clock import SystemClock
from edged.publish import cloud
from edged.storage.store import Store
folder, endpoint, bucket = sys.argv[1:]
store = Store.open(Path(folder), clock=SystemClock(), site_key=bytes(range(32)))
target = cloud.CloudTarget(endpoint, bucket, "k", "s3cr3t-w0rd", prefix="plant-a")
cloud.run(store, target, {"scrubbed_crops": True, "labels": True}, SystemClock(), 60, lambda: False)
"""


def test_a_process_killed_while_it_sends_loses_and_doubles_nothing(store, rows, bucket, tmp_path):
    for n in range(60):
        rows.labelled_crop(CROP + b"%d" % n)
    clock = SystemClock()
    for wanted in (5, 40, 80):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(store.data_dir), bucket.server, bucket.name])
        try:
            while len(bucket.names()) < wanted:
                assert child.poll() is None
                clock.sleep(0.02)
        finally:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
    there = len(bucket.names())
    assert 80 <= there < 120
    push(store, bucket, {"scrubbed_crops": True, "labels": True}, clock)
    names = bucket.names()
    assert len(names) == 120
    assert sorted(name for name, _ in left(store)) == names
    assert all(detail["sha256"] == hashlib.sha256(bucket.read(name)).hexdigest() for name, detail in left(store))


def test_nothing_there_is_overwritten(site, bucket, clock):
    cloud.fill(site, {"metrics": True})
    key = outbox.all(site)[0].key
    bucket.put(f"plant-a/{key}", b"somebody else's")
    assert push(site, bucket, {"metrics": True}, clock) == cloud.Pushed(0, 0, 1, 0, 0.0)
    assert bucket.read(f"plant-a/{key}") == b"somebody else's"
    assert left(site) == []
    assert outbox.all(site)[0].state == "refused"
    assert "other content" in outbox.all(site)[0].detail


def test_same_size_and_other_content_is_noticed(site, bucket, clock):
    cloud.fill(site, {"scrubbed_crops": True})
    key = outbox.all(site)[0].key
    bucket.put(f"plant-a/{key}", bytes(len(CROP)))
    assert push(site, bucket, {"scrubbed_crops": True}, clock).refused == 1


def test_what_was_erased_meanwhile_does_not_leave_and_holds_up_nothing(site, bucket, clock):
    cloud.fill(site, ALL)
    (day,) = {r["day"] for r in site.rows("select day from data_key")}
    erasure.now(site, erasure.What(camera="gate-north", first=day, last=day), "Ada Lovelace")
    pushed = cloud.push(site, bucket.target(), ALL, clock)
    assert (pushed.sent, pushed.refused) == (3, 0)
    assert not any("scrubbed_crops" in name for name in bucket.names())


def test_a_damaged_crop_is_refused_and_the_rest_goes_on(site, bucket, clock):
    cloud.fill(site, ALL)
    (crop,) = [p for p in outbox.all(site) if p.kind == "scrubbed_crops"]
    object_id = crop.source.removeprefix("object:")
    number, end = site.row("select segment, place + size from object where id = ?", (object_id,))
    with segments.path_of(site, number).open("r+b") as file:
        file.seek(end - 1)
        last = file.read(1)[0]
        file.seek(end - 1)
        file.write(bytes([last ^ 1]))
    assert cloud.push(site, bucket.target(), ALL, clock).refused == 1
    assert len(bucket.names()) == 3


def test_a_budget_of_bytes_is_kept(site, bucket, clock):
    cloud.fill(site, ALL)
    sizes = [p.size for p in outbox.due(site)]
    pushed = cloud.push(site, bucket.target(), ALL, clock, max_bytes=sizes[0] + sizes[1])
    assert (pushed.sent, pushed.bytes, pushed.waiting) == (2, sizes[0] + sizes[1], 2)


# the other side


def test_a_cloud_that_is_away_is_waited_for(site, clock, bucket):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        away = bucket.target(endpoint=f"http://127.0.0.1:{unused.getsockname()[1]}")
        cloud.fill(site, ALL)
        with pytest.raises(Unavailable, match="does not take objects now"):
            cloud.push(site, away, ALL, clock)
    assert {p.state for p in outbox.all(site)} == {"queued"}
    assert left(site) == []
    assert cloud.push(site, bucket.target(), ALL, clock).sent == 4


def test_a_key_that_may_not_write_is_said_in_words(site, bucket, clock):
    cloud.fill(site, ALL)
    _request(f"{bucket.server}/moto-api/reset-auth", "POST", b"0")
    try:
        with pytest.raises(Misconfigured, match="does not let this key write") as raised:
            cloud.push(site, bucket.target(), ALL, clock)
    finally:
        _request(f"{bucket.server}/moto-api/reset-auth", "POST", b"inf")
    assert SECRET not in str(raised.value)
    assert left(site) == []
    assert cloud.push(site, bucket.target(), ALL, clock).sent == 4


def test_a_bucket_that_does_not_exist_is_said_in_words(site, bucket, clock):
    cloud.fill(site, ALL)
    with pytest.raises(Misconfigured, match="has no bucket nowhere-at-all"):
        cloud.push(site, bucket.target(bucket="nowhere-at-all"), ALL, clock)


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("http://s3.example.com", "not encrypted"),
        ("http://127.0.0.1.example.com", "not encrypted"),
        ("http://10.0.0.1:9000", "not encrypted"),
        ("ftp://s3.example.com", "needs an endpoint"),
        ("", "needs an endpoint"),
        ("https://user:word@s3.example.com", "must not hold a password"),
    ],
)
def test_an_endpoint_that_is_not_safe_is_not_used(site, bucket, clock, endpoint, words):
    with pytest.raises(Misconfigured, match=words):
        cloud.push(site, bucket.target(endpoint=endpoint), ALL, clock)


def test_the_environment_cannot_send_things_elsewhere(site, bucket, clock, monkeypatch):
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert push(site, bucket, ALL, clock).sent == 4


def test_the_secret_is_in_no_text(bucket):
    assert SECRET not in repr(bucket.target())


# the loop


def test_the_loop_fills_sends_waits_and_ends(site, bucket, clock):
    sent = []

    def stop():
        sent.append(len(bucket.names()))
        return len(clock.slept) >= 12

    cloud.run(site, bucket.target(), ALL, clock, 10, stop)
    assert sent[0] == 0
    assert sent[-1] == 4
    assert sum(clock.slept) == pytest.approx(12)


def test_the_loop_outlives_a_cloud_that_is_away(site, bucket, clock, monkeypatch):
    real, calls = cloud.push, []

    def push(*args, **kwargs):
        calls.append(1)
        if len(calls) == 1:
            raise Unavailable("away")
        return real(*args, **kwargs)

    monkeypatch.setattr(cloud, "push", push)
    cloud.run(site, bucket.target(), ALL, clock, 5, lambda: len(calls) >= 2)
    assert len(bucket.names()) == 4
