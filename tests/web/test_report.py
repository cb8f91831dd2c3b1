"""The fragment of a re-test: the matrix has its numbers, the speeds their whiskers, and every figure says how it came about."""

import re

import msgspec
import pytest

from edged.retrain.report import Number, Pinned, share
from edged.storage import candidates, cycles, reports, snapshots
from edged.web import retested
from tests.retrain.test_gate import report

GATE = {"min_fps": 30}


def full(**more):
    fps = {str(n): Number(120.0 / n, "estimated", "a factor", 100.0 / n, 144.0 / n) for n in range(1, 5)}
    fields = {
        "per_class": {"day": share(190, 200), "night": share(200, 200)}, "confusion": ((190, 8), (0, 200)),
        "fps_regions": fps, "cold_start_ms": Number(321.0, "measured", "test"), "size_packed": 300_000,
        "pinned": Pinned(2, 1, ("gate:<b>:0",)), "covered": ("one core",), "not_covered": ("clock",), "not_numbers": 2,
        "isa": "verified under qemu",
    }  # fmt: skip
    return report(**(fields | more))


@pytest.fixture
def shown(store):
    def put(body):
        cycle = cycles.start(store, "labels")
        id = snapshots.add(store, {"classes": ["day", "night"], "train": [], "tune": [], "holdout": []})
        made = candidates.add(store, cycle, name="m-int8", sha256="a" * 64, size=1, snapshot=id, recipe={})
        reports.add(store, made, "atom-x5-e3940", msgspec.json.encode(body))
        return made

    return put


def test_every_number_of_the_matrix_stands_in_its_cell_and_what_is_no_class_is_counted():
    found = retested.matrix(full())
    assert [(c.n, c.right) for c in found.cells] == [(190, True), (8, False), (0, False), (200, True)]
    assert found.empty == 2
    assert retested.matrix(full(confusion=((0, 0), (0, 0)))) is None
    many = tuple(f"c{i}" for i in range(13))
    assert retested.matrix(full(classes=many, confusion=tuple((1,) * 13 for _ in many))) is None


def test_a_speed_has_its_whisker_inside_the_drawing_and_an_unknown_one_is_not_drawn():
    found = retested.speed(full(), 30)
    assert [b.text for b in found.bars] == ["1 region", "2 regions", "3 regions", "4 regions"]
    for b in found.bars:
        assert retested.LEFT <= b.low <= b.end <= b.high <= retested.RIGHT
    assert found.needed < found.bars[0].end
    assert retested.speed(full(fps_regions={"1": Number(0, "unknown", "no factor")}), 30) is None


def test_the_page_shows_it_and_says_measured_or_estimated(shown, client):
    made = shown(full())
    html = client.get("/models").get_data(as_text=True)
    part = html[html.index(f'id="report-{made}"') :]
    assert part.count('class="count"') == 4
    for words in ("321.0 ms", "measured", "estimated", "3.0 times smaller", "runs no faster", "1 of 2 right", "Covered: one core",
                  "Not covered: clock", "verified under qemu", "class night", "camera gate"):  # fmt: skip
        assert words in part, words
    assert "gate:&lt;b&gt;:0" in part
    assert "style=" not in part
    assert not re.search(r"<script", part)


def test_a_report_of_another_time_is_left_out_not_an_error(shown, client, store):
    made = shown(full())
    store.execute("update report set body = '{}' where candidate = ?", (made,))
    assert retested.of(store, [made], GATE) == {}
    assert client.get("/models").status_code == 200


def test_a_model_that_was_tested_on_no_picture_says_so_instead_of_none_right(shown, client):
    none = share(0, 0)
    made = shown(full(accuracy=none, pair=None, per_class={"day": none, "night": none}, per_camera={"gate": none}))
    html = client.get("/models").get_data(as_text=True)
    part = html[html.index(f'id="report-{made}"') :]
    assert "not tested on pictures here, under the limits of" in part
    assert "of 0 right" not in part
    assert "100.0 %" not in part[: part.index("Figure")]
