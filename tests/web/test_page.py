"""The page over HTTP: who may ask for what, what every answer carries, and that text stays text."""

import subprocess
import sys

import pytest

from edged.storage import Store, cameras, cycles, gaps, requests
from edged.storage.retention import Rules
from edged.web import words
from edged.web.authority import AUTHORITY, GRANTED

FRAGMENTS = ("/now", "/cameras", "/cycle", "/models", "/fleet")
NASTY = '"><script>alert(1)</script><img src=x onerror=alert(1)>'


def test_every_route_has_an_authority_and_every_authority_a_route(app):
    served = {(m, r.rule) for r in app.url_map.iter_rules() for m in r.methods - {"HEAD", "OPTIONS"}}
    assert served == set(AUTHORITY)
    assert set(AUTHORITY.values()) <= GRANTED


def test_every_route_that_changes_something_needs_a_token(client):
    posts = [path for method, path in AUTHORITY if method == "POST"]
    assert len(posts) == 11
    for path in posts:
        answer = client.post(path, data={"sample": "a:b:0", "class": "vehicle"})
        assert answer.status_code == 400, path
        assert "Reload the page" in answer.text


def test_what_has_changed_since_the_page_was_started_is_said_on_it(make_app):
    said = ["", "config.toml has changed since"]
    client = make_app(outdated=lambda: said[0]).test_client()
    assert "config.toml" not in client.get("/now").text
    said.pop(0)
    assert "Config.toml has changed since." in client.get("/now").text


def test_a_token_of_another_session_is_refused(app, token):
    mine, other = app.test_client(), app.test_client()
    mine.get("/")
    assert mine.post("/request/cycle", data={"csrf_token": token(other)}).status_code == 400


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "", "[::1", "10.0.0.1:8480"]
)
def test_a_foreign_host_is_400_even_for_health_and_what_is_not_there(client, host):
    for path in ("/", "/healthz", "/nothing", "/static/page.css"):
        assert client.get(path, headers={"Host": host}).status_code == 400, path


@pytest.mark.parametrize("host", ["127.0.0.1:8480", "localhost", "LOCALHOST:1", "[::1]:8480"])
def test_its_own_names_are_served(client, host):
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


def test_an_empty_store_makes_a_page(client):
    page = client.get("/")
    assert page.status_code == 200
    assert "No camera has spoken yet" in page.text
    for path in FRAGMENTS:
        assert client.get(path).status_code == 200, path


def test_a_store_with_a_past_is_shown_with_its_refusals(client, past, plain):
    past.all_of_it(plain, every=30)
    text = client.get("/").text
    for told in (
        "Learning.", "training (64 %, 20 s left)", "North gate", "release 2", "mobilenet-1.0", "30 are needed",
        "SUCCEEDED", "superseded", "as it should be", "16 to 31 px wide", "1 planted picture came to nothing",
        "83 MB of memory · started in 1.3 s", "hidden: 1 face, 1 plate", "epoch 6 of 8", "94.6 %", "+14.7 points",
    ):  # fmt: skip
        assert told in text, told
    for path in FRAGMENTS:
        assert client.get(path).text.strip() in text.replace("\r", ""), path


def test_an_unchanged_fragment_is_304_while_only_ages_grow(client, past, plain, clock):
    past.all_of_it(plain, every=60)
    for path in FRAGMENTS:
        first = client.get(path)
        clock.sleep(5)
        assert client.get(path, headers={"If-None-Match": first.headers["ETag"]}).status_code == 304, path
    tag = client.get("/cycle").headers["ETag"]
    cycles.stage_progress(past.store, cycles.running(past.store).id, "train", 0.7, 12.0)
    assert client.get("/cycle", headers={"If-None-Match": tag}).status_code == 200


def test_every_answer_carries_the_headers_and_no_page_has_inline_script_or_style(client, past, plain):
    past.all_of_it(plain, every=60)
    for path in ("/", *FRAGMENTS, "/healthz", "/nothing", "/static/page.css", "/picture/north.jpg"):
        answer = client.get(path)
        answer.close()
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';"), path
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
    text = client.get("/").text
    assert " style=" not in text
    assert "<style" not in text
    assert " onclick" not in text
    assert text.count("<script") == text.count("<script src=")
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text


def test_the_session_cookie_stays_on_this_site_and_out_of_scripts(client):
    cookie = client.get("/").headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie


def test_pictures_are_never_cached_and_unknown_ones_are_404(client, past, plain, clock):
    past.meet("north")
    (sample, _), *_ = past.frame("north", plain)
    for path in ("/picture/north.jpg", f"/crop/{sample}.jpg"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.data.startswith(b"\xff\xd8")
        assert (answer.mimetype, answer.headers["Cache-Control"]) == ("image/jpeg", "no-store")
    for path in (
        "/picture/nobody.jpg",
        "/picture/..%2f..%2fedged.db.jpg",
        "/crop/a:b:0.jpg",
        "/crop/%00.jpg",
        "/picture/north.png",
    ):
        assert client.get(path).status_code == 404, path


def test_frames_that_never_came_show_until_they_do(client, store, clock):
    def came(*numbers):
        with store.transaction():
            cameras.seen(store, "gate")
            for n in numbers:
                gaps.note(store, "gate", "b", n, clock.now())

    came(1, 5)
    noticed = words.clock_time(clock.now())
    assert "missing" not in client.get("/cameras").text
    clock.sleep(61)
    assert f"3 frames missing since {noticed}" in client.get("/cameras").text
    came(2, 3, 4)
    assert "missing" not in client.get("/cameras").text


def test_a_frame_that_was_withheld_shows_nothing_but_the_count(client, past):
    past.meet("north")
    past.withhold("north", "no_answer")
    assert client.get("/picture/north.jpg").status_code == 404
    assert "1 frame withheld" in client.get("/cameras").text


def test_names_are_text_wherever_they_come_from(make_app, past, plain, store):
    past.meet("north", "south")
    past.watch(plain, 60, model="a1" * 32, right={"north": 1.0, "south": 1.0})
    cycle = cycles.start(store, NASTY)
    past.stage(cycle, "snapshot", 1, NASTY)
    made = past.candidate(cycle, NASTY, "a1" * 32, 1000, 9, 10, 8, (NASTY,))
    past.release(1, made, "a1" * 32, 1000, state="rolling", south="FAILED")
    cycles.finish(store, cycle, "failed", NASTY)
    store.execute("update sample set predicted = ?", (NASTY,))
    store.execute("update delivery set detail = ?", (NASTY,))
    app = make_app(site=NASTY, classes=(NASTY, "b"), names={"north": NASTY})
    for path in ("/", *FRAGMENTS):
        text = app.test_client().get(path).text
        assert "<script>alert" not in text, path
        assert "<img src=x" not in text, path
    assert "&lt;script&gt;" in app.test_client().get("/").text


def test_asking_for_a_cycle_writes_one_request_row(client, token, store):
    form = {"csrf_token": token(client)}
    assert client.post("/request/cycle", data=form).status_code == 303
    assert client.post("/request/cycle", data=form, headers={"X-Fragment": "1"}).status_code == 204
    assert [(r.verb, r.author) for r in requests.pending(store)] == [("cycle", "page")]
    cameras.set_online(store, "north", True)
    assert "a cycle was asked for" in client.get("/now").text


def test_a_busy_store_is_503_with_a_sentence(store, client, monkeypatch):
    def busy(*_):
        from edged.errors import Unavailable

        raise Unavailable("the store is busy: another process is writing", code="busy")

    monkeypatch.setattr(Store, "rows", busy)
    answer = client.get("/cameras")
    assert (answer.status_code, answer.mimetype) == (503, "text/plain")
    assert "another process is writing" in answer.text


def test_the_page_needs_no_pixels_and_no_tensors():
    code = (
        "import sys, edged.web.app, edged.web.serve;"
        "print([m for m in ('cv2', 'torch', 'openvino', 'onnxruntime', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_page_says_how_much_is_stored_and_when_it_is_full(make_app, store):
    app = make_app(limits=Rules(10**9, 86400.0))
    assert "Pictures take" not in app.test_client().get("/now").text
    for camera, size in (("north", 600_000_000), ("south", 5_000_000)):
        store.execute("insert into holding values (?, 3, ?)", (camera, size))
        store.execute("insert into intake values (?, ?, ?)", (camera, int(store.clock.now() // 3600) - 2, 2 * size))
    text = app.test_client().get("/now").text
    assert "Pictures take 605.0 MB of 1.0 GB: full in an hour. North gate 600.0 MB; South gate 5.0 MB." in text
