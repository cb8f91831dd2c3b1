"""The file that a device is given, made from the delivered ONNX file.

    onnx            model.onnx, float32 or int8 (QDQ), as it is
    openvino-fp16   model.xml and model.bin: OpenVINO's IR with weights in half precision
    int8-shift      model.int8.safetensors: integers alone (integer.py)
    coreml          model.mlpackage.zip: an ML program in half precision (coreml.py), where coremltools is installed

Guarantees: what was written reads back here and, where anything here can run it, answers as it should. Does not guarantee
that the device's own runtime takes it: `Profile.not_covered` says what was not tried.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edged import engine
from edged.engine import patterns, preprocess
from edged.errors import Corrupt, Misconfigured, Refused, Unavailable
from edged.retrain import fp16, integer, layers, shifts
from edged.retrain.device import Profile

INTEGERS = "model.int8.safetensors"
TOLERANCE = 0.02  # of the largest logit: what half-precision weights may move an answer
COREML_SECONDS = 600


@dataclass(frozen=True)
class Delivered:
    """File names and bytes, and what is to be said of them."""

    files: dict[str, bytes]
    notes: tuple[str, ...]


def write(profile: Profile, model: bytes, calibration: Iterable[NDArray[np.float32]] = ()) -> Delivered:
    """Raises Refused: the device does not take such a network; Misconfigured: a converter is not installed."""
    check(profile, model)
    make = {"onnx": _onnx, "openvino-fp16": _openvino, "int8-shift": _integers, "coreml": _coreml}[profile.file]
    files = make(model, calibration)
    notes = (
        f"for {profile.name}, run there by {profile.runtime}",
        *(f"covered: {text}" for text in profile.covered),
        *(f"not covered: {text}" for text in profile.not_covered),
    )
    return Delivered(files, notes)


def check(profile: Profile, model: bytes) -> None:
    """Raises Refused (code not_taken) for a network of a class that the device does not take."""
    if profile.family != "mobilenet":
        return
    convs = [layer for layer in layers.read(model).layers if layer.op == "conv"]
    depthwise = [c for c in convs if c.group > 1 and c.weight is not None and c.weight.shape[1] == 1]
    other = [c for c in convs[1:] if c not in depthwise and c.kernel != (1, 1)]
    if not depthwise or other:
        why = (
            f"layer {other[0].name[:60]!r} is {other[0].kernel[0]} x {other[0].kernel[1]} over all its channels"
            if other
            else "none of its convolutions is depthwise"
        )
        raise Refused(
            f"{profile.name} takes MobileNet-class networks only (depthwise and 1 x 1 convolutions behind the first): {why}",
            code="not_taken", hint="train a mobilenet, or choose another device",
        )  # fmt: skip


def _onnx(model: bytes, _: Iterable[NDArray[np.float32]]) -> dict[str, bytes]:
    engine.load(model)
    return {"model.onnx": model}


def _openvino(model: bytes, _: Iterable[NDArray[np.float32]]) -> dict[str, bytes]:
    """Raises Corrupt when what was written does not answer as the ONNX file does."""
    if "openvino" not in engine.runtimes():
        raise Misconfigured("this device is given an OpenVINO file, and openvino is not installed",
                            hint="pip install openvino")  # fmt: skip
    import openvino as ov

    core = ov.Core()
    try:
        read = core.read_model(model=model)
    except RuntimeError as e:
        raise Refused(f"OpenVINO cannot read the model: {str(e)[-200:]}", code="bad_model") from e
    with tempfile.TemporaryDirectory(prefix="edged-ir-") as folder:
        path = Path(folder, "model.xml")
        ov.save_model(read, path, compress_to_fp16=True)
        files = {"model.xml": path.read_bytes(), "model.bin": path.with_suffix(".bin").read_bytes()}
        _compare(core, path, model)
    return files


def _compare(core: object, path: Path, model: bytes) -> None:
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})  # type: ignore[attr-defined]
    loaded = engine.load(model)
    px = layers.read(model).px
    crops = [patterns.picture(seed, px) for seed in range(4)]
    batch = preprocess.stack(preprocess.prepare(crops, px, loaded.takes), loaded.takes)
    wanted, found = loaded.run(batch)[0], compiled([batch])[0]
    apart = float(np.abs(wanted - found).max()) / max(1.0, float(np.abs(wanted).max()))
    if not apart <= TOLERANCE:
        raise Corrupt(f"the OpenVINO file answers differently from the ONNX file (by {apart:.2g} of the largest logit)")


def _integers(model: bytes, calibration: Iterable[NDArray[np.float32]]) -> dict[str, bytes]:
    data = integer.write(shifts.network(model, calibration))
    integer.read(data)
    return {INTEGERS: data}


def _coreml(model: bytes, _: Iterable[NDArray[np.float32]]) -> dict[str, bytes]:
    """In a child of its own: coremltools prints, and takes 100 MB. Raises Misconfigured where it is not installed."""
    fp16.rounded(model)  # weights that half precision cannot hold are refused here, in words
    if find_spec("coremltools") is None:
        raise Misconfigured("this device is given a Core ML package, and coremltools is not installed",
                            hint='pip install "edged[coreml]"')  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="edged-coreml-") as folder:
        given, made = Path(folder, "model.onnx"), Path(folder, "model.mlpackage.zip")
        given.write_bytes(model)
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "edged.retrain.coreml", given, made],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=COREML_SECONDS,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as e:
            raise Unavailable(f"coremltools was stopped after {COREML_SECONDS} s") from e
        if done.returncode == 3:
            raise Refused(done.stdout.strip().splitlines()[-1], code="bad_layer")
        if done.returncode or not made.exists():
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise Misconfigured(f"coremltools cannot write the package here: {lines[-1][:200] if lines else 'no word'}",
                                hint="coremltools 9 was tried with numpy 2.4")  # fmt: skip
        return {"model.mlpackage.zip": made.read_bytes()}
