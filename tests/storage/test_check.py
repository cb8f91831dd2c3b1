"""Each broken invariant is found and named: the negative controls of `check`."""

import pytest

from edged.storage import candidates, check, cycles, models, objects, samples, snapshots
from edged.storage.snapshots import Body

EMPTY: Body = {"classes": [], "train": [], "tune": [], "holdout": [], "holdout_ratio": 0.2, "block_s": 1, "seed": 1}


def codes(store):
    return sorted(f.code for f in check.run(store))


def test_a_sound_store_has_no_findings_with_or_without_the_key(store, add, open_store):
    for n in range(3):
        add(store, n)
    assert codes(store) == []
    assert codes(open_store(site_key=None, readonly=True)) == []


def test_a_lost_file_is_found(store, add):
    add(store, 1)
    objects.path_of(store, samples.get(store, "gate:boot-1:0").object).unlink()
    assert codes(store) == ["lost_object"]


def test_damage_is_found_without_the_key(store, add, open_store, files):
    add(store, 1, regions=0)
    files()[0].write_bytes(files()[0].read_bytes()[:-1] + b"x")
    assert codes(open_store(site_key=None)) == ["damaged"]


def test_a_file_exchanged_together_with_its_hash_is_found_with_the_key(store, add):
    add(store, 1, regions=1)
    one, two = store.rows("select id, size, sha256 from object order by kind")
    body = objects.path_of(store, two["id"]).read_bytes()
    objects.path_of(store, one["id"]).write_bytes(body)
    store.execute("update object set size = ?, sha256 = ? where id = ?", (two["size"], two["sha256"], one["id"]))
    assert codes(store) == ["bad_seal"]


@pytest.mark.parametrize(
    ("break_it", "code"),
    [
        ("update frame set status = 'withheld'", ["kept_frame", "lost_frame"]),
        ("update frame set object = null", ["unused_object"]),
        ("delete from frame", ["lost_frame", "unused_object"]),
        ("update data_key set destroyed = 1", ["half_destroyed", *["key_destroyed"] * 3]),
    ],
)
def test_rows_that_contradict_each_other_are_found(store, add, break_it, code):
    add(store, 1, regions=1)
    store.execute("pragma foreign_keys = off")
    store.execute(break_it)
    assert codes(store) == code


def test_a_dangling_row_is_found(store, add):
    add(store, 1, regions=1)
    store.execute("pragma foreign_keys = off")
    store.execute("insert into label (sample, class, source, author, ts) values ('none', 'a', 'human', 'me', 0)")
    assert codes(store) == ["dangling"]


def test_a_snapshot_with_a_sample_in_two_parts_is_found(store):
    snapshots.add(store, {**EMPTY, "train": [["a", "x"]], "holdout": [["a", "x"]]})
    assert codes(store) == ["leak"]


def test_a_damaged_page_is_a_finding_and_the_other_looks_go_on(store, add, open_store, data_dir, files):
    add(store, 1, regions=0)
    root = store.value("select rootpage from sqlite_schema where name = 'sample'")
    size = store.value("pragma page_size")
    store.close()
    with (data_dir / "edged.db").open("r+b") as f:
        f.seek((root - 1) * size)
        f.write(b"\xff" * size)
    files()[0].unlink()
    found = codes(open_store())
    assert "corrupt" in found or "database" in found
    assert "lost_object" in found


def test_a_lost_or_changed_model_is_found(store):
    cycle = cycles.start(store, "asked")
    sha = models.put_model(store, b"model")
    name = snapshots.add(store, EMPTY)
    candidates.add(store, cycle, name="m", sha256=sha, size=5, snapshot=name, recipe={})
    assert codes(store) == []
    models.model_path(store, sha).write_bytes(b"other")
    assert codes(store) == ["model_changed"]
    (store.models_dir / f"{sha}.onnx").unlink()
    assert codes(store) == ["model_lost"]
