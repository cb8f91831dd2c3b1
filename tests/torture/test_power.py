"""The short form of the power cuts; `python -m tests.torture.power` is the long one."""

import pytest

from tests.torture import broken, inject, medium, power

pytestmark = [
    pytest.mark.torture,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(inject.unable()), reason=inject.unable() or "strace works"),
]
SEED = 2


@pytest.mark.parametrize("part", ["all", "erasure"])
def test_after_a_power_cut_at_any_moment_every_promise_is_kept(part, capsys):
    told = power.campaign(part, seed=SEED, cuts=160, frames=8, rounds=2)
    with capsys.disabled():
        print(f"\npower: {part}, seed {SEED}: {told}")
    assert told.broken == []
    assert told.cuts.total() > 80
    assert told.promises > 1000


@pytest.mark.parametrize("name", broken.BUILDS)
def test_a_build_that_is_broken_is_caught(name):
    """The negative controls."""
    assert power.control(name, seed=SEED, enough=1).broken


def test_what_the_model_disk_holds_at_the_end_is_what_the_folder_holds(tmp_path):
    recording = power.record(tmp_path, "all", SEED, frames=4, kills=["fdatasync:3"])
    *_, (*_, model) = power.points(recording)
    assert model.tree(medium.EVERYTHING, None) == recording.runs[-1].left
