"""`edged data` as a person meets it: real processes, on a site with two cameras and two days."""

import json
import signal
import subprocess
import sys
import threading
import time

import pytest

from edged.clock import SystemClock
from edged.config import load
from edged.site import only_daemon, open_store, upkeep_rules
from edged.storage import audit, frames, labels, recover, requests, samples
from edged.storage.upkeep import Upkeep
from edged.wire.messages import Frame, FrameHeader, Region
from tests.cli.terminal import typed
from tests.storage.conftest import StandIn, noise

NOON = 1_795_262_400.0  # 2026-11-21T12:00:00Z
DAY = 86400.0


def edged(site, *args, stdin=""):
    return subprocess.run(
        [sys.executable, "-m", "edged", "-c", str(site / "config.toml"), *map(str, args)],
        capture_output=True, text=True, timeout=60, check=False, input=stdin,
    )  # fmt: skip


def told(site, *args, stdin="", code=0):
    done = edged(site, "--json", *args, stdin=stdin)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout if code in (0, 3) else done.stderr)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "site"
    command = ["init", "--data-dir", folder, "--site", "plant-a", "--classes", "car,bus", "--camera", "gate"]
    done = subprocess.run([sys.executable, "-m", "edged", *map(str, command)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    with open_store(load(folder / "config.toml"), key=True) as store:
        recover.run(store)
        for n in range(6):
            for camera in ("gate", "yard"):
                add(store, camera, n, NOON + (n // 3) * DAY + n * 60)
        labels.add(store, "gate:b-0:0", "car", "human", "anna")
        labels.add(store, "yard:b-4:0", "bus", "human", "ben")
    return folder


def add(store, camera, n, received):
    region = Region(x=0, y=0, w=8, h=8, label="car" if n % 2 else "bus", score=0.7, margin=0.4)
    header = FrameHeader(id=f"b-{n}", ts=received, seq=n, boot="b", w=8, h=8, model="m", regions=(region,))
    frame = Frame(camera, header, noise(f"{camera}{n}"), "frame", received)
    frames.add(store, frame, StandIn(noise(f"p{camera}{n}"), 8, 8, (noise(f"c{camera}{n}", 500),)))


@pytest.fixture
def site(made, tmp_path):
    """A copy of it, to spoil."""
    import shutil

    copy = shutil.copytree(made, tmp_path / "site")
    config = copy / "config.toml"
    config.write_text(config.read_text().replace(str(made), str(copy)))
    return copy


def test_ls_counts_by_camera_and_day_and_names_samples_for_purge(made):
    document = told(made, "data", "ls")
    assert [(d["camera"], d["day"], d["pictures"], d["labelled"]) for d in document["days"]] == [
        ("gate", "2026-11-21", 6, 1), ("gate", "2026-11-22", 6, 0), ("yard", "2026-11-21", 6, 0),
        ("yard", "2026-11-22", 6, 1),
    ]  # fmt: skip
    assert document["total"]["pictures"] == 24
    assert edged(made, "data", "ls", "--label", "bus", "--samples").stdout == "yard:b-4:0\n"
    lines = edged(made, "data", "ls", "--camera", "gate", "--class", "car", "--samples").stdout.split()
    assert lines == ["gate:b-5:0", "gate:b-3:0", "gate:b-1:0"]
    assert "2026-11-22" in edged(made, "data", "ls", "--camera", "gate", "--from", "2026-11-22").stdout


def test_show_tells_the_facts_and_writes_the_picture(made, tmp_path):
    out = tmp_path / "crop.jpg"
    facts = told(made, "data", "show", "gate:b-0:0", "-o", out)
    assert (facts["what"], facts["camera"], facts["labels"][0]["class"]) == ("sample", "gate", "car")
    assert out.read_bytes() == noise("cgate0", 500)
    assert out.stat().st_mode & 0o777 == 0o600
    assert told(made, "data", "show", "gate:b-0")["what"] == "frame"
    assert told(made, "data", "show", "gate:b-77", code=4)["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    ("args", "objects", "others", "keys"),
    [
        (["--camera", "gate"], 12, 0, 2),
        (["--day", "2026-11-21"], 12, 0, 2),
        (["--camera", "yard", "--to", "2026-11-21"], 6, 0, 1),
        (["--camera", "gate", "--from", "2026-11-21T12:01", "--to", "2026-11-21T12:02"], 2, 4, 1),
        (["--labelled-by", "ben"], 2, 4, 1),
        (["--samples", "-"], 2, 4, 1),
    ],
    ids=["a camera", "a day", "a camera until a day", "a minute", "an author's", "from a list"],
)
def test_a_dry_run_says_exactly_what_goes_and_the_real_one_takes_that(site, args, objects, others, keys):
    stdin = "# subject 7\ngate:b-1:0\n\n" if "-" in args else ""
    plan = told(site, "data", "purge", *args, "--dry-run", stdin=stdin)
    assert (plan["objects"], plan["resealed_objects"], plan["keys"]) == (objects, others, keys)
    assert told(site, "data", "ls")["total"]["pictures"] == 24
    done = told(site, "data", "purge", *args, "--yes", "--author", "anna", stdin=stdin)
    assert (done["erased"], done["bytes"], done["keys"]) == (plan["objects"], plan["bytes"], plan["keys"])
    assert told(site, "data", "ls")["total"]["pictures"] == 24 - objects
    assert told(site, "data", "verify") == {"findings": [], "ok": True, "pictures": 24 - objects, "schema_version": 1}
    assert told(site, "data", "purge", *args, "--yes", stdin=stdin)["erased"] == 0


def test_nobody_erases_by_accident(site):
    purge = [sys.executable, "-m", "edged", "-c", site / "config.toml", "data", "purge", "--camera", "gate"]
    refused = typed("n", purge)
    assert (refused.returncode, "12 pictures" in refused.stderr) == (130, True)
    assert told(site, "data", "purge", "--camera", "gate", stdin="y\n", code=1)["error"]["code"] == "not_asked"
    assert edged(site, "data", "purge", "--yes").returncode == 2
    assert edged(site, "data", "purge", "--day", "yesterday").returncode == 2
    assert told(site, "data", "purge", "--camera", "barn", "--yes", code=4)["error"]["code"] == "not_found"
    assert told(site, "data", "purge", "--samples", site / "none", "--yes", code=4)["error"]["code"] == "misconfigured"
    assert told(site, "data", "ls")["total"]["pictures"] == 24
    assert typed("y", purge).returncode == 0


@pytest.fixture
def daemon(site):
    """What of a daemon answers requests."""
    config = load(site / "config.toml")
    stop, bugs = threading.Event(), []
    with only_daemon(config.data_dir), open_store(config, key=True) as store:
        recover.run(store)
        work = threading.Thread(target=Upkeep(store, upkeep_rules(config)).forever, args=(stop, bugs.append, 0.05))
        yield store, work
        stop.set()
        if work.ident is not None:
            work.join()
    assert bugs == []


def test_with_a_daemon_at_work_it_is_asked_and_does_it(site, daemon):
    store, work = daemon
    work.start()
    done = told(site, "data", "purge", "--samples", "-", "--yes", "--author", "anna", stdin="gate:b-0:0\n")
    assert (done["erased"], done["keys"]) == (2, 1)
    entry = next(e for e in audit.rows(store) if e.act == "erase")
    assert (entry.actor, entry.subject) == ("anna", "1 samples, 0 frames")
    assert samples.get(store, "gate:b-0:0").object is None


def test_a_purge_that_is_interrupted_is_still_done(site, daemon):
    store, work = daemon
    command = [sys.executable, "-m", "edged", "-c", site / "config.toml", "data", "purge", "--camera", "gate", "--yes"]
    asking = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 30
    while not requests.pending(store) and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.3)
    asking.send_signal(signal.SIGINT)
    _, stderr = asking.communicate(timeout=30)
    assert (asking.returncode, "the daemon goes on with it" in stderr) == (130, True)
    work.start()
    while requests.pending(store) and time.monotonic() < end:
        time.sleep(0.05)
    assert store.value("select count(*) from object where camera = 'gate'") == 0


def test_quota_is_a_table_with_a_forecast_for_each_camera(made):
    document = told(made, "data", "quota")
    assert [q["camera"] for q in document["quota"]] == [None, "gate", "yard"]
    assert document["quota"][0]["used"] == sum(q["used"] for q in document["quota"][1:])
    assert edged(made, "data", "quota").stdout.splitlines()[1].startswith("all ")


def test_verify_finds_a_byte_that_was_changed_and_exits_3(site):
    with open_store(load(site / "config.toml")) as store:
        number, place = store.row("select segment, place from object limit 1")
    with (site / "segments" / f"{number:08d}.seg").open("r+b") as f:
        f.seek(place + 40)
        byte = f.read(1)
        f.seek(place + 40)
        f.write(bytes([byte[0] ^ 1]))
    document = told(site, "data", "verify", code=3)
    assert (document["ok"], "damaged" in {f["code"] for f in document["findings"]}) == (False, True)


def test_to_confirm_the_clock_is_a_request_for_the_daemon(site):
    asked = told(site, "data", "confirm-clock", "--author", "anna")["request"]
    with open_store(load(site / "config.toml")) as store:
        assert [(r.id, r.verb, r.author) for r in requests.pending(store)] == [(asked, "confirm-clock", "anna")]


def test_times_are_of_the_box_and_in_utc(made):
    assert SystemClock().now() > 0
    one = told(made, "data", "ls", "--samples", "--from", "2026-11-21T13:00+01:00", "--to", "2026-11-21T12:00:30")
    assert {s["id"] for s in one["samples"]} == {"gate:b-0:0", "yard:b-0:0"}
