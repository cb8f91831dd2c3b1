"""One scrub on each runtime by the code of the scrub child: a JPEG decoded, judged, looked at for a face and a plate that
were drawn into it, covered, encoded, looked at again, cut.

    probe_scrub.py --save FILE       writes what was found, as JSON
    probe_scrub.py --compare FILE    the same areas and the very same blocks must be covered
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edged import engine
from edged.clock import stopwatch
from edged.engine import patterns
from edged.privacy import heatmap, picture, selftest
from edged.privacy.faces import FaceDetector
from edged.privacy.picture import Scrubber
from edged.privacy.plates import PlateDetector
from edged.privacy.scrub import vouch
from edged.privacy.talk import Request

WIDTH, HEIGHT = 320, 192  # a tiny picture: emulation makes the networks some hundred times slower


def planted() -> tuple[np.ndarray, tuple[tuple[int, int, int, int], ...]]:
    wall = cv2.resize(patterns.picture(8, 64), (WIDTH, WIDTH), interpolation=cv2.INTER_CUBIC)[:HEIGHT]
    image = np.asarray(wall // 3 + 90, np.uint8)
    grain = np.random.default_rng(8).integers(-3, 4, image.shape)
    image = np.clip(image.astype(int) + grain, 0, 255).astype(np.uint8)
    return image, (selftest.draw_face(image, 90, 80, 34), selftest.draw_plate(image, 235, 120, 70))


def scrubbed(runtime: str) -> dict[str, Any]:
    """Areas covered by kind and the covered blocks; fails unless face and plate are hidden."""
    scrubber = Scrubber([FaceDetector(runtime, long_side=WIDTH), PlateDetector(runtime)])
    image, boxes = planted()
    request = Request(2, "cam", "frame", WIDTH, HEIGHT, boxes, picture.encode(image, 92))
    out = vouch(request, scrubber.scrub(request))
    seen = np.asarray(cv2.imdecode(np.frombuffer(out.jpeg, np.uint8), cv2.IMREAD_COLOR), np.uint8)
    for box, kind in zip(boxes, ("face", "plate"), strict=True):
        assert selftest.hidden(seen, box), f"{runtime} did not hide the {kind}"
    tiles = (seen == picture.GREY).all(axis=2).reshape(HEIGHT // picture.BLOCK, picture.BLOCK, -1, picture.BLOCK)
    return {"areas": dict(out.regions), "blocks": tiles.all(axis=(1, 3)).astype(int).tolist()}


def main(what: str, name: str) -> None:
    cv2.setNumThreads(1)
    heatmap.FINE, heatmap.COARSE = WIDTH, WIDTH // 2
    assert set(engine.runtimes()) == {"openvino", "onnxruntime"}
    found = {}
    for runtime in engine.runtimes():
        begin = stopwatch()
        found[runtime] = scrubbed(runtime)
        print(f"  {runtime}: {found[runtime]['areas']}, {stopwatch() - begin:.1f} s", flush=True)
    if what == "--save":
        Path(name).write_text(json.dumps(found))
        return
    wanted = json.loads(Path(name).read_text())
    for runtime, of_runtime in found.items():
        assert of_runtime == wanted[runtime] == wanted["openvino"], f"{runtime} covers something else here"
    print("  the same blocks are covered", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
