"""The ladder finds the cheapest rung that does it, resumes to the same bits, and says so when nothing is learned."""

import dataclasses
import json

import msgspec
import numpy as np
import pytest
import torch

from edged.clock import SystemClock
from edged.errors import Corrupt, Refused
from edged.retrain import jobs, ladder, lesson, norms, probe, refit, standing, train, whole, zoo
from edged.retrain.pictures import Pictures

torch.set_num_threads(1)
ARCH = {"name": "mobilenet-0.125", "input_px": 32}


def job_of(**more):
    fields = {"data_dir": "", "classes": ["disc", "box"], "start": "0", "arch": ARCH}
    return msgspec.convert(fields | more, jobs.LearnJob)


DAY = ((190, 80, 70), (70, 80, 190))  # mean colours of discs and boxes
OTHER = ((80, 190, 80), (170, 80, 170))


def spots(n, *, seed, camera="gate", colours=DAY, light=1.0):
    """Noisy pictures that their colour tells apart; `light` darkens them."""
    dice = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    means = np.array(colours)[labels][:, None, None, :] + dice.normal(0, 15, (n, 1, 1, 3))
    pixels = np.clip((means + dice.normal(0, 40, (n, 32, 32, 3))) * light, 0, 255).astype(np.uint8)
    return Pictures(pixels, labels.astype(np.int64), (camera,) * n, tuple(f"{camera}:{i}:0" for i in range(n)))


@pytest.fixture(scope="module")
def champion(tmp_path_factory):
    """Weights that know red from blue by daylight."""
    known = spots(300, seed=1)
    how = msgspec.structs.replace(ladder.as_train(job_of()), epochs=4, epoch_least=1000, mirror=0.0)
    checkpoint = tmp_path_factory.mktemp("champion") / "checkpoint"
    net, _ = train.teach(how, known, known, b"", checkpoint, clock=SystemClock(), progress=quiet)
    norms.measure(net, known.pixels)  # so few steps leave the running averages behind
    return train.weights_of(net, how)


def quiet(*_):
    pass


def data_of(*, n=100, **change):
    new = spots(n, seed=5, camera="yard", **change)
    return lesson.Data(
        new, spots(n, seed=3), spots(60, seed=6, camera="yard", **change), spots(60, seed=4), new.pixels[:0]
    )  # fmt: skip


CONTENT, DARK = {"colours": OTHER[::-1]}, {"light": 0.25}


def climb(weights, data, folder, *, progress=quiet, **more):
    job = job_of(**more)
    folder.mkdir(exist_ok=True)
    return ladder.climb(ladder.start_net(job, weights), data, job, folder, clock=SystemClock(), progress=progress)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(ladder, "LEAST", 1500)
    monkeypatch.setattr(ladder, "PASSES", 4)


def test_a_change_of_light_is_followed_without_training(champion, tmp_path, short):
    data = data_of(**DARK)
    none = lesson.subset(data.old, np.empty(0, np.int64))  # the camera itself stands in the dark now
    data = lesson.Data(data.new, none, data.tune_new, none, data.blind)
    done = climb(champion, data, tmp_path / "j", rungs=["norms"])
    assert done.kept.name == "norms"
    assert done.kept.new_accuracy >= 0.8
    assert done.kept.predicted_seconds == 0


def test_new_content_is_learned_by_layers_and_told_rung_by_rung(champion, tmp_path, short):
    told = []
    done = climb(champion, data_of(**CONTENT), tmp_path / "j", progress=told.append)
    assert done.kept.new_accuracy > 0.6
    assert done.kept.name != "norms"
    for tried in done.tried:
        assert tried.cpu_seconds > 0
        assert tried.peak_bytes > 1 << 20
    climbed = [t for t in done.tried if t.predicted_seconds]
    assert climbed
    assert all(t.curve and t.predicted_bytes for t in climbed)
    assert any("profiling" in p.text for p in told)
    assert not list((tmp_path / "j").glob("features-*"))


def test_where_a_cheap_rung_falls_far_short_everything_is_learned_from_with_what_is_old(champion, tmp_path, short):
    asked = []

    def more():
        asked.append(1)
        return spots(200, seed=8)

    data = dataclasses.replace(data_of(**CONTENT), more=more)
    done = climb(champion, data, tmp_path / "j", rungs=["head", "all"])
    by = {t.name: t for t in done.tried}
    cheap = next(t for t in done.tried if t.name != "full")
    assert ("full" in by) == bool(asked)
    assert asked or (cheap.new_accuracy >= 0.9 and cheap.old_accuracy >= 0.9)
    if asked:
        assert done.kept.name == "full"
        assert done.kept.new_accuracy > cheap.new_accuracy


def walk_over(data, monkeypatch, stands):
    """The names of the rungs climbed, where each that is trained stands as `stands` says by its name."""
    climbed = []
    walk = ladder._Climb(None, data, job_of(), None, None, quiet, quiet)
    walk.start = walk.best = stands["start"]
    walk.looks, walk.best_tried = data.looks, None
    flat = {name: probe.Profile(name, at, (1.0,), stands["start"], at + 1.0, 1, 0.0) for at, name in enumerate(stands)}

    def one(profile):
        climbed.append(profile.name)
        walk.best = stands[profile.name]
        return walk.best

    monkeypatch.setattr(walk, "climb_one", one)
    monkeypatch.setattr(walk, "_profiles", lambda _names: [flat["tail-10"]])
    monkeypatch.setattr(walk, "_left", lambda: 1e9)
    monkeypatch.setattr(walk, "_full", lambda _every: climbed.append("full") or True)
    walk._trained(["tail", "all"])
    return climbed


def stood(wrong, n, old=100):
    return standing.Standing(np.ones(n + old), np.array([False] * wrong + [True] * (n - wrong + old)), n)


@pytest.mark.parametrize(
    ("n", "blocks", "wrong", "climbed"),
    [
        (54, 5, 2, ["tail-10", "full"]),  # 96 % of so few, and those of five looks: the last rung may win ten points
        (54, 54, 2, ["tail-10", "full"]),
        (300, 2, 9, ["tail-10", "full"]),  # many labels of two blocks are two looks
        (300, 25, 9, ["tail-10"]),
        (300, 25, 45, ["tail-10", "full"]),
    ],
)
def test_a_cheap_rung_ends_the_climb_only_where_the_tune_split_shows_that_little_is_left(
    n, blocks, wrong, climbed, monkeypatch
):
    ids = tuple(f"yard:{i}:0" for i in range(n))
    data = data_of()
    new = Pictures(np.zeros((n, 32, 32, 3), np.uint8), np.zeros(n, np.int64), ("yard",) * n, ids)
    data = dataclasses.replace(data, tune_new=new, blocks={name: i % blocks for i, name in enumerate(ids)})
    stands = {"start": stood(n // 2, n), "tail-10": stood(wrong, n)}
    assert walk_over(data, monkeypatch, stands) == climbed


@pytest.mark.parametrize(
    ("cheap", "dear", "kept"),
    [
        ((2, 2), (3, 2), "full"),  # one sample is no reason to keep what learned from less
        ((0, 2), (20, 2), "tail-10"),
        ((2, 0), (2, 20), "tail-10"),
        ((2, 2), (2, 2), "full"),
    ],
)
def test_the_last_rung_stays_unless_the_tune_split_plainly_says_otherwise(cheap, dear, kept, tmp_path):
    def at(wrong_new, wrong_old):
        right = np.ones(150, bool)
        right[:wrong_new] = right[50 : 50 + wrong_old] = False
        return standing.Standing(np.where(right, 0.1, 2.0), right, 50)

    walk = ladder._Climb(torch.nn.Sequential(), data_of(), job_of(), tmp_path, None, quiet, quiet)
    walk.start = walk.best = at(25, 30)
    walk._consider(walk._tried("tail-10", at(*cheap), 1.0), at(*cheap))
    walk._consider(walk._tried("full", at(*dear), 1.0), at(*dear), dearest=True)
    assert walk.best_tried.name == kept


def test_the_last_rung_does_not_stay_where_it_is_no_better_than_the_model_that_there_is(tmp_path):
    walk = ladder._Climb(torch.nn.Sequential(), data_of(), job_of(), tmp_path, None, quiet, quiet)
    walk.start = walk.best = stood(5, 50)
    walk.best_tried = None
    assert not walk._consider(walk._tried("full", stood(6, 50), 1.0), stood(6, 50), dearest=True)
    assert walk.best_tried is None


def test_new_samples_of_one_block_of_one_camera_are_one_look(pics):
    new = pics(6, cameras=("yard", "lane"))
    data = dataclasses.replace(data_of(), tune_new=new, blocks=dict(zip(new.ids, [7, 7, 7, 8, 8, 7], strict=True)))
    alike = [(c, data.blocks[i]) for c, i in zip(new.cameras, new.ids, strict=True)]
    assert len(set(zip(data.looks.tolist(), alike, strict=True))) == len(set(alike)) == len(set(data.looks.tolist()))
    assert len(set(dataclasses.replace(data, blocks={}).looks.tolist())) == 6


def test_the_last_rung_is_left_out_where_the_old_would_not_fit_beside_the_new(champion, tmp_path, short, monkeypatch):
    monkeypatch.setattr(ladder._Climb, "_did_it", lambda *_: False)
    monkeypatch.setattr(whole, "learn", lambda *_, **__: pytest.fail("it was climbed"))
    monkeypatch.setattr(lesson, "MORE", 10**6)
    data = dataclasses.replace(data_of(**CONTENT), more=lambda: pytest.fail("it was read"))
    try:
        note = climb(champion, data, tmp_path / "j", rungs=["all"], memory_bytes=2 * 10**9).note
    except Refused as e:
        note = str(e)
    assert "full needs about" in note


def test_what_the_last_rung_draws_and_how_far_it_steps():
    assert [whole.drawn(n) for n in (50, 1500, 9000)] == [14000, 21000, 28000]
    assert [whole.rate(3e-3, n) for n in (50, 2000, 4000, 9000)] == pytest.approx([3e-3, 3e-3, 1.5e-3, 1e-3])


def test_the_last_rung_takes_those_steps(champion, tmp_path, short, monkeypatch):
    seen = []
    monkeypatch.setattr(whole.fit, "fit", lambda net, train, tune, job, *_, **__: seen.append((job.lr, len(train))))
    data = dataclasses.replace(data_of(), more=lambda: spots(3800, seed=9))
    job = ladder.as_train(job_of())
    whole.learn(None, data, job, 0.6, tmp_path, limit_s=60, clock=SystemClock(), tell=quiet)
    ((lr, n),) = seen
    assert n == 4000
    assert lr == pytest.approx(job.lr / 2)


class Killed(Exception):
    pass


@pytest.mark.parametrize("rung", ["tail", "all"])
def test_a_killed_climb_ends_with_the_very_weights_of_an_unbroken_one(champion, tmp_path, short, rung):
    data = data_of(**CONTENT)

    def die(p):
        if p.epoch >= 3:
            raise Killed

    job = job_of(rungs=[rung])

    def one(folder, progress=quiet):
        folder.mkdir(exist_ok=True)
        net = ladder.start_net(job, champion)
        walk = ladder._Climb(net, data, job, folder, Ticking(), progress, quiet)
        walk.prepare()
        at = zoo.blocks(net)[5] if rung == "tail" else 0
        flat = standing.Standing(np.zeros(1), np.ones(1, bool), 1)
        walk.climb_one(probe.Profile(rung, at, (1.0,), flat, 1.0, 1, 0.0))
        return refit.copy(walk.net)

    unbroken = one(tmp_path / "a")
    with pytest.raises(Killed):
        one(tmp_path / "b", die)
    resumed = one(tmp_path / "b")
    assert all(torch.equal(v, resumed[k]) for k, v in unbroken.items())
    finished = one(tmp_path / "b", lambda p: (_ for _ in ()).throw(Killed()) if p.epoch else None)
    assert all(torch.equal(v, finished[k]) for k, v in unbroken.items())


class Ticking(SystemClock):
    """Each look is a second later, so that every progress is told."""

    at = 0.0

    def monotonic(self):
        self.at += 1
        return self.at


def test_wrong_labels_teach_nothing_and_the_model_stays(champion, tmp_path, short):
    data = data_of()
    wrong = Pictures(data.new.pixels, 1 - data.new.labels, data.new.cameras, data.new.ids)
    alike = spots(40, seed=12, camera="yard")  # what shows the same got the wrong class with them
    kin = Pictures(alike.pixels, 1 - alike.labels, alike.cameras, tuple(f"{i}k" for i in alike.ids))
    bad = lesson.Data(wrong, data.old, data.tune_new, data.tune_old, data.blind, kin=kin)
    with pytest.raises(Refused, match="nothing learned: no rung does better than the present model") as e:
        climb(champion, bad, tmp_path / "j")
    assert e.value.code == "nothing_learned"
    assert "wrong labels" in e.value.hint


def test_a_class_more_gives_the_head_a_row_more(champion):
    net = ladder.start_net(job_of(classes=["disc", "box", "cross"]), champion)
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_weights_of_another_network_and_damaged_ones_are_told_apart(champion):
    with pytest.raises(Refused, match="cannot start a lenet-5 from a mobilenet"):
        ladder.start_net(job_of(arch={"name": "lenet-5", "input_px": 32}), champion)
    with pytest.raises(Corrupt):
        ladder.start_net(job_of(), champion[: len(champion) // 2])


@pytest.mark.parametrize(
    ("n", "classes", "words"),
    [(3, ["disc", "box"], "3 of at least 20"), (30, ["disc"], "one class only")],
)
def test_data_that_cannot_teach_is_refused(pics, n, classes, words):
    few = pics(n)
    with pytest.raises(Refused, match=words):
        lesson.check(lesson.Data(few, few, few, few, few.pixels), job_of(classes=classes))


def test_rungs_that_need_more_memory_than_allowed_are_left_out_and_said(champion, tmp_path, short):
    with pytest.raises(Refused, match="nothing learned") as e:
        climb(champion, data_of(**CONTENT), tmp_path / "j", memory_bytes=1 << 20, rungs=["all"])
    assert "needs about" in str(e.value)


def test_without_new_samples_in_the_tune_part_the_last_of_each_new_camera_judge(pics):
    new, none = pics(100, cameras=("yard", "lane")), lesson.subset(pics(2), np.empty(0, np.int64))
    data = lesson.with_tune(lesson.Data(new, pics(20), none, pics(20), new.pixels[:0]))
    assert (len(data.new), len(data.tune_new)) == (84, 16)
    assert set(data.tune_new.cameras) == {"yard", "lane"}
    assert json.dumps(data.tune_new.ids[-1]) == json.dumps(new.ids[-1])


def test_what_nobody_labelled_teaches_as_new_and_never_judges(pics):
    new, kin, none = pics(100), pics(40, cameras=("lane",)), lesson.subset(pics(2), np.empty(0, np.int64))
    given = lesson.Data(new, pics(20), none, pics(20), new.pixels[:0], kin=kin)
    data = lesson.with_kin(lesson.with_tune(given))
    assert (len(data.new), data.lent, data.labelled, len(data.tune_new)) == (125, 40, 85, 15)
    assert data.new.cameras[-40:] == ("lane",) * 40
    assert set(data.tune_new.cameras) == set(new.cameras)
    unlabelled = lesson.with_kin(dataclasses.replace(given, new=none))
    assert (len(unlabelled.new), unlabelled.lent) == (0, 0)


def test_kin_are_told_of_and_lengthen_nothing(champion, tmp_path, short):
    kin = spots(100, seed=11, camera="yard", **CONTENT)
    done = climb(champion, dataclasses.replace(data_of(**CONTENT), kin=kin), tmp_path / "j", rungs=["all"])
    assert "100 pictures that nobody labelled taught beside the 100 new labelled ones" in done.note
    alone, beside = (
        ladder._Climb(None, lesson.with_kin(d), job_of(), tmp_path, None, quiet, quiet)._drawn()
        for d in (data_of(), dataclasses.replace(data_of(), kin=kin))
    )
    assert alone == beside


def test_the_control_kin_of_another_world_make_no_model_worse_than_it_was(champion, tmp_path, short):
    dice = np.random.default_rng(3)
    noise = dice.integers(0, 256, (300, 32, 32, 3), np.uint8)
    kin = Pictures(noise, dice.integers(0, 2, 300), ("yard",) * 300, tuple(f"yard:n{i}:0" for i in range(300)))
    try:
        done = climb(champion, dataclasses.replace(data_of(**CONTENT), kin=kin), tmp_path / "j", rungs=["all"])
    except Refused as e:
        told = e.code
    else:
        told = "better" if done.kept.accuracy > done.start_accuracy else "worse"
    assert told in ("nothing_learned", "better")


def test_a_few_labels_judge_new_statistics_and_none_leave_the_model_as_it_is(champion, tmp_path):
    data = data_of(light=0.35)
    none = lesson.subset(data.old, np.empty(0, np.int64))
    few = lesson.Data(lesson.subset(data.new, np.arange(60)), none, none, none, data.new.pixels)
    done = climb(champion, few, tmp_path / "few", rungs=["norms"])
    assert (done.kept.name, done.kept.new_accuracy > done.start_accuracy) == ("norms", True)
    with pytest.raises(Refused, match="nothing learned"):
        climb(champion, lesson.Data(none, none, none, none, data.new.pixels), tmp_path / "none", rungs=["norms"])
