"""The update killed at every write to the disk, before it and after it: always a working model, and in the end the new one."""

import pytest

from edged import durable


class Killed(BaseException):
    """The process is gone."""


def deadly(monkeypatch, k, moment):
    """The k-th write to slots or update (not the spool, not the box) kills. Returns the paths written."""
    real, written = durable.write, []

    def write(path, data, **options):
        ours = "state" in path.parts and "spool" not in path.parts
        if ours:
            written.append(path)
        fatal = ours and len(written) == k + 1
        if fatal and moment == "before":
            raise Killed
        real(path, data, **options)
        if fatal:
            raise Killed

    monkeypatch.setattr(durable, "write", write)
    return written


WRITES = (
    "job.json",  # IN_PROGRESS
    "job.json",  # metadata verified
    "job.json",  # what could take the agent down begins
    "model.onnx", "known.json", "slot.json",  # staged
    "job.json",  # self-test
    "pointer.json",  # switched
    "pointer.json",  # loading
    "job.json",  # probation
    "pointer.json",  # committed
    "job.json",  # SUCCEEDED
)  # fmt: skip


def test_the_story_has_exactly_the_writes_that_are_killed_below(site, make, monkeypatch):
    site.start()
    site.install(1)
    written = deadly(monkeypatch, 10_000, "before")
    site.install(2)
    assert tuple(p.name for p in written) == WRITES


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("k", range(len(WRITES)))
def test_killed_at_any_write_the_camera_labels_again_at_once_and_gets_the_new_model(site, make, monkeypatch, k, moment):
    site.start()
    site.install(1)
    old = site.agent.active.slot.sha256
    with monkeypatch.context() as patched:
        deadly(patched, k, moment)
        desired = site.box.release(2, make.classifier(2))
        try:
            site.box.offer(desired)
            site.see(6)
            site.until(lambda: site.box.over("job-2"))
        except Killed:
            site.kill()
    if site.agent is None:
        site.start()
        assert site.agent.active.slot.sha256 in (old, desired.sha256)
    site.see(8)
    site.until(lambda: site.box.over("job-2"))
    assert site.box.last.status == "SUCCEEDED", site.box.last
    assert site.agent.active.slot.release == 2
    assert not site.agent.active.slots.pointer.probation
    site.see()
    site.run(3)
    assert site.box.frames[-1].header.regions[0].label
