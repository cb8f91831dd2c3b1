"""The tables of the networks against their papers and against torch's own count."""

import subprocess
import sys

import pytest

from edged.errors import Refused
from edged.retrain import nets, tables

# name, classes, px, parameters, multiply-adds, and how far the published figure is rounded: (at least, at most)
PUBLISHED = [
    # LeCun 1998, section III.C: 784-300-100-10; Deep Compression, table 1: 267 K
    ("lenet-300-100", 10, 28, (266_610, 266_610), (266_200, 266_200)),
    # LeCun 1998: 60,000 trained parameters with C3's table of holes; with all connections C3 has 2,416 instead of 1,516
    ("lenet-5", 10, 32, (60_000, 62_000), (340_908, 420_000)),
    # Deep Compression, table 3: 431 K weights; 4,586 K operations, two a multiply-add
    ("lenet-5-caffe", 10, 28, (431_080, 431_080), (2_293_000, 2_293_000)),
    # torchvision's table of the same single tower: 61,100,840 parameters, 0.71 G
    ("alexnet", 1000, 224, (61_100_840, 61_100_840), (0.71e9, 0.72e9)),
    # Simonyan & Zisserman, table 2: 138 M; torchvision: 138,357,544 and 15.47 G
    ("vgg-16", 1000, 224, (138_357_544, 138_357_544), (15.465e9, 15.475e9)),
    # Howard et al., tables 6 and 7: 4.2 M 569 M; 2.6 M 325 M; 1.3 M 149 M; 0.5 M 41 M
    ("mobilenet-1.0", 1000, 224, (4.15e6, 4.25e6), (568.5e6, 569.5e6)),
    ("mobilenet-0.75", 1000, 224, (2.55e6, 2.65e6), (324.5e6, 325.5e6)),
    ("mobilenet-0.5", 1000, 224, (1.25e6, 1.35e6), (148.5e6, 149.5e6)),
    ("mobilenet-0.25", 1000, 224, (0.45e6, 0.55e6), (40.5e6, 41.5e6)),
    # Howard et al., table 7, at smaller pictures: 1.0 at 192, 160, 128: 418 M, 290 M, 186 M
    ("mobilenet-1.0", 1000, 192, (4.15e6, 4.25e6), (417.5e6, 418.5e6)),
    ("mobilenet-1.0", 1000, 160, (4.15e6, 4.25e6), (289.5e6, 291e6)),
    ("mobilenet-1.0", 1000, 128, (4.15e6, 4.25e6), (185.5e6, 186.5e6)),
    # torchvision: 1,235,496 and 0.35 G
    ("squeezenet-1.1", 1000, 224, (1_235_496, 1_235_496), (0.345e9, 0.355e9)),
]


@pytest.mark.parametrize(("name", "classes", "px", "parameters", "macs"), PUBLISHED)
def test_parameters_and_multiply_adds_are_those_of_the_paper(name, classes, px, parameters, macs):
    rows = nets.layers(name, classes, px)
    assert parameters[0] <= tables.parameters(rows) <= parameters[1]
    assert macs[0] <= tables.macs(rows) <= macs[1]


def test_another_table_would_not_pass_for_the_papers():
    """The control: one layer more, one stride less, and the count is off."""
    mobilenet = nets.layers("mobilenet-1.0", 1000, 224)
    assert not 568.5e6 <= tables.macs(mobilenet[:30] + mobilenet[33:]) <= 569.5e6
    assert tables.parameters(nets.layers("alexnet", 999, 224)) != 61_100_840


@pytest.mark.parametrize("name", nets.LISTED)
@pytest.mark.parametrize("end", [0, 1])
def test_every_network_takes_the_smallest_and_the_largest_picture_it_names(name, end):
    px = nets.sides(name)[end]
    rows = nets.layers(name, 7, px)
    assert rows[-1].outputs == 7
    assert rows[-1].side == 1
    assert min(row.side for row in rows) == 1
    wrong = px + (2 * end - 1)
    with pytest.raises(Refused, match=f"pictures of .* not {wrong}"):
        nets.layers(name, 7, wrong)


def test_a_name_or_a_number_of_classes_that_cannot_be_is_refused_in_words():
    for name in ("mobilenet", "mobilenet-0.1", "mobilenet-2", "vgg", "", "mobilenet-0.25\n"):
        with pytest.raises(Refused, match="no network is called") as e:
            nets.layers(name, 2, 64)
        assert e.value.code == "unknown_network"
    for classes in (1, 1001):
        with pytest.raises(Refused, match="2 to 1000 classes"):
            nets.layers("lenet-5", classes, 32)


def test_what_a_step_keeps_of_a_picture_is_counted_by_hand():
    """LeNet-5 at 32 px: luma, C1, S2 and where its maxima were (64 bits), C3, S4 and its, C5, F6, output."""
    rows = nets.layers("lenet-5", 10, 32)
    assert tables.activations(rows) == 1024 + 6 * 784 + 3 * 6 * 196 + 16 * 100 + 3 * 16 * 25 + 120 + 84 + 10


def test_the_tables_need_no_torch_and_no_numpy():
    code = "import sys, edged.retrain.nets; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
