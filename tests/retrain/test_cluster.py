"""A re-test over Dask's real scheduler and workers, each a process of its own, on this machine."""

import os
import subprocess
import sys
import time

import msgspec
import pytest

from edged.clock import SystemClock
from edged.errors import Misconfigured, Unavailable
from edged.retrain import cluster, jobs, retest, source, task, trial
from edged.retrain.report import Report
from edged.retrain.worker import Order, Reply
from edged.storage import models
from tests.retrain.shapes import brightness
from tests.retrain.test_retest import answers

distributed = pytest.importorskip("distributed")


@pytest.fixture
def two(tmp_path):
    """A scheduler and two workers: (address, processes)."""

    env = os.environ | {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "3", "PYTHONWARNINGS": "ignore"}
    file = tmp_path / "scheduler.json"
    started = []

    def start(*words):
        argv = [sys.executable, "-m", "distributed.cli." + words[0], *words[1:]]
        with open(tmp_path / f"log-{len(started)}", "wb") as log:
            started.append(subprocess.Popen(argv, env=env, stdout=log, stderr=log))

    start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    for _ in range(2):
        start("dask_worker", "--scheduler-file", str(file), "--nworkers", "1", "--nthreads", "1", "--no-dashboard",
              "--no-nanny", "--local-directory", str(tmp_path))  # fmt: skip
    for _ in range(300):
        if file.exists() and file.stat().st_size:
            break
        time.sleep(0.1)
    address = msgspec.json.decode(file.read_bytes())["address"]
    yield address, started[1:]
    for p in started:
        p.kill()
        p.wait()


@pytest.fixture(scope="module")
def pair(filled):
    with filled.open() as store:
        return tuple(models.put_model(store, brightness(shift)) for shift in (0.3, -0.2))


def job(site, pair, **more):
    return site.job(candidates=list(pair), seconds=0.02, device="this-machine", baseline=pair[0], **more)


@pytest.mark.slow
def test_two_dask_workers_find_what_one_process_finds_even_when_one_is_lost(filled, pair, two, tmp_path):
    address, workers = two
    told = []

    def progress(now):
        told.append(now)
        if len(told) == 3:
            workers[0].kill()

    checked = jobs.check("retest", job(filled, pair, scheduler=address))
    (tmp_path / "r").mkdir()
    found = retest.run(checked, tmp_path / "r", clock=SystemClock(), progress=progress)
    assert workers[0].wait(10) != 0
    alone = trial.run(
        jobs.check("trial", filled.job(sha256=pair[1], baseline=pair[0], seconds=0.02, device="this-machine")),
        progress=lambda _: None, imposed=("one core (affinity)",),
    )  # fmt: skip
    assert found.refused == {}
    assert isinstance(found.reports[pair[1]], Report)
    assert answers(found.reports[pair[1]]) == answers(alone)


def test_where_no_scheduler_answers_the_stage_waits_for_another_time(filled, pair, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "TIMEOUT_S", 0.5)
    checked = jobs.check("retest", job(filled, pair, scheduler="tcp://127.0.0.1:9"))
    with pytest.raises(Unavailable, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        retest.run(checked, tmp_path, clock=SystemClock(), progress=lambda _: None)


def test_a_host_with_another_edged_says_so():
    reply = msgspec.msgpack.decode(cluster.there(b"", msgspec.msgpack.encode(Order(b"{}")), "0.0.0"), type=Reply)
    assert isinstance(reply.error(), Misconfigured)
    assert "the box 0.0.0" in str(reply.error())


def test_nothing_but_the_work_is_sent(filled, pair):
    """Neither the key's place nor the site's folder."""
    checked = jobs.check("retest", job(filled, pair))
    with source.open_source(checked) as store:
        order = cluster._order(task.Task("answers", pair[0], 0), checked, store)
    assert len(order.crops) == 48
    assert order.train == ()
    sent = msgspec.msgpack.encode(order)
    assert str(filled.dir).encode() not in sent
    assert b"storage.key" not in sent
