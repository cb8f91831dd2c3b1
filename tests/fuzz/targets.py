"""What strangers' bytes reach first, each as a function of bytes that may raise `Refused` and nothing else.

For any fuzzer: `python -m tests.fuzz.atheris_run TARGET` (coverage-guided, where atheris is installed) or
`python -m tests.fuzz` (the project's own mutations, everywhere).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable

import msgspec

from edged import packed
from edged.errors import Corrupt, Refused
from edged.privacy import jpeg
from edged.storage import segment
from edged.wire import messages, topics

Target = Callable[[bytes], None]

PROPERTIES = ("id", "ts", "seq", "boot", "w", "h", "model", "regions")


def header(data: bytes) -> None:
    """A frame's MQTT properties: pairs of lines, as a camera may send them."""
    lines = data.decode("utf-8", "replace").split("\n")
    frame = messages.frame_of("gate", "frame", list(zip(lines[::2], lines[1::2], strict=False)), b"x", 1.0)
    msgspec.json.encode(frame.header.to_properties())


def document(data: bytes) -> None:
    """A JSON message of a camera."""
    kinds = (
        messages.CameraInfo,
        messages.CameraStats,
        messages.Reported,
        messages.Want,
        messages.FrameReceipt,
        messages.Probed,
    )
    refused = []
    for kind in kinds:
        try:
            messages.decode(data, kind)
        except Refused as e:
            refused.append(e)
    if len(refused) == len(kinds):
        raise refused[0]


def topic(data: bytes) -> None:
    topics.parse(data.decode("utf-8", "replace"))


def markers(data: bytes) -> None:
    """A picture's markers, before any decoder."""
    found = jpeg.check(data)
    assert found.width * found.height <= jpeg.MAX_PIXELS
    assert max(found.width, found.height) <= jpeg.MAX_SIDE


def record(data: bytes) -> None:
    """A segment of the store after damage."""
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(data)
        fd = file.fileno()
        found = list(segment.scan(fd, 1))
        assert all(f.end <= os.fstat(fd).st_size for f in found)
        if len(found) < 3 or len(segment.salvage(fd, 1)) < len(found):
            raise Refused("not the whole segment")


def epk(data: bytes) -> None:
    """A packed model, as it may come by a cable."""
    try:
        packed.unpack(data, most=1 << 22)
    except Corrupt as e:
        raise Refused(str(e), code=e.code) from e


TARGETS: dict[str, Target] = {
    "header": header, "document": document, "topic": topic, "markers": markers, "record": record,
    "epk": epk,
}  # fmt: skip


def survives(target: Target, data: bytes) -> bool:
    """Whether the bytes were taken; raises what is neither taking nor refusing."""
    try:
        target(data)
    except Refused:
        return False
    return True
