"""Frames of a wanted size, and a scrubber that leaves them as they are: for measuring all that comes after scrubbing.

What it answers is judged by `vouch` like a scrub child's answer: the picture is parsed, its word is checked, its regions
are counted. Nothing is looked for and nothing covered, so this is no measurement of privacy.
"""

from __future__ import annotations

import cv2
import numpy as np

from edged.privacy.scrub import Scrubbed, vouch
from edged.privacy.talk import Done, Look, Request, Seen, settled, word, word_of_look
from edged.wire.messages import REGION_PX, Frame, FrameHeader, Region

WIDTH, HEIGHT = 1280, 720


def jpeg(size: int, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """A picture of about `size` bytes: noise on a slope, so much of it as it takes. Within 2 %."""
    rng = np.random.default_rng(1)
    noise = cv2.GaussianBlur(rng.normal(0, 1, (height, width, 3)).astype(np.float32), (0, 0), 1.0)
    slope = np.linspace(60, 180, width, dtype=np.float32)[None, :, None]
    low, high = 0.0, 400.0
    for _ in range(30):
        much = (low + high) / 2
        data = cv2.imencode(".jpg", np.clip(slope + much * noise, 0, 255).astype(np.uint8))[1].tobytes()
        if abs(len(data) - size) <= size / 50:
            break
        low, high = (much, high) if len(data) < size else (low, much)
    return data


def frame(camera: str, n: int, picture: bytes, received: float, regions: int = 0, boot: str = "bench") -> Frame:
    """The `n`th frame of a camera since `boot`, as it arrives."""
    boxes = tuple(Region(i * 230, 10, 224, 224, "car", 0.9, 0.5) for i in range(regions))
    header = FrameHeader(f"{boot}-{n}", received, n, boot, WIDTH, HEIGHT, "", boxes)
    return Frame(camera, header, picture, "frame", received)


class Unchanged:
    """A Scrubber. `crop` is what every region is answered with."""

    def __init__(self, crop: bytes = b"") -> None:
        self._crop = crop

    def look(self, frame: Frame) -> Seen:
        h = frame.header
        question = settled(Look(1, frame.camera, frame.kind, h.w, h.h, frame.jpeg))
        return Seen(1, (), "", {}, word_of_look(question, (), ""))

    def scrub(self, frame: Frame, spots=None, *, blank: bool = False) -> Scrubbed:
        h = frame.header
        boxes = tuple((r.x, r.y, r.w, r.h) for r in h.regions)
        request = settled(Request(1, frame.camera, frame.kind, h.w, h.h, boxes, frame.jpeg))
        crops = (self._crop,) * len(boxes)
        return vouch(request, Done(1, h.w, h.h, frame.jpeg, crops, {}, {}, word(request, frame.jpeg, *crops)))

    def plant(self, seed: int):
        raise NotImplementedError

    def inspect(self, jpeg: bytes, spots):
        raise NotImplementedError

    def close(self) -> None:
        pass


def crop(size: int) -> bytes:
    """A region's picture of about `size` bytes."""
    return jpeg(size, REGION_PX, REGION_PX)
