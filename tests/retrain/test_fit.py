"""Training learns, repeats itself, survives a kill, and says so when it cannot work."""

import msgspec
import numpy as np
import pytest
import torch

from edged.errors import Refused
from edged.retrain import export, fit, jobs, pictures, train, untaught, zoo

torch.set_num_threads(1)


def job(**more):
    fields = {
        "data_dir": "",
        "key_file": "",
        "snapshot": "",
        "classes": ["disc", "box"],
        "epochs": 4,
        "lr": 0.003,
        "epoch_least": 1,
    }
    fields["arch"] = {"name": "lenet-5", "input_px": 32}
    return msgspec.convert(fields | more, jobs.TrainJob)


class Killed(Exception):
    pass


def teach(a_job, train_pics, tune_pics, checkpoint, clock, *, start=b"", die_in_epoch=None):
    def progress(p):
        if die_in_epoch is not None and p.epoch >= die_in_epoch:
            raise Killed

    return train.teach(a_job, train_pics, tune_pics, start, checkpoint, clock=clock, progress=progress)


class Ticking:
    """Each look at it is a second later, so that every progress is told."""

    def __init__(self):
        self.at = 0.0

    def now(self):
        return self.at

    def monotonic(self):
        self.at += 1
        return self.at

    def sleep(self, seconds):
        pass


def weights(net):
    return {k: v.clone() for k, v in net.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def test_lenet_5_learns_shapes(pics, tmp_path, clock):
    net, state = teach(job(epochs=8), pics(200), pics(60, seed=1), tmp_path / "c", clock)
    assert fit.score(net, pics(100, seed=2))[1] >= 0.9
    assert [row[0] for row in state.curve] == list(range(1, 9))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(pics, tmp_path, clock):
    one, _ = teach(job(epochs=1), pics(60), pics(20, seed=1), tmp_path / "1", clock)
    two, _ = teach(job(epochs=1), pics(60), pics(20, seed=1), tmp_path / "2", clock)
    other, _ = teach(job(epochs=1, seed=2), pics(60), pics(20, seed=1), tmp_path / "3", clock)
    assert same(weights(one), weights(two))
    assert not same(weights(one), weights(other))


@pytest.mark.parametrize("arch", [{"name": "lenet-5", "input_px": 32}, {"name": "mobilenet-0.125", "input_px": 32}])
def test_a_killed_run_ends_with_the_very_weights_of_an_unbroken_one(pics, tmp_path, clock, arch):
    data = pics(64), pics(20, seed=1)
    unbroken, _ = teach(job(arch=arch), *data, tmp_path / "whole", clock)
    with pytest.raises(Killed):
        teach(job(arch=arch), *data, tmp_path / "broken", Ticking(), die_in_epoch=2)
    resumed, state = teach(job(arch=arch), *data, tmp_path / "broken", clock)
    assert state.epoch == 4
    assert same(weights(unbroken), weights(resumed))


def test_a_torn_checkpoint_is_not_trusted(pics, tmp_path, clock):
    (tmp_path / "c").write_bytes(b"\x00" * 100)
    _, state = teach(job(epochs=1), pics(60), pics(20, seed=1), tmp_path / "c", clock)
    assert state.epoch == 1


def test_it_stops_when_time_is_up(pics, tmp_path):
    _, state = teach(job(epochs=50, max_minutes=0.5), pics(60), pics(20, seed=1), tmp_path / "c", Ticking())
    assert 0 < state.epoch < 50
    assert "0.5 minutes" in state.stopped


def test_it_stops_when_it_no_longer_gets_better(pics, tmp_path, clock):
    _, state = teach(job(epochs=60, patience=3), pics(80), pics(20, seed=1), tmp_path / "c", clock)
    assert state.epoch < 60
    assert state.stopped == "no better on the tune split for 3 epochs"


def test_a_loss_that_is_no_number_is_told_in_words(pics, tmp_path, clock, monkeypatch):
    monkeypatch.setattr(
        zoo, "build", lambda *_: torch.nn.Sequential(torch.nn.Flatten(), Nan(), torch.nn.Linear(3072, 2))
    )
    with pytest.raises(Refused, match="training diverged: the loss became nan in epoch 1") as e:
        teach(job(), pics(60), pics(20, seed=1), tmp_path / "c", clock)
    assert e.value.hint


class Nan(torch.nn.Module):
    def forward(self, x):
        return x * float("nan")


@pytest.mark.parametrize(
    ("n", "classes", "words"),
    [
        (10, ["disc", "box"], "too few labelled crops to train on: 10 of at least 40"),
        (60, ["disc", "box", "cross"], "no labelled crop in the train split shows: cross"),
        (10, ["disc", "box", "cross"], "no labelled crop in the train split shows: cross"),
    ],
)
def test_data_that_cannot_teach_is_refused_in_the_words_that_were_said_before(
    crops, tmp_path, clock, n, classes, words
):
    few = pictures.load(crops(n), classes, 32)
    with pytest.raises(Refused) as e:
        teach(job(classes=classes), few, few, tmp_path / "c", clock)
    before = untaught.refusal(dict.fromkeys(classes, 0) | {"disc": n // 2, "box": n // 2})
    assert str(e.value) == str(before) == words
    assert (e.value.hint, e.value.code) == (before.hint, before.code)


def test_one_class_alone_is_refused(crops, tmp_path, clock):
    few = pictures.load(crops(60), ["disc"], 32)
    with pytest.raises(Refused, match="one class only"):
        teach(job(classes=["disc"]), few, few, tmp_path / "c", clock)


def test_pictures_that_are_gone_are_said_where_too_few_are_left(crops, tmp_path, clock):
    gone = pictures.Crop("gate:y:0", "gate", "box", lambda: (_ for _ in ()).throw(Refused("gone")))
    few = pictures.load([*crops(38), gone], ("disc", "box"), 32)
    with pytest.raises(
        Refused, match=r"^too few labelled crops to train on: 38 of at least 40 \(1 could not be read\)$"
    ):
        teach(job(classes=["disc", "box"]), few, few, tmp_path / "c", clock)


def test_crops_that_do_not_decode_are_counted_not_guessed(crops):
    good = crops(6)
    bad = pictures.Crop("gate:x:0", "gate", "box", lambda: b"\xff\xd8 no picture")
    gone = pictures.Crop("gate:y:0", "gate", "box", lambda: (_ for _ in ()).throw(Refused("gone")))
    loaded = pictures.load([bad, *good, gone], ("disc", "box"), 32)
    assert (len(loaded), loaded.skipped) == (6, 2)
    assert list(loaded.labels) == [0, 1] * 3


def test_a_warm_start_begins_where_the_old_model_stood(pics, tmp_path, clock):
    old, _ = teach(job(epochs=8), pics(200), pics(60, seed=1), tmp_path / "1", clock)
    start = train.weights_of(old, job())
    before = fit.score(old, pics(100, seed=2))[1]
    new, _ = teach(job(epochs=1, lr=1e-6), pics(60), pics(20, seed=1), tmp_path / "2", clock, start=start)
    assert fit.score(new, pics(100, seed=2))[1] == pytest.approx(before, abs=0.02)
    other, small = job(arch={"name": "lenet-300-100", "input_px": 28}), pics(60, px=28)
    with pytest.raises(Refused, match="cannot start a lenet-300-100 from a lenet-5"):
        teach(other, small, small, tmp_path / "3", clock, start=start)


@pytest.mark.parametrize(("name", "px"), [("lenet-5", 32), ("squeezenet-1.1", 32)])
def test_the_last_layer_of_an_older_model_is_taken_over_by_the_names_of_its_classes(name, px):
    """A model from outside may have named them in another order; a class that is new starts afresh."""
    torch.manual_seed(0)
    arch = {"name": name, "input_px": px}
    old = zoo.build(name, 2, px).eval()
    weights = train.weights_of(old, job(arch=arch, classes=["disc", "box"]))
    new = zoo.build(name, 3, px).eval()
    train._load(new, weights, job(arch=arch, classes=["box", "bus", "disc"]))
    images = torch.rand(2, 3, px, px) * 255
    assert torch.allclose(new(images)[:, [2, 0]], old(images), atol=1e-5)


def test_weights_of_the_same_network_are_the_same_file():
    torch.manual_seed(0)
    net = zoo.build("lenet-5", 2, 32)
    assert len({train.weights_of(net, job()) for _ in range(5)}) == 1


def test_rare_cameras_and_classes_are_drawn_more_often(pics):
    many, few = pics(90, cameras=("gate",)), pics(10, cameras=("yard",))
    both = pictures.Pictures(
        np.concatenate([many.pixels, few.pixels]), np.concatenate([many.labels, few.labels]), many.cameras + few.cameras
    )
    w = fit.chances(both, 1.0)
    assert w[:90].sum() == pytest.approx(w[90:].sum())
    assert len(set(fit.chances(both, 0.0).tolist())) == 1


def test_augmentation_stays_in_range_and_fades_to_nothing(pics):
    pixels = torch.from_numpy(pics(8).pixels)
    dice = torch.Generator().manual_seed(1)
    changed = fit.augment(pixels, dice, job(light=1.0, shift=0.2), 1.0)
    assert (changed.min(), changed.max()) == (0, 255)
    assert torch.equal(fit.augment(pixels, dice, job(fill=0.0), 0.0), fit.to_input(pixels))


def test_crops_are_shown_larger_and_smaller_by_up_to_the_share_asked_for():
    pixels = torch.zeros(400, 64, 64, 3, dtype=torch.uint8)
    pixels[:, 16:48, 24:40] = 255
    plain = {"mirror": 0.0, "shift": 0.0, "light": 0.0, "fill": 0.0}
    assert torch.equal(fit.augment(pixels, torch.Generator(), job(zoom=0.0, **plain), 1.0), fit.to_input(pixels))
    changed = fit.augment(pixels, torch.Generator().manual_seed(1), job(zoom=0.2, **plain), 1.0)[:, 0] == 255
    high, wide = changed.any(2).sum(1), changed.any(1).sum(1)
    assert (high.min(), high.max()) == (26, 40), "32 / 1.2 and 32 / 0.8"
    assert (high / wide).sub(2).abs().max() < 0.2, "both sides by the same"
    centre = (torch.arange(64) * changed.any(2)).sum(1) / high
    assert (centre - 31.5).abs().max() <= 0.5, "about the middle"


def test_a_share_of_the_crops_gets_one_grey_patch_that_never_fades():
    pixels = torch.zeros(400, 64, 64, 3, dtype=torch.uint8)
    changed = fit.augment(pixels, torch.Generator().manual_seed(1), job(fill=0.5), 0.0)
    grey = (changed == fit.FILL).all(1).flatten(1).sum(1)
    assert 160 < int((grey > 0).sum()) < 240
    sides = grey[grey > 0] / 64**2
    assert sides.min() > 0.005
    assert sides.max() < 0.13
    assert set(changed.unique().tolist()) == {0.0, 128.0}


def test_the_patch_has_the_colour_that_the_scrubber_paints():
    from edged.privacy.picture import GREY

    assert fit.FILL == GREY


@pytest.mark.parametrize(
    ("name", "px", "parameters"),
    [
        ("lenet-300-100", 28, 266_610),
        ("lenet-5", 32, 61_706),
        ("lenet-5-caffe", 28, 431_080),
        ("mobilenet-1", 224, 3_217_226),
        ("mobilenet-0.25", 96, 215_642),
    ],
)
def test_networks_have_the_size_of_their_papers(name, px, parameters):
    """LeNets at 10 classes as published; MobileNet's 4.2 M of the paper less the 1000-class layer."""
    net = zoo.build(name, 10, px)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert net.eval()(torch.zeros(2, 3, px, px)).shape == (2, 10)


@pytest.mark.parametrize("name", ["resnet-50", "mobilenet", "mobilenet-2", "mobilenet-0.25x", "../lenet-5"])
def test_an_unknown_network_is_refused_with_the_known_ones(name):
    with pytest.raises(Refused, match="known: lenet-300-100, lenet-5, lenet-5-caffe, mobilenet-<width"):
        zoo.build(name, 2, 96)


@pytest.mark.parametrize("name", ["lenet-300-100", "lenet-5", "mobilenet-0.125"])
def test_the_exported_file_answers_like_the_network(name):
    """`to_onnx` itself compares under each runtime; a broken fold must not get through."""
    torch.manual_seed(3)
    net = zoo.build(name, 3, 32)
    for module in net.modules():  # statistics unlike 0 and 1, so that folding does something
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    data = export.to_onnx(net, 32)
    assert b"BatchNormalization" not in data
    assert data == export.to_onnx(net, 32)


def test_an_export_that_answers_otherwise_is_caught(monkeypatch):
    from edged.errors import Corrupt

    torch.manual_seed(3)
    net, other = zoo.build("lenet-5", 3, 32), zoo.build("lenet-5", 3, 32)
    data = export.to_onnx(other, 32)
    with pytest.raises(Corrupt, match="answers differently"):
        export.compare(net.eval(), data, 32)
