"""A way back to earlier bytes: not held against the model that it leaves, whatever that one does well."""

import pytest

from agent.active import Probation
from agent.slots import Slots

HARSH = ({"max_slowdown": 1e-6, "picture_s": 0.0}, {"min_agreement": 1.0}, {"max_shift": 0.0})


@pytest.fixture
def wrong(site, make):
    """Release 1 was good; release 2 runs, is quick, and calls everything busy. offer(number, ...) offers 1's bytes."""
    site.options = {"probation": Probation(frames=3, shadow=1e9)}
    site.start()
    site.install(1, make.leaning(0))
    site.install(2, make.leaning(1e6))

    def offer(number, **custom):
        site.box.offer(site.box.release(number, make.leaning(0), **custom))
        site.see(30)
        site.until(lambda: site.box.over(f"job-{number}"))
        return site.box.last

    return offer


@pytest.mark.parametrize("limits", HARSH, ids="-".join)
def test_the_way_back_stays_where_any_other_release_is_stopped(site, wrong, limits):
    site.agent.active.probation = Probation(frames=12, shadow=1e9, **limits)
    other = wrong(3)
    assert (other.status, other.version) == ("FAILED", 2)  # the control: the very same bytes
    back = wrong(4, returns_to=1)
    assert (back.status, back.version) == ("SUCCEEDED", 4)
    assert (back.health.pictures, back.health.regions, back.health.fps_before) == (12, 0, None)


def test_a_way_back_may_lead_to_one_that_sees_a_single_class_where_the_one_before_saw_several(site, make, wrong):
    site.install(3, make.leaning(0), returns_to=1)
    site.agent.active.probation = Probation(frames=12, shadow=1e9)
    for number, custom, status in ((4, {}, "FAILED"), (5, {"returns_to": 2}, "SUCCEEDED")):
        site.box.offer(site.box.release(number, make.leaning(1e6), **custom))
        site.see(30)
        site.until(lambda number=number: site.box.over(f"job-{number}"))
        assert site.box.last.status == status, site.box.last


def test_a_restart_in_the_middle_of_a_way_back_compares_no_more_than_before(site, make, wrong):
    site.options = {"probation": Probation(frames=12, shadow=1e9, min_agreement=1.0)}
    site.kill()
    site.start()
    site.box.offer(site.box.release(3, make.leaning(0), returns_to=1))
    site.until(lambda: site.agent.active.slots.pointer.probation)
    site.kill()
    site.start()
    site.see(30)
    site.until(lambda: site.box.over("job-3"))
    assert (site.box.last.status, site.box.last.version) == ("SUCCEEDED", 3)
    assert site.box.last.health.regions == 0


@pytest.mark.parametrize("how", ["rubbish", "slow"])
def test_what_a_way_back_does_by_itself_still_counts(site, make, wrong, how, monkeypatch):
    site.box.offer(site.box.release(3, make.leaning(0), returns_to=1))
    site.until(lambda: site.agent.active.slots.pointer.probation)
    if how == "rubbish":
        engine = site.agent.active.pipeline.model
        monkeypatch.setattr(engine, "run", lambda batch: (batch[:, :2, 0, 0] * float("nan"),))
    else:
        site.agent.active._watch.limits = Probation(frames=12, slowest_s=0.0)
    site.see(30)
    site.until(lambda: site.box.over("job-3"))
    assert (site.box.last.status, site.box.last.version) == ("FAILED", 2)


def test_what_a_slot_held_before_ways_back_were_noted_in_it_is_still_read(site):
    site.start()
    site.install(1)
    slots = site.agent.active.slots
    path = slots.folder / slots.pointer.active / "slot.json"
    path.write_bytes(path.read_bytes().replace(b',"returns":false', b""))
    assert b"returns" not in path.read_bytes()
    assert Slots(slots.folder).active().returns is False


@pytest.mark.parametrize("damaged", [False, True])
def test_bytes_that_the_other_slot_has_are_not_asked_for_again_unless_they_were_damaged(site, make, damaged):
    site.start()
    first = site.install(1, make.classifier(1, padding=30_000))
    site.install(2)
    site.box.wants.clear()
    if damaged:
        path = site.agent.active.slots.folder / site.agent.active.slots.pointer.fallback / "model.onnx"
        path.write_bytes(first[:-1] + bytes([first[-1] ^ 1]))
    site.install(3, first, returns_to=1)
    assert site.agent.active.slots.load().model == first
    assert bool(site.box.wants) is damaged
    assert not list((site.folder / "state/update/staging").iterdir())


def test_bytes_that_a_slot_has_are_run_only_when_they_are_signed_for(site, make):
    site.start()
    first = site.install(1)
    site.install(2)
    desired = site.box.release(3, first)
    site.box.publish_metadata(lambda name, data: data.replace(b'"px":32', b'"px":33') if "targets" in name else data)
    site.box.desire(desired)
    site.until(lambda: site.box.over("job-3"))
    assert (site.box.last.status, site.box.last.version) == ("REJECTED", 2)
