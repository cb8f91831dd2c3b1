"""Which detectors a box runs, from what its owner asked for.

Guarantees: a kind that was asked for has a detector, or the child does not start. An installer's detector of persons,
text or screens runs only where that kind is switched on; one of faces, plates or a kind of the installer's own always
runs, beside the built-in one if that is on. Does not guarantee: that two detectors of a kind find more than one.
"""

from __future__ import annotations

from pathlib import Path

from edged.errors import Misconfigured
from edged.privacy import faces, plugin
from edged.privacy.detect import Detector
from edged.privacy.plates import PlateDetector
from edged.privacy.talk import ScrubOptions
from edged.privacy.text import TextDetector
from edged.privacy.yunet import YuNet


def make(options: ScrubOptions, threads: int = 1) -> list[Detector]:
    """Raises Misconfigured for weights that are missing or not what they should be, and for kinds without a detector."""
    made: list[Detector] = []
    if options.faces:
        made += _faces(options, threads)
    if options.plates:
        made.append(PlateDetector(options.runtime, threads))
    if options.text:
        made.append(TextDetector(options.runtime, threads))
    switches = {"person": options.persons, "text": options.text, "screen": options.screens}
    for wanted in options.plugins:
        if switches.get(wanted.kind, True):
            made.append(plugin.make(wanted, runtime=options.runtime, threads=threads))
    there = {detector.kind for detector in made}
    for kind, on in switches.items():
        if on and kind not in there:
            raise Misconfigured(
                f"privacy should hide every {kind}, but nothing here can find one",
                hint=f'add a [[privacy.detector]] with kind = "{kind}" and the ONNX file of a detector that may be used',
            )
    return made


def _faces(options: ScrubOptions, threads: int) -> list[Detector]:
    yunet = Path(options.face_model) if options.face_model else None
    if options.strict:
        return faces.strict_faces(options.runtime, threads, yunet)
    if yunet is not None:
        return [YuNet(yunet, options.runtime, threads)]
    return [faces.FaceDetector(options.runtime, threads)]
