"""Erasure against whoever holds the disk and an older copy of it, with the site key and every data key that is left."""

import json
import shutil
from contextlib import suppress

import pytest

from edged.errors import EdgedError, Refused, Unavailable
from edged.storage import (
    Store,
    audit,
    candidates,
    check,
    clean,
    cycles,
    erasure,
    frames,
    labels,
    objects,
    outbox,
    recover,
    releases,
    requests,
    samples,
    seal,
    snapshots,
    upkeep,
)
from edged.storage.erasure import What
from edged.storage.retention import Rules
from tests.storage.conftest import StandIn, noise

DAY = "2026-11-21"
KEPT_OUT = shutil.ignore_patterns("keys", "keyring", ".keyring*")  # what a backup does not hold


def bodies(data_dir, rows):
    """Id -> (row, sealed bytes) as they stand in the segments under `data_dir`."""
    found = {}
    for r in rows:
        path = data_dir / "segments" / f"{r['segment']:08d}.seg"
        content = path.read_bytes()[r["place"] : r["place"] + r["size"]] if path.exists() else b""
        found[r["id"]] = r, content
    return found


def all_rows(store):
    return [dict(r) for r in store.rows("select id, camera, kind, key_id, size, segment, place from object")]


def opened(store, found):
    """Ids of what any data key that is left opens."""
    keys = [seal.DataKey(k.id, k.camera, k.day, seal.AESGCM(k.key)) for k in store.seal.ring.ring().keys]
    opens = set()
    for object_id, (row, content) in found.items():
        for key in keys:
            for of in {key.id, row["key_id"]}:  # a thief may write the header's key id for any other
                try:
                    as_if = seal.DataKey(of, key.camera, key.day, key.cipher)
                    seal.unseal(as_if, content, id=object_id, camera=row["camera"], kind=row["kind"])
                    opens.add(object_id)
                except EdgedError:
                    pass
    return opens


@pytest.fixture
def site(store, add, clock):
    """Two cameras, two days, 20 frames of three objects each; returns the store."""
    recover.run(store)
    for n in range(5):
        add(store, n, camera="gate")
        add(store, n, camera="yard")
    clock.at += 86400
    for n in range(5, 10):
        add(store, n, camera="gate")
        add(store, n, camera="yard")
    return store


def sealed_on(store, camera, day):
    return {
        r[0]
        for r in store.rows(
            "select o.id from object o join data_key k on k.id = o.key_id where k.camera = ? and k.day = ?",
            (camera, day),
        )
    }


def of_samples(store, ids):
    got = {samples.get(store, s).object for s in ids}
    return got | {
        store.value("select f.object from frame f join sample s on s.frame = f.id and s.camera = f.camera where s.id = ?", (s,))
        for s in ids
    }  # fmt: skip


def test_a_hundred_erased_pictures_open_from_nowhere_and_all_others_do(open_store, add, tmp_path, data_dir, capsys):
    store = open_store()
    recover.run(store)
    for n in range(60):
        add(store, n)
    add(store, 0, camera="yard")
    backup = shutil.copytree(data_dir, tmp_path / "backup", ignore=KEPT_OUT)
    before = all_rows(store)
    subject = [f"gate:boot-{n}:0" for n in range(50)]  # 50 crops and the 50 pictures they were cut from
    gone = of_samples(store, subject)
    contents = {r["id"]: objects.read(store, r["id"]) for r in before}
    assert len(gone) == 100
    done = erasure.now(store, What(samples=tuple(subject)), "anna")
    assert (done.objects, done.keys) == (100, 1)
    others = {r["id"] for r in before} - gone

    here = opened(store, bodies(data_dir, before)) & gone  # the bytes still stand where they stood
    copy = opened(store, bodies(backup, before))
    assert (here, copy & gone) == (set(), set())
    assert {r["id"] for r in all_rows(store)} == others
    assert all(objects.read(store, i) == contents[i] for i in others)
    assert check.run(store) == []
    yard = {r["id"] for r in before if r["camera"] == "yard"}
    assert copy == yard  # what was sealed anew opens from here, not from the copy: its key is another one now

    entry = audit.rows(store)[0]
    assert (entry.act, entry.subject) == ("erase", "50 samples, 0 frames")
    assert json.loads(entry.detail)["objects"] == 100
    assert not any(s in entry.detail for s in subject)
    with capsys.disabled():
        print(f"\nerased 100 of {len(before)}: 0 open here, 0 from the copy; {len(others)} others intact")


def test_control_an_erasure_that_only_drops_rows_leaves_every_copy_open(site, data_dir, tmp_path):
    backup = shutil.copytree(data_dir, tmp_path / "backup", ignore=KEPT_OUT)
    before = all_rows(site)
    gone = sealed_on(site, "gate", DAY)
    with site.transaction():
        objects.forget(site, sorted(gone))
    assert opened(site, bodies(backup, before)) >= gone
    assert opened(site, bodies(data_dir, before)) >= gone


def test_the_catalogue_of_a_backup_with_its_segments_opens_nothing_that_was_erased(
    site, data_dir, tmp_path, clock, site_key
):
    """Somebody restores the backup beside the keys of today."""
    backup = shutil.copytree(data_dir, tmp_path / "backup", ignore=KEPT_OUT)
    gone = sealed_on(site, "gate", DAY)
    erasure.now(site, What(camera="gate", first=DAY, last=DAY), "anna")
    for name in ("keys", "keyring"):
        here = data_dir / name
        (shutil.copytree if here.is_dir() else shutil.copy)(here, backup / name)
    with Store.open(backup, clock=clock, site_key=site_key, accept_catalogue=True) as old:
        for object_id in gone:
            with pytest.raises(EdgedError):
                objects.read(old, object_id)
        others = [r[0] for r in old.rows("select id from object") if r[0] not in gone]
        assert len([objects.read(old, i) for i in others]) == 45


@pytest.mark.parametrize(
    ("what", "frames_gone"),
    [
        (What(camera="gate", first=DAY, last=DAY), 5),
        (What(camera="gate"), 10),
        (What(first="2026-11-22", last="2026-11-22"), 10),
        (What(first=DAY), 20),
        (What(last="2026-11-20"), 0),
    ],
    ids=["a camera's day", "a camera", "a day", "from a day on", "before anything"],
)
def test_whole_days_go_with_their_keys_and_nothing_is_sealed_anew(site, what, frames_gone):
    planned = erasure.plan(site, what)
    done = erasure.now(site, what, "anna")
    assert (planned.frames, len(planned.objects), planned.others) == (frames_gone, 3 * frames_gone, 0)
    assert (done.objects, done.resealed) == (3 * frames_gone, 0)
    assert site.value("select count(*) from frame where object is not null") == 20 - frames_gone
    assert frames.count(site) == 20
    assert check.run(site) == []


def test_what_comes_after_an_erasure_of_today_is_kept(site, add):
    erasure.now(site, What(camera="gate"), "anna")
    add(site, 77)
    assert samples.crop(site, "gate:boot-77:0")
    assert check.run(site) == []


def test_frames_by_id_go_with_all_their_crops(site):
    done = erasure.now(site, What(frames=(("gate", "boot-3"),)), "anna")
    assert done.objects == 3
    with pytest.raises(Refused):
        samples.crop(site, "gate:boot-3:1")
    assert samples.crop(site, "gate:boot-2:1")


@pytest.mark.parametrize(
    ("what", "code"),
    [
        (What(), "nothing_named"),
        (What(camera="barn"), "not_found"),
        (What(samples=("gate:boot-999:0",)), "not_found"),
        (What(frames=(("gate", "boot-999"),)), "not_found"),
    ],
    ids=["nothing", "a camera that never was", "a sample", "a frame"],
)
def test_what_is_not_there_is_said_and_nothing_is_promised(site, what, code):
    with pytest.raises(Refused) as e:
        erasure.promise(site, what, "anna")
    assert e.value.code == code
    assert requests.pending(site) == []


def test_labels_stay_unless_they_are_to_go(site):
    for n in (0, 1):
        labels.add(site, f"gate:boot-{n}:0", "car", "human", "anna")
    plan = erasure.plan(site, What(samples=("gate:boot-0:0",)))
    assert plan.labelled == 1
    erasure.now(site, What(samples=("gate:boot-0:0",)), "anna")
    assert labels.count(site) == 2
    erasure.now(site, What(samples=("gate:boot-1:0",), drop_labels=True), "anna")
    assert labels.count(site) == 1
    assert check.run(site) == []


def test_models_that_saw_it_and_what_left_the_box_are_named(site):
    sample = "gate:boot-0:0"
    label = labels.add(site, sample, "car", "human", "anna")
    crop = samples.get(site, sample).object
    for kind, key, source in (
        ("scrubbed_crops", f"scrubbed_crops/{crop}.jpg", f"object:{crop}"),
        ("labels", f"labels/{label}.json", "inline"),
    ):
        outbox.mark(site, outbox.add(site, kind, key, source, 10, b"{}"), "sent")
    body = {"classes": ["car"], "train": [[sample, "car"]], "tune": [], "holdout": [], "holdout_ratio": 0.2}
    snapshot = snapshots.add(site, {**body, "block_s": 900, "seed": 1})
    cycle = cycles.start(site, "asked")
    made = candidates.add(site, cycle, name="net", sha256="a" * 64, size=1, snapshot=snapshot, recipe={})
    releases.add(site, number=1, name="t", candidate=made, sha256="a" * 64, size=1, target="t", classes=["car"])
    plan = erasure.plan(site, What(camera="gate", first=DAY, last=DAY))
    assert [(m.name, m.samples, m.releases) for m in plan.models] == [("net", 1, (1,))]
    assert sorted(x.kind for x in plan.left) == ["labels", "scrubbed_crops"]
    assert erasure.plan(site, What(camera="yard")).models == ()
    done = erasure.now(site, What(camera="gate", first=DAY, last=DAY), "anna")
    assert done.models == ("a" * 64,)


def test_what_waits_in_the_outbox_does_not_leave_any_more(site):
    crop = samples.get(site, "gate:boot-0:0").object
    outbox.add(site, "scrubbed_crops", "c", f"object:{crop}", 10)
    erasure.now(site, What(camera="gate"), "anna")
    assert outbox.due(site) == []


class Died(BaseException):
    pass


@pytest.mark.parametrize("at", ["before", "forget", "reseal", "condemn", "destroy", "truncate"])
@pytest.mark.parametrize("single", [True, False], ids=["a sample", "a day"])
def test_a_promised_erasure_is_finished_after_a_death_at_any_step(
    site, open_store, monkeypatch, data_dir, tmp_path, at, single
):
    backup = shutil.copytree(data_dir, tmp_path / "backup", ignore=KEPT_OUT)
    before = all_rows(site)
    what = What(samples=("gate:boot-0:0",)) if single else What(camera="gate", first=DAY, last=DAY)
    gone = of_samples(site, what.samples) if single else sealed_on(site, "gate", DAY)
    asked = erasure.promise(site, what, "anna")

    def die(*_args, **_kwargs):
        raise Died

    with monkeypatch.context() as patch:
        if at == "forget":
            patch.setattr(objects, "forget", die)
        elif at == "reseal":
            patch.setattr(clean, "reseal", die)
        elif at in ("condemn", "destroy"):
            patch.setattr(seal.Seal, at, die)
        elif at == "truncate":
            patch.setattr(audit, "append", die)
        if at != "before" and not (at == "reseal" and not single):
            with pytest.raises(Died):
                erasure.run(site, asked)
    site.close()
    again = open_store()
    recover.run(again)
    assert [r.id for r in requests.pending(again)] in ([asked], [])
    done = erasure.run(again, asked)
    assert done.objects == len(gone)
    assert requests.pending(again) == []
    assert opened(again, bodies(backup, before)) & gone == set()
    assert {r["id"] for r in all_rows(again)} == {r["id"] for r in before} - gone
    assert [e.act for e in audit.rows(again)].count("erase") == 1
    assert check.run(again) == []
    assert erasure.run(again, asked) == done  # and once is enough


@pytest.mark.parametrize("first", ["a sample", "its day"])
def test_two_erasures_that_died_and_share_a_key_are_both_finished(site, open_store, monkeypatch, first):
    whats = [What(samples=("gate:boot-0:0",)), What(camera="gate", first=DAY, last=DAY)]
    gone = sealed_on(site, "gate", DAY)

    def die(*_args, **_kwargs):
        raise Died

    real = erasure._forget
    for what in whats if first == "a sample" else whats[::-1]:
        with monkeypatch.context() as patch:
            patch.setattr(erasure, "_forget", lambda *args: (real(*args), die()))
            with pytest.raises(Died):
                erasure.now(site, what, "anna")
    site.close()
    again = open_store()
    recover.run(again)
    for asked in requests.pending(again):
        erasure.run(again, asked.id)
    assert requests.pending(again) == []
    assert not gone & {r["id"] for r in all_rows(again)}
    assert check.run(again) == []


def test_the_request_forgets_which_samples_it_was(site):
    erasure.now(site, What(samples=("gate:boot-0:0",)), "anna")
    row = site.row("select args, result from request")
    assert "boot-0" not in row["args"] + row["result"]


def test_a_frame_that_was_sealed_before_and_comes_after_is_sealed_anew_as_well(site, add, monkeypatch):
    reseal, came = clean.reseal, []

    def meanwhile(store, ids, progress):
        copied = reseal(store, ids, progress)
        if not came:
            late = store.seal.key_of(store, store.value("select id from doomed_key"))
            with monkeypatch.context() as patch:
                patch.setattr(seal.Seal, "key_for", lambda *_: late)
                came.append(add(store, 50))
        return copied

    monkeypatch.setattr(clean, "reseal", meanwhile)
    done = erasure.now(site, What(samples=("gate:boot-7:0",)), "anna")
    assert came
    assert samples.crop(site, "gate:boot-50:0")
    assert done.keys == 1
    assert check.run(site) == []


def test_a_frame_that_comes_after_its_key_was_destroyed_is_asked_for_again(site, add, monkeypatch):
    late = site.seal.key_for(site, "gate", "2026-11-22")
    erasure.now(site, What(camera="gate"), "anna")
    with monkeypatch.context() as patch:
        patch.setattr(seal.Seal, "key_for", lambda *_: late)
        with pytest.raises(Unavailable):
            add(site, 50)
    add(site, 50)
    assert check.run(site) == []


def test_a_full_store_seals_anew_in_what_room_there_is(open_store, frame):
    """Each segment that was emptied is the room for the next."""
    store = open_store(max_bytes=8 * 2**20)
    recover.run(store)
    n = 0
    with suppress(Unavailable):
        while True:
            made = frame(n, regions=1)
            frames.add(store, made, StandIn(noise(f"p{n}", 30_000), 8, 8, (noise(f"c{n}", 500),)))
            n += 1
    done = erasure.now(store, What(samples=("gate:boot-7:0",)), "anna")
    assert (done.objects, done.keys) == (2, 1)
    assert store.value("select count(*) from object") == 2 * n - 2
    assert check.run(store) == []


def test_a_request_that_is_no_erasure_is_answered_and_not_asked_for_ever(site):
    bad = requests.add(site, erasure.VERB, {"camera": 7}, "anna")
    gone = requests.add(site, erasure.VERB, {"samples": ["gate:boot-999:0"]}, "anna")
    good = erasure.promise(site, What(camera="gate"), "anna")
    upkeep.Upkeep(site, upkeep.Rules(Rules(1 << 40, 1e9), reserve=0)).step()
    assert requests.pending(site) == []
    for asked in (bad, gone):
        with pytest.raises(Refused):
            erasure.standing(site, asked)
    assert erasure.standing(site, good)[1].objects == 30
