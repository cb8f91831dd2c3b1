"""What the survey leaves, and that bad crops and bad models cost no more than themselves."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file

from edged import engine
from edged.engine import preprocess
from edged.errors import EdgedError, Refused
from edged.retrain import export, features, jobs, likeness, pictures, source, survey, zoo
from edged.retrain.methods import int8
from edged.storage import models, samples

CLASSES = ("disc", "box")


def quiet(_):
    pass


@pytest.fixture(scope="module")
def nets(filled):
    """An untrained LeNet-5 and AlexNet-like teacher of other classes and size, in the store."""
    import torch

    torch.manual_seed(3)
    with filled.open() as store:
        named = source.with_metadata(
            export.to_onnx(zoo.build("lenet-5", 2, 32).eval(), 32), {source.CLASSES: json.dumps(CLASSES)}
        )
        other = source.with_metadata(
            export.to_onnx(zoo.build("mobilenet-0.25", 3, 48).eval(), 48),
            {source.CLASSES: json.dumps(["lorry", "box", "disc"])},
        )
        return models.put_model(store, named), models.put_model(store, other)


def look(site, folder, **more):
    folder.mkdir(exist_ok=True)
    job = jobs.check("survey", site.job(**{"samples": ids(8), **more}) | {"snapshot": ""})
    result = survey.run(job, folder, clock=site.clock, progress=quiet)
    return result, load_file(folder / result.file)


def ids(n):
    return [f"gate:b-{k // 2}:{k % 2}" for k in range(n)]


def test_every_crop_has_its_hash_its_answer_and_its_features(filled, nets, tmp_path):
    result, rows = look(filled, tmp_path, sha256=nets[0])
    assert (result.samples, result.skipped, result.dimensions, result.width) == (tuple(ids(8)), 0, 32, 84)
    with filled.open(readonly=True) as store:
        images = [pictures.decode(samples.crop(store, i)) for i in ids(8)]
    assert rows["hash"].tolist() == [likeness.difference_hash(i) for i in images]
    batch = preprocess.marshal(preprocess.to_float(images, 32))
    answer, score, margin = preprocess.decode(engine.load(filled.model(nets[0])).run(batch)[0])
    assert rows["answer"].tolist() == answer.tolist()
    np.testing.assert_allclose(rows["score"], score, atol=1e-4)
    np.testing.assert_allclose(rows["margin"], margin, atol=1e-4)
    assert rows["features"].dtype == np.float16
    opened, place = features.with_features(filled.model(nets[0]))
    wanted = features.project(engine.load(opened).run(batch)[place])
    np.testing.assert_allclose(rows["features"], wanted, rtol=0.01, atol=0.01)
    assert rows["asked"].tolist() == [0] * 8


def test_a_teacher_of_other_classes_and_size_is_asked_once_and_answers_by_name(filled, nets, tmp_path):
    result, rows = look(filled, tmp_path, sha256=nets[0], teacher=nets[1], told=ids(3))
    assert (result.asked, rows["asked"].tolist()) == (5, [0] * 3 + [1] * 5)
    with filled.open(readonly=True) as store:
        images = [pictures.decode(samples.crop(store, i)) for i in ids(8)]
    own, score, _ = preprocess.decode(
        engine.load(filled.model(nets[1])).run(preprocess.marshal(preprocess.to_float(images, 48)))[0]
    )
    assert rows["teacher"].tolist() == [-1] * 3 + [(-1, 1, 0)[i] for i in own[3:]]
    np.testing.assert_allclose(rows["teacher_score"][3:], score[3:], atol=1e-4)


def test_the_first_survey_has_no_model_and_still_a_hash(filled, tmp_path):
    result, rows = look(filled, tmp_path)
    assert rows["hash"].any()
    assert rows["answer"].tolist() == [-1] * 8
    assert rows["features"].shape == (8, 0)
    assert result.note == ""


def test_crops_that_are_gone_or_damaged_are_left_out_and_named(site, tmp_path):
    site.fill(4, damaged=1)
    result, rows = look(site, tmp_path / "job", samples=["gate:b-0:0", "gate:b-0:1", "gate:b-77:0", "yard:b-1:1"])
    assert result.samples == ("gate:b-0:1", "yard:b-1:1")
    assert result.unreadable == ("gate:b-0:0", "gate:b-77:0")
    assert (result.skipped, len(rows["hash"])) == (2, 2)


def test_nothing_readable_at_all_is_an_empty_file(site, tmp_path):
    site.fill(1)
    result, rows = look(site, tmp_path / "job", samples=["gate:b-9:0"])
    assert (result.samples, rows["hash"].shape, rows["features"].shape) == ((), (0,), (0, 0))


def test_an_int8_file_answers_and_has_features(filled, nets, pics, tmp_path):
    small = int8.int8(filled.model(nets[0]), pics(16))
    with filled.open() as store:
        sha256 = models.put_model(store, small)
    result, rows = look(filled, tmp_path, sha256=sha256)
    assert (result.width, result.note) == (84, "")
    assert rows["features"].any()


def edited(data, change):
    model = onnx.load_model_from_string(data)
    change(model)
    return model.SerializeToString()


def test_a_file_that_takes_just_one_picture_at_a_time_is_run_so(filled, nets, tmp_path):
    def fix(model):
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].Clear()
            value.type.tensor_type.shape.dim[0].dim_value = 1

    with filled.open() as store:
        single = models.put_model(store, edited(models.read_model(store, nets[0]), fix))
    _, rows = look(filled, tmp_path / "one", sha256=single)
    _, wanted = look(filled, tmp_path / "many", sha256=nets[0])
    np.testing.assert_allclose(rows["score"], wanted["score"], atol=1e-4)


def test_a_model_that_answers_no_numbers_answers_nothing(filled, nets, tmp_path):
    def spoil(model):
        for tensor in model.graph.initializer:
            if tensor.name.endswith("bias"):
                tensor.CopyFrom(
                    onnx.numpy_helper.from_array(np.full(tuple(tensor.dims), np.nan, np.float32), tensor.name)
                )

    with filled.open() as store:
        mad = models.put_model(store, edited(models.read_model(store, nets[0]), spoil))
    _, rows = look(filled, tmp_path, sha256=mad)
    assert rows["answer"].tolist() == [-1] * 8
    assert np.isfinite(rows["score"]).all()
    assert np.isfinite(rows["features"]).all()


@pytest.mark.parametrize("named", [["disc"], ["disc", "box", "lorry"], "disc", 3])
def test_a_model_whose_names_and_answers_do_not_fit_is_refused(filled, nets, tmp_path, named):
    with filled.open() as store:
        wrong = source.with_metadata(models.read_model(store, nets[0]), {source.CLASSES: json.dumps(named)})
        sha256 = models.put_model(store, wrong)
    with pytest.raises(Refused):
        look(filled, tmp_path, sha256=sha256)


def test_a_file_that_is_no_model_is_refused(filled, tmp_path):
    with filled.open() as store:
        sha256 = models.put_model(store, b"MZ this is no model")
    with pytest.raises(EdgedError):
        look(filled, tmp_path, sha256=sha256)


def test_it_ends_by_itself_with_what_it_has(filled, tmp_path):
    class Late:
        at = 0.0

        def now(self):
            return 0.0

        def monotonic(self):
            self.at += 40.0
            return self.at

    job = jobs.check("survey", filled.job(samples=ids(80), max_minutes=1) | {"snapshot": ""})
    result = survey.run(job, tmp_path, clock=Late(), progress=quiet)
    assert 0 < len(result.samples) < 80
    assert result.unreadable == ()


def test_the_child_loads_no_torch_and_leaves_its_file(filled, nets, tmp_path):
    job = filled.job(samples=ids(8), sha256=nets[0], teacher=nets[1]) | {"snapshot": ""}
    (tmp_path / "job.json").write_text(json.dumps(job))
    code = (
        "import sys; from edged.retrain.__main__ import main; rc = main(['survey', sys.argv[1]]);"
        "print(rc, [m for m in ('torch', 'nncf') if m in sys.modules])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True, timeout=100
    )
    assert said.stdout == "0 []\n"
    assert json.loads((tmp_path / "result.json").read_text())["file"] == survey.FILE
    assert (tmp_path / survey.FILE).stat().st_mode & 0o777 == 0o600
