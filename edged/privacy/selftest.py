"""What a scrub child must manage before it may say hello: hide a face and a plate that were drawn by code.

Guarantees: a child whose networks, decoder or filling do not work at all never says hello. Does not guarantee recall on
real pictures: one drawn face and one plate are found or not.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.engine import patterns
from edged.privacy.picture import GREY, Scrubber
from edged.privacy.scrub import Withheld, vouch
from edged.privacy.talk import Box, Request

WIDTH, HEIGHT = 1280, 720


def run(scrubber: Scrubber, *, faces: bool, plates: bool) -> None:
    """Raises Withheld (code selftest) when a planted face or plate is still to be seen, or what `scrub` raises."""
    image, face, plate = planted()
    data = cv2.imencode(".jpg", image)[1].tobytes()
    request = Request(0, "", "frame", WIDTH, HEIGHT, (face,), data)
    done = scrubber.scrub(request)
    vouch(request, done)
    if not done.hidden and (faces or plates):
        raise Withheld("the scrub child found nothing in its self-test", code="selftest")
    out = np.asarray(cv2.imdecode(np.frombuffer(done.jpeg, np.uint8), cv2.IMREAD_COLOR), dtype=np.uint8)
    for wanted, box, what in ((faces, face, "face"), (plates, plate, "plate")):
        if wanted and not hidden(out, box):
            raise Withheld(f"the scrub child did not hide the {what} of its self-test", code="selftest")


def hidden(image: NDArray[np.uint8], box: Box) -> bool:
    """Whether a box of a scrubbed picture is filled."""
    x, y, w, h = box
    return bool((np.abs(image[y : y + h, x : x + w].astype(int) - GREY) <= 2).all())


def planted(width: int = WIDTH, height: int = HEIGHT) -> tuple[NDArray[np.uint8], Box, Box]:
    """A picture with the boxes of the face and the plate in it; at least 640x360."""
    wall = patterns.picture(8, 64)[: 64 * height // width]
    image = np.asarray(cv2.resize(wall, (width, height), interpolation=cv2.INTER_CUBIC) // 3 + 90, dtype=np.uint8)
    face = draw_face(image, width // 4, height // 2 - 30, 60)
    plate = draw_plate(image, width * 5 // 8, height // 2, 110)
    return image, face, plate


def draw_face(image: NDArray[np.uint8], x: int, y: int, size: int) -> Box:
    """A face with its middle at x, y, about 1.5 x 2 `size` large, on shoulders; drawn in place. Nobody's."""
    drawn = image.copy()

    def oval(dx: float, dy: float, rx: float, ry: float, colour: tuple[int, int, int], turn: int = 360) -> None:
        middle, radii = (x + round(dx * size), y + round(dy * size)), (round(rx * size), round(ry * size))
        cv2.ellipse(drawn, middle, radii, 0, 0, turn, colour, -1 if turn == 360 else 3, cv2.LINE_AA)

    oval(0, 1.9, 1.5, 0.95, (60, 40, 40))  # shoulders, neck, hair, skin
    oval(0, 0.85, 0.35, 0.5, (120, 150, 195))
    oval(0, -0.15, 0.8, 1.02, (40, 50, 70))
    oval(0, 0, 0.72, 0.95, (150, 180, 220))
    for side in (-0.3, 0.3):
        oval(side, -0.32, 0.2, 0.05, (40, 50, 70))
        oval(side, -0.15, 0.15, 0.08, (235, 240, 245))
        oval(side, -0.15, 0.075, 0.075, (50, 40, 30))
    oval(0, 0.15, 0.12, 0.16, (110, 140, 185), turn=180)
    oval(0, 0.48, 0.28, 0.1, (80, 80, 170))
    drawn = np.asarray(cv2.GaussianBlur(drawn, (0, 0), size / 20), dtype=np.uint8)
    across = (np.arange(image.shape[1]) - x + 0.2 * size) / size
    light = np.clip(1.15 - 0.4 * across**2, 0.45, 1.2)  # from the left, so that the head looks round
    drawn = np.clip(drawn * light[None, :, None], 0, 255).astype(np.uint8)
    top, bottom = max(0, y - round(1.3 * size)), y + round(1.9 * size)
    left, right = max(0, x - round(1.6 * size)), x + round(1.6 * size)
    image[top:bottom, left:right] = drawn[top:bottom, left:right]
    return x - round(0.72 * size), y - round(0.8 * size), round(1.44 * size), round(1.75 * size)


def draw_plate(image: NDArray[np.uint8], x: int, y: int, width: int) -> Box:
    """A plate with its middle at x, y on a dark plain panel; drawn in place. The number is no registry's."""
    height = width * 9 // 40
    cv2.rectangle(image, (x - width, y - 2 * height), (x + width, y + 2 * height), (70, 60, 60), -1)
    tile = np.full((54, 240, 3), 238, np.uint8)
    cv2.rectangle(tile, (1, 1), (238, 52), (40, 40, 40), 2)
    cv2.putText(tile, "EDG 0000", (14, 41), cv2.FONT_HERSHEY_SIMPLEX, 1.35, (26, 26, 30), 5, cv2.LINE_AA)
    left, top = x - width // 2, y - height // 2
    image[top : top + height, left : left + width] = cv2.resize(tile, (width, height), interpolation=cv2.INTER_AREA)
    return left, top, width, height
