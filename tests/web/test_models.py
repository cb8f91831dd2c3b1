"""The Models section: what was brought here, and what it would take to train another network."""

from edged.retrain import fits
from edged.storage import brought, candidates, cycles, models, reports, snapshots


def test_what_would_fit_is_a_table_of_estimates_behind_a_fold(make_app):
    client = make_app(fitting=fits.fitting(224, 2, 2 * 10**9)).test_client()
    page = client.get("/models").text
    assert '<details id="fits">' in page
    row = page.split('<td data-th="Network">vgg-16</td>')[1].split("</tr>")[0]
    assert row.rstrip().endswith('<td data-th="Fits">no</td>')
    assert "edged model import" in page
    assert "estimated" in page
    assert client.get("/").status_code == 200


def test_without_word_on_the_machine_nothing_is_claimed(client):
    assert 'id="fits"' not in client.get("/models").text


def test_a_model_from_outside_is_shown_and_its_name_stays_text(client, store):
    for kind, name in (("teacher", "<b>big</b>"), ("candidate", "server")):
        sha = models.put_model(store, name.encode())
        brought.add(store, kind, sha256=sha, name=name, classes=("a", "b"), px=96, author="ann")
    page = client.get("/models").text
    assert "&lt;b&gt;big&lt;/b&gt;" in page
    assert "model to judge" in page
    assert "96 px" in page


def test_all_but_the_newest_candidates_are_folded_but_for_the_one_that_serves(client, store, past):
    cycle = cycles.start(store, "why")
    made = [past.candidate(cycle, f"tried-{i}", f"{i:064x}", 9, 9, 10, reasons=("no",), passed=False) for i in range(8)]
    past.meet("north", "south")
    past.release(1, made[0], f"{0:064x}", 9)
    shown, folded = client.get("/models").text.split('<details id="earlier-candidates">')
    assert [f"tried-{i}" for i in range(8) if f"<b>tried-{i}</b>" in shown] == [
        "tried-0",
        "tried-5",
        "tried-6",
        "tried-7",
    ]
    assert [f"tried-{i}" for i in range(8) if f"<b>tried-{i}</b>" in folded] == [f"tried-{i}" for i in range(1, 5)]
    assert "4 earlier candidates" in folded


def test_a_model_that_was_tested_on_nothing_has_no_accuracy(client, store):
    cycle = cycles.start(store, "why")
    snapshot = snapshots.add(store, snapshots.build([], ("a", "b"), holdout_ratio=0.2, block_s=100.0, seed=1))
    made = candidates.add(store, cycle, name="blind", sha256="f" * 64, size=9, snapshot=snapshot, recipe={})
    reports.add(store, made, "here", {"n": 0, "accuracy": {"n": 0, "accuracy": 0.0, "lower": 0.0, "upper": 1.0}})
    row = client.get("/models").text.split("<b>blind</b>")[1].split("</tr>")[0]
    assert '<td data-th="Accuracy" class="n">–</td>' in row
    assert "0.0 %" not in row


def test_label_comes_right_after_now(client):
    page = client.get("/").text
    places = [page.index(f'id="{name}"') for name in ("now", "label", "cameras", "models", "fleet")]
    assert places == sorted(places)
