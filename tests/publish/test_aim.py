"""Releases that are meant for some cameras: what they replace, who is offered what, ways back, and the next one for all."""

import pytest

from edged.errors import Refused
from edged.publish import aim, fleet, release, rollout
from edged.publish.conduct import ROLLBACK, Conductor
from edged.publish.release import Description
from edged.publish.rules import Rules
from edged.storage import cameras, releases, reports, requests
from edged.wire.messages import CameraInfo, Health, Reported

RULES = Rules(canary=1, wait_s=60, timeout_s=500, steps=(1.0,))
SLOW = Health(20, 1.0, 20.0, 0.9, 0.1, 40)


class Site:
    """Three cameras that take what they are told, the box's rows and signatures."""

    def __init__(self, store, repo, rows, clock, known_answer):
        self.store, self.repo, self.rows, self.clock = store, repo, rows, clock
        self.description = Description("vehicle", ("a", "b"), 32, known_answer, ("generic",))
        self.conductor = Conductor(store, repo, RULES)
        self.join("gate", "roof", "yard")

    def join(self, *names):
        for name in names:
            cameras.set_online(self.store, name, True)
            cameras.set_info(self.store, name, CameraInfo("b", "1.0", "generic", (), 1))

    def release(self, content, apart=()):
        candidate = self.rows.candidate(content)
        recipe = '{"arch": {"input_px": 32}}'
        self.store.execute("update candidate set recipe = ? where id = ?", (recipe, candidate))
        reports.add(self.store, candidate, "atom-x5-e3940", {"known_answer": self.description.known_answer})
        number = release.publish(
            self.store, self.repo, candidate=candidate, description=self.description, author="gate", apart=apart
        )
        return number

    def says(self, camera, status, number, health=None):
        row = releases.get(self.store, number)
        runs = number if status == "SUCCEEDED" else number - 1
        said = Reported("vehicle", runs, row.sha256, rollout.job_of(number), status, health=health)
        cameras.set_reported(self.store, camera, said)
        fleet.record(self.store, camera, said, self.clock.now(), RULES)

    def run(self, turns=8):
        """Every camera takes what it is told of."""
        for _ in range(turns):
            self.clock.time += 61
            if not self.conductor.turn(self.clock.now()).said and not fleet.deliveries.open_releases(self.store):
                return
            for camera, wish in fleet.standing(self.store).items():
                found = wish and {d.camera: d.status for d in fleet.deliveries.of(self.store, wish.version)}[camera]
                if found == "QUEUED":
                    self.says(camera, "SUCCEEDED", wish.version)

    def rollback(self, to, *only):
        requests.add(self.store, ROLLBACK, {"to": to} | ({"cameras": list(only)} if only else {}), "Ada")

    def states(self):
        return {r.number: r.state for r in releases.all(self.store)}

    def standing(self):
        return {c: d.version if d else None for c, d in fleet.standing(self.store).items()}

    def apart(self):
        return {c: r.number for c, r in aim.apart(releases.all(self.store), self.standing()).items()}


@pytest.fixture
def site(store, repo, rows, clock, known_answer):
    """Release 2 runs everywhere, release 1 did before."""
    made = Site(store, repo, rows, clock, known_answer)
    made.release(b"one" * 99)
    made.run()
    made.release(b"two" * 99)
    made.run()
    assert made.states() == {1: "complete", 2: "complete"}
    return made


def test_one_camera_goes_back_and_the_others_stay(site):
    site.rollback(1, "yard")
    site.run()
    third = releases.get(site.store, 3)
    assert (third.state, third.cameras, third.returns_to) == ("complete", ("yard",), 1)
    assert third.sha256 == releases.get(site.store, 1).sha256
    assert site.standing() == {"gate": 2, "roof": 2, "yard": 3}
    assert site.apart() == {"yard": 3}
    assert aim.champion(releases.all(site.store)).number == 2
    assert releases.latest(site.store).number == 2
    site.join("new")
    site.run()
    assert site.standing()["new"] == 2
    assert {p for p in site.repo.targets() if "vehicle" in p} == {"vehicle/2.onnx", "vehicle/3.onnx"}


def test_asked_twice_it_is_one_release(site):
    site.rollback(1, "yard")
    site.run()
    assert release.go_back(site.store, site.repo, to=1, author="Ada", cameras=("yard",)) == 3
    assert release.go_back(site.store, site.repo, to=1, author="Ada", cameras=("gate", "yard")) == 4


def test_a_kill_between_signing_and_recording_is_mended(site, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(releases, "add", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            release.go_back(site.store, site.repo, to=1, author="Ada", cameras=("yard",))
    signed = site.repo.files()
    assert release.go_back(site.store, site.repo, to=1, author="Ada", cameras=("yard",)) == 3
    assert site.repo.files() == signed


def test_it_neither_replaces_nor_holds_up_one_for_all_that_is_on_its_way(site):
    site.release(b"three" * 99)
    site.conductor.turn(site.clock.now())
    assert site.states()[3] == "rolling"
    site.rollback(1, "yard")
    site.run()
    assert site.states() == {1: "complete", 2: "complete", 3: "complete", 4: "complete"}
    assert site.standing() == {"gate": 3, "roof": 3, "yard": 4}


@pytest.mark.parametrize(("left_out", "at_yard"), [(("yard",), 3), ((), 4)])
def test_the_next_release_for_all_leaves_it_out_or_takes_it_back(site, left_out, at_yard):
    site.rollback(1, "yard")
    site.run()
    site.release(b"four" * 99, apart=left_out)
    site.run()
    assert site.standing() == {"gate": 4, "roof": 4, "yard": at_yard}
    assert site.states()[4] == "complete"
    assert site.apart() == ({"yard": 3} if left_out else {})


def test_one_that_is_unwell_there_is_halted_and_that_camera_alone_comes_back(site):
    site.rollback(1, "yard")
    for _ in range(3):
        site.conductor.turn(site.clock.now())
    site.says("yard", "FAILED", 3)
    site.run()
    assert site.states()[3] == "halted"
    assert site.standing()["yard"] == 2
    assert site.apart() == {}


def test_what_a_cycle_offers_is_watched_as_a_new_model_but_may_disagree(site):
    release.go_back(site.store, site.repo, to=1, author=fleet.GATE, cameras=("yard",))
    site.conductor.turn(site.clock.now())
    by = releases.get(site.store, 3).rules
    assert (by["wait_s"], by["max_slowdown"], by["min_agreement"]) == (60, 0.5, 0.0)
    site.says("yard", "SUCCEEDED", 3, SLOW)
    site.run()
    assert site.states()[3] == "halted"
    fourth = releases.get(site.store, 4)
    assert (fourth.cameras, fourth.returns_to, fourth.state) == (("yard",), 2, "complete")
    assert site.standing() == {"gate": 2, "roof": 2, "yard": 4}
    assert site.apart() == {}  # it is the common model by another number: the next release is for it too


def test_one_for_all_that_is_halted_brings_back_to_one_that_was_for_all(site):
    site.rollback(1, "yard")
    site.run()
    site.release(b"four" * 99, apart=("yard",))
    site.run()
    fleet.abort(site.store, 4, "Ada")
    site.run()
    fifth = releases.get(site.store, 5)
    assert (fifth.returns_to, fifth.cameras, fifth.apart) == (2, (), ("yard",))
    assert site.standing() == {"gate": 5, "roof": 5, "yard": 3}


def test_a_person_brings_all_back_also_those_apart(site):
    site.rollback(1, "yard")
    site.run()
    site.rollback(2)
    site.run()
    assert releases.get(site.store, 4).cameras == ()
    assert site.standing() == {"gate": 2, "roof": 2, "yard": 4}


def test_a_camera_that_nobody_knows_is_refused(site):
    with pytest.raises(Refused, match="there is no camera yrad"):
        release.go_back(site.store, site.repo, to=1, author="Ada", cameras=("yrad",))


def test_one_that_is_signed_no_more_is_described_by_its_re_test(site):
    for content in (b"three", b"four"):
        site.release(content * 99)
        site.run()
    first = releases.get(site.store, 1)
    assert first.target not in site.repo.targets()
    number = release.go_back(site.store, site.repo, to=1, author="Ada", cameras=("yard",))
    made, newest = (site.repo.targets()[f"vehicle/{n}.onnx"].custom for n in (number, 4))
    assert {k: made[k] for k in ("name", "classes", "px", "hardware", "known_answer")} == {
        k: newest[k] for k in ("name", "classes", "px", "hardware", "known_answer")
    }


def test_one_that_nobody_described_is_gone(site):
    for content in (b"three", b"four"):
        site.release(content * 99)
        site.run()
    reports.add(site.store, releases.get(site.store, 1).candidate, "atom-x5-e3940", {"accuracy": 0.9})
    with pytest.raises(Refused, match="no longer kept"):
        release.go_back(site.store, site.repo, to=1, author="Ada", cameras=("yard",))


def row(number, cameras=(), apart=(), state="complete", sha="a"):
    kept = dict(name="v", candidate=None, size=1, target="", classes=(), created=0.0, ended=None, detail="")
    return releases.ReleaseRow(number=number, sha256=sha, state=state, cameras=cameras, apart=apart, **kept)


@pytest.mark.parametrize(
    ("newer", "older", "replaced"),
    [
        (row(2), row(1), True),
        (row(2), row(1, ("a",)), True),
        (row(2, apart=("a",)), row(1, ("a", "b")), False),
        (row(2, apart=("c",)), row(1, ("a", "b")), True),
        (row(2, ("a",)), row(1), False),
        (row(2, ("a",)), row(1, ("a", "b")), False),
        (row(2, ("a", "b")), row(1, ("a",)), True),
    ],
)
def test_what_takes_the_place_of_what(newer, older, replaced):
    assert aim.replaces(newer, older) == replaced


def test_words():
    assert [aim.in_words(r) for r in (row(1), row(1, ("a", "b")), row(1, apart=("c",)))] == [
        "", "only a, b", "all but c",
    ]  # fmt: skip
