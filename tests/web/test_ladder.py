"""The Cycle section: what each stage took, the rungs, the curves, what is waited for, and the button that ends it."""

from types import SimpleNamespace

import pytest

from edged.due import Rules
from edged.storage import cycles, requests
from edged.web import ladder

TRIED = [
    {
        "name": "norms",
        "accuracy": 0.917,
        "cpu_seconds": 2.0,
        "predicted_seconds": 3.0,
        "peak_bytes": 410_000_000,
        "told": "kept",
    },
    {
        "name": "head",
        "accuracy": 0.93,
        "cpu_seconds": 5.0,
        "predicted_seconds": 0.0,
        "peak_bytes": 0,
        "told": "as good",
    },
]
CURVE = [[1, 0.9, 0.8, 0.71], [2, 0.5, 0.6, 0.84], [3, 0.3, 0.55, 0.9]]


@pytest.fixture
def learned(store, past):
    number = cycles.start(store, "drift at yard")
    past.stage(number, "snapshot", 1, "10 train")
    past.stage(number, "reuse", 1, "20 new labelled samples to learn from")
    past.stage(number, "train", 9, "head", rungs_tried=TRIED, curve=CURVE, cpu_seconds=14.0, peak_bytes=520_000_000)
    return number


def test_stages_say_what_they_took_and_rungs_what_was_predicted(client, learned):
    html = client.get("/cycle").text
    assert "14 s of CPU, 520.0 MB at most" in html
    for text in ("norms", "91.7 %", "3 s", "2 s", "410.0 MB", "kept", "–"):
        assert text in html
    assert html.count("<tr>") >= 3


def test_loss_and_accuracy_are_drawn_with_their_numbers(store, learned):
    loss, accuracy = ladder.of(store, None, 0.0).curves
    assert (loss.name, loss.rows) == ("training loss", ((1, "0.9"), (2, "0.5"), (3, "0.3")))
    assert [t for _, t in accuracy.rows] == ["71 %", "84 %", "90 %"]
    for curve in (loss, accuracy):
        assert all(46 <= x <= 410 and 12 <= y <= 144 for x, y in curve.dots)
        assert [x for x, _ in curve.dots] == sorted(x for x, _ in curve.dots)
    assert loss.dots[0][1] < loss.dots[-1][1]  # less is lower
    assert accuracy.dots[0][1] > accuracy.dots[-1][1]


@pytest.mark.parametrize(
    ("train", "names"),
    [
        ({}, []),
        ({"curve": [[1, 0.5, 0.5, 0.5]]}, []),
        ({"running": [[1, None, None], [2, None, 0.5], [3, None, 0.5]]}, ["accuracy on the tuning part"]),
        ({"running": [[1, 0.5, None], [2, float("inf"), None], [3, 0.2, None]]}, ["training loss"]),
    ],
)
def test_what_cannot_be_drawn_is_left_out(train, names):
    assert [c.name for c in ladder.curves(train)] == names


def test_what_the_next_cycle_waits_for_is_said(make_app, store, clock):
    client = make_app(when=Rules(new_labels=30)).test_client()
    assert "The next cycle waits for 30 more human labels (0 of 30)." in client.get("/cycle").text
    requests.add(store, "cycle", {}, "ann")
    assert "A cycle is about to start: asked for by ann." in client.get("/cycle").text
    cycles.start(store, "asked for by ann")
    assert "about to start" not in client.get("/cycle").text


def test_cancelling_ends_the_cycle_that_runs_once(client, token, store, learned):
    form = {"csrf_token": token(client)}
    assert client.post("/request/cancel", data=form).status_code == 303
    assert client.post("/request/cancel", data=form, headers={"X-Fragment": "1"}).status_code == 204
    assert [(r.verb, r.author) for r in requests.pending(store)] == [("cancel", "page")]


def test_cancelling_takes_back_what_was_asked_for_and_nothing_else(client, token, store):
    form = {"csrf_token": token(client)}
    client.post("/request/cancel", data=form)
    assert requests.latest(store) == []
    client.post("/request/cycle", data=form)
    client.post("/request/cancel", data=form)
    assert requests.pending(store) == []
    assert requests.latest(store)[0].result == "taken back by page"


@pytest.fixture
def overturned(store, monkeypatch):
    """A cycle that was refused since labels contradict what was learned; they still do while this holds a sentence."""
    said = ["30 of 90 labels that the present model learned now say another class: 30 by ann"]
    monkeypatch.setattr(ladder.plan, "contradicted", lambda _: SimpleNamespace(told=said[0]))
    cycles.finish(store, cycles.start(store, "30 new human labels"), "refused", f"{said[0]}; if they are wrong: ...")
    return said


def test_labels_that_overturn_are_learned_from_only_if_a_person_says_that_they_are_right(
    client, token, store, overturned
):
    assert "Learn from them all the same" in client.get("/cycle").text
    client.post("/request/cycle", data={"csrf_token": token(client)})  # this one would be refused again
    assert "Learn from them all the same" in client.get("/cycle").text
    for _ in range(2):
        assert client.post("/request/cycle?overturn=1", data={"csrf_token": token(client)}).status_code == 303
    assert [(r.verb, r.args) for r in requests.pending(store)] == [("cycle", {}), ("cycle", {"overturn": True})]
    assert "Learn from them all the same" not in client.get("/cycle").text


def test_nobody_is_asked_about_labels_that_were_taken_back_or_another_refusal(client, store, overturned):
    told, overturned[0] = overturned[0], ""
    assert "Learn from them all the same" not in client.get("/cycle").text
    overturned[0] = told
    cycles.finish(store, cycles.start(store, "asked for by ann"), "refused", "one class only")
    assert "Learn from them all the same" not in client.get("/cycle").text
