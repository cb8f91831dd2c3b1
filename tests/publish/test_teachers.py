"""A teacher as a release: signed, asked, put back by number, and never a camera's."""

import pytest

from agent import offer
from edged.errors import Corrupt, Refused
from edged.publish import release, teachers
from edged.storage import audit, blocked, brought, deliveries, models, releases, requests

CLASSES = ("a", "b", "none")


@pytest.fixture
def bring(store):
    def made(content=b"a teacher", name="VGG 16", classes=CLASSES):
        sha256 = models.put_model(store, content)
        return brought.add(
            store, "teacher", sha256=sha256, name=name, classes=classes, px=224, author="ada", replace=True
        )

    return made


def test_what_the_keys_vouch_for_is_asked_whatever_the_rows_say(store, repo, bring):
    vgg = bring()
    assert teachers.standing(store, repo) is None
    assert [b.name for b in teachers.unsigned(store, repo)] == ["VGG 16"]
    number = teachers.release(store, repo, vgg, "ada")
    assert teachers.release(store, repo, vgg, "ada") == number == 1
    found = teachers.standing(store, repo)
    assert (found.name, found.sha256, found.classes, found.px, found.author) == (
        "VGG 16", vgg.sha256, CLASSES, 224, "teacher:VGG 16@1"
    )  # fmt: skip
    target = repo.targets()["vgg-16/1.onnx"]
    assert (target.custom["kind"], target.custom["release"], "chunks" in target.custom) == ("teacher", 1, False)
    row = releases.get(store, number)
    assert (row.kind, row.state, row.actor, row.sha256) == ("teacher", "complete", "ada", vgg.sha256)
    assert (audit.rows(store)[0].act, audit.rows(store)[0].subject) == ("release", "1")
    # somebody writes to the catalogue
    other = models.put_model(store, b"another file")
    store.execute("update release set sha256 = ?", (other,))
    store.execute("update brought set classes = ?, sha256 = ?", ('["b", "a", "none"]', other))
    assert teachers.standing(store, repo) == found


def test_a_word_chooses_and_who_was_retired_is_not_asked(store, repo, bring):
    vgg, big = bring(), bring(b"bigger", "big")
    for one in (vgg, big):
        teachers.release(store, repo, one, "ada")
    assert teachers.standing(store, repo).name == "big"
    assert (
        teachers.standing(store, repo, "VGG 16").name == teachers.standing(store, repo, vgg.sha256[:8]).name == "VGG 16"
    )
    assert teachers.standing(store, repo, vgg.sha256[:5]) is None
    brought.retire(store, big.sha256, "ada")
    assert teachers.standing(store, repo).name == "VGG 16"
    assert teachers.standing(store, repo, "big") is None


def test_an_earlier_teacher_is_put_back_by_number_and_keeps_its_name_as_author(store, repo, bring):
    old, new = bring(b"old"), bring(b"new")
    for one in (old, new):
        teachers.release(store, repo, one, "ada")
    assert teachers.standing(store, repo).author == "teacher:VGG 16@2"
    assert release.go_back(store, repo, to=1, author="bo") == 3
    found = teachers.standing(store, repo)
    assert (found.sha256, found.release, found.author) == (old.sha256, 3, "teacher:VGG 16@1")
    assert release.go_back(store, repo, to=1, author="bo") == 3  # it is there already
    assert [(r.number, r.state, r.returns_to) for r in releases.all(store, "teacher")] == [
        (1, "superseded", None), (2, "superseded", None), (3, "complete", 1),
    ]  # fmt: skip
    assert audit.rows(store)[0].act == "roll back"
    # the same bytes read in another way are another teacher
    teachers.release(store, repo, bring(b"old", classes=("b", "a", "none")), "ada")
    assert teachers.standing(store, repo).author == "teacher:VGG 16@4"
    brought.retire(store, new.sha256, "ada")
    with pytest.raises(Refused, match="retired"):
        release.go_back(store, repo, to=2, author="bo")


def test_no_camera_is_offered_one_and_none_would_take_it(store, repo, bring, rows, known_answer):
    student = rows.candidate()
    about = release.Description("vgg-16", ("a", "b"), 32, known_answer, ("generic",))
    first = release.publish(store, repo, candidate=student, description=about, author="gate")
    number = teachers.release(store, repo, bring(), "ada")
    assert [r.number for r in releases.all(store)] == [first]
    assert releases.latest(store).number == first
    assert deliveries.of(store, number) == []
    target = repo.targets()[f"vgg-16/{number}.onnx"]
    with pytest.raises(Refused, match="cannot be used"):
        offer.describe(target.path, target.length, {"sha256": target.sha256}, target.custom)
    # the next student of that very name leaves it signed, and so does the next teacher a student
    second = release.publish(store, repo, candidate=rows.candidate(b"next " * 99), description=about, author="gate")
    teachers.release(store, repo, bring(b"next"), "ada")
    assert {f"vgg-16/{n}.onnx" for n in (second, number)} <= repo.targets().keys()


def test_a_model_for_cameras_is_not_released_by_hand(store, repo):
    sha256 = models.put_model(store, b"student")
    row = brought.add(store, "candidate", sha256=sha256, name="net", classes=CLASSES, px=32, author="ada")
    with pytest.raises(Refused, match="the gate"):
        teachers.release(store, repo, row, "ada")
    assert repo.targets() == {}


def test_a_kill_between_signature_and_row_is_mended(store, repo, bring, monkeypatch):
    vgg = bring()
    with monkeypatch.context() as m:
        m.setattr(teachers, "_record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            teachers.release(store, repo, vgg, "ada")
    assert releases.all(store, None) == []
    assert teachers.standing(store, repo).sha256 == vgg.sha256  # what is signed is in force
    assert teachers.release(store, repo, vgg, "ada") == 1
    assert [r.number for r in releases.all(store, "teacher")] == [1]


def test_the_last_few_stay_signed_and_a_file_that_changed_is_not_released(store, repo, bring):
    brought_ = [bring(b"teacher %d" % i) for i in range(teachers.KEPT + 2)]
    for one in brought_:
        teachers.release(store, repo, one, "ada")
    assert sorted(t.custom["release"] for t in repo.targets().values()) == list(range(3, teachers.KEPT + 3))
    with pytest.raises(Refused, match="no longer kept"):
        release.go_back(store, repo, to=1, author="ada")
    path = models.sent_path(store, brought_[4].sha256)
    path.write_bytes(b"somebody's own")
    with pytest.raises(Corrupt, match="does not hash"):
        release.go_back(store, repo, to=5, author="ada")
    assert teachers.standing(store, repo).release == teachers.KEPT + 2


def test_a_model_for_cameras_is_refused_with_the_step_that_is_open_to_it(store, repo):
    sha256 = models.put_model(store, b"for cameras")
    found = brought.add(store, "candidate", sha256=sha256, name="net", classes=CLASSES, px=32, author="ada")

    def hint():
        with pytest.raises(Refused, match="net is no teacher") as e:
            teachers.release(store, repo, found, "ada")
        return e.value.hint

    assert hint().startswith(f"`edged cycle run --model {sha256[:12]}` has it re-tested")
    assert f"`edged model release {sha256[:12]} --untested --reason WHY`" in hint()
    number = requests.add(store, "cycle", {"model": sha256}, "ada")
    assert hint().startswith(f"request {number} has it re-tested")
    blocked.add(store, sha256, release=1, reason="ghosts", author="ada")
    assert hint() == f"it is blocked; if it is good after all: `edged rollout unblock {sha256[:12]} --yes`"
