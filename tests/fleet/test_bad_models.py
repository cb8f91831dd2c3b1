"""Real agents, a real broker, signed releases of every bad kind: none gets beyond the canary, all cameras go on.

Each kind is here once. The long form (20 cameras, both brokers, each kind in both places, the delays of the systemd unit,
and how many seconds it takes) is `python -m bench.fleet --only bad`.
"""

import pytest

from bench.fleets import faulty
from bench.fleets.agents import Cameras
from bench.fleets.bad import Trial, Watch
from bench.fleets.place import Place

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

CAMERAS = ("cam-0", "cam-1")
HANG_S = 6.0  # of real time, on a machine that may be busy; a slow picture takes SLOW_S of processor time
SLOW_S = 0.5
FOUND_BY_SELF_TEST = {"segfault": "SIGSEGV", "overflow": "SIGFPE"}
FOUND_IN_SERVICE = {
    "exit": "took the agent down twice", "sleep": "took the agent down twice", "memory": "failed on a picture",
    "nan": "not finite", "one-class": "calls all of", "slow": "too slow",
}  # fmt: skip


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """A fleet that runs a good model; every test leaves it so."""
    watch = Watch()
    rollout = {"wait_s": 0.2, "timeout_s": 120, "steps": [1.0]}
    with (
        Place(tmp_path_factory.mktemp("fleet"), CAMERAS, rollout=rollout, seen=watch) as place,
        Cameras(place, fps=8, restart_s=0.3, settings={"hang_s": HANG_S}) as cameras,
    ):
        made = Trial(place, cameras, watch, quiet_s=1.0)
        made.good(faulty.good(0))
        yield made


def test_every_kind_of_bad_model_is_here():
    assert {*FOUND_BY_SELF_TEST, *FOUND_IN_SERVICE} == set(faulty.KINDS)


@pytest.mark.parametrize("kind", FOUND_BY_SELF_TEST)
def test_what_the_self_test_finds_never_runs(trial, kind):
    told = trial.bad(faulty.bad(kind, "self-test", 1))
    assert told.contained, told
    assert (told.to_switch, told.answered, told.ends) == (None, 0, []), told
    assert FOUND_BY_SELF_TEST[kind] in told.detail, told


@pytest.mark.parametrize("kind", FOUND_IN_SERVICE)
def test_what_goes_wrong_in_service_is_left_for_the_model_before(trial, kind):
    told = trial.bad(faulty.bad(kind, "service", 2, SLOW_S))
    assert told.contained, told
    assert told.status == "FAILED", told
    assert FOUND_IN_SERVICE[kind] in told.detail, told
    assert told.back is not None, told


def test_the_control_a_good_release_after_all_that_goes_to_everybody(trial):
    """Judged as the bad ones are: what watches here would notice a release that is contained for no reason."""
    told = trial.bad(faulty.good(3))
    assert not told.contained
    assert told.state == "complete", told
    assert sorted(told.offered) == sorted(CAMERAS), told
    assert told.without == []
    assert {seen.model for seen in trial.watch.last.values()} == {trial.runs}
