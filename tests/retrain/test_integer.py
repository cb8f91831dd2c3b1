"""Networks of integers: bit by bit what a slow reading in plain Python says, never beyond 32 bits, and near the float."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from edged import engine
from edged.engine import patterns, preprocess
from edged.errors import Corrupt, Refused
from edged.retrain import export, intake, integer, layers, shifts, zoo
from edged.retrain.methods import int8
from edged.retrain.pictures import Pictures

SEED = 3


def batch(n=6, px=16, first=0):
    return preprocess.marshal(preprocess.to_float([patterns.picture(first + i, px) for i in range(n)], px))


def settled(make, px):
    """Weights drawn, batch norms that have seen pictures."""
    torch.manual_seed(SEED)
    net = make()
    net.train()
    with torch.no_grad():
        net(torch.from_numpy(batch(16, px)))
    return net.eval()


class Everything(nn.Module):
    """One of each layer that integers know."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pairs = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2)
        self.left, self.right = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
        self.last = nn.Linear(8 * 3 * 3, 5)

    def forward(self, x):
        x = torch.nn.functional.relu6(self.first(x / 127.5 - 1.0))
        x = torch.relu(self.depth(x)) + self.pairs(x)
        x = torch.cat([self.left(x), torch.relu(self.right(x))], 1)
        x = nn.functional.max_pool2d(x, 3, 2, padding=1)
        x = nn.functional.avg_pool2d(x, 2, 1)
        return self.last(x.flatten(1))


@pytest.fixture(scope="module")
def everything():
    return export.to_onnx(settled(Everything, 16), 16)


# A second executor, written from the format's own words (docs/devices.md): plain Python integers, one sum at a time.


def slow(net, pixels):
    tensors = {net.input: pixels.tolist()}
    for step in net.steps:
        tensors[step.output] = [slow_step(step, [tensors[i][n] for i in step.inputs]) for n in range(len(pixels))]
    return np.array(tensors[net.output])


def shifted(total, shift, low, high):
    if shift > 0:
        total = (total + (1 << (shift - 1))) >> shift
    else:
        total <<= -shift
    return max(low, min(high, total))


def finish(step, total, channel):
    assert -(2**31) <= total < 2**31
    if step.wide:
        return max(step.low, min(step.high, total))
    shift = step.shift.tolist()
    return shifted(total, shift[channel if len(shift) > 1 else 0], step.low, step.high)


def slow_step(step, given):
    x = given[0]
    if step.op == "flatten":
        flat = x
        while isinstance(flat[0], list):
            flat = [v for part in flat for v in part]
        return flat
    if step.op == "gather":
        return [x[i] for i in step.weight.tolist()]
    if step.op == "clamp":
        return [[[max(step.low, min(step.high, v)) for v in row] for row in plane] for plane in x]
    if step.op == "concat":
        moved = [
            [[[shifted(v, s, step.low, step.high) for v in row] for row in plane] for plane in t]
            for t, s in zip(given, step.shift.tolist(), strict=True)
        ]
        return [plane for t in moved for plane in t]
    if step.op == "add":
        return [
            [
                [finish(step, sum(t[c][i][j] << k for t, k in zip(given, step.lefts, strict=True)), c) for j in range(len(row))]
                for i, row in enumerate(plane)
            ]
            for c, plane in enumerate(x)
        ]  # fmt: skip
    if step.op == "gemm":
        rows = zip(step.weight.tolist(), step.bias.tolist(), strict=True)
        return [
            finish(step, sum(a * b for a, b in zip(w, x, strict=True)) + bias, c) for c, (w, bias) in enumerate(rows)
        ]
    if step.op == "scale":
        rows = zip(x, step.weight.tolist(), step.bias.tolist(), strict=True)
        return [[[finish(step, v * w + b, c) for v in row] for row in plane] for c, (plane, w, b) in enumerate(rows)]
    return slow_window(step, x)


def slow_window(step, x):
    (kh, kw), (sy, sx), (dy, dx), (top, left, bottom, right) = step.kernel, step.strides, step.dilations, step.pads
    height, width = len(x[0]), len(x[0][0])
    rows, columns = (
        (height + top + bottom - (kh - 1) * dy - 1) // sy + 1,
        (width + left + right - (kw - 1) * dx - 1) // sx + 1,
    )
    weight = step.weight.tolist() if step.weight is not None else []

    def at(c, i, j, fill):
        return x[c][i][j] if 0 <= i < height and 0 <= j < width else fill

    def one(c, i, j):
        spots = [(u, v, i * sy - top + u * dy, j * sx - left + v * dx) for u in range(kh) for v in range(kw)]
        if step.op == "maxpool":
            return max(at(c, a, b, -128) for _, _, a, b in spots)
        if step.op == "avgpool":
            return finish(
                step, sum(at(c, a, b, step.fill) for _, _, a, b in spots) * weight[0] + step.bias.tolist()[0], c
            )
        per = len(x) // step.group
        first = c // (len(weight) // step.group) * per
        total = step.bias.tolist()[c]
        for k in range(per):
            total += sum(weight[c][k][u][v] * at(first + k, a, b, step.fill) for u, v, a, b in spots)
        return finish(step, total, c)

    channels = len(weight) if step.op == "conv" else len(x)
    return [[[one(c, i, j) for j in range(columns)] for i in range(rows)] for c in range(channels)]


def pixels_of(pictures):
    return (pictures - 128).astype(np.int8)


def test_every_layer_is_bit_by_bit_what_plain_python_says(everything):
    net = shifts.network(everything, [batch()])
    assert {s.op for s in net.steps} >= {"conv", "scale", "add", "concat", "maxpool", "avgpool", "flatten", "gemm"}
    pixels = pixels_of(batch(3, first=40))
    fast, reference = integer.integers(net, pixels), slow(net, pixels)
    print(f"{fast.size} sums of {len(pixels)} pictures, seed {SEED}")
    assert fast.dtype == np.int32
    assert np.array_equal(fast, reference)


def test_the_slow_reading_notices_another_rounding(everything, monkeypatch):
    """The negative control: a shift that rounds down instead of half up."""
    net = shifts.network(everything, [batch()])
    pixels = pixels_of(batch(3, first=40))
    reference = slow(net, pixels)
    monkeypatch.setattr(
        integer,
        "requantise",
        lambda t, s, low=-128, high=127: np.clip(t >> np.maximum(s, 0), low, high).astype(np.int8),
    )
    assert not np.array_equal(integer.integers(net, pixels), reference)


@pytest.mark.parametrize("name", ["lenet-5", "mobilenet-0.125", "squeezenet-1.1"])
def test_the_nets_of_the_zoo_answer_in_integers_nearly_as_in_floats(name):
    px = 64
    model = export.to_onnx(settled(lambda: zoo.build(name, 4, px), px), px)
    pictures = batch(24, px, first=100)
    (wanted,) = engine.load(model).run(pictures)
    (found,) = integer.IntegerEngine(shifts.network(model, [batch(24, px)])).run(pictures)
    spread = wanted.std()
    print(name, "off by", float(np.abs(found - wanted).mean() / spread), "of the logits' spread")
    assert np.abs(found - wanted).mean() < 0.25 * spread


def test_a_file_that_takes_uint8_gives_the_same_integers(everything):
    inside = intake.inside(everything)
    pictures = batch(4, first=60)
    whole = [integer.IntegerEngine(shifts.network(m, [batch()])).run(pictures)[0] for m in (everything, inside)]
    assert np.array_equal(*whole)


def test_the_scales_of_a_quantized_file_are_enough(pics):
    """No pictures: the ranges are those that the file saturates at."""
    px = 32
    model = export.to_onnx(settled(lambda: zoo.build("lenet-5", 2, px), px), px)
    quantized = int8.int8(model, pics(40))
    net = shifts.network(quantized)
    pictures = batch(12, px)
    (wanted,), (found,) = engine.load(quantized).run(pictures), integer.IntegerEngine(net).run(pictures)
    assert np.abs(found - wanted).mean() < 0.25 * wanted.std()


def test_a_float_file_without_pictures_is_refused(everything):
    with pytest.raises(Refused, match="no pictures to find its scale on"):
        shifts.network(everything)


def test_a_file_reads_back_and_answers_bit_by_bit_the_same(everything):
    net = shifts.network(everything, [batch()])
    data = integer.write(net)
    again = integer.read(data)
    assert integer.write(again) == data
    pixels = pixels_of(batch(4, first=80))
    assert np.array_equal(integer.integers(net, pixels), integer.integers(again, pixels))


@pytest.mark.parametrize("at", [0, 9, 40, -200])
def test_a_damaged_file_is_an_error_with_a_name(everything, at):
    data = bytearray(integer.write(shifts.network(everything, [batch()])))
    cut = bytes(data[: at or 4])
    with pytest.raises((Corrupt, Refused)):
        integer.read(cut)


def test_a_layer_whose_sums_could_leave_32_bits_is_refused():
    wide = integer.Step(
        "gemm", "huge", ("image",), "y", weight=np.full((1, 140_000), 127, np.int8), bias=np.zeros(1, np.int32),
        shift=np.array([8], np.int32),
    )  # fmt: skip
    with pytest.raises(
        Refused, match=r"'huge' \(gemm\) can overflow 32 bits: its sums reach 2275840128, 2147483647 fit"
    ):
        integer.Network((wide,), "image", "y", "float32", 0)
    fits = replace(wide, weight=wide.weight[:, :132_000])
    assert integer.bound(fits) <= integer.LARGEST
    integer.Network((fits,), "image", "y", "float32", 0)


def test_what_a_file_says_of_itself_is_proven_again_when_it_is_read(everything):
    """A bias near the end of its 32 bits, written into the file behind the proof's back."""
    from safetensors.numpy import load, save

    data = integer.write(shifts.network(everything, [batch()]))
    tensors = load(data)
    key = max((k for k in tensors if k.endswith(".bias")), key=lambda k: int(k.split(".")[0]))
    tensors[key] = np.full_like(tensors[key], 2**31 - 1)
    head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    with pytest.raises(Refused, match="can overflow"):
        integer.read(save(tensors, head))


def test_no_change_to_what_a_file_says_of_itself_gets_past_its_reader(everything):
    """Every change of the header is refused or corrupt, or is a network that runs and whose sums are bounded."""
    from safetensors.numpy import load, save

    data = integer.write(shifts.network(everything, [batch()]))
    tensors = load(data)
    head = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["edged.integer"])
    dice = np.random.default_rng(SEED)
    counts = {"refused": 0, "ran": 0}
    values = (0, -1, 3, 10**9, "x", None, [], [1], [0, 0], "image", 2.5, {})
    for _ in range(300):
        changed = json.loads(json.dumps(head))
        step = changed["steps"][dice.integers(len(changed["steps"]))]
        place = step if dice.random() < 0.9 else changed
        key = sorted(place)[dice.integers(len(place))]
        place[key] = values[dice.integers(len(values))]
        try:
            net = integer.read(save(tensors, {"edged.integer": json.dumps(changed)}))
            integer.IntegerEngine(net).run(batch(1))
            counts["ran"] += 1
        except (Corrupt, Refused):
            counts["refused"] += 1
    print(counts, f"seed {SEED}")
    assert counts["refused"] > 100


def test_a_layer_that_is_not_known_is_refused_by_its_name():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(3 * 16 * 16, 2)

        def forward(self, x):
            return self.last(torch.tanh(x).flatten(1))

    model = export.to_onnx(Odd().eval(), 16)
    with pytest.raises(Refused, match=r"'/Tanh' \(Tanh\) cannot be converted"):
        layers.read(model)


def test_weights_that_are_no_numbers_are_refused(everything):
    from onnx import numpy_helper

    from edged.retrain import source

    model = source.parse(everything)
    tensor = next(t for t in model.graph.initializer if "last.weight" in t.name)
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    with pytest.raises(Refused, match="its weights are no numbers"):
        layers.read(bytes(model.SerializeToString()))


def test_no_sum_of_random_networks_ever_differs_from_plain_python():
    """Shifts to the left and right, biases near the edge, limits: what a quantiser rarely writes."""
    dice = np.random.default_rng(SEED)
    for case in range(20):
        c, out = int(dice.integers(1, 4)), int(dice.integers(1, 4))
        first = integer.Step(
            "conv", "a", ("image",), "x", weight=dice.integers(-128, 128, (out, 3, 3, 3)).astype(np.int8),
            bias=dice.integers(-(2**20), 2**20, out).astype(np.int32), shift=dice.integers(-3, 20, out).astype(np.int32),
            low=int(dice.integers(-128, 0)), high=int(dice.integers(0, 128)), fill=-128, kernel=(3, 3), pads=(1, 0, 2, 1),
            strides=(1, 2),
        )  # fmt: skip
        last = integer.Step(
            "conv", "b", ("x",), "y", weight=dice.integers(-128, 128, (c, out, 1, 1)).astype(np.int8),
            bias=dice.integers(-(2**30), 2**30, c).astype(np.int32), shift=np.zeros(c, np.int32), wide=True,
            low=-(2**31), high=2**31 - 1,
        )  # fmt: skip
        net = integer.Network((first, last), "image", "y", "float32", 0)
        pixels = dice.integers(-128, 128, (2, 3, 7, 6)).astype(np.int8)
        assert np.array_equal(integer.integers(net, pixels), slow(net, pixels)), f"case {case}, seed {SEED}"
    print(f"20 networks, seed {SEED}")


def test_the_picture_that_calibrates_is_only_read(pics):
    held = pics(8)
    before = held.pixels.copy()
    assert isinstance(held, Pictures)
    model = export.to_onnx(settled(lambda: zoo.build("lenet-5", 2, 32), 32), 32)
    shifts.network(model, held.batches(4))
    assert np.array_equal(before, held.pixels)
