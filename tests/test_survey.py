"""The walk that looks at new crops: when it starts a child, what it believes of it, and what it does when one fails."""

import numpy as np
import pytest
from safetensors.numpy import save

from edged import survey
from edged.errors import Corrupt, Misconfigured, Refused, Unavailable
from edged.publish import teachers, trust
from edged.retrain import children, jobs
from edged.storage import Store, brought, frames, insights, labels, models, objects, releases, seal
from edged.survey import AGAIN, LOOK_S, Rules, Survey
from edged.wire.messages import Frame, FrameHeader, Region
from tests.storage.conftest import StandIn, StillClock

CLASSES = ("free", "busy")


class Site:
    """A store, its clock, and a child that looks at nothing and says what it is told to."""

    def __init__(self, folder):
        self.clock = StillClock()
        self.key_file = folder / "storage.key"
        self.store = Store.open(folder / "site", clock=self.clock, site_key=seal.make_key(self.key_file))
        self.rules = Rules(CLASSES, self.key_file)
        self.asked = []
        self.fails = []
        self.frames = 0
        self.spoil = lambda columns, result: None
        self.unreadable = ()
        trust.make_keys(folder / "tuf-keys")
        self.repo = trust.Repository(folder / "tuf", folder / "tuf-keys", self.clock)
        self.repo.init()
        self.survey = Survey(self.store, self.rules, self.clock, self.child, self.repo)

    def crops(self, n, content=b"\xff\xd8 a crop"):
        """n frames with a crop each; their sample ids."""
        made = []
        for _ in range(n):
            self.frames += 1
            header = FrameHeader(id=f"f-{self.frames}", ts=self.clock.now(), seq=self.frames, boot="b", w=80, h=60,
                                 regions=(Region(x=0, y=0, w=9, h=9),))  # fmt: skip
            body = f"frame {self.frames}".encode()
            frames.add(
                self.store, Frame("gate", header, body, "frame", self.clock.now()), StandIn(body, 80, 60, (content,))
            )
            made.append(f"gate:f-{self.frames}:0")
            self.clock.sleep(0.001)
        return made

    def release(self, content=b"a model"):
        sha256 = models.put_model(self.store, content)
        releases.add(self.store, number=releases.next_number(self.store), name="parking", candidate=None, sha256=sha256,
                     size=len(content), target="parking/1.onnx", classes=CLASSES)  # fmt: skip
        return sha256

    def teacher(self, content=b"a teacher", name="vgg"):
        sha256 = models.put_model(self.store, content)
        row = brought.add(self.store, "teacher", sha256=sha256, name=name, classes=CLASSES, px=224, author="ada")
        teachers.release(self.store, self.repo, row, "ada")
        return sha256

    def child(self, stage, job, folder, **options):
        assert stage == "survey"
        jobs.check(stage, job)
        self.asked.append(job)
        for match, error in self.fails:
            if match(job):
                raise error
        folder.mkdir(parents=True, exist_ok=True)
        seen = [s for s in job["samples"] if s not in self.unreadable]
        n = len(seen)
        columns = {
            "hash": np.arange(n, dtype="i8") - 3, "answer": np.full(n, 1 if job["sha256"] else -1, "i8"),
            "score": np.full(n, 0.75, "f4"), "margin": np.full(n, 0.5, "f4"),
            "features": np.ones((n, 4 if job["sha256"] else 0), "f2"),
            "asked": np.array([bool(job["teacher"]) and s not in job["told"] for s in seen], "u1"),
            "teacher": np.zeros(n, "i8"), "teacher_score": np.full(n, 0.99, "f4"),
        }  # fmt: skip
        result = {"file": "insights.safetensors", "samples": seen, "skipped": len(job["samples"]) - n, "seconds": 0.5,
                  "unreadable": [s for s in job["samples"] if s in self.unreadable], "note": ""}  # fmt: skip
        self.spoil(columns, result)
        (folder / "insights.safetensors").write_bytes(save({k: v for k, v in columns.items() if v is not None}))
        return result

    def step(self):
        """One that is not too early."""
        self.clock.sleep(LOOK_S)
        return self.survey.step()


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    yield made
    made.store.close()


def test_an_empty_store_is_left_alone(site):
    assert site.step() == ""
    assert site.asked == []


def test_fifty_crops_are_looked_at_and_fewer_wait_ten_minutes(site):
    site.crops(49)
    assert site.step() == ""
    site.crops(1)
    assert site.step().startswith("looked at 50 of 50 crops in 0.5 s without a model")
    assert len(insights.hashes(site.store)) == 50
    (late,) = site.crops(1)
    assert site.step() == ""
    site.clock.sleep(600)
    assert site.step().startswith("looked at 1 of 1")
    assert late in insights.hashes(site.store)


def test_it_looks_at_most_every_half_minute(site):
    site.crops(50)
    assert site.survey.step() != ""
    site.crops(50)
    assert site.survey.step() == ""
    assert site.step() != ""


def test_a_labelled_crop_is_hashed_at_once_however_old(site):
    (sample,) = site.crops(1)
    assert site.step() == ""
    labels.add(site.store, sample, "busy", "human", "ada")
    assert site.step() != ""
    assert sample in insights.hashes(site.store)


def test_the_present_model_is_the_newest_release_that_was_not_halted(site):
    first = site.release(b"first")
    site.release(b"bad")
    releases.set_state(site.store, 2, "halted")
    assert survey.present_model(site.store) == first
    (sample, *_) = site.crops(50)
    site.step()
    found = insights.of(site.store, [sample])[sample]
    assert (found.model, found.answer, found.score, len(found.features)) == (first, "busy", 0.75, 8)


def test_a_new_release_looks_again_at_the_newest_only(site, monkeypatch):
    monkeypatch.setattr(survey, "AGAIN", 20)
    site.release(b"first")
    site.crops(60)
    site.step()
    second = site.release(b"second")
    assert site.step().startswith("looked at 20 of 20")
    assert site.step() == ""
    rows = insights.of(site.store, insights.hashes(site.store))
    assert sum(i.model == second for i in rows.values()) == 20
    assert AGAIN >= 1000


def test_a_teacher_is_asked_once_for_each_crop(site):
    site.release()
    site.crops(50)
    site.step()
    site.teacher()
    assert "50 labels of teacher:vgg@2" in site.step()
    assert site.step() == ""
    assert labels.undo_author(site.store, "teacher:vgg@2") == 50
    site.crops(50)
    assert "50 labels of teacher:vgg@2" in site.step()
    row = labels.of(site.store, "gate:f-100:0")[0]
    assert (row.class_, row.source, row.author, round(row.score, 2)) == ("free", "teacher", "teacher:vgg@2", 0.99)
    assert len(labels.of(site.store, "gate:f-1:0")) == 1


def test_a_teacher_that_fails_is_left_aside_and_the_rest_goes_on(site):
    site.release()
    teacher = site.teacher()
    site.fails.append((lambda job: job["teacher"], Unavailable("killed by SIGSEGV", code="child_killed")))
    site.crops(50)
    assert "teacher" in site.step()
    assert insights.hashes(site.store) == {}
    assert site.step().startswith("looked at 50 of 50")
    assert [bool(j["teacher"]) for j in site.asked] == [True, False]
    assert site.step().startswith("the survey failed")  # a minute is over
    assert site.asked[-1]["teacher"] == teacher
    assert [site.step() for _ in range(3)] == ["", "", ""]  # two minutes now
    site.fails.clear()
    assert "50 labels" in site.step()


@pytest.mark.parametrize(
    "error", [Refused("no ONNX", code="bad_model"), Corrupt("a bug", code="child_failed"), Misconfigured("no runtime")]
)
def test_with_a_model_that_fails_crops_are_hashed_all_the_same(site, error):
    site.release()
    site.crops(50)
    site.fails.append((lambda job: job["sha256"], error))
    assert site.step().startswith("the survey failed; model")
    assert site.step().startswith("looked at 50 of 50 crops in 0.5 s without a model")
    site.fails.clear()
    site.clock.sleep(60)
    assert "with model" in site.step()


def test_when_nothing_helps_it_waits_longer_each_time_and_the_daemon_goes_on(site):
    site.crops(50)
    site.fails.append((lambda job: True, Unavailable("disk full", code="disk_full")))
    tries = []
    for _ in range(400):
        if site.step():
            tries.append(site.clock.now())
    gaps = np.diff(tries)
    assert list(gaps[:4]) == pytest.approx([60, 120, 240, 480], abs=LOOK_S)
    assert len(tries) < 12
    site.fails.clear()
    site.clock.sleep(survey.LONGEST_ASIDE_S)
    assert site.step().startswith("looked at")


def test_while_another_job_runs_it_waits_and_blames_nobody(site):
    site.release()
    site.crops(50)
    site.fails.append((lambda job: True, Unavailable("another job runs", code="busy")))
    assert [site.step() for _ in range(3)] == ["", "", ""]
    site.fails.clear()
    assert "with model" in site.step()


def test_a_crop_that_cannot_be_read_is_not_tried_again_and_again(site):
    made = site.crops(50)
    site.unreadable = {made[0]}
    assert "1 could not be read" in site.step()
    labels.add(site.store, made[0], "busy", "human", "ada")
    assert site.step() == ""
    assert len(site.asked) == 1


def test_a_picture_that_is_erased_while_the_child_looks_leaves_no_row(site):
    made = site.crops(50)
    site.teacher()

    def erase(columns, result):
        with site.store.transaction():
            objects.forget(site.store, [site.store.value("select object from sample where id = ?", (made[3],))])

    site.spoil = erase
    assert site.step().startswith("looked at 49 of 50")
    assert made[3] not in insights.hashes(site.store)
    assert labels.of(site.store, made[3]) == []


def put(column, value):
    def spoil(columns, result):
        columns[column] = value(columns[column])

    return spoil


def said(**changes):
    return lambda columns, result: result.update(changes)


def filled(value):
    def fill(old):
        old = old.copy()
        old.flat[0] = value
        return old

    return fill


@pytest.mark.parametrize(
    "spoil",
    [
        put("answer", filled(2)), put("answer", filled(-2)), put("teacher", filled(2**62)), put("score", filled(np.nan)),
        put("score", filled(7.0)), put("margin", filled(-1.0)), put("features", filled(np.inf)),
        put("hash", lambda a: a[:-1]), put("hash", lambda a: a.astype("u8")), put("asked", lambda a: None),
        put("features", lambda a: np.zeros((len(a), 4000), "f2")), put("features", lambda a: a[:, 0].copy()),
        said(samples=["gate:f-1:0"] * 50), said(samples=["../../etc"]), said(unreadable=["gate:other:0"]),
        said(file="../../edged.db"), said(file="nothing"), said(samples=None), said(seconds="long"), said(unreadable=3),
    ],
)  # fmt: skip
def test_what_a_child_may_not_say_is_not_taken(site, spoil):
    site.release()
    site.teacher()
    site.crops(50)
    site.spoil = spoil
    assert site.step().startswith("the survey failed; teacher")
    assert insights.hashes(site.store) == {}
    assert site.store.value("select count(*) from label") == 0


def test_the_file_between_child_and_store_does_not_stay(site):
    site.crops(50)
    site.step()
    assert not (site.store.data_dir / "jobs" / survey.FOLDER).exists()


def test_what_a_killed_survey_left_is_overwritten_before_it_goes(site, tmp_path):
    folder = site.store.data_dir / "jobs" / survey.FOLDER
    folder.mkdir(parents=True)
    (folder / "insights.safetensors").write_bytes(b"what was seen" * 100)
    (folder / ".insights.safetensors.77.tmp").write_bytes(b"what was seen" * 100)
    with (
        (folder / "insights.safetensors").open("rb") as one,
        (folder / ".insights.safetensors.77.tmp").open("rb") as two,
    ):
        survey.clear(folder)
        assert not any(one.read() + two.read())
    assert not folder.exists()


def test_what_a_killed_survey_left_goes_at_the_next_start_though_nothing_is_to_be_looked_at(site):
    folder = site.store.data_dir / "jobs" / survey.FOLDER
    folder.mkdir(parents=True)
    (folder / "insights.safetensors").write_bytes(b"what was seen" * 100)
    assert site.step() == ""
    assert not folder.exists()


def test_a_real_child_looks_and_a_teacher_that_is_no_model_costs_nothing_but_itself(tmp_path):
    import cv2

    made = Site(tmp_path)
    jpeg = cv2.imencode(".jpg", np.random.default_rng(1).integers(0, 255, (224, 224, 3), np.uint8))[1].tobytes()
    good = made.crops(3, jpeg)
    bad = made.crops(1)
    made.teacher(b"MZ this is no model")
    made.survey.run_job = children.run
    made.clock.sleep(700)
    said = made.survey.step()
    assert said.startswith("the survey failed; teacher")
    assert made.step().startswith("looked at 3 of 4 crops")
    assert sorted(insights.hashes(made.store)) == sorted(good)
    assert made.survey._unreadable == set(bad)
    made.store.close()


def network(width, classes):
    """A small classifier in ONNX: mean colour, two layers."""
    from onnx import TensorProto, helper, numpy_helper

    dice = np.random.default_rng(width)
    weights = {
        "w1": dice.normal(size=(3, width)) / 100, "b1": np.ones(width), "w2": dice.normal(size=(width, len(classes))),
        "b2": np.zeros(len(classes)),
    }  # fmt: skip
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["image"], ["mean"]), helper.make_node("Flatten", ["mean"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w1", "b1"], ["h"]), helper.make_node("Relu", ["h"], ["seen"]),
            helper.make_node("Gemm", ["seen", "w2", "b2"], ["logits"]),
        ],
        "g", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", len(classes)])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(made, {"edged.classes": str(list(classes)).replace("'", '"')})
    return made.SerializeToString()


def test_a_real_child_leaves_answers_features_and_a_teachers_labels(tmp_path):
    import cv2

    made = Site(tmp_path)
    dice = np.random.default_rng(1)
    ids = []
    for _ in range(3):
        image = np.full((224, 224, 3), dice.integers(0, 255, 3), np.uint8)
        ids += made.crops(1, cv2.imencode(".jpg", image)[1].tobytes())
    model = made.release(network(40, ("busy", "free")))
    teacher = made.teacher(network(8, ("lorry", "busy", "free")))
    made.survey.run_job = children.run
    made.clock.sleep(700)
    said = made.survey.step()
    assert said.startswith("looked at 3 of 3 crops")
    assert said.endswith("3 labels of teacher:vgg@2")
    rows = insights.of(made.store, ids)
    assert {(i.model, len(i.features)) for i in rows.values()} == {(model, 64)}
    assert all(i.answer in CLASSES and 0.5 <= i.score <= 1 for i in rows.values())
    assert len({i.features for i in rows.values()}) == 3
    found = [labels.of(made.store, i)[0] for i in ids]
    assert all(x.source == "teacher" and x.class_ in ("", *CLASSES) and 1 / 3 < x.score <= 1 for x in found)
    assert insights.features(made.store, ids, model)[1].shape == (3, 32)
    assert not (made.store.data_dir / "jobs" / survey.FOLDER).exists()
    # a good model in the teacher's place on the disk is not the one that the keys vouch for
    (made.store.models_dir / f"{teacher}.onnx").write_bytes(network(8, ("free", "busy", "lorry")))
    made.crops(1, cv2.imencode(".jpg", image)[1].tobytes())
    made.clock.sleep(700)
    assert "does not hash to its name" in made.survey.step()
    assert made.step().startswith("looked at 1 of 1")
    assert made.store.value("select count(*) from label") == 3
    made.store.close()
