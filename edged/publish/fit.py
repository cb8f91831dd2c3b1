"""Whether a camera can take a release at all, by what it says of itself. Pure.

Guarantees: the same answer as the camera's own check (agent/offer.py) for hardware, model, classes, agent and size, which a
test compares; so whom a release does not fit is not offered it, and does not count as failed. Does not guarantee that
what the camera says of itself is true or still so (that it was the camera who said so its signature tells: wire/signature.py):
its own check, on what was signed, stays.
"""

from __future__ import annotations

import re
from typing import Protocol

from edged.wire.messages import CameraInfo

SILENT = "it has not said what it is yet"


class Signed(Protocol):
    """What is needed of a release's row."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def size(self) -> int: ...
    @property
    def hardware(self) -> tuple[str, ...]: ...
    @property
    def min_agent(self) -> str: ...


def why_not(release: Signed, info: CameraInfo | None) -> str:
    """Why the camera cannot take it, a sentence without its full stop; "" = it can.

    A camera that has not said what it is cannot, unless the release's row says of no hardware (an older edged wrote it).
    """
    if info is None:
        return SILENT if release.hardware else ""
    if release.hardware and info.hw not in release.hardware:
        return f"it is {info.hw}, the release is for {', '.join(release.hardware)}"
    if info.takes and info.takes != release.name:
        return f"it takes models called {info.takes}, this is {release.name}"
    if info.classes and set(info.classes) != set(release.classes):
        own, its = ", ".join(info.classes)[:100], ", ".join(release.classes)[:100]
        return f"it expects the classes {own}, the release tells apart {its}"
    if version(info.agent) < version(release.min_agent):
        return f"its agent is {info.agent}, the release needs {release.min_agent}"
    if info.most_bytes and release.size > info.most_bytes:
        return f"it takes {info.most_bytes} bytes at most, the release has {release.size}"
    return ""


def version(text: str) -> tuple[int, ...]:
    """As the agent reads one."""
    return tuple(int(n) for n in re.findall(r"\d+", text)[:4])
