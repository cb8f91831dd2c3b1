"""Shorter ways to a release over the whole path: taken where they help, left for the whole file where they fail."""

import hashlib

import pytest

from agent import download
from agent.updater import Limits
from edged import packed
from edged.publish import deliver


def sha(data):
    return hashlib.sha256(data).hexdigest()


def way(form, data, source=""):
    return {
        "form": form, "sha256": sha(data), "bytes": len(data), "source": source, "chunks": deliver.digests(data),
    }  # fmt: skip


@pytest.fixture
def story(site, make):
    """Release 1 runs; story(form, data) offers release 2 with one way, which is `data`."""
    site.start()
    site.install(1)
    site.model = make.classifier(2, padding=20_000)

    def offer(form="packed", data=None, **more):
        data = packed.pack(site.model) if data is None else data
        site.box.models[sha(data)] = data
        source = site.agent.active.slot.sha256 if form == "delta" else ""
        site.box.wants.clear()
        site.box.offer(site.box.release(2, site.model, ways=[way(form, data, source)], **more))
        site.see(20)
        return data

    return offer


def asked(site):
    return list(dict.fromkeys(w.sha256 for w in site.box.wants))


def ends(site, status="SUCCEEDED"):
    site.until(lambda: site.box.over("job-2"))
    assert site.box.last.status == status, site.box.last
    if status == "SUCCEEDED":
        assert site.agent.active.slots.load().model == site.model


def test_the_packed_form_is_taken_and_the_model_is_the_very_file(site, story):
    data = story()
    ends(site)
    assert asked(site) == [sha(data)]


@pytest.mark.parametrize("form", ["packed", "delta"])
def test_a_way_that_leads_nowhere_is_left_for_the_whole_file_in_the_same_job(site, story, form):
    rubbish = b"no such thing" * 100
    story(form, rubbish)
    ends(site)
    assert asked(site) == [sha(rubbish), sha(site.model)]
    assert "the whole file was fetched, since" in site.box.last.detail
    assert "FAILED" not in [r.status for r in site.box.reports if r.job == "job-2"]


def test_a_way_that_rebuilds_something_else_of_the_right_length_is_found_by_the_signature(site, story, monkeypatch):
    story()
    monkeypatch.setattr(download.ways, "rebuild", lambda way, data, old, length: bytes(length))
    ends(site)
    assert len(asked(site)) == 2


def test_a_way_that_the_box_no_longer_has_costs_a_minute_not_the_update(site, story):
    data = story()
    del site.box.models[sha(data)]
    real = site.box.answer
    site.box.answer = lambda want, limit=None: real(want, limit) if want.sha256 in site.box.models else None
    site.until(lambda: site.box.over("job-2"), seconds=1.0)
    ends(site)
    assert asked(site) == [sha(data), sha(site.model)]


def test_a_running_model_that_was_damaged_on_the_disk_is_no_start_for_a_delta(site, story):
    path = site.folder / "state/slots" / site.agent.active.slots.pointer.active / "model.onnx"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    story("delta", b"d" * 500)
    ends(site)
    assert len(asked(site)) == 2


def test_killed_in_the_rebuild_it_takes_the_whole_file(site, story, monkeypatch):
    class Killed(BaseException):
        pass

    def rebuild(*_):
        raise Killed

    monkeypatch.setattr(download.ways, "rebuild", rebuild)
    story()
    with pytest.raises(Killed):
        site.run(100)
    site.kill()
    site.start()
    site.see(20)
    ends(site)
    assert asked(site)[-1] == sha(site.model)


def test_killed_in_the_download_it_goes_on_with_the_way(site, story):
    site.box.serve = False
    data = story()
    site.until(lambda: site.box.wants)
    site.box.answer(site.box.wants[-1], limit=2)
    site.run(2)
    site.kill()
    site.box.wants.clear()
    site.box.serve = True
    site.start()
    site.see(20)
    ends(site)
    assert asked(site) == [sha(data)]
    assert site.box.wants[0].chunks[0] == 2


def test_a_way_with_other_chunks_than_bytes_is_rejected(site, story):
    data = packed.pack(site.model)
    forged = way("packed", data) | {"bytes": len(data) * 9}
    site.box.offer(site.box.release(2, site.model, ways=[forged]))
    site.until(lambda: site.box.over("job-2"))
    assert site.box.last.status == "REJECTED"


# deadlines


def test_one_who_sends_a_chunk_now_and_then_is_given_up_after_a_time_that_grows_with_the_size(site, make):
    site.options = {"limits": Limits(slack_s=100.0, min_rate=1000.0)}
    site.start()
    site.box.serve = False
    model = make.classifier(1, padding=100_000)  # 400 kB: 500 s and the slack
    site.box.offer(site.box.release(1, model))
    began = site.clock.now()
    served = 0
    while not site.box.over("job-1"):
        if site.box.wants and site.clock.now() - began > 50 * served:
            site.box.answer(site.box.wants[-1], limit=1)
            served += 1
        site.run(1, 2.0)
        assert site.clock.now() - began < 700
    assert site.box.last.status == "TIMED_OUT"
    assert "too slow" in site.box.last.detail
    assert site.clock.now() - began > 490


def test_time_without_a_cable_does_not_count(site, make):
    site.options = {"limits": Limits(slack_s=100.0, min_rate=1e6)}
    site.start()
    site.box.serve = False
    site.box.offer(site.box.release(1, make.classifier(1)))
    site.until(lambda: site.box.wants)
    site.agent._link.drop()
    site.run(50, 10.0)
    assert site.agent.updater.record.phase == "chunks"


# loops


def test_a_release_that_failed_twice_is_not_tried_a_third_time_until_there_is_a_newer_one(site, make):
    from msgspec.structs import replace

    site.start()
    site.install(1)
    bad = make.classifier(2)
    desired = site.box.release(2, bad, answer=make.known_answer(bad, shift=5.0))
    said = []
    for job in ("first", "second", "third"):
        site.box.offer(replace(desired, job=job))
        site.until(lambda job=job: site.box.over(job))
        said.append(site.box.last.status)
        site.kill()  # also across starts
        site.start()
    assert said == ["FAILED", "FAILED", "REJECTED"]
    assert "failed here twice" in site.box.last.detail
    site.install(3, bad)  # the same bytes with an answer of their own: a newer release


def test_a_clean_stop_in_the_self_test_is_no_crash(site, make):
    class Never:
        def poll(self):
            return None

        def stop(self):
            pass

    site.self_test = lambda *_a, **_k: Never()
    site.start()
    site.box.offer(site.box.release(1, make.classifier(1)))
    for _ in range(4):
        site.until(lambda: site.agent.updater.record and site.agent.updater.record.phase == "self_test")
        site.agent.close()
        site.start()
    from agent.selftest import Inline

    site.agent.updater._self_test = Inline
    site.see(10)
    site.until(lambda: site.box.over("job-1"))
    assert site.box.last.status == "SUCCEEDED"


def test_a_self_test_that_takes_the_agent_down_twice_is_not_begun_a_third_time(site, make):
    class Killed(BaseException):
        pass

    def deadly(*_a, **_k):
        raise Killed

    site.start()
    site.install(1)
    site.self_test = deadly
    site.agent.updater._self_test = deadly
    site.box.offer(site.box.release(2, make.classifier(2)))
    for _ in range(2):
        with pytest.raises(Killed):
            site.run(100)
        site.kill()
        site.start()
    site.until(lambda: site.box.over("job-2"))
    assert (site.box.last.status, site.box.last.version) == ("FAILED", 1)
    assert "took the agent down 2 times" in site.box.last.detail


# why not, in words


@pytest.mark.parametrize(
    ("options", "custom", "word"),
    [
        ({"model": "gates"}, {}, "this camera runs gates"),
        ({"classes": ("cat", "dog")}, {}, "this camera expects cat, dog"),
        ({"classes": ("busy", "free")}, {"classes": ["free", "busy", "van"]}, "tells apart free, busy, van"),
    ],
)
def test_a_release_of_another_kind_is_rejected_with_a_sentence(site, make, options, custom, word):
    site.options = options
    site.start()
    site.box.offer(site.box.release(1, make.classifier(1), **custom))
    site.until(lambda: site.box.over("job-1"))
    assert site.box.last.status == "REJECTED"
    assert word in site.box.last.detail
    assert not site.box.wants


def test_the_order_of_classes_does_not_matter(site):
    site.options = {"classes": ("busy", "free"), "model": "parking"}
    site.start()
    site.install(1)


def test_a_file_that_no_model_may_be_is_rejected_though_it_was_signed(site, make):
    import onnx

    site.start()
    site.install(1)
    bad = onnx.load_model_from_string(make.classifier(2))
    bad.graph.node.append(onnx.helper.make_node("Run", [], ["x"], domain="com.evil"))
    site.box.offer(site.box.release(2, bad.SerializeToString(), answer=make.known_answer(make.classifier(2))))
    site.until(lambda: site.box.over("job-2"))
    assert (site.box.last.status, site.box.last.version) == ("REJECTED", 1)
    assert "com.evil" in site.box.last.detail
