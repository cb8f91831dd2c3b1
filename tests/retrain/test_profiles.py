"""The table of devices: complete, honest about what is not known, and the numbers that follow from what it cites."""

import pytest

from edged.errors import Misconfigured
from edged.retrain import device, profiles

KNOWN = (
    "atom-x5-e3930", "atom-x5-e3940", "jetson-tx2", "arm-a53", "arm-a57", "movidius-ma2450", "raspberry-pi-zero",
    "raspberry-pi-zero-2w", "iphone-7-plus", "ti-c66x", "this-machine",
)  # fmt: skip


def test_the_devices_of_the_specification_are_all_there():
    assert tuple(p.id for p in profiles.PROFILES) == KNOWN
    assert device.PROFILES is profiles.PROFILES


@pytest.mark.parametrize("profile", profiles.PROFILES, ids=KNOWN)
def test_each_says_where_its_figures_come_from(profile):
    assert profile.covered
    assert profile.not_covered
    assert profile.basis
    assert profile.runtime
    assert profile.sources or profile.id == "this-machine"
    if profile.factor:
        assert profile.doubt > 0
        assert profile.calibrated_on


@pytest.mark.parametrize("profile", profiles.PROFILES, ids=KNOWN)
def test_no_speed_is_claimed_where_none_was_published(profile):
    found = profile.estimate(100.0, "openvino")
    assert (found.how == "unknown") == (profile.factor == 0)
    assert (found.how == "measured") == (profile.factor is None)
    if found.how == "unknown":
        assert (found.likely, found.lower, found.upper) == (0, 0, 0)
        assert any("no estimate" in text for text in profile.not_covered)
    else:
        assert found.lower <= found.likely <= found.upper


# Published milliseconds an image of MobileNetV1, MobileNetV2 and SqueezeNet 1.1 (profiles.sources), and what one core limited
# to SSE4 takes. One A57 core was published; four are taken to scale as four A53 cores do.
HERE = {"v1": 28.0, "v2": 15.75, "squeeze": 18.25}
FOUR_A53 = {"v1": 90.03, "v2": 82.00, "squeeze": 68.10}
ONE_A53 = {"v1": 244.08, "v2": 169.06, "squeeze": 148.40}
ONE_A57 = {"v1": 113.64, "v2": 79.67, "squeeze": 73.05}
ZERO_2W = {"v1": 162.60, "v2": 145.71, "squeeze": 119.52}
STICK = {"v1": 38.0, "v2": 49.0}


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("arm-a53", FOUR_A53),
        ("arm-a57", {k: ms * FOUR_A53[k] / ONE_A53[k] for k, ms in ONE_A57.items()}),
        ("jetson-tx2", {k: ms * FOUR_A53[k] / ONE_A53[k] for k, ms in ONE_A57.items()}),
        ("movidius-ma2450", STICK),
        ("raspberry-pi-zero-2w", ZERO_2W),
    ],
)
def test_every_published_figure_lies_within_the_bounds_of_the_factor(name, published):
    """The factor is their geometric mean; its doubt reaches every one of them."""
    profile = device.find(name)
    ratios = [HERE[k] / ms for k, ms in published.items()]
    product = 1.0
    for ratio in ratios:
        product *= ratio
    assert profile.factor == pytest.approx(product ** (1 / len(ratios)), rel=0.05)
    assert all(profile.factor / (1 + profile.doubt) <= r <= profile.factor * (1 + profile.doubt) for r in ratios)


def test_the_smaller_atom_is_its_share_of_the_larger():
    small, large = device.find("atom-x5-e3930"), device.find("atom-x5-e3940")
    assert small.factor == pytest.approx(large.factor * (small.cores * small.ghz) / (large.cores * large.ghz), rel=0.02)
    assert small.doubt > large.doubt


def test_an_unknown_device_in_the_configuration_is_told_with_the_known_ones():
    with pytest.raises(Misconfigured, match=r"retest\.device\.id: no device is called 'toaster'; known: atom-x5-e3930"):
        device.configured("toaster")
    assert device.configured("arm-a53") == "arm-a53"
