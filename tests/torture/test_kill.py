"""The short form of the kills; `make torture` runs the long one. Seeds and counts are printed, also in CI's log."""

import pytest

from tests.torture import inject, kill
from tests.torture.acts import SMALL

pytestmark = [
    pytest.mark.torture,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(inject.unable()), reason=inject.unable() or "strace works"),
]
SEED = 4


def test_killed_before_a_sample_of_all_calls_that_touch_the_disk_every_promise_is_kept(capsys):
    told = kill.run(140, SEED, stop_s=60)
    with capsys.disabled():
        print(f"\nkill: seed {SEED}: {told}")
    assert told.faults == []
    assert set(told.points) == set(SMALL)
    assert told.killed > 0.9 * told.points.total()
    assert told.ready_s < kill.READY_S


def test_killed_at_random_moments_under_load_every_promise_is_kept(capsys):
    told = kill.under_load(16, SEED, stop_s=20)
    with capsys.disabled():
        print(f"\nkill under load: seed {SEED}: {told}")
    assert told.faults == []
    assert told.promises > 100
    assert told.ready_s < kill.READY_S


@pytest.mark.parametrize(
    ("broken", "words"),
    [("receipt first", "lost"), ("rows first", "damaged"), ("plaintext", "CANARY")],
)
def test_a_broken_build_is_caught(broken, words):
    """The negative controls. A receipt between write and flush is not among them: a kill does not lose the page cache."""
    told = kill.run(40, SEED, acts=["ingest"], broken=broken)
    assert any(words in fault for fault in told.faults), told


def test_points_are_drawn_from_every_act_and_kind():
    every = [
        kill.Point(act, kind, k) for act in "ab" for kind in ("write", "fsync") for k in range(9 if act == "a" else 2)
    ]
    drawn = kill.draw(every, 8, seed=1)
    assert {(p.act, p.kind) for p in drawn} == {(p.act, p.kind) for p in every}
    assert kill.draw(every, 1000, seed=1) != every
    assert sorted(map(str, kill.draw(every, 1000, seed=1))) == sorted(map(str, every))


TRACE = """\
7 fdatasync(3</d/a>) = -1 EIO (Input/output error) (INJECTED)
8 pwrite64(3</d/a>, ""..., 9, 0 <unfinished ...>
7 close(4</d/b>) = 0
8 <... pwrite64 resumed>) = 9
"""


def test_a_sync_that_is_tried_again_after_it_failed_is_seen(tmp_path):
    log = tmp_path / "log"
    log.write_text(TRACE + "7 close(3</d/a>) = 0\n7 fdatasync(3</d/a>) = 0\n")
    assert inject.synced_again(inject.calls(log)) == []
    log.write_text(TRACE + "7 fdatasync(3</d/a>) = 0\n")
    assert inject.synced_again(inject.calls(log)) == ["/d/a"]
    assert inject.points(log, tmp_path) == set()


FAILED = """\
7 fdatasync(3</d/a>) = 0
7 pwrite64(3</d/a>, ""..., 4096, 8192) = 4096
7 pwritev2(3</d/a>, [...], 2, 100, 0) = 50
7 fdatasync(3</d/a>) = -1 EIO (Input/output error) (INJECTED)
"""


@pytest.mark.parametrize(
    ("then", "again"),
    [
        ("7 fdatasync(3</d/a>) = 0\n", True),
        ("7 close(3</d/a>) = 0\n7 fdatasync(3</d/a>) = 0\n", False),
        ('7 pwrite64(3</d/a>, ""..., 4096, 8192) = 4096\n7 fdatasync(3</d/a>) = 0\n', True),
        ('7 pwrite64(4</d/a>, ""..., 9000, 0) = 9000\n7 fdatasync(3</d/a>) = 0\n', True),
        ('7 pwrite64(4</d/a>, ""..., 20000, 0) = 20000\n7 fdatasync(3</d/a>) = 0\n', False),
        ('7 pwrite64(4</d/a>, ""..., 20000, 0) = -1 EIO (Input/output error)\n7 fdatasync(3</d/a>) = 0\n', True),
        ('7 pwrite64(3</d/a>, ""..., 20000, 0) = 20000\n7 fdatasync(3</d/a>) = -1 EIO (Input/output error)\n'
         "7 fdatasync(3</d/a>) = 0\n", True),
        ('7 pwrite64(3</d/a>, ""..., 20000, 0) = 20000\n7 fdatasync(3</d/a>) = 0\n7 fdatasync(3</d/a>) = 0\n', False),
        ("7 fdatasync(4</d/b>) = 0\n", False),
        ('7 pwrite64(4</d/a>, ""..., 20000, 0) = 20000\n7 fdatasync(4</d/a>) = 0\n7 fdatasync(3</d/a>) = 0\n', False),
        ("7 fdatasync(4</d/a>) = 0\n7 fdatasync(3</d/a>) = 0\n", True),
    ],
)  # fmt: skip
def test_only_who_writes_again_all_that_a_failed_sync_was_to_flush_may_sync_again(tmp_path, then, again):
    log = tmp_path / "log"
    log.write_text(FAILED + then)
    assert inject.synced_again(inject.calls(log)) == (["/d/a"] if again else [])
