"""What was switched on has a detector, or nothing starts; what was switched off does not run."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from edged import engine
from edged.errors import Misconfigured
from edged.privacy import detect, detectors
from edged.privacy.detect import View
from edged.privacy.faces import FaceDetector
from edged.privacy.plates import PlateDetector
from edged.privacy.scrub import ScrubOptions, Withheld
from edged.privacy.talk import Plugin
from tests.privacy import nets, signed

OPTIONAL = {"person": "persons", "text": "text", "screen": "screens"}


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    path = tmp_path_factory.mktemp("nets") / "net.onnx"
    path.write_bytes(nets.colour_net("face"))
    return {kind: Plugin(kind, str(path), "yolo", long_side=64) for kind in (*OPTIONAL, "face", "plate", "hat")}


def kinds(*wanted, **switches):
    options = ScrubOptions(**({"faces": False, "plates": False, "runtime": "onnxruntime"} | switches), plugins=wanted)
    return [detector.kind for detector in detectors.make(options)]


def test_by_default_faces_and_plates_are_looked_for():
    assert [d.kind for d in detectors.make(ScrubOptions())] == ["face", "plate"]


@pytest.mark.parametrize(("kind", "switch"), OPTIONAL.items())
def test_an_optional_kind_runs_only_when_its_switch_is_on(plugins, kind, switch):
    assert kinds(plugins[kind]) == []
    built_in = [kind] if kind == "text" else []
    assert kinds(plugins[kind], **{switch: True}) == [*built_in, kind]


def test_burned_in_text_needs_no_detector_of_the_owners():
    assert kinds(text=True) == ["text"]


@pytest.mark.parametrize(("kind", "switch"), [("person", "persons"), ("screen", "screens")])
def test_an_optional_kind_without_a_detector_does_not_start(plugins, kind, switch):
    others = [p for k, p in plugins.items() if k != kind]
    for wanted in ([], others):
        with pytest.raises(Misconfigured, match=f"every {kind}") as caught:
            kinds(*wanted, **{switch: True})
        assert f'[[privacy.detector]] with kind = "{kind}"' in caught.value.hint


@pytest.mark.parametrize("kind", ["face", "plate", "hat"])
def test_other_kinds_always_run(plugins, kind):
    assert kinds(plugins[kind]) == [kind]


def test_an_installers_plate_detector_runs_beside_the_built_in_one(plugins):
    assert kinds(plugins["plate"], plates=True) == ["plate", "plate"]


def test_a_switched_off_detectors_file_is_not_even_read():
    assert kinds(Plugin("person", "/nowhere.onnx")) == []


def test_a_runtime_that_is_not_there_is_said(plugins):
    with pytest.raises(Misconfigured, match="tensorrt"):
        kinds(plugins["hat"], runtime="tensorrt")


@pytest.mark.parametrize(
    "scores", [[0.0, 0.0], [1.0, 1.0], [0.5, float("nan")], [0.5, 1.1], [-0.2, 0.5], [0.5, float("inf")]]
)
def test_scores_that_no_working_network_gives_withhold_the_frame(scores):
    with pytest.raises(Withheld) as caught:
        detect.plausible(np.array(scores, np.float32), "face")
    assert caught.value.code == "detector"


@pytest.mark.parametrize("scores", [[0.0, 1e-9], [1.0], [], [0.5, 0.5], [1.0005, 0.2]])
def test_scores_that_a_working_network_may_give_pass(scores):
    detect.plausible(np.array(scores, np.float32), "face")


@pytest.mark.parametrize("make", [FaceDetector, PlateDetector])
@pytest.mark.parametrize("value", [0.0, 1.0, 7.0, float("nan")])
def test_a_built_in_network_that_is_stuck_withholds_the_frame(make, value, monkeypatch):
    real = engine.load

    def stuck(*args, **more):
        sound = real(*args, **more)
        return SimpleNamespace(runtime=sound.runtime, run=lambda batch: tuple(o * 0 + value for o in sound.run(batch)))

    monkeypatch.setattr(engine, "load", stuck)
    with pytest.raises(Withheld) as caught:
        make("onnxruntime").find(View(signed.picture(1).image))
    assert caught.value.code == "detector"
