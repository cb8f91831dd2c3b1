"""The short form of the failing disk; `make torture` runs the long one."""

import pytest

from tests.torture import faults, inject

pytestmark = [
    pytest.mark.torture,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(inject.unable()), reason=inject.unable() or "strace works"),
]
SEED = 6


def test_on_a_disk_that_fails_the_process_lives_says_later_and_goes_on_and_no_sync_is_tried_again(capsys):
    told = faults.run(40, SEED, stop_s=40)
    with capsys.disabled():
        print(f"\nfaults: seed {SEED}: {told}")
    assert told.faults == []
    assert told.answers["retry disk_failed"] > 0
    assert told.answers["retry disk_full"] > 0
    assert told.injected.total() > 50
    assert told.resumed_s < faults.RESUME_S


def test_a_build_that_tries_a_failed_sync_again_is_caught():
    """The negative control."""
    told = faults.run(20, SEED, broken="sync again", kinds=("fsync", "fdatasync"))
    assert any("synced again" in fault for fault in told.faults), told


def test_the_daemon_on_such_a_disk_stays_up_says_later_and_goes_on(capsys):
    told = faults.daemon(4, SEED)
    with capsys.disabled():
        print(f"\nfaults of the daemon: seed {SEED}: {told}")
    assert told.faults == []
    assert told.answers["retry"] > 0
    assert told.answers["stored"] > 0
