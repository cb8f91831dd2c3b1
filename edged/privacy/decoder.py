"""Decodes a picture and listens to what the decoder complains of: a JPEG that libjpeg had to mend is no picture.

libjpeg fills what is missing, skips what makes no sense and goes on: a frame whose bytes were damaged comes out sheared
or half grey, with faces in it that people recognise and detectors do not. It says so on standard error only.

Guarantees: a JPEG that decodes with a complaint is Refused. Does not guarantee: that damage is noticed which happens to
be a valid code; what then decodes is what the detectors see. For a process with one thread: standard error is listened
to by turning it aside for the moment.
"""

from __future__ import annotations

import os

import cv2
import numpy as np
from numpy.typing import NDArray

from edged.errors import Refused
from edged.privacy.scrub import Withheld

_COMPLAINT = b"JPEG"  # "Corrupt JPEG data: ...", "Premature end of JPEG file", "Inconsistent progression ... in JPEG"


def decode(data: bytes, flags: int, code: str) -> NDArray[np.uint8] | None:
    """What cv2.imdecode gives; raises Refused (`code`), Withheld (memory)."""
    try:
        image, said = _listening(data, flags)
    except cv2.error as e:
        if e.code == cv2.Error.StsNoMem:
            raise Withheld("the picture needs more memory than its process may have", code="memory") from e
        raise Refused(f"the picture does not decode: {e.err}"[:300], code=code) from e
    if data[:2] == b"\xff\xd8" and _COMPLAINT in said:
        raise Refused("the JPEG's data are damaged: its decoder had to guess", code=code)
    return image


def _listening(data: bytes, flags: int) -> tuple[NDArray[np.uint8] | None, bytes]:
    out, into = os.pipe()
    os.set_blocking(out, False)
    os.set_blocking(into, False)  # libjpeg speaks once a picture; should a pipe of 64 KiB fill, the rest is lost
    kept = os.dup(2)
    try:
        os.dup2(into, 2)
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        finally:
            os.dup2(kept, 2)
        try:
            said = os.read(out, 1 << 16)
        except BlockingIOError:
            said = b""
    finally:
        for each in (out, into, kept):
            os.close(each)
    return None if image is None or image.dtype != np.uint8 else np.asarray(image, np.uint8), said
