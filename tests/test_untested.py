"""A model that nothing here can judge is released only when a person says so, and everything says that it was not tested."""

import json

import msgspec
import pytest
from click.testing import CliRunner

from edged.cli import main
from edged.publish import release, rules
from edged.retrain import card, gate
from edged.storage import blocked, brought, candidates, cycles, labels, models, releases, requests, verdicts, views
from edged.storage.seal import read_key
from edged.storage.store import Store
from edged.web import outlook
from tests.site import CLASSES, PX, classifier
from tests.test_improve import Rows, copy

WHY = "it was tested in the lab"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    site = Rows(tmp_path_factory.mktemp("made") / "site", compress={"methods": ["int8"]})
    site.store.close()
    return site


@pytest.fixture
def site(made, tmp_path):
    """No picture, no label."""
    found = copy(made, tmp_path / "site")
    text = (found.folder / "config.toml").read_text().replace(str(made.folder), str(found.folder))
    text = text.replace("block_s = 900", "block_s = 100")
    (found.folder / "config.toml").write_text(text + "\n[train]\ninput_px = 32\n")
    yield found
    found.store.close()


def bring(site, threshold=112.0):
    sha = models.put_model(site.store, classifier(threshold))
    brought.add(site.store, "candidate", sha256=sha, name="big-one", classes=CLASSES, px=PX, author="bob")
    return sha


def ask(site, sha, why=WHY):
    requests.add(site.store, "cycle", {"model": sha, "untested": why}, "ann")
    return site.cycle()


def entries(store, act):
    return store.rows("select actor, subject, detail from audit where act = ?", (act,))


def edged(site, *args, **more):
    return CliRunner().invoke(main, ["-c", str(site.folder / "config.toml"), *map(str, args)], **more)


def test_a_site_without_a_label_releases_what_a_person_vouches_for_and_says_so_everywhere(site):
    sha = bring(site)
    assert ask(site, sha).state == "released"
    assert site.outcome("retest")["told"].startswith("big-one on no picture, 500 frames/s")
    assert site.outcome("gate")["told"] == "big-one passed, not tested here"
    assert site.learn.ran == ["retest"]  # speed, memory and known answer are measured; it is not trained nor compressed
    found = releases.latest(site.store)
    said = f"not tested on this site's pictures; released so by ann: {WHY}"
    assert (found.sha256, found.detail) == (sha, said)
    assert site.repo.targets()[found.target].custom["untested"] == said
    verdict = verdicts.of(site.store, found.candidate)
    assert verdict.passed
    assert verdict.reasons[0] == f"{said} (0 of 4 hold-out samples)"
    (entry,) = entries(site.store, "release")
    assert (entry["actor"], json.loads(entry["detail"])["detail"]) == ("ann", said)
    assert views.models(site.store)[0].untested == said
    assert outlook.look(site.store, found, site.clock.now(), rules.DEFAULTS).untested == said
    assert f"tested: {said}" in card.text(card.of(site.store, sha)).replace("\\", "")
    assert site.loop.why() == ""


def test_without_a_person_it_is_refused_and_told_how(site):
    requests.add(site.store, "cycle", {"model": bring(site)}, "ann")
    found = site.cycle()
    assert found.state == "refused"
    assert "edged model release" in found.detail
    assert "--untested" in found.detail
    assert releases.all(site.store) == []


def test_where_the_gate_can_judge_nobody_may_pass_it_by(site):
    site.see(60)
    bad = bring(site, 0.0)
    found = ask(site, bad)
    assert found.state == "refused"
    assert "the gate can judge it" in found.detail
    assert site.learn.ran == []


def test_where_one_class_alone_is_held_out_a_persons_word_is_taken(site):
    """Else it would be a dead end: no model can beat one that always names the one class, and nobody may vouch for it."""
    site.see(60, label=False)
    labels.add_many(site.store, [(f"gate:b-{n}:0", "dark") for n in range(1, 61)], "human", "ann")
    requests.add(site.store, "cycle", {"model": bring(site)}, "ann")
    found = site.cycle()
    assert (found.state, site.learn.ran) == ("refused", [])
    assert found.detail.startswith(
        "refused for lack of evidence: only `dark` is held out (label crops of `light`, over"
    )
    assert "edged model release" in found.detail
    assert ask(site, bring(site)).state == "released"
    verdict = verdicts.of(site.store, releases.latest(site.store).candidate)
    assert verdict.reasons[0] == (
        f"not tested on this site's pictures; released so by ann: {WHY} (only `dark` is held out)"
    )


def test_the_gate_itself_heeds_nobody_when_there_is_evidence(site):
    """The control: the same word, with enough pictures, changes nothing."""
    site.see(60)
    requests.add(site.store, "cycle", {"model": bring(site, 0.0)}, "bob")
    assert site.cycle().state == "refused"
    row = site.store.row("select body from report order by id desc limit 1")
    from edged.retrain.report import Report

    report = msgspec.json.decode(row["body"], type=Report)
    limits = site.loop.rules.limits
    assert gate.judge(report, limits, "vouched for") == gate.judge(report, limits)
    assert not gate.judge(report, limits, "vouched for").passed
    few = msgspec.structs.replace(limits, min_holdout=10_000)
    assert gate.judge(report, few, "vouched for").passed
    slow = msgspec.structs.replace(few, min_fps=1e9)
    assert not gate.judge(report, slow, "vouched for").passed  # what can be measured here still judges


def test_its_bytes_come_back_by_a_rollback_still_marked_and_a_halted_one_is_not_released_again(site):
    sha = bring(site)
    ask(site, sha)
    releases.set_state(site.store, 1, "complete", "2 cameras took it")
    ask(site, bring(site, 120.0), "newer")
    releases.set_state(site.store, 2, "complete", "2 cameras took it")
    number = release.go_back(site.store, site.repo, to=1, author="ann")
    back = releases.get(site.store, number)
    assert back.sha256 == sha
    assert WHY in site.repo.targets()[back.target].custom["untested"]
    assert WHY in outlook.look(site.store, back, site.clock.now(), rules.DEFAULTS).untested
    blocked.add(site.store, sha, release=number, reason="it failed", author="edged")
    assert "blocked" in ask(site, sha).detail


def test_the_command_asks_notes_and_leaves_a_request(site):
    sha = bring(site)
    site.store.close()
    found = edged(site, "model", "release", "big-one", "--untested", "--reason", WHY, "--author", "ann")
    assert (found.exit_code, "nobody is there to ask" in found.stderr) == (1, True)
    found = edged(
        site, "--json", "model", "release", "big-one", "--untested", "--reason", WHY, "--author", "ann", "--yes"
    )
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["held_out"] == 0
    with Store.open(site.folder, clock=site.clock, site_key=read_key(site.folder / "keys" / "storage.key")) as store:
        asked = requests.pending(store)[-1]
        assert (asked.verb, asked.args, asked.author) == ("cycle", {"model": sha, "untested": WHY}, "ann")
        (entry,) = entries(store, "model.release")
        assert (entry["actor"], entry["subject"], json.loads(entry["detail"])["untested"]) == ("ann", sha, WHY)
        assert cycles.all(store) == []
        assert candidates.all(store) == []


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["big-one", "--untested", "--yes"], 2, "--reason"),
        (["big-one", "--untested", "--yes", "--reason", " "], 2, "--reason"),
        (["nobody", "--untested", "--yes", "--reason", WHY], 4, "nobody"),
        (["big-one"], 1, "--untested"),
        (["big-one", "--reason", WHY], 2, "--untested"),
    ],
)
def test_what_the_command_refuses(site, args, code, words):
    bring(site)
    site.store.close()
    found = edged(site, "model", "release", *args)
    assert (found.exit_code, words in found.output) == (code, True), found.output


def test_the_command_refuses_at_once_where_the_gate_can_judge(site):
    bring(site)
    site.see(120)
    site.store.close()
    (site.folder / "config.toml").write_text(
        (site.folder / "config.toml").read_text() + "\n[retest.gate]\nmin_holdout = 4\n"
    )
    found = edged(site, "model", "release", "big-one", "--untested", "--reason", WHY, "--yes")
    assert found.exit_code == 1, found.output
    assert "the gate can judge it" in found.output


def test_the_command_says_that_one_class_alone_is_held_out(site):
    bring(site)
    site.see(120, label=False)
    labels.add_many(site.store, [(f"gate:b-{n}:0", "dark") for n in range(1, 121)], "human", "ann")
    site.store.close()
    (site.folder / "config.toml").write_text(
        (site.folder / "config.toml").read_text() + "\n[retest.gate]\nmin_holdout = 4\n"
    )
    command = ("model", "release", "big-one", "--untested", "--reason", WHY)
    assert "is not tested here: only `dark` is held out" in edged(site, *command).output
    found = edged(site, *command, "--yes")
    assert found.exit_code == 0, found.output


def test_a_report_on_no_picture_can_be_made_and_passes_on_a_word_alone():
    """By the real re-test's own code; the sites above have a stand-in for it."""
    from types import SimpleNamespace

    from edged.retrain import retest, task, trial
    from edged.retrain.report import Number

    fast = Number(100.0, "measured", "here")
    figures = ("latency_ms_p50", "latency_ms_p95", "fps_here", "fps_device", "memory_bytes", "cold_start_ms")
    speed = dict.fromkeys(figures, fast) | {
        "runtime": "onnxruntime", "stages_ms": {}, "fps_regions": {}, "power_w": None, "file": "onnx", "covered": (),
        "not_covered": (), "imposed": (),
    }  # fmt: skip
    for baseline in ("", "f" * 64):
        job = SimpleNamespace(
            device="cpu", classes=("a", "b"), baseline=baseline, pins_left_out=(), pinned=(), candidates=("e" * 64,)
        )
        assert {t.kind for t in retest.tasks(job, 0)} == {"prepare", "speed"}
        nothing = task.merged([])
        before = nothing if baseline else None
        report = trial.assemble(job, "e" * 64, task.Prepared(10, 5, {}), speed, nothing, before)
        assert not gate.judge(report, gate.GateLimits()).passed
        assert gate.judge(report, gate.GateLimits(), "vouched for").passed
