"""The ladder: a model follows a drift cheaply, keeps what it knew, and says so when there is nothing to learn."""

import json

import msgspec
import pytest
import torch

from edged.errors import Refused
from edged.retrain import jobs, learn, source, train
from edged.storage import samples, snapshots

torch.set_num_threads(1)
SMALL = {"arch": {"name": "mobilenet-0.125", "input_px": 32}}


def quiet(_):
    pass


def halve(site, cameras=("gate",)):
    """A snapshot of those cameras alone, as if the others had come later."""
    with site.open() as store:
        body = dict(snapshots.get(store, site.snapshot))
        for part in ("train", "tune", "holdout"):
            body[part] = [pair for pair in body[part] if pair[0].split(":")[0] in cameras]
        return snapshots.add(store, body)


@pytest.fixture(scope="module")
def champion(filled, tmp_path_factory):
    """A model that learned too little, and the snapshot it was made from."""
    before = halve(filled)
    job = jobs.check("train", filled.job(**SMALL, epochs=2, epoch_least=200, min_samples=20) | {"snapshot": before})
    return train.run(job, tmp_path_factory.mktemp("job"), clock=filled.clock, progress=quiet), before


def job_of(site, champion, **more):
    made, before = champion
    return jobs.check("learn", site.job(**SMALL, start=made.sha256, before=before, **more))


def test_a_model_learns_a_new_camera_and_leaves_the_files_of_a_trained_one(filled, champion, tmp_path):
    done = learn.run(job_of(filled, champion), tmp_path, clock=filled.clock, progress=quiet)
    assert done.tune_accuracy > done.start_accuracy
    assert done.rung.split("-")[0] in (*jobs.RUNGS, "full")
    assert done.rungs_tried
    assert (done.new_samples, done.old_samples) == (72, 72)
    model = filled.model(done.sha256)
    assert source.metadata(model)[source.WEIGHTS] == done.weights_sha256
    assert json.loads(source.metadata(model)[source.CLASSES]) == ["disc", "box"]
    assert msgspec.json.decode(msgspec.json.encode(done), type=learn.Learned) == done


def test_kin_are_read_under_the_class_they_were_given_but_never_what_judges(filled, champion, tmp_path):
    with filled.open() as store:
        body = snapshots.get(store, filled.snapshot)
    judge, other = body["tune"][0][0], body["holdout"][0][0]  # the other stands for a picture that nobody labelled
    job = job_of(filled, champion, kin=[[judge, "disc"], [other, "box"], ["gate:gone:0", "box"]])
    with source.open_source(job) as store:
        data = learn.read(job, store)
    assert (data.kin.ids, data.kin.labels.tolist()) == ((other,), [1])
    assert judge in data.tune.ids


def test_new_samples_come_with_the_block_of_time_that_they_are_of(filled, champion, tmp_path):
    with source.open_source(job_of(filled, champion)) as store:
        data, block_s = learn.read(job_of(filled, champion), store), store.body["block_s"]
        times = {i: samples.get(store.store, i).ts for i in (*data.new.ids, *data.tune_new.ids)}
    assert data.blocks == {i: ts // block_s for i, ts in times.items()}
    assert len(set(data.looks.tolist())) == len({(i.split(":")[0], data.blocks[i]) for i in data.tune_new.ids})
    assert 0 < len(set(data.looks.tolist())) < len(data.tune_new)


def test_too_little_is_refused_in_words(filled, champion, tmp_path):
    with pytest.raises(Refused, match="too few new labelled crops to learn from: 72 of at least 100"):
        learn.run(job_of(filled, champion, min_samples=100), tmp_path, clock=filled.clock, progress=quiet)
