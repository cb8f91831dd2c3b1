"""`edged cycle` as a person meets it; what of a daemon answers is played by a thread or by rows."""

import json
import re
import threading
from dataclasses import replace

import pytest
from click.testing import CliRunner

from edged.cli import main
from edged.clock import SystemClock
from edged.retrain import untaught
from edged.site import NewSite, create, only_daemon
from edged.storage import Store, brought, cycles, labels, models, releases, requests
from tests.site import classifier
from tests.test_improve import Rows, of_one_class


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    rows = Rows(tmp_path_factory.mktemp("cycle") / "site")
    rows.see(60)
    rows.cycle()
    rows.see(12)
    rows.store.close()
    return rows.folder


@pytest.fixture
def site(made, tmp_path):
    import shutil

    folder = tmp_path / "site"
    shutil.copytree(made, folder)
    text = (
        (folder / "config.toml").read_text().replace(str(made), str(folder)).replace("block_s = 900", "block_s = 100")
    )
    (folder / "config.toml").write_text(text + "\n[train]\ninput_px = 32\nnew_labels = 40\n")
    return folder


def edged(site, *args):
    return CliRunner().invoke(main, ["-c", str(site / "config.toml"), *map(str, args)])


def opened(site):
    return Store.open(site, clock=SystemClock(), site_key=None)


def document(result):
    return json.loads(result.stdout)


def test_a_dry_run_says_what_would_be_done_and_does_nothing(site):
    found = edged(site, "cycle", "run", "--dry-run")
    assert found.exit_code == 0, found.output
    assert "not due by itself: waits for 28 more human labels (12 of 40)" in found.stdout
    assert "learn: " in found.stdout
    assert re.search(r"norms    about \d.* of CPU and \d+\.\d MB \(estimated\), fits into 1.5 GB", found.stdout)
    as_json = document(edged(site, "--json", "cycle", "run", "--dry-run"))
    assert sum(as_json["snapshot"].values()) == 72
    assert (as_json["stage"], as_json["rungs"]) == ("learn", ["norms"])
    assert [f["rung"] for f in as_json["forecast"]] == ["norms"]
    held = as_json["snapshot"]["holdout"]
    assert as_json["refused"] == f"refused for lack of evidence: {held} of 50 hold-out samples"
    assert f"{as_json['refused']}: it would end here (label more, over more of the day" in found.stdout
    with opened(site) as store:
        assert requests.pending(store) == []
        assert len(cycles.all(store)) == 1
        assert store.value("select count(*) from snapshot") == 1


def test_a_dry_run_says_in_the_cycles_words_that_a_class_has_no_label(tmp_path):
    rows = Rows(tmp_path / "site")
    of_one_class(rows, 60)
    (rows.folder / "config.toml").write_text(
        (rows.folder / "config.toml").read_text().replace("block_s = 900", "block_s = 100")
        + "\n[train]\ninput_px = 32\n[retest.gate]\nmin_holdout = 4\n"
    )
    found = edged(rows.folder, "cycle", "run", "--dry-run")
    assert found.exit_code == 0, found.output
    refused = document(edged(rows.folder, "--json", "cycle", "run", "--dry-run"))["refused"]
    detail = rows.cycle().detail
    rows.store.close()
    assert refused == "no labelled crop in the train split shows: light"
    assert detail.startswith(f"{refused} (label crops of `light`")
    assert f"{refused}: it would end here {detail.removeprefix(f'{refused} ')}" in found.stdout


def test_a_dry_run_says_in_the_cycles_words_that_too_few_are_labelled(tmp_path):
    rows = Rows(tmp_path / "site")
    rows.see(40)
    rows.loop = replace(rows.loop, rules=replace(rows.loop.rules, least=untaught.LEAST))
    (rows.folder / "config.toml").write_text(
        (rows.folder / "config.toml").read_text().replace("block_s = 900", "block_s = 100")
        + "\n[train]\ninput_px = 32\n[retest.gate]\nmin_holdout = 4\n"
    )
    refused = document(edged(rows.folder, "--json", "cycle", "run", "--dry-run"))["refused"]
    detail = rows.cycle().detail
    rows.store.close()
    assert refused.startswith("too few labelled crops to train on: ")
    assert detail == f"{refused} (label more, over more of the day)"


def test_a_dry_run_says_how_long_a_search_looks_for_more_chains(site):
    assert "search:" not in edged(site, "cycle", "run", "--dry-run").stdout
    with (site / "config.toml").open("a") as config:
        config.write("\n[compress]\nsearch_minutes = 1\n")
    assert "\nsearch: 1 minute over more chains\n" in edged(site, "cycle", "run", "--dry-run").stdout
    assert document(edged(site, "--json", "cycle", "run", "--dry-run"))["search_minutes"] == 1


def test_asking_leaves_a_request_with_the_model_that_was_named(site):
    with opened(site) as store:
        sha = models.put_model(store, classifier(100.0))
        brought.add(store, "candidate", sha256=sha, name="big-one", classes=("dark", "light"), px=32, author="bob")
    assert edged(site, "cycle", "run", "--model", "big-one", "--author", "ann").exit_code == 0
    with opened(site) as store:
        assert [(r.verb, r.args, r.author) for r in requests.pending(store)] == [("cycle", {"model": sha}, "ann")]
    unknown = edged(site, "cycle", "run", "--model", "nothing")
    assert (unknown.exit_code, "no model 'nothing'" in unknown.stderr) == (4, True)
    dry = edged(site, "cycle", "run", "--model", sha[:8], "--dry-run")
    assert "taken: big-one, brought by bob: asked for" in dry.stdout


def test_waiting_needs_a_daemon(site):
    found = edged(site, "cycle", "run", "--wait")
    assert (found.exit_code, "the daemon does not run" in found.stdout) == (5, True)


@pytest.mark.parametrize(("state", "code"), [("released", 0), ("refused", 3), ("failed", 1)])
def test_waiting_ends_with_the_cycle_and_its_exit_code(site, state, code):
    def answer():
        with opened(site) as store:
            while not (asked := requests.pending(store)):
                SystemClock().sleep(0.05)
            number = cycles.start(store, "asked for by ann")
            requests.done(store, asked[0].id, f"cycle {number}")
            cycles.stage_start(store, number, "snapshot")
            SystemClock().sleep(0.8)
            cycles.stage_finish(
                store, number, "snapshot", {"told": "10 train", "cpu_seconds": 1.5, "peak_bytes": 10**8}
            )
            cycles.finish(store, number, state, "for a reason")

    with only_daemon(site):
        daemon = threading.Thread(target=answer)
        daemon.start()
        found = edged(site, "cycle", "run", "--wait")
        daemon.join()
    assert found.exit_code == code, found.output
    assert f"cycle 2 {state}: for a reason" in found.stdout
    assert "cycle 2: snapshot 0%" in found.stderr


@pytest.mark.parametrize("begun", [False, True])
def test_waiting_ends_with_the_daemon_and_says_so_as_if_it_had_never_run(site, begun):
    asked, stop = threading.Event(), threading.Event()

    def daemon():
        with only_daemon(site):
            asked.set()
            with opened(site) as store:
                while not (found := requests.pending(store)) and not stop.is_set():
                    SystemClock().sleep(0.05)
                if found and begun:
                    requests.done(store, found[0].id, f"cycle {cycles.start(store, 'asked for')}")

    thread = threading.Thread(target=daemon)
    thread.start()
    asked.wait()
    found = edged(site, "--json", "cycle", "run", "--wait")
    stop.set()
    thread.join()
    assert found.exit_code == 5, found.output
    told = json.loads(found.stdout)
    assert (told["daemon"], told["cycle"], found.stderr) == (False, 2 if begun else None, "")


def test_waiting_for_one_that_does_not_begin_says_on_stderr_what_it_waits_for(site, monkeypatch):
    monkeypatch.setattr("edged.cli.cycle.SILENT_S", 0.0)
    with opened(site) as store:
        cycles.start(store, "why")
    held = only_daemon(site)
    held.__enter__()

    def leave():
        SystemClock().sleep(1.2)
        held.__exit__(None, None, None)

    thread = threading.Thread(target=leave)
    thread.start()
    found = edged(site, "cycle", "run", "--wait")
    thread.join()
    assert found.stderr == "request 1 waits for the end of cycle 2\n"
    assert found.stdout == "the daemon does not run any more; request 1 begins when it does\n"
    assert found.exit_code == 5


def test_who_stops_waiting_hears_that_the_cycle_is_still_asked_for(site, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("edged.cli.cycle.wait_for", interrupted)
    with only_daemon(site):
        found = edged(site, "cycle", "run", "--wait")
    assert found.exit_code == 130
    assert "request 1 stays: `edged cycle cancel` takes it back" in found.stderr
    with opened(site) as store:
        assert [r.id for r in requests.pending(store)] == [1]


def test_the_list_says_how_each_ended_and_what_the_next_waits_for(site):
    found = edged(site, "cycle", "list")
    assert "released  60 new human labels" in found.stdout
    assert "next: waits for 28 more human labels (12 of 40)" in found.stdout
    assert document(edged(site, "--json", "cycle", "list"))["cycles"][0]["state"] == "released"


def test_one_cycle_is_shown_with_its_stages_and_rungs(site):
    with opened(site) as store:
        number = cycles.start(store, "drift at yard")
        cycles.stage_start(store, number, "train")
        tried = [
            {"name": "norms", "accuracy": 0.9, "cpu_seconds": 2.0, "predicted_seconds": 3.0, "peak_bytes": 4 * 10**8}
        ]
        done = {"told": "norms", "rungs_tried": tried, "cpu_seconds": 4.0, "peak_bytes": 5 * 10**8}
        cycles.stage_finish(store, number, "train", done)
        cycles.stage_start(store, number, "compress")
        cycles.stage_progress(store, number, "compress", 0.5, 8.0, {"text": "calibrating"})
    with only_daemon(site):
        shown = edged(site, "cycle", "show").stdout
    assert "cycle 2 running: drift at yard" in shown
    assert "norms     90.0%  2 s of CPU (3 s predicted), 400.0 MB" in shown
    assert "compress   50%, 8 s left  calibrating" in shown
    as_json = document(edged(site, "--json", "cycle", "show", 1))
    assert [s["name"] for s in as_json["stages"]][:2] == ["snapshot", "reuse"]
    missing = edged(site, "cycle", "show", 99)
    assert (missing.exit_code, "no cycle 99" in missing.stderr) == (4, True)


def test_cancelling_asks_for_the_end_of_the_cycle_that_runs(site):
    none = edged(site, "cycle", "cancel")
    assert (none.exit_code, "no cycle runs" in none.stderr) == (4, True)
    with opened(site) as store:
        cycles.start(store, "why")
    with only_daemon(site):
        assert "cycle 2 ends in a moment" in edged(site, "cycle", "cancel", "--author", "ann").stdout
    with opened(site) as store:
        assert [(r.verb, r.author) for r in requests.pending(store)] == [("cancel", "ann")]


def test_a_cycle_that_was_asked_for_and_has_not_begun_is_taken_back(site):
    edged(site, "cycle", "run")
    assert "taken back" in edged(site, "cycle", "cancel").stdout
    with opened(site) as store:
        assert requests.pending(store) == []


def test_cancelling_leaves_another_that_waits_and_names_it_and_takes_it_back_when_asked_again(site):
    with opened(site) as store:
        cycles.start(store, "why")
        asked = requests.add(store, "cycle", {}, "bob")
    with only_daemon(site):
        first = edged(site, "cycle", "cancel")
        assert f"still asked for: request {asked} of bob" in first.stdout
        with opened(site) as store:
            assert [r.verb for r in requests.pending(store)] == ["cycle", "cancel"]
        second = edged(site, "cycle", "cancel")
        assert f"taken back: request {asked} of bob" in second.stdout
        third = edged(site, "cycle", "cancel")
    assert (third.exit_code, "cycle 2 is ending already" in third.stderr) == (4, True)


def test_a_cycle_that_runs_is_interrupted_only_while_no_daemon_is_there(site):
    with opened(site) as store:
        cycles.start(store, "why")
        cycles.stage_start(store, 2, "snapshot")
        cycles.stage_finish(store, 2, "snapshot", {})
        cycles.stage_start(store, 2, "reuse")
    verbs = ("cycle", "list"), ("cycle", "run", "--dry-run"), ("status",)
    for verb in verbs:
        assert "interrupted" in edged(site, *verb).stdout
    assert "cycle 2 interrupted; goes on when the daemon runs: why" in edged(site, "cycle", "show").stdout
    with only_daemon(site):
        for verb in verbs:
            found = edged(site, *verb).stdout
            assert "a cycle runs: cycle 2: reuse" in found
            assert "interrupted" not in found
        assert "cycle 2 running: why" in edged(site, "cycle", "show").stdout


def test_asking_says_whether_a_daemon_runs_and_what_it_is_at(site):
    alone = edged(site, "cycle", "run")
    assert (alone.exit_code, "the daemon does not run, it begins when it does" in alone.stdout) == (0, True)
    edged(site, "cycle", "cancel")
    with only_daemon(site):
        assert "has ended" not in edged(site, "cycle", "run").stdout
        with opened(site) as store:
            cycles.start(store, "why")
        assert "it begins when cycle 2, which runs, has ended" in edged(site, "cycle", "run").stdout


def test_the_status_says_what_the_next_cycle_waits_for(site):
    found = edged(site, "status")
    assert "next cycle: waits for 28 more human labels (12 of 40)" in found.stdout
    assert document(edged(site, "--json", "status"))["next_cycle"]["waits"].startswith("waits for 28")


def test_a_site_without_anything_answers_too(tmp_path):
    folder = tmp_path / "site"
    create(folder, NewSite("plant-a", ("dark", "light"), ("gate",)), SystemClock())
    assert "next: waits for 300 more human labels" in edged(folder, "cycle", "list").stdout
    assert edged(folder, "cycle", "show").exit_code == 4
    assert "train: a new mobilenet-0.25 from scratch" in edged(folder, "cycle", "run", "--dry-run").stdout


def test_an_earlier_release_can_be_asked_for(site):
    with opened(site) as store:
        (first,) = releases.all(store)
    for word in ("release 1", "r1", first.sha256[:10]):
        assert "asked for, nothing is trained" in edged(site, "cycle", "run", "--model", word, "--dry-run").stdout
    edged(site, "cycle", "run", "--model", "r1")
    with opened(site) as store:
        assert requests.pending(store)[0].args == {"model": first.sha256}


def test_labels_that_contradict_what_was_learned_are_told_before_the_cycle_and_taken_on_a_word(site):
    with opened(site) as store:
        swapped = [(s.id, "light" if c == "dark" else "dark") for s, c in labels.effective(store)]
        labels.add_many(store, swapped, "human", "mallory")
    found = document(edged(site, "--json", "cycle", "run", "--dry-run"))
    assert "labels that the present model learned now say another class" in found["refused"]
    meant = document(edged(site, "--json", "cycle", "run", "--dry-run", "--overturn"))
    assert "another class" not in meant["refused"]
    assert edged(site, "cycle", "run", "--overturn").exit_code == 0
    with opened(site) as store:
        assert requests.pending(store)[0].args == {"overturn": True}
