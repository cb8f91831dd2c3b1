"""Past models on the labels of now."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edged.errors import Corrupt, Refused
from edged.retrain import jobs, pictures, reuse, source
from edged.retrain.pictures import Crop
from edged.storage import labels, models, samples, snapshots

CLASSES = ("disc", "box")


def quiet(_):
    pass


def constant(answer, n=2):
    """A model that says the same of every picture."""
    bias = np.zeros(n, np.float32)
    bias[answer] = 5
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["image"], ["a"]), helper.make_node("Flatten", ["a"], ["f"]),
            helper.make_node("Gemm", ["f", "w", "b"], ["logits"]),
        ],
        "g", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", n])],
        [numpy_helper.from_array(np.zeros((3, n), np.float32), "w"), numpy_helper.from_array(bias, "b")],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return made.SerializeToString()


def called(data, *names):
    return source.with_metadata(data, {source.CLASSES: json.dumps(names)})


@pytest.fixture
def labelled(site):
    """A filled site whose snapshot's labels are people's; (site, the snapshot before: the first camera alone)."""
    site.fill(10)
    with site.open() as store:
        body = snapshots.get(store, site.snapshot)
        for part in ("train", "tune", "holdout"):
            labels.add_many(store, [(s, c) for s, c in body[part]], "human", "ada")
        old = {p: [[s, c] for s, c in body[p] if s.startswith("gate:")] for p in ("train", "tune", "holdout")}
        before = snapshots.add(store, {**body, **old})
    return site, before


def put(site, *files):
    with site.open() as store:
        return [models.put_model(store, data) for data in files]


def reused(site, shas, **more):
    return reuse.run(jobs.check("reuse", site.job(models=shas, **more)), progress=quiet)


def test_past_models_are_scored_by_camera_and_on_what_is_new(labelled):
    site, before = labelled
    shas = put(site, constant(0), called(constant(0), "box", "disc"))
    found = reused(site, shas, before=before)
    assert [s.sha256 for s in found.scores] == shas
    first, second = found.scores
    assert (first.right, first.n, first.new_right, first.new_n) == (16, 32, 8, 16)
    assert first.per_camera == {"gate": (8, 16), "yard": (8, 16)}
    assert first.new_per_camera == {"yard": (8, 16)}
    assert (first.new_pairs, second.new_pairs) == (
        {"yard": (0, 0)},
        {"yard": (8, 8)},
    )  # against the first; of the new alone
    assert (second.right, second.n) == (16, 32)
    assert (found.broken, found.skipped, found.left_out) == ((), 0, 0)


def test_classes_are_told_by_name_and_one_that_is_unknown_is_never_right(labelled):
    site, _ = labelled
    swapped, foreign = put(site, called(constant(1), "box", "disc"), called(constant(2, 3), "lorry", "box", "bus"))
    with site.open(readonly=True) as store:
        body = snapshots.get(store, site.snapshot)
    discs = sum(c == "disc" for part in ("train", "tune") for _, c in body[part])
    found = reused(site, [swapped, foreign])
    assert [(s.right, s.n, s.new_n) for s in found.scores] == [(discs, 32, 32), (0, 32, 32)]


def test_a_broken_file_is_left_out_and_named(labelled):
    site, _ = labelled
    good, bad, wide = put(site, constant(0), b"no model at all", called(constant(0), "disc", "box", "third"))
    found = reused(site, [bad, good, "f" * 64, wide])
    assert [s.sha256 for s in found.scores] == [good]
    assert {b.sha256 for b in found.broken} == {bad, "f" * 64, wide}
    assert all(b.why for b in found.broken)


def test_teachers_labels_hold_outs_and_labels_that_were_taken_back_do_not_count(site):
    site.fill(10)
    with site.open() as store:
        body = snapshots.get(store, site.snapshot)
        pairs = [(s, c) for s, c in body["train"]]
        labels.add_many(store, pairs[:6], "human", "ada")
        labels.add_many(store, pairs[6:], "teacher", "teacher:vgg")
        labels.add_many(store, [(s, c) for s, c in body["holdout"]], "human", "ada")
        labels.undo(store, labels.of(store, pairs[0][0])[0].id, "ada")
        labels.add(store, pairs[1][0], "disc" if pairs[1][1] == "box" else "box", "human", "bob")
    (sha256,) = put(site, constant(0))
    assert reused(site, [sha256]).scores[0].n == 4


def test_without_a_label_of_a_person_there_is_nothing_to_judge_by(site):
    site.fill(2)
    with pytest.raises(Refused, match="no label of a person"):
        reused(site, [])


def test_damaged_pictures_are_skipped_and_counted(site):
    site.fill(10, damaged=2)
    with site.open() as store:
        body = snapshots.get(store, site.snapshot)
        labels.add_many(store, [(s, c) for part in ("train", "tune") for s, c in body[part]], "human", "ada")
        bad = 0
        for part in ("train", "tune"):
            for sample, _ in body[part]:
                try:
                    pictures.decode(samples.crop(store, sample))
                except (Corrupt, Refused):
                    bad += 1
    (sha256,) = put(site, constant(0))
    found = reused(site, [sha256])
    assert bad > 0
    assert (found.skipped, found.scores[0].n) == (bad, 32 - bad)


def test_of_many_pictures_new_ones_come_first_and_old_ones_are_not_forgotten():
    crops = [Crop(f"c:{n}:0", "c", "disc", bytes) for n in range(100)]
    known = frozenset(c.id for c in crops[:60])
    chosen = reuse.some(crops, known, 40)
    assert len({c.id for c in chosen}) == 40
    assert sum(c.id not in known for c in chosen) == 30
    assert len(reuse.some(crops, known, 500)) == 100
    few = frozenset(c.id for c in crops[:3])
    assert sum(c.id not in few for c in reuse.some(crops, few, 40)) == 37
    assert len(reuse.some(crops, frozenset(), 40)) == 40


def test_a_label_that_was_mended_is_new(labelled):
    """What the snapshot before had under another class counts among the new ones, and is not known to `learn` either."""
    site, before = labelled
    with site.open() as store:
        now, old = snapshots.get(store, site.snapshot), snapshots.get(store, before)
        mended = [s for s, _ in old["train"]][:3]
        other = [[s, next(k for k in now["classes"] if k != c) if s in mended else c] for s, c in old["train"]]
        wrong = snapshots.add(store, {**old, "train": other})
        known = source.Source(store, site.snapshot)
        assert known.ids(before) - known.ids(wrong) == set(mended)
        assert known.ids(wrong) < known.ids(before)
    (sha,) = put(site, constant(0))
    (was,), (then,) = (reused(site, [sha], before=b).scores for b in (before, wrong))
    assert (then.new_n, then.n) == (was.new_n + 3, was.n)
