"""What compression found, as a drawing and a table: which files nothing beats, the gate's limits, and what the packed form is."""

import re

import pytest

from edged.storage import cycles, verdicts
from edged.web import paretoplot

GATE = {"max_loss": 0.02, "min_fps": 30, "max_size": 6_000_000, "max_packed": 0}


def point(method, accuracy, size, packed, fps, **more):
    known = {"fps_likely": fps * 1.2, "how": "estimated", "memory_bytes": 90_000_000, "refused": ""}
    return {"method": method, "accuracy": accuracy, "size": size, "packed": packed, "fps": fps} | known | more


POINTS = [
    point("none", 0.95, 900_000, 800_000, 40.0),
    point("int8", 0.948, 276_000, 210_000, 80.0),
    point("channels=0.5 int8", 0.94, 120_000, 90_000, 150.0),
    point("prune=0.5 qat", 0.93, 280_000, 215_000, 75.0),  # int8 is better in every figure
    point("channels=0.7 qat", 0.4, 60_000, 40_000, 220.0),  # far below the rest
    point("lowrank=0.1", 0.0, 0, 0, 0.0, how="", fps_likely=0.0, refused="<b>no layer</b> can be factored"),
]


@pytest.fixture
def searched(store, past):
    def make(points=POINTS):
        cycle = cycles.start(store, "asked for")
        past.stage(cycle, "compress", 60, "tried", points=points, made=[])
        return cycle

    return make


def row(html, method):
    return next(r for r in html.split("<tr>") if f'<td data-th="Method">{method}' in r)


def test_what_nothing_beats_is_told_by_its_shape(client, searched, store):
    searched()
    (found,) = paretoplot.fronts(store, GATE)
    front = [r.method for r in found.rows if r.front]
    assert sorted(front) == ["channels=0.5 int8", "channels=0.7 qat", "int8", "none"]
    html = client.get("/models").text
    assert "nothing beats it" in row(html, "int8")
    assert "nothing beats it" not in row(html, "prune=0.5 qat")
    shapes = {kind: path[-30:] for kind, path in re.findall(r'class="mark (front|beaten)" d="([^"]+)"><title>', html)}
    assert "l5.2,5.2" in shapes["front"]
    assert "a3.6,3.6" in shapes["beaten"]


def test_a_better_one_takes_others_from_the_front(searched, store):
    searched([*POINTS, point("qat", 0.96, 50_000, 39_000, 300.0)])  # the same data with one more: negative control
    (found,) = paretoplot.fronts(store, GATE)
    assert [r.method for r in found.rows if r.front] == ["qat"]


def test_the_limits_of_the_gate_are_lines(make_app, searched):
    searched()
    html = make_app(gate=GATE).test_client().get("/models").text
    assert "at least 93.0 %" in html  # 95 % before, less two points
    assert "at least 30<" in html
    assert "at most 6.0 MB" in html
    assert html.count('class="limit"') == 5  # of packed bytes there is no limit
    assert 'class="limit"' not in make_app(gate={}).test_client().get("/models").text


def test_marks_stay_inside_the_frame_and_more_is_higher(searched, store):
    searched()
    (found,) = paretoplot.fronts(store, GATE)
    assert [p.name for p in found.panels] == ["file", "packed", "frames/s"]
    for panel in found.panels:
        assert len(panel.marks) == 4
        assert all(46 <= m.x <= 316 and 24 <= m.y <= 178 for m in panel.marks)
    file = {m.title.split(": ")[1].split(",")[0]: m for m in found.panels[0].marks}
    assert file["none"].x > file["int8"].x > file["channels=0.5 int8"].x
    assert file["none"].y < file["int8"].y < file["prune=0.5 qat"].y
    assert found.below == 1


def test_what_gave_no_file_is_in_the_table_with_its_reason_as_text(client, searched):
    searched()
    html = client.get("/models").text
    assert "no file<small>&lt;b&gt;no layer&lt;/b&gt; can be factored</small>" in row(html, "lowrank=0.1")
    assert "48<small>estimated, at least 40</small>" in row(html, "as trained")
    assert "does not make inference faster" in html
    assert "style=" not in html


def test_re_tested_files_are_compared_on_the_hold_out_and_a_refused_one_is_hollow(make_app, store, past):
    cycle = cycles.start(store, "asked for")
    past.candidate(cycle, "int8", "a" * 64, 276_113, 177, 184, 176)
    past.candidate(cycle, "big", "b" * 64, 12_911_000, 181, 184, 176, ("24 frames/s are too few",), passed=False)
    html = make_app(gate=GATE).test_client().get("/models").text
    assert "What was re-tested, cycle 1, atom-x5-e3940" in html
    assert "Accuracy on the hold-out" in html
    assert "! refused<small>24 frames/s are too few</small>" in row(html, "big")
    assert "✓ passed" in row(html, "int8")
    assert 'class="mark front refused"' in html
    assert "at least 93.7 %" in html  # 176 of 184 before, less two points


def test_a_verdict_on_a_report_that_was_replaced_says_nothing_of_the_new_one(store, past):
    from edged.storage import reports

    cycle = cycles.start(store, "asked for")
    for name in ("one", "two"):
        past.candidate(cycle, name, name[0] * 64, 1000, 9, 10)
    body = reports.of(store, 1)[0].body
    reports.add(store, 1, "atom-x5-e3940", body)
    assert verdicts.of(store, 1).passed
    (found,) = paretoplot.fronts(store, GATE)
    assert {r.method: r.verdict for r in found.rows} == {"one": "", "two": "passed"}


def test_one_file_alone_is_no_plot(client, searched, store, past):
    past.candidate(searched([POINTS[0]]), "int8", "a" * 64, 276_113, 177, 184)
    assert paretoplot.fronts(store, GATE) == ()
    assert 'class="pareto"' not in client.get("/models").text


def test_files_of_one_size_and_an_unknown_speed_can_be_drawn(searched, store):
    searched([point("none", 1.0, 10, 10, 0.0, how="unknown"), point("int8", 1.0, 10, 10, 0.0, how="unknown")])
    (found,) = paretoplot.fronts(store, {})
    assert [p.name for p in found.panels] == ["file", "packed"]
