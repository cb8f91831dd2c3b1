"""Retraining: what it learns from, when it ends, what it keeps; and no step on a model whose weights are no numbers."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from edged import chain
from edged.errors import Refused
from edged.retrain import compress, export, refit, source, train, zoo
from edged.retrain.jobs import Arch, TrainJob
from edged.retrain.methods import Lesson, Model, apply, refine

CLASSES = ("disc", "box")
PLAN = refine.Plan(epochs=4, batch=16, lr=1e-3)


def net_of(name="lenet-300-100", px=28, seed=1):
    torch.manual_seed(seed)
    return zoo.build(name, 2, px)


@dataclass
class Ticking:
    """Five seconds pass at each look."""

    at: float = 0.0

    def now(self):
        return self.at

    def monotonic(self):
        self.at += 5.0
        return self.at

    def sleep(self, seconds):
        pass


def test_shapes_are_learned_and_the_best_epoch_is_kept(pics, clock):
    said = []
    lesson = Lesson(pics(96, px=28), pics(32, px=28, seed=1), clock, progress=said.append, effort=3)
    model = Model(28, CLASSES, net_of())
    before = refine.accuracy(model.net, lesson.judged)
    assert refine.run(model, lesson, PLAN) == pytest.approx(12)
    assert refine.accuracy(model.net, lesson.judged) >= max(before, 0.8)
    assert said[-1].fraction == 1
    assert "step 72 of 72" in said[-1].text


def test_the_same_lesson_gives_the_same_weights_and_another_seed_others(pics, clock):
    found = []
    for seed in (1, 1, 2):
        model = Model(28, CLASSES, net_of())
        refine.run(model, Lesson(pics(48, px=28), pics(0), clock, seed=seed), replace(PLAN, settled=0.9))
        found.append(refit.copy(model.net))
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])
    assert any(not torch.equal(found[0][k], found[2][k]) for k in found[0])


def test_a_worse_network_is_never_left_than_the_one_that_came(pics, clock):
    lesson = Lesson(pics(96, px=28), pics(32, px=28, seed=1), clock, effort=3)
    model = Model(28, CLASSES, net_of())
    refine.run(model, lesson, PLAN)
    good = refine.accuracy(model.net, lesson.judged)
    refine.run(model, lesson, replace(PLAN, lr=0.5, epochs=1))
    assert refine.accuracy(model.net, lesson.judged) >= good


def test_the_epoch_that_is_kept_is_the_one_that_the_plan_s_judge_likes_best(pics, clock):
    looked = []

    def judge(net):
        looked.append(refit.copy(net))
        return -abs(len(looked) - 3)  # the third look, the one before the first step included

    model = Model(28, CLASSES, net_of())
    refine.run(model, Lesson(pics(48, px=28), pics(16, px=28, seed=1), clock), replace(PLAN, judge=judge))
    assert len(looked) == 5
    assert all(torch.equal(looked[2][k], v) for k, v in model.net.state_dict().items())
    assert any(not torch.equal(looked[4][k], v) for k, v in model.net.state_dict().items())


def test_answers_that_are_the_same_are_not_apart_and_others_are_by_kullback_and_leibler():
    one, other = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    p = 1 / (1 + np.exp(-2.0))
    assert refine.apart(one, one + 5) == pytest.approx(0, abs=1e-12)
    assert refine.apart(one, other) == pytest.approx((p * np.log(2 * p) + (1 - p) * np.log(2 * (1 - p))) / 2)


def test_it_ends_before_the_time_that_is_set_and_the_schedule_is_done_by_then(pics):
    clock, told = Ticking(), []
    lesson = Lesson(pics(96, px=28), pics(0), clock, effort=100, until=60.0)
    epochs = refine.run(
        Model(28, CLASSES, net_of()), lesson, replace(PLAN, schedule=lambda net, done, optimiser: told.append(done))
    )
    assert clock.at <= 70
    assert 0 < epochs < 60  # of 400
    assert told[-1] == 1.0


def test_without_effort_nothing_is_trained(pics, clock):
    model = Model(28, CLASSES, net_of())
    before = refit.copy(model.net)
    assert refine.run(model, Lesson(pics(16, px=28), pics(0), clock, effort=0), PLAN) == 0
    assert all(torch.equal(before[k], v) for k, v in model.net.state_dict().items())


def test_the_teacher_s_answers_are_learned_where_labels_say_nothing(pics, clock):
    teacher = net_of(seed=5).eval()
    pictures = pics(96, px=28)
    noise = replace(pictures, labels=np.random.default_rng(1).integers(0, 2, len(pictures)))
    apart = []
    for distil in (0.0, 1.0):
        model = Model(28, CLASSES, net_of(seed=6), teacher=teacher)
        refine.run(model, Lesson(noise, noise, clock, effort=4), replace(PLAN, distil=distil, settled=0.9))
        batch = torch.from_numpy(pictures.pixels).permute(0, 3, 1, 2).float()
        with torch.inference_mode():
            odds, wanted = model.net(batch).softmax(1), teacher(batch).softmax(1)
        apart.append(float((odds - wanted).abs().mean()))
    assert apart[1] < 0.5 * apart[0]


def test_a_chain_s_steps_all_learn_from_the_network_before_the_first(pics, clock):
    lesson = Lesson(pics(32, px=28), pics(8, px=28), clock, effort=0.1)
    model = Model(28, CLASSES, net_of())
    before = refit.copy(model.net)
    for step in chain.parse("prune=0.5 share=4"):
        model, _ = apply(model, step, lesson)
    assert all(torch.equal(before[k], v) for k, v in model.teacher.state_dict().items())
    assert not any(p.requires_grad for p in model.teacher.parameters())


def test_dropout_is_weaker_where_weights_are_gone_and_as_it_was_afterwards():
    net = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(8, 8))
    net[1].weight.data[:, :6] = 0
    net[1].weight.data[:, 6:] = 1
    with refine._weaker_dropout(net):
        assert net[0].p == pytest.approx(0.25)
    assert net[0].p == 0.5


def test_a_large_network_learns_slower():
    assert refine.rate(net_of()) == refine.RATE
    assert refine.rate(torch.nn.Linear(3000, 1000)) == pytest.approx(refine.RATE * 0.1**0.5, rel=0.01)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("step", ["prune=0.5", "share=8", "rate=0.1"])
def test_a_network_with_weights_that_are_no_numbers_is_refused_in_words(number, step, pics, clock):
    net = net_of()
    net[4].weight.data[3, 3] = number
    with pytest.raises(Refused, match=r"NaN or infinite.* 4\.weight") as refused:
        apply(Model(28, CLASSES, net), chain.parse(step)[0], Lesson(pics(8, px=28), pics(0), clock))
    assert refused.value.code == "bad_weights"


@pytest.mark.parametrize("step", ["int8", "tune"])
def test_a_file_with_weights_that_are_no_numbers_is_refused_in_words(step, pics, clock):
    from onnx import numpy_helper

    model = source.parse(export.to_onnx(net_of(), 28))
    first = model.graph.initializer[0]
    values = numpy_helper.to_array(first).copy()
    values.flat[0] = np.nan
    first.CopyFrom(numpy_helper.from_array(values, first.name))
    data = model.SerializeToString()
    with pytest.raises(Refused, match="NaN or infinite"):
        apply(Model(28, CLASSES, onnx=data), chain.parse(step)[0], Lesson(pics(8, px=28), pics(0), clock))


def test_a_box_that_was_busy_at_first_costs_only_the_steps_that_did_not_fit(pics):
    """Between looks pass ten seconds twice, then one: at first sixty steps seem to fit, in the end it is five times as many."""

    @dataclass
    class Calming(Ticking):
        looks: int = 0

        def monotonic(self):
            self.looks += 1
            self.at += 10.0 if self.looks < 5 else 1.0
            return self.at

    clock = Calming()
    lesson = Lesson(pics(96, px=28), pics(0), clock, effort=100, until=60.0)
    epochs = refine.run(Model(28, CLASSES, net_of()), lesson, PLAN)
    assert epochs * 96 / PLAN.batch > 180
    assert clock.at <= 62


def test_a_chain_that_is_short_of_time_leaves_some_for_every_step(pics):
    net, clock = net_of(), Ticking()
    data = source.with_metadata(export.to_onnx(net, 28), {source.CLASSES: '["disc", "box"]'})
    weights = train.weights_of(net, TrainJob(data_dir="", classes=CLASSES, arch=Arch("lenet-300-100", 28)))
    lesson = Lesson(pics(96, px=28), pics(16, px=28), clock, effort=100, until=120.0)
    _, facts = compress.walk(data, weights, chain.parse("prune=0.5 share=4"), lesson)
    assert all(fact.epochs > 1 for fact in facts)
    assert facts[0].nonzero < 0.51 * facts[0].parameters
    assert clock.at <= 140
