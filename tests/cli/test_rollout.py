"""`edged rollout` and `edged model rollback` as a person meets them; the daemon is a thread that takes its turns."""

import hashlib
import json
import threading
from contextlib import contextmanager

import pytest
from click.testing import CliRunner

from edged.cli import main
from edged.clock import SystemClock
from edged.publish import fleet
from edged.publish.conduct import Conductor
from edged.publish.rules import Rules
from edged.publish.trust import Repository
from edged.site import NewSite, create, only_daemon
from edged.storage import Store, audit, blocked, cameras, deliveries, models, releases, requests
from edged.web import outlook
from edged.wire.messages import CameraInfo, Health, Reported

RULES = Rules(canary=1, wait_s=0, timeout_s=1e9, steps=(1.0,))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Release 1 is complete on two cameras, release 2 waits. Both are signed."""
    folder, clock = tmp_path_factory.mktemp("rollout") / "site", SystemClock()
    create(folder, NewSite("plant-a", ("a", "b"), ("gate", "yard")), clock)
    repo = Repository(folder / "tuf", folder / "keys" / "tuf", clock)
    with Store.open(folder, clock=clock, site_key=None) as store:
        for camera in ("gate", "yard"):
            cameras.set_online(store, camera, True)
        for number, content in ((1, b"one" * 99), (2, b"two" * 99)):
            custom = {"name": "vehicle", "classes": ["a", "b"], "release": number}
            repo.add_target(f"vehicle/{number}.onnx", content, custom)
            releases.add(
                store, number=number, name="vehicle", candidate=None, sha256=models.put_model(store, content),
                size=len(content), target=f"vehicle/{number}.onnx", classes=("a", "b"), state="waiting",
            )  # fmt: skip
            if number == 1:
                fleet.start(store, 1, RULES, "test")
                for camera in ("gate", "yard"):
                    deliveries.upsert(store, 1, camera, "SUCCEEDED", canary=camera == "gate")
                releases.set_state(store, 1, "complete", "2 cameras took it")
    with (folder / "config.toml").open("a") as config:
        config.write("\n[rollout]\nauto = false\nwait_s = 0\nsteps = [0.1, 0.5, 1.0]\n")
    return folder


@pytest.fixture
def site(made, tmp_path):
    import shutil

    folder = tmp_path / "site"
    shutil.copytree(made, folder)
    (folder / "config.toml").write_text((folder / "config.toml").read_text().replace(str(made), str(folder)))
    return folder


def edged(site, *args, **options):
    return CliRunner().invoke(main, ["-c", str(site / "config.toml"), *map(str, args)], **options)


@pytest.fixture
def terminal(monkeypatch):
    """`with terminal():` somebody is there to answer."""

    @contextmanager
    def there():
        with monkeypatch.context() as patch:
            patch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True, raising=False)
            yield

    return there


def opened(site):
    return Store.open(site, clock=SystemClock(), site_key=None)


def document(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def daemon(site):
    """Holds the lock and takes turns, as `edged run` does, until the test is over."""
    stop, clock = threading.Event(), SystemClock()

    def turns():
        repo = Repository(site / "tuf", site / "keys" / "tuf", clock)
        with opened(site) as store:
            conductor = Conductor(store, repo, RULES, auto=False)
            while not stop.wait(0.05):
                conductor.turn(clock.now())

    thread = threading.Thread(target=turns)
    with only_daemon(site):
        thread.start()
        yield
        stop.set()
        thread.join()


def test_a_release_is_started_paused_resumed_and_aborted(site):
    started = edged(site, "rollout", "start", "--author", "ada")
    assert started.exit_code == 0
    assert started.stdout == "release 2 starts; the daemon does not run, cameras hear of it when it does\n"
    with opened(site) as store:
        assert releases.get(store, 2).rules["steps"] == [0.1, 0.5, 1.0]
    assert document(edged(site, "--json", "rollout", "pause"))["state"] == "paused"
    assert document(edged(site, "--json", "rollout", "resume", 2))["state"] == "rolling"
    aborted = document(edged(site, "--json", "rollout", "abort", "--reason", "ghosts", "--author", "ada", "--yes"))
    assert (aborted["state"], aborted["astray"]) == ("halted", [])
    with opened(site) as store:
        assert [b.reason for b in blocked.all(store)] == ["aborted by ada: ghosts"]
        acts = [(r.act, r.actor) for r in reversed(audit.rows(store))]
    assert ("rollout.start", "ada") in acts
    assert ("rollout.pause", "command line") in acts
    assert acts[-1] == ("rollout.abort", "ada")


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("rollout", "pause"), 4, "no release is rolling"),
        (("rollout", "start", 9), 4, "there is no release 9"),
        (("rollout", "start", 1), 1, "release 1 is complete: start needs one that is waiting"),
        (("rollout", "pause", 2), 1, "release 2 is waiting: pause needs one that is rolling"),
        (("rollout", "start", 0), 2, "0 is not in the range"),
        (("rollout", "status", 1 << 63), 2, "is no number of a release"),
        (("rollout", "status", (1 << 63) - 1), 4, "there is no release 9223372036854775807"),
        (("rollout", "abort", "x"), 2, "'x' is no number of a release; `edged rollout status` lists them"),
        (("model", "rollback", "x"), 2, "'x' is no number of a release; `edged rollout status` lists them"),
        (("rollout", "status", 9), 4, "there is no release 9"),
        (("rollout", "unblock", "abcdef"), 4, "no blocked model begins with 'abcdef'"),
        (("model", "rollback", 9), 4, "there is no release 9"),
        (("model", "rollback", 2), 1, "release 2 has not been offered yet"),
    ],
)
def test_what_cannot_be_is_said_in_words(site, args, code, words):
    found = edged(site, *args)
    assert (found.exit_code, words in found.stderr) == (code, True), found.stderr
    as_json = edged(site, "--json", *args)
    assert as_json.exit_code == code
    if code != 2:  # of usage Verbs.main tells, which CliRunner goes around
        assert json.loads(as_json.stderr)["error"]["message"].startswith(words)


def test_the_status_has_a_bar_for_each_status_and_says_what_is_waited_for(site):
    edged(site, "rollout", "start")
    with opened(site) as store:
        deliveries.upsert(store, 2, "gate", "IN_PROGRESS", progress=0.4, canary=True)
    told = edged(site, "rollout", "status", 2).stdout
    assert "release 2 IN_PROGRESS: rolling just now" in told or "release 2 IN_PROGRESS: rolling " in told
    assert "  IN_PROGRESS [##########..........] 1 of 2\n" in told
    assert "  NOT TOLD    [##########..........] 1 of 2\n" in told
    assert "  waits for canary gate, 40 %\n" in told
    assert "    gate             canary IN_PROGRESS 40 %" in told
    assert "a canary first, then 10 %, 50 % and 100 % of the cameras" in told


def test_a_camera_that_is_not_well_is_told_of_with_its_figures(site):
    edged(site, "rollout", "start")
    health = Health(20, 8.0, 8.0, 0.31, 0.1, 40)
    with opened(site) as store:
        deliveries.upsert(store, 2, "gate", "SUCCEEDED", canary=True, health=health, unwell="it disagrees", signed=True)
    found = edged(site, "rollout", "status", 2).stdout
    assert "UNWELL      [" in found
    assert "it disagrees; agrees with the model before on 31 % of 40 regions, 8.0 frames/s (before 8.0)" in found
    [camera] = document(edged(site, "--json", "rollout", "status", 2))["cameras"]
    assert (camera["unwell"], camera["signed"], camera["health"]["agreement"]) == ("it disagrees", True, 0.31)


def test_the_list_is_one_document_with_the_words_of_aws(site):
    found = document(edged(site, "--json", "rollout", "status"))
    assert [(r["job"], r["state"], r["status"]) for r in found["rollouts"]] == [
        ("release-2", "waiting", "SCHEDULED"), ("release-1", "complete", "COMPLETED"),
    ]  # fmt: skip
    assert found["rollouts"][0]["waits"] == "its start"
    assert found["blocked"] == []
    assert "release 1 COMPLETED" in edged(site, "rollout", "status").stdout


def test_watching_ends_with_the_rollout_and_its_exit_code_says_how(site):
    assert edged(site, "rollout", "status", 1, "--watch").exit_code == 0
    edged(site, "rollout", "abort", 2)
    found = edged(site, "rollout", "status", "--watch")
    assert found.exit_code == 3
    assert "release 2 CANCELED: halted" in found.stdout


def test_bytes_of_a_halted_release_are_unblocked_by_a_person(site, terminal):
    edged(site, "rollout", "abort", 2, "--reason", "ghosts")
    digits = hashlib.sha256(b"two" * 99).hexdigest()[:8]
    assert f"blocked: {digits}" in edged(site, "rollout", "status").stdout
    refused = edged(site, "rollout", "unblock", digits, input="y\n")
    assert (refused.exit_code, "nobody is there to ask" in refused.stderr) == (1, True)
    with terminal():
        asked = edged(site, "rollout", "unblock", digits, input="n\n")
    assert asked.exit_code != 0
    assert "release 2 was halted: aborted by command line: ghosts" in asked.output
    with opened(site) as store:
        assert len(blocked.all(store)) == 1
    assert document(edged(site, "--json", "rollout", "unblock", digits, "--yes"))["release"] == 2
    with opened(site) as store:
        assert blocked.all(store) == []


def test_who_unblocks_is_told_both_ways_to_release_it_again(site):
    edged(site, "rollout", "abort", 2, "--reason", "ghosts")
    sha256 = hashlib.sha256(b"two" * 99).hexdigest()[:12]
    told = edged(site, "rollout", "unblock", sha256, "--yes").stdout
    assert f"`edged cycle run --model {sha256}` re-tests" in told
    assert f"where too little is labelled to judge it: `edged model release {sha256} --untested --reason WHY`" in told


def test_an_abort_that_names_no_release_asks_and_says_which_and_what_becomes_of_cameras(site, terminal):
    edged(site, "rollout", "start")
    digits = hashlib.sha256(b"two" * 99).hexdigest()[:12]
    what = f"release 2, vehicle {digits}, is rolling: its bytes are blocked for good; no camera runs it yet"
    alone = edged(site, "--json", "rollout", "abort", input="y\n")
    assert alone.exit_code == 1
    said = json.loads(alone.stderr)["error"]
    assert (said["code"], said["message"]) == ("not_asked", f"{what}; nobody is there to ask")
    assert "`edged rollout abort 2`" in said["hint"]
    assert "--yes" in said["hint"]
    with terminal():
        no = edged(site, "rollout", "abort", input="n\n")
        assert (no.exit_code != 0, what in no.stderr) == (True, True)
        with opened(site) as store:
            assert (releases.get(store, 2).state, blocked.all(store)) == ("rolling", [])
        assert edged(site, "rollout", "abort", input="y\n").stdout.startswith("release 2 is halted")


def test_an_abort_names_the_cameras_that_have_begun_before_and_after(site, terminal):
    edged(site, "rollout", "start")
    with opened(site) as store:
        deliveries.upsert(store, 2, "gate", "IN_PROGRESS", progress=0.4, canary=True)
        deliveries.upsert(store, 2, "yard", "QUEUED")
    becomes = "gate is taking it and goes back to the model of release 1 afterwards"
    with terminal():
        assert becomes in edged(site, "rollout", "abort", input="n\n").stderr
    aborted = document(edged(site, "--json", "rollout", "abort", 2))
    assert (aborted["astray"], aborted["taking"], aborted["back_to"]) == ([], ["gate"], 1)


def test_what_becomes_of_cameras_is_said_of_those_that_run_it_and_of_those_that_are_taking_it(site):
    with opened(site) as store:
        one, two = releases.get(store, 1), releases.get(store, 2)
        both = outlook.after_abort(store, two, ["gate"], ["yard"])
        assert both == (
            "1 camera that runs it goes back to the model of release 1; yard is taking it and goes back afterwards"
        )
        last = outlook.after_abort(store, one, ["gate"], ["yard"])
    assert last == (
        "1 camera runs it and keeps it; yard is taking it and keeps it, since there is no earlier release to return to"
    )


def test_a_rollback_without_the_daemon_is_asked_for(site):
    with opened(site) as store:
        fleet.start(store, 2, RULES, "test")
        releases.set_state(store, 2, "complete")
    found = edged(site, "model", "rollback", 1)
    assert found.exit_code == 0
    assert found.stdout == "asked; the daemon does not run; it signs this when it does\n"


def test_a_rollback_does_not_wait_for_a_daemon_that_ends(site):
    with opened(site) as store:
        fleet.start(store, 2, RULES, "test")
        releases.set_state(store, 2, "complete")
    held = only_daemon(site)
    held.__enter__()
    leaves = threading.Timer(0.5, held.__exit__, (None, None, None))
    leaves.start()
    found = edged(site, "model", "rollback", 1)
    leaves.join()
    assert found.stdout == "asked; the daemon does not run; it signs this when it does\n"


def test_a_rollback_with_the_daemon_answers_with_its_number(site, daemon):
    with opened(site) as store:
        fleet.start(store, 2, RULES, "test")
        releases.set_state(store, 2, "complete")
    found = document(edged(site, "--json", "model", "rollback", 1))
    assert (found["release"], found["to"], found["daemon"]) == (3, 1, True)
    with opened(site) as store:
        assert releases.get(store, 3).returns_to == 1


def test_a_rollback_names_what_it_supersedes(site, daemon):
    edged(site, "rollout", "start")
    found = edged(site, "model", "rollback", 1)
    assert found.stdout.startswith("release 3 names the bytes of release 1; release 2, which rolls, is superseded; ")


def test_a_rollback_without_the_daemon_names_what_it_will_supersede_and_one_of_a_camera_leaves_it(site):
    edged(site, "rollout", "start")
    edged(site, "rollout", "pause")
    asked = "asked; the daemon does not run; it signs this when it does"
    assert edged(site, "model", "rollback", 1, "--camera", "yard").stdout == f"{asked}\n"
    assert edged(site, "model", "rollback", 1).stdout == f"{asked}; release 2, which is paused, is superseded then\n"
    assert document(edged(site, "--json", "model", "rollback", 1))["superseded"] == [2]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("rolling", "nothing is to be done: release 2 is the newest and rolls\n"),
        ("complete", "nothing is to be done: release 2 is the newest and is complete\n"),
        (
            "paused",
            "nothing is to be done: release 2 is the newest and is paused; `edged rollout resume 2` brings it to cameras\n",
        ),
    ],
)
def test_a_rollback_to_what_is_offered_already_says_that_nothing_is_to_be_done(site, state, words):
    with opened(site) as store:
        fleet.start(store, 2, RULES, "test")
        releases.set_state(store, 2, state)
    assert edged(site, "model", "rollback", 2).stdout == words
    found = document(edged(site, "--json", "model", "rollback", 2))
    assert (found["request"], found["release"], found["superseded"]) == (None, 2, [])
    with opened(site) as store:
        assert requests.pending(store) == []


def test_a_rollback_to_bytes_that_a_newer_release_names_already_says_which(site, daemon):
    with opened(site) as store:
        fleet.start(store, 2, RULES, "test")
        releases.set_state(store, 2, "complete")
    edged(site, "model", "rollback", 1)
    again = edged(site, "model", "rollback", 1).stdout
    assert again.startswith("nothing is to be done: release 3, which names the bytes of release 1, is the newest and ")


def test_a_rollback_of_one_camera(site, daemon):
    with opened(site) as store:
        fleet.start(store, 2, RULES, "test")
        releases.set_state(store, 2, "complete")
    assert "there is no camera yrad" in edged(site, "model", "rollback", 1, "--camera", "yrad").stderr
    found = edged(site, "model", "rollback", 1, "--camera", "yard")
    assert found.stdout.startswith("release 3 names the bytes of release 1, for yard alone; ")
    with opened(site) as store:
        assert releases.get(store, 3).cameras == ("yard",)
    assert "only yard" in edged(site, "rollout", "status").stdout
    assert document(edged(site, "--json", "rollout", "status", "3"))["only"] == ["yard"]


def test_what_the_daemon_refuses_is_said_as_it_says_it(site, daemon):
    with opened(site) as store:
        fleet.start(store, 2, RULES, "test")
        releases.set_state(store, 2, "complete")
        store.execute("update release set target = 'vehicle/77.onnx', name = 'lorry' where number = 1")
    found = edged(site, "model", "rollback", 1)
    assert found.exit_code == 1
    assert "release 1 is no longer kept" in found.stderr


def test_one_that_rolls_is_replaced_only_when_it_is_asked_for(site):
    edged(site, "rollout", "start")
    with opened(site) as store:
        releases.add(
            store, number=3, name="vehicle", candidate=None, sha256="3" * 64, size=9, target="vehicle/3.onnx",
            classes=("a", "b"), state="waiting",
        )  # fmt: skip
    found = edged(site, "rollout", "start", 3)
    assert found.exit_code == 1
    assert "release 2 is rolling: release 3 would take its place" in found.stderr
    assert "edged rollout start 3 --replace" in found.stderr
    assert "takes the place of release 2, if it is started with --replace" in edged(site, "rollout", "status").stdout
    assert edged(site, "rollout", "start", 3, "--replace").stdout.startswith(
        "release 3 starts; release 2 is superseded;"
    )


def test_the_status_of_one_that_waits_tells_the_rules_of_the_configuration(site):
    told = document(edged(site, "--json", "rollout", "status"))["rollouts"][0]
    assert told["plan"] == "a canary first, then 10 %, 50 % and 100 % of the cameras"
    (site / "config.toml").write_text((site / "config.toml").read_text().replace("wait_s = 0", "wait_s = 7200"))
    assert "of the cameras once it has run it for 2 h" in edged(site, "rollout", "status", 2).stdout


def test_the_status_names_who_is_left_out_and_who_runs_what_was_given_up(site):
    edged(site, "rollout", "start")
    sha256 = hashlib.sha256(b"two" * 99).hexdigest()
    with opened(site) as store:
        store.execute("update release set hardware = '[\"generic\"]' where number = 2")
        cameras.set_info(store, "gate", CameraInfo("b", "1.0", "generic", (), 1))
        cameras.set_info(store, "yard", CameraInfo("b", "1.0", "atom", (), 1))
        cameras.set_reported(store, "gate", Reported("vehicle", 2, sha256, "release-2", "SUCCEEDED"))
        deliveries.upsert(store, 2, "gate", "SUCCEEDED", canary=True)
    told = edged(site, "rollout", "status", 2).stdout
    assert "    yard                    left out: it is atom, the release is for generic\n" in told
    aborted = edged(site, "rollout", "abort", 2).stdout
    assert "; 1 camera that runs it goes back to the model of release 1;" in aborted
    assert "gate still runs it; release 1 was the last good one" in edged(site, "rollout", "status").stdout
    with opened(site) as store:
        releases.set_state(store, 1, "halted")
    assert "gate still runs it: there is no earlier release to return to" in edged(site, "rollout", "status", 2).stdout


def test_who_runs_bytes_that_were_released_again_is_not_said_to_run_the_halted_release(site):
    sha256 = hashlib.sha256(b"two" * 99).hexdigest()
    edged(site, "rollout", "start")
    with opened(site) as store:
        cameras.set_reported(store, "gate", Reported("vehicle", 2, sha256, "release-2", "SUCCEEDED"))
        deliveries.upsert(store, 2, "gate", "SUCCEEDED", canary=True)
    edged(site, "rollout", "abort", 2)
    edged(site, "rollout", "unblock", sha256[:12], "--yes")
    assert "gate still runs it" in edged(site, "rollout", "status", 2).stdout
    with opened(site) as store:
        releases.add(
            store, number=3, name="vehicle", candidate=None, sha256=sha256, size=9, target="vehicle/3.onnx", classes=("a",),
            state="complete",
        )  # fmt: skip
    assert "still runs it" not in edged(site, "rollout", "status", 2).stdout
