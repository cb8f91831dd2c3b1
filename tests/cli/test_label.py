"""`edged label` as a person meets it: real processes on a site with a few samples."""

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from edged.config import load
from edged.site import open_store
from edged.storage import audit, labelfile, labels, recover
from tests.cli.test_data import add, edged, told

NOON = 1_795_262_400.0  # 2026-11-21T12:00:00Z


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("label") / "site"
    command = ["init", "--data-dir", folder, "--site", "plant-a", "--classes", "car,bus", "--camera", "gate"]
    done = subprocess.run([sys.executable, "-m", "edged", *map(str, command)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    with open_store(load(folder / "config.toml"), key=True) as store:
        recover.run(store)
        for n in range(8):
            add(store, "gate", n, NOON + n * 60)
    return folder


@pytest.fixture
def site(made, tmp_path):
    copy = shutil.copytree(made, tmp_path / "site")
    config = copy / "config.toml"
    config.write_text(config.read_text().replace(str(made), str(copy)))
    return copy


@pytest.fixture
def inside(site):
    return lambda: open_store(load(site / "config.toml"), readonly=True)


def test_the_queue_says_why_each_is_asked(site):
    asked = told(site, "label", "queue", "-n", 3)["queue"]
    assert len(asked) == 3
    assert all(a["why"] and a["lane"] for a in asked)
    assert "gate:b-" in edged(site, "label", "queue").stdout


def test_the_queue_asks_about_one_camera_and_what_came_since_a_time_when_told_to(site, inside):
    with inside() as store:
        times = sorted(r[0] for r in store.rows("select received from sample"))
    middle = datetime.fromtimestamp(times[len(times) // 2], UTC).isoformat()
    every = told(site, "label", "queue", "-n", 1000)["queue"]
    since = told(site, "label", "queue", "-n", 1000, "--since", middle, "--camera", "gate")["queue"]
    assert 0 < len(since) < len(every)
    assert {a["camera"] for a in since} == {"gate"}
    future = edged(site, "label", "queue", "--since", "2100-01-01")
    assert (future.returncode, "in the future" in future.stderr) == (2, True)
    assert edged(site, "label", "queue", "--since", "yesterday").returncode == 2
    unknown = edged(site, "label", "queue", "--camera", "cellar")
    assert (unknown.returncode, "cellar" in unknown.stderr) == (4, True)


def test_labels_of_nobody_are_not_taken(site, tmp_path, inside):
    file = tmp_path / "labels.csv"
    file.write_text("sample,class\ngate:b-0:0,car\n")
    done = edged(site, "label", "import", file, "--author", " ")
    assert (done.returncode, "--author is empty" in done.stderr) == (2, True)
    with inside() as store:
        assert labels.count(store) == 0


def test_json_lines_on_standard_input_are_known_by_their_first_sign():
    assert labelfile.format_of("-", b' {"sample": "gate:b-0:0", "class": "car"}') == "jsonl"
    assert labelfile.format_of("-", b"gate:b-0:0,car") == "csv"
    assert labelfile.format_of("labels.csv", b"{") == "csv"
    assert labelfile.format_of("labels.jsonl") == "jsonl"


def test_a_dry_run_reports_and_changes_nothing_then_the_import_does_it_once(site, tmp_path, inside):
    file = tmp_path / "labels.csv"
    file.write_text("sample,class\ngate:b-0:0,car\ngate:b-1:0,bus\ngate:b-2:0,-\n")
    dry = told(site, "label", "import", file, "--author", "anna", "--dry-run")
    assert (dry["new"], dry["classes"], dry["faults"]) == (3, {"-": 1, "bus": 1, "car": 1}, [])
    with inside() as store:
        assert labels.count(store) == 0
    assert told(site, "label", "import", file, "--author", "anna")["imported"] == 3
    assert told(site, "label", "import", file, "--author", "anna")["imported"] == 0
    with inside() as store:
        assert labels.count(store) == 2
        assert [e.act for e in audit.rows(store)].count("label.import") == 1


def test_a_file_with_faults_is_imported_not_at_all_and_each_is_named(site, tmp_path, inside):
    file = tmp_path / "labels.csv"
    file.write_text("gate:b-0:0,car\ngate:b-1:0,truck\ngate:b-77:0,car\n")
    dry = told(site, "label", "import", file, "--author", "anna", "--dry-run", code=3)
    assert [f["line"] for f in dry["faults"]] == [2, 3]
    error = told(site, "label", "import", file, "--author", "anna", code=1)["error"]
    assert error["code"] == "bad_labels"
    assert "2 lines cannot be taken, nothing was imported" in error["message"]
    assert "line 2: 'truck' is no class of the task: car, bus" in error["message"]
    assert "line 3: there is no sample 'gate:b-77:0'" in error["message"]
    assert told(site, "label", "import", tmp_path / "none.csv", "--author", "a", code=4)["error"]
    with inside() as store:
        assert labels.count(store) == 0


def test_teachers_labels_go_round_with_their_scores_by_standard_input(site, tmp_path):
    lines = '{"sample": "gate:b-0:0", "class": "car", "score": 0.91}\n{"sample": "gate:b-1:0", "class": "bus", "score": 0.5}\n'
    command = ("label", "import", "-", "--source", "teacher", "--author", "big", "--format", "jsonl")
    assert told(site, *command, stdin=lines)["imported"] == 2
    out = tmp_path / "out.jsonl"
    assert told(site, "label", "export", out, "--source", "teacher")["exported"] == 2
    assert told(site, "label", "undo", "--author", "big")["undone"] == 2
    assert told(site, "label", "import", out, "--source", "teacher", "--author", "big")["new"] == 2
    assert told(site, "label", "import", out, "--author", "anna", code=1)["error"]["code"] == "bad_labels"
    assert (
        edged(site, "label", "export", "--source", "teacher")
        .stdout.splitlines()[1]
        .startswith("gate:b-0:0,car,0.91,teacher,big,")
    )


def test_pictures_leave_by_an_explicit_word_alone_and_the_audit_log_says_so(site, tmp_path, inside):
    told(site, "label", "import", "-", "--author", "anna", stdin="gate:b-0:0,car\ngate:b-1:0,bus\ngate:b-2:0,-\n")
    to = tmp_path / "out"
    assert edged(site, "label", "export", to, "--format", "folder").returncode == 2
    assert edged(site, "label", "export", to, "--with-pictures").returncode == 2
    assert not to.exists()
    assert (
        told(site, "label", "export", to, "--format", "folder", "--with-pictures", "--author", "ben")["exported"] == 2
    )
    assert sorted(str(p.relative_to(to)) for p in to.rglob("*.jpg")) == [
        "bus/gate%3Ab-1%3A0.jpg",
        "car/gate%3Ab-0%3A0.jpg",
    ]
    with inside() as store:
        entry = audit.rows(store)[0]
    assert (entry.actor, entry.act, json.loads(entry.detail)) == (
        "ben",
        "label.export",
        {"pictures": 2, "source": "human"},
    )
    again = edged(site, "label", "export", to, "--format", "folder", "--with-pictures")
    assert (again.returncode, "File exists" in again.stderr) == (1, True)


def test_labels_are_taken_back_by_author_since_a_time_or_on_one_sample(site, inside):
    told(site, "label", "import", "-", "--author", "anna", stdin="gate:b-0:0,car\ngate:b-1:0,bus\n")
    assert told(site, "label", "undo", "--author", "anna", "--since", "2100-01-01")["undone"] == 0
    assert told(site, "label", "undo", "--author", "anna", "--sample", "gate:b-0:0", "--by", "ben")["undone"] == 1
    assert told(site, "label", "undo", "--author", "anna", "--sample", "gate:b-99:0", code=4)["error"]
    assert told(site, "label", "undo", "--author", "anna", "--since", "2020-01-01T00:00")["undone"] == 1
    assert edged(site, "label", "undo", "--author", "anna", "--since", "yesterday").returncode == 2
    with inside() as store:
        assert labels.count(store) == 0
        assert [(e.actor, e.subject) for e in audit.rows(store)][1] == ("ben", "anna")
    assert [told(site, "label", "redo", "--author", "anna")["redone"] for _ in range(3)] == [1, 1, 0]
    assert edged(site, "label", "redo", "--author", "anna").stdout == "0 labels of anna stand again\n"
    assert told(site, "label", "redo", "--author", "Anna", code=4)["error"]["code"] == "not_found"
    assert told(site, "label", "undo", "--author", "", code=4)["error"]["code"] == "not_found"
    with inside() as store:
        assert labels.count(store) == 2


def test_the_statistics_name_counts_disagreement_and_what_the_audit_lacks(site):
    assert edged(site, "label", "stats").stdout == "no labels yet\n"
    told(site, "label", "import", "-", "--author", "anna", stdin="".join(f"gate:b-{n}:0,car\n" for n in range(8)))
    told(site, "label", "import", "-", "--author", "big", "--source", "teacher", stdin="gate:b-0:0,bus,0.9\n")
    document = told(site, "label", "stats")
    assert {(c["source"], c["author"], c["class"], c["camera"], c["n"]) for c in document["counts"]} == {
        ("human", "anna", "car", "gate", 8), ("teacher", "big", "bus", "gate", 1),
    }  # fmt: skip
    assert document["teachers"][0]["above"] is None
    text = edged(site, "label", "stats").stdout
    assert "human: 8 labels" in text
    assert "teacher big: not believed yet:" in text
    assert "of at least 40 audit labels" in text


@pytest.fixture
def crowded(site):
    """48 samples with labels of two people; the lines that say so."""
    with open_store(load(site / "config.toml"), key=True) as store:
        for n in range(8, 48):
            add(store, "gate", n, NOON + n * 60)
        pairs = [(f"gate:b-{n}:0", ("car", "bus")[n % 2]) for n in range(48)]
        labels.add_many(store, pairs[:30], "human", "anna")
        labels.add_many(store, pairs[30:], "human", "ben")
    return pairs


def swapped(pairs):
    return "".join(f"{s},{'bus' if c == 'car' else 'car'}\n" for s, c in pairs)


def test_a_file_that_overturns_what_others_said_is_taken_only_when_it_is_asked_for(site, crowded, inside):
    command = ("label", "import", "-", "--author", "mallory")
    error = told(site, *command, stdin=swapped(crowded), code=1)["error"]
    assert error["code"] == "overturns"
    assert "48 of 48 labels overturn what another person said: 30 of anna, 18 of ben" in error["message"]
    assert "--overturn" in error["hint"]
    dry = edged(site, *command, "--dry-run", stdin=swapped(crowded))
    assert (dry.returncode, "30 of anna, 18 of ben: needs --overturn" in dry.stdout) == (3, True)
    assert told(site, *command, "--dry-run", "--overturn", stdin=swapped(crowded))["overturned"] == {
        "anna": 30, "ben": 18,
    }  # fmt: skip
    with inside() as store:
        assert {c for s, c in crowded} == {"car", "bus"}
        assert [(s.id, c) for s, c in labels.effective(store)] == crowded
    assert told(site, *command, "--overturn", stdin=swapped(crowded))["imported"] == 48
    with inside() as store:
        assert json.loads(audit.rows(store)[0].detail)["overturned"] == {"anna": 30, "ben": 18}


def test_who_corrects_himself_or_a_few_of_others_needs_no_word(site, crowded):
    own = swapped(crowded[:30])
    assert told(site, "label", "import", "-", "--author", "anna", stdin=own)["imported"] == 30
    few = swapped(crowded[30:])  # 18 of another: fewer than 20
    assert told(site, "label", "import", "-", "--author", "anna", stdin=few)["imported"] == 18


def test_what_is_already_so_is_not_written_anew(site, crowded, inside):
    same = "".join(f"{s},{c}\n" for s, c in crowded)
    for author in ("anna", "carl"):
        done = told(site, "label", "import", "-", "--author", author, stdin=same)
        assert (done["imported"], done["same"], done["changed"], done["new"]) == (0, 48, 0, 0)
    text = edged(site, "label", "import", "-", "--author", "carl", stdin=same).stdout
    assert text == "0 labels imported, 48 already so\n"
    with inside() as store:
        assert len(labels.of(store, "gate:b-0:0")) == 1


def test_the_statistics_say_what_is_missing_and_name_a_class_once(site, crowded):
    assert "class_" not in told(site, "label", "stats")["counts"][0]
    assert "all cameras right on" in edged(site, "label", "stats").stdout
    with open_store(load(site / "config.toml"), key=True) as store:
        store.execute("update sample set predicted = ''")
    assert "no camera's answer can be judged yet" in edged(site, "label", "stats").stdout


def test_a_failure_is_pinned_listed_and_unpinned(site, tmp_path, inside):
    file = tmp_path / "labels.csv"
    file.write_text("sample,class\ngate:b-0:0,car\n")
    told(site, "label", "import", file, "--author", "anna")
    assert told(site, "label", "pin", "gate:b-0:0", "--note", "dusk", "--author", "ben")["total"] == 1
    refused = edged(site, "label", "pin", "gate:b-1:0")
    assert refused.returncode != 0
    assert "nobody has said" in refused.stderr
    assert [p["note"] for p in told(site, "label", "pins")["pins"]] == ["dusk"]
    assert told(site, "label", "unpin", "gate:b-0:0")["unpinned"] == 1
    assert edged(site, "label", "pins").stdout.strip() == "nothing is pinned"
    with inside() as store:
        assert [e.act for e in audit.rows(store)[:2]] == ["pin.remove", "pin.add"]


def test_an_empty_file_of_labels_is_called_empty_and_a_header_alone_is_no_label(site, tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text(" \n")
    error = told(site, "label", "import", file, "--author", "anna", code=1)["error"]
    assert (error["code"], error["message"]) == ("empty", f"{file} is empty: not one line is in it")
    assert edged(site, "label", "import", file, "--author", "anna", "--dry-run").returncode == 3
    file.write_text("sample,class\n")
    assert told(site, "label", "import", file, "--author", "anna")["imported"] == 0


def test_labels_are_not_written_over_another_file_unless_one_says_so(site, tmp_path):
    told(site, "label", "import", "-", "--author", "anna", stdin="gate:b-0:0,car\n")
    out = tmp_path / "out.csv"
    out.write_text("mine")
    error = told(site, "label", "export", out, code=1)["error"]
    assert (error["code"], out.read_text()) == ("in_the_way", "mine")
    assert told(site, "label", "export", out, "--force")["exported"] == 1
    assert told(site, "label", "export", out)["exported"] == 1  # the same again
    assert edged(site, "label", "export", "/dev/stdout").stdout.startswith("sample,class")
