"""The disk is full for a while: pictures are lost and counted, the camera stays up, the update comes when there is room."""

import errno

import pytest

from edged import durable


@pytest.fixture
def disk(monkeypatch):
    """disk.full = a word: writes to paths with that word fail."""
    real = durable.write

    class Disk:
        full = ""

    def write(path, data, **options):
        if Disk.full and Disk.full in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, data, **options)

    monkeypatch.setattr(durable, "write", write)
    return Disk


def test_pictures_that_find_no_room_are_counted_and_the_next_ones_go_out(site, disk):
    site.start()
    disk.full = ".frame"
    site.see(3)
    site.run(5)
    assert not site.box.frames
    assert site.agent.spool.dropped_total == 3
    disk.full = ""
    site.see(2)
    site.run(5)
    assert len(site.box.frames) == 2


@pytest.mark.parametrize("where", ["job.json", "model.onnx", "slot.json", "known.json"])
def test_an_update_waits_for_room_and_then_comes(site, make, disk, where):
    site.start()
    site.install(1)
    disk.full = where
    site.box.offer(site.box.release(2, make.classifier(2)))
    site.see(20)
    site.run(30)
    assert site.agent.active.slot.release == 1
    assert site.box.frames[-1].header.regions[0].label
    disk.full = ""
    site.see(10)
    site.until(lambda: site.box.over("job-2"))
    assert (site.box.last.status, site.box.last.version) == ("SUCCEEDED", 2)


def test_a_switch_that_finds_no_room_is_made_later(site, make, disk):
    site.start()
    site.install(1)
    site.box.offer(site.box.release(2, make.classifier(2)))
    disk.full = "pointer.json"
    site.see(20)
    site.run(30)
    assert site.agent.active.slot.release == 1
    assert site.box.frames[-1].header.regions[0].label
    disk.full = ""
    site.see(6)
    site.until(lambda: site.box.over("job-2"))
    assert (site.box.last.status, site.box.last.version) == ("SUCCEEDED", 2)


def test_a_camera_starts_and_labels_on_a_disk_that_takes_nothing(site, disk):
    site.start()
    site.install(1)
    site.kill()
    disk.full = "state"
    site.start()
    site.see(3)
    site.run(5)
    assert site.agent.active.slot.release == 1
    assert site.agent.active.failed_total == 0


def test_a_model_on_probation_is_not_loaded_where_its_loads_cannot_be_counted(site, make, disk):
    site.start()
    site.install(1)
    site.box.offer(site.box.release(2, make.classifier(2)))
    site.until(lambda: site.agent.active.slots.pointer.probation)
    site.kill()
    disk.full = "state"
    site.start()
    assert site.agent.active.slot.release == 1
    site.run(3)
    disk.full = ""
    site.until(lambda: site.box.over("job-2"))
    assert (site.box.last.status, site.box.last.version) == ("FAILED", 1)
    site.install(3)
