"""The short form of the wrong clocks; `make torture` runs the long one."""

import pytest

from tests.torture import clocks

pytestmark = [pytest.mark.torture, pytest.mark.timeout(600)]
SEED = 31


@pytest.mark.parametrize("case", [c for c in clocks.cases() if c.side == "both"], ids=str)
def test_a_camera_takes_nothing_older_goes_on_and_is_updated_once_the_time_is_right(case):
    assert clocks.camera(case) == []


def test_a_camera_that_forgets_what_it_trusted_is_caught():
    """The negative control."""
    case = clocks.Case("a day back", "camera", True)
    assert any("release 1 runs" in fault for fault in clocks.camera(case, broken="forgets"))


@pytest.mark.skipif(bool(clocks.unable()), reason=clocks.unable() or "libfaketime works")
def test_real_processes_lose_nothing_and_bring_frames_again_once_the_time_is_right(capsys):
    told = clocks.Told()
    clocks.processes(("1970", "ten years on"), told)
    with capsys.disabled():
        print(f"\nclocks: {told}")
    assert told.faults == []
    assert told.receipted > 20
    assert told.alarms
