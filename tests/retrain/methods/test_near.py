"""Int8 near the version before: what is kept, what moves, when it is given up, and that every runtime runs the result."""

import numpy as np
import pytest
import torch
from torch import nn

from edged import engine
from edged.errors import Refused
from edged.retrain import compress, export, intake, measure, methods, source, train, zoo
from edged.retrain.jobs import Arch, TrainJob
from edged.retrain.methods import Lesson, Model, int8, near, qat

CLASSES = ("disc", "box")
NAMES = ["lenet-5", pytest.param("mobilenet-0.25", marks=pytest.mark.slow)]


def alive(name="mobilenet-0.25", px=32, seed=0, classes=2):
    """A network as after training: batch norm has statistics of its own."""
    torch.manual_seed(seed)
    net = zoo.build(name, classes, px)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 1.5)
            m.weight.data.uniform_(0.5, 1.5)
            m.bias.data.normal_(0, 0.1)
    return net.eval()


def shaken(net, share, seed=1):
    """The same after a retraining that moved each weight by about `share` of its layer's spread."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.Conv2d | nn.Linear):
                m.weight += share * m.weight.std() * torch.randn_like(m.weight)
    return net


def head(net):
    return [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)][-1]


def file(net, px=32):
    return source.with_metadata(export.to_onnx(net, px), {source.CLASSES: '["disc", "box"]'})


@pytest.fixture
def lesson(pics, clock):
    return lambda **more: Lesson(pics(24), pics(16), clock, **{"calibration": 16, "max_loss": 1.0} | more)


def made(net, lesson, step="int8"):
    """Delivered bytes of one step, and its facts."""
    data, facts = compress.walk(file(net), weights(net) if step == "qat" else b"", compress.chain.parse(step), lesson)
    return data, facts[0]


def weights(net, name="lenet-5", px=32):
    return train.weights_of(net, TrainJob(data_dir="", classes=CLASSES, arch=Arch(name, px)))


def tensors(data):
    return near.read(data).tensors


def differing(one, other):
    a, b = tensors(one), tensors(other)
    assert a.keys() == b.keys()
    return {name for name in a if not np.array_equal(a[name], b[name])}


# whole numbers


def test_a_weight_that_moved_one_step_stays_and_one_that_moved_three_moves():
    old = np.zeros((1, 7), np.int64)
    whole = np.array([[0, 1, -1, 2, 3, -3, 9]])
    assert near.moved(whole, old, 1).tolist() == [[0, 0, 0, 3, 3, -3, 9]]
    assert near.moved(whole, old, 2).tolist() == [[0, 0, 0, 0, 5, -5, 10]]
    assert near.moved(whole, old, 0).tolist() == whole.tolist()
    assert near.moved(np.array([64]), np.array([61]), 2).tolist() == [64]  # never beyond the grid


def test_every_weight_is_as_near_as_promised_whatever_the_old_ones_were():
    dice = np.random.default_rng(4)
    for steps in range(4):
        weight = dice.normal(0, 1, (40, 30)).astype(np.float32) * dice.uniform(0.2, 5, (40, 1)).astype(np.float32)
        weight[dice.random(weight.shape) < 0.1] = 0
        old = dice.integers(-64, 65, weight.shape)
        frozen = dice.uniform(0.01, 0.1, 40).astype(np.float32)
        scales, whole = near.rounded(weight, old, frozen, steps)
        assert np.abs(whole).max() <= 64
        assert (np.abs(weight / scales[:, None] - whole) <= steps + 0.5001).all()
        assert not whole[weight == 0].any()


def test_a_channel_that_only_got_louder_changes_its_scale_and_no_weight():
    dice = np.random.default_rng(5)
    old = dice.integers(-60, 61, (3, 200))
    frozen = np.full(3, 0.01, np.float32)
    weight = (old * 0.01 * np.array([[1.0], [1.2], [0.8]])).astype(np.float32)
    scales, whole = near.rounded(weight, old, frozen, 1)
    assert np.array_equal(whole, old)
    assert scales[0] == frozen[0]
    assert scales[1:] == pytest.approx([0.012, 0.008], rel=1e-5)


def test_a_channel_that_does_not_fit_on_its_scale_gets_another():
    old = np.array([[64, 10, -20]])
    scales, whole = near.rounded(np.array([[1.28, 0.1, -0.2]], np.float32), old, np.array([0.01], np.float32), 2)
    assert scales[0] > 0.01
    assert (np.abs(np.array([[1.28, 0.1, -0.2]]) / scales[0] - whole) <= 2.5001).all()


# files


@pytest.mark.parametrize("name", [*NAMES, pytest.param("squeezenet-1.1", marks=pytest.mark.slow)])
def test_the_same_model_with_itself_as_the_version_before_is_the_same_file(name, lesson):
    first, facts = made(alive(name), lesson())
    assert facts.near is None
    again, facts = made(alive(name), lesson(previous=first))
    assert again == first
    assert facts.near.kept == facts.near.weights > 0
    assert (facts.near.rescaled, facts.near.changed) == (0, 0)


def test_so_is_a_model_that_moved_and_is_compressed_beside_what_came_of_it(lesson):
    first, _ = made(alive("lenet-5"), lesson())
    moved, facts = made(shaken(alive("lenet-5"), 0.3), lesson(previous=first))
    assert moved != first
    assert facts.near.rescaled > 0
    assert made(shaken(alive("lenet-5"), 0.3), lesson(previous=moved))[0] == moved


@pytest.mark.parametrize("name", NAMES)
def test_a_network_whose_head_alone_changed_differs_in_the_tensors_of_its_head(name, lesson, monkeypatch):
    monkeypatch.setattr(near, "TURNED", 1.0)  # what nobody has trained wavers: a small change turns many answers
    first, _ = made(alive(name), lesson())
    net = alive(name)
    with torch.no_grad():
        head(net).weight += 0.2 * torch.randn_like(head(net).weight) * head(net).weight.std()
        head(net).bias += 0.5
    then, facts = made(net, lesson(previous=first))
    (found,) = {n.rpartition(".")[0] for n in differing(first, then)}
    last = list(near.read(first).layers.values())[-1]
    assert last.weight.startswith(found)
    assert facts.near.kept > 0.8 * facts.near.weights
    fresh, _ = made(net, lesson())
    assert len(differing(first, fresh)) > len(differing(first, then))


@pytest.mark.parametrize("name", NAMES)
def test_scales_that_fit_and_grids_are_exactly_those_of_the_version_before(name, lesson):
    first, _ = made(alive(name), lesson())
    then, facts = made(shaken(alive(name), 0.02), lesson(previous=first))
    before, now = near.read(first), near.read(then)
    assert before.grids.keys() == now.grids.keys()
    assert all(np.array_equal(before.grids[k][i], now.grids[k][i]) for k in now.grids for i in (0, 1))
    same = sum(int((layer.scales == before.layers[k].scales).sum()) for k, layer in now.layers.items())
    print(f"{name}: {facts.near}")
    assert same == facts.near.channels - facts.near.rescaled > 0.5 * facts.near.channels
    assert facts.near.kept == sum(int((layer.whole == before.layers[k].whole).sum()) for k, layer in now.layers.items())
    assert 0 < facts.near.changed < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_both_runtimes_agree_on_it_as_they_do_on_the_usual_file(name, lesson, pics):
    first, _ = made(alive(name), lesson())
    net = shaken(alive(name), 0.05)
    batch = pics(16).pixels[..., ::-1].copy()
    wanted = net(torch.from_numpy(next(iter(pics(16).batches(16))))).detach().numpy()
    apart = []
    for data in (made(net, lesson())[0], made(net, lesson(previous=first))[0]):
        one, other = (engine.load(data, runtime=runtime).run(batch)[0] for runtime in ("onnxruntime", "openvino"))
        apart.append(np.abs(one - other).max() / np.abs(wanted).max())
        assert np.abs(one - wanted).mean() <= 0.5 * np.abs(wanted).mean()
    print(f"{name}: the runtimes are {apart[0]:.4f} apart on the usual file, {apart[1]:.4f} on the near one")
    assert apart[1] <= max(0.03, 1.5 * apart[0])


def test_qat_stays_near_too_and_the_same_network_keeps_nearly_all(lesson):
    first, _ = made(alive("lenet-5"), lesson(effort=0.0), "qat")
    again, facts = made(alive("lenet-5"), lesson(effort=0.0, previous=first), "qat")
    assert again == first
    then, facts = made(shaken(alive("lenet-5"), 0.05), lesson(effort=0.2, previous=first), "qat")
    before, now = near.read(first), near.read(then)
    assert all(np.array_equal(before.grids[k][i], now.grids[k][i]) for k in now.grids for i in (0, 1))
    assert facts.near.kept > 0.7 * facts.near.weights
    assert "weights are those of the version before" in facts.note


# control


def test_keeping_is_given_up_step_by_step_where_it_costs_too_much(lesson):
    first, _ = made(alive("lenet-5"), lesson())
    exact = file(shaken(alive("lenet-5"), 0.1))
    fresh = int8.int8(exact, lesson().train)
    right = {0: 0.95, 1: 0.90, 2: 0.80}
    said = []

    def judge(data):
        said.append(data)
        return right[2 - (len(said) - 1)]

    def same(_):
        return np.zeros(100, np.int64)

    found = near.nearest(fresh, exact, near.read(first), 0.9, judge, same)
    assert len(said) == 2
    assert found.near.steps == 1
    assert found.note.endswith("within 2 steps it gets 80.0% right where 90.0% are wanted")
    none = near.nearest(fresh, exact, near.read(first), 0.99, lambda _: 0.5, same)
    assert (none.near, none.data) == (None, fresh)
    assert none.note.startswith(
        "nothing is kept of the version before: within 2 steps it gets 50.0% right where 99.0% are wanted, within 1"
    )


def test_keeping_is_given_up_where_it_turns_answers_of_pictures_that_nobody_labelled(lesson):
    """The few labelled ones are all right; of 1000 others int8 turns 4, within 2 steps 20, within 1 step 9."""
    first, _ = made(alive("lenet-5"), lesson())
    exact = file(shaken(alive("lenet-5"), 0.1))
    fresh = int8.int8(exact, lesson().train)
    turns = [0, 4, 20, 9]  # the float file, the usual one, those near it
    asked = iter(turns)

    def answer(_):
        return (np.arange(1000) < next(asked)).astype(np.int64)

    found = near.nearest(fresh, exact, near.read(first), 0.9, lambda _: 1.0, answer)
    assert found.near.steps == 1
    assert found.note.endswith("within 2 steps it turns 2.0% of the float model's answers, int8 alone 0.4%")
    asked = iter([0, 4, 20, 20, 20])
    assert near.nearest(fresh, exact, near.read(first), 0.9, lambda _: 1.0, answer).near is None
    asked = iter([0, 15, 20])  # the control: what int8 turns anyway is not held against it
    assert near.nearest(fresh, exact, near.read(first), 0.9, lambda _: 1.0, answer).near.steps == 2


def test_a_step_that_gives_up_makes_the_usual_file_and_says_so(lesson, monkeypatch):
    first, _ = made(alive("lenet-5"), lesson())
    net = shaken(alive("lenet-5"), 0.1)
    fresh, _ = made(net, lesson())
    monkeypatch.setattr(near, "keep", lambda made, *_: (made, methods.Near(2, 1, 1, 1, 0, 0.0)))
    real, judged = measure.accuracy, []

    def accuracy(data, *args, **more):
        judged.append(data)
        return 0.2 if 2 <= len(judged) <= 4 else real(data, *args, **more)  # the first is the float file

    monkeypatch.setattr(int8.measure, "accuracy", accuracy)
    then, facts = made(net, lesson(max_loss=0.05, previous=first))
    assert then == fresh
    assert facts.near is None
    assert "nothing is kept of the version before: within 2 steps it gets 20.0% right" in facts.note


# what is no version before


def test_of_another_network_or_of_a_float_file_nothing_is_kept_and_it_is_said(lesson):
    net = alive("lenet-5")
    fresh, _ = made(net, lesson())
    for other, words in (
        (made(alive("lenet-300-100"), lesson())[0], "few of its layers in int8 have these names and shapes"),
        (intake.inside(file(net)), "it has no layer in int8"),
        (b"no model", "not an ONNX model"),
        (fresh[: len(fresh) // 2], "nothing is kept of the version before"),
    ):
        data, facts = made(net, lesson(previous=other))
        assert data == fresh
        assert facts.near is None
        assert words in facts.note


def test_other_classes_cost_the_head_alone(lesson):
    first, _ = made(alive("lenet-5", classes=3), lesson())
    net, two = alive("lenet-5", classes=3), alive("lenet-5", classes=2)
    same = {k: v for k, v in net.state_dict().items() if v.shape == two.state_dict()[k].shape}
    two.load_state_dict(same, strict=False)
    data, facts = made(two, lesson(previous=first))
    old, now = near.read(first), near.read(data)
    last = list(now.layers)[-1]
    assert old.layers[last].shape != now.layers[last].shape
    assert facts.near.weights == sum(layer.whole.size for name, layer in now.layers.items() if name != last)
    assert facts.near.kept == facts.near.weights


def test_layers_that_are_float_in_the_version_before_are_float_again(lesson):
    net = alive("lenet-5")
    calibration = int8.some(lesson().train, 16, 1)
    with int8._Quantizer(file(net), calibration) as quantizer:
        first = intake.inside(quantizer.quantized(floats=quantizer.layers[:1]))
        left = quantizer.layers[0]
    data, facts = made(net, lesson(previous=first))
    assert left in near.read(data).floats
    assert facts.near.kept == facts.near.weights


def test_control_kernels_that_the_preparation_turned_are_turned_back(lesson):
    plain = int8.int8(file(alive("squeezenet-1.1")), lesson().train)
    delivered = intake.inside(plain)
    name = intake.turned(source.parse(delivered))
    assert name
    assert intake.turned(source.parse(plain)) == ""
    assert np.array_equal(tensors(plain)[name], tensors(delivered)[name])
    raw = {t.name: near._array(t) for t in source.parse(delivered).graph.initializer}
    assert not np.array_equal(raw[name], tensors(delivered)[name])


def test_what_is_no_model_is_refused_by_read():
    with pytest.raises(Refused):
        near.read(b"no model")
    assert near.begin(b"") == (None, "")
    assert qat.inputs(near.read(int8.int8(file(alive("lenet-5")), _some()))) != {}


def _some():
    from edged.retrain.pictures import Pictures

    dice = np.random.default_rng(0)
    return Pictures(dice.integers(0, 255, (16, 32, 32, 3)).astype(np.uint8), np.zeros(16, np.int64), ("gate",) * 16)


def test_a_model_is_not_changed_by_being_a_version_before(lesson):
    first, _ = made(alive("lenet-5"), lesson())
    before = near.read(first)
    copied = {name: value.copy() for name, value in before.tensors.items()}
    exact = file(shaken(alive("lenet-5"), 0.3))
    near.keep(int8.int8(exact, lesson().train), exact, before, 2)
    assert all(np.array_equal(before.tensors[name], value) for name, value in copied.items())
    assert Model(32, CLASSES, onnx=first).onnx == first
