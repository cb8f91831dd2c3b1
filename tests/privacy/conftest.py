"""Pictures with something planted, frames around them, and JPEGs taken apart."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from edged.privacy import selftest
from edged.privacy.talk import Look, Request
from edged.wire.messages import Frame, FrameHeader, Region


def jpeg_of(image: np.ndarray, quality: int = 92, **more: int) -> bytes:
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if more.get("progressive"):
        flags += [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    return cv2.imencode(".jpg", image, flags)[1].tobytes()


def pixels_of(jpeg: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """BGR picture -> JPEG."""
    return jpeg_of


@pytest.fixture
def pixels() -> Callable[[bytes], np.ndarray]:
    """JPEG -> BGR picture."""
    return pixels_of


@pytest.fixture
def frame() -> Callable[..., Frame]:
    """JPEG -> Frame of the camera "gate"."""

    def make(jpeg: bytes, *boxes: tuple[int, int, int, int], size=(640, 360), kind="frame", camera="gate") -> Frame:
        regions = tuple(Region(*box) for box in boxes)
        return Frame(camera, FrameHeader("b-1", 1.0, 1, "b", *size, regions=regions), jpeg, kind)

    return make


@pytest.fixture
def request_of() -> Callable[..., Request]:
    """JPEG -> what the child is asked."""

    def make(
        jpeg: bytes, *boxes: tuple[int, int, int, int], size=(640, 360), kind="frame", camera="gate", **more
    ) -> Request:
        return Request(7, camera, kind, *size, boxes, jpeg, **more)

    return make


@pytest.fixture
def look_of() -> Callable[..., Look]:
    """JPEG -> where the child is to look."""

    def make(jpeg: bytes, size=(640, 360), kind="frame", camera="gate", **more) -> Look:
        return Look(7, camera, kind, *size, jpeg, **more)

    return make


@pytest.fixture(scope="session")
def planted() -> tuple[np.ndarray, tuple[int, int, int, int], tuple[int, int, int, int]]:
    """A 640x360 picture and the boxes of the face and the plate in it."""
    return selftest.planted(640, 360)
