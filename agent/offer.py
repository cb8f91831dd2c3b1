"""A release as the signed metadata describes it, and whether this camera takes it. Pure.

Guarantees: an `Offer` was built from the signed metadata only; the unsigned `Desired` message is merely compared with
it. Does not guarantee: that the model works here; the self-test and the probation find that out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from agent.selftest import MEMORY_LIMIT, TIME_LIMIT_S, KnownAnswer, known_answer
from agent.slots import Slot
from edged.errors import Refused
from edged.wire.messages import CHUNK_BYTES, Desired, Sha256, Way

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile  # type: ignore[attr-defined]

MAX_MODEL_BYTES = 64 * 2**20


class Custom(Struct, frozen=True):
    """`custom` of a signed target; unknown fields are ignored."""

    release: Annotated[int, Meta(ge=1)]
    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    classes: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...], Meta(min_length=1, max_length=1000)
    ]
    px: Annotated[int, Meta(ge=8, le=1024)]
    hardware: tuple[str, ...]
    min_agent: Annotated[str, Meta(max_length=32)]
    chunk: Annotated[int, Meta(ge=1024, le=2**20)]
    chunks: tuple[Sha256, ...]
    known_answer: Any
    ways: Annotated[tuple[Way, ...], Meta(max_length=16)] = ()  # shorter ones to the same bytes
    returns_to: Annotated[int, Meta(ge=1)] | None = None  # the earlier release whose bytes these are: a way back
    self_test_s: Annotated[int, Meta(ge=1, le=300)] = int(TIME_LIMIT_S)  # from the device's profile, where it says so
    self_test_bytes: Annotated[int, Meta(ge=2**26, le=2**33)] = MEMORY_LIMIT


@dataclass(frozen=True)
class Offer:
    """A release that this camera may take."""

    custom: Custom
    sha256: str
    bytes: int
    known_answer: KnownAnswer

    def slot(self) -> Slot:
        """As it is noted in a slot."""
        c = self.custom
        return Slot(
            c.name, c.release, self.sha256, c.classes, c.px, self.known_answer, returns=c.returns_to is not None,
            memory=c.self_test_bytes,
        )  # fmt: skip


def read(target: TargetFile) -> Offer:
    """Raises Refused when the signed description is not one of a model."""
    return describe(target.path, target.length, target.hashes, target.custom or {})


def describe(path: str, length: int, hashes: Mapping[str, str], custom: Mapping[str, Any]) -> Offer:
    """See `read`; the parts of a TUF target one by one."""
    try:
        c = msgspec.convert(custom, Custom)
    except msgspec.ValidationError as e:
        raise Refused(f"the signed description of {path} cannot be used: {e}", code="bad_release") from e
    if "sha256" not in hashes:
        raise Refused(f"{path} is signed without a SHA-256", code="bad_release")
    if path != f"{c.name}/{c.release}.onnx":
        raise Refused(f"{path} describes itself as release {c.release} of {c.name}", code="bad_release")
    if len(c.chunks) != -(-length // c.chunk):
        raise Refused(f"{path}: {len(c.chunks)} chunks of {c.chunk} bytes cannot be {length} bytes", code="bad_release")
    if any(len(way.chunks) != -(-way.bytes // c.chunk) for way in c.ways):
        raise Refused(f"{path}: a way to it has other chunks than bytes", code="bad_release")
    return Offer(c, hashes["sha256"], length, known_answer(c.known_answer))


def check(
    offer: Offer, desired: Desired, *, running: Slot | None, hardware: str, agent: str,
    max_bytes: int = MAX_MODEL_BYTES, name: str = "", classes: tuple[str, ...] = (),
) -> None:  # fmt: skip
    """Whether this camera takes the release now; raises Refused with the sentence that its report will carry.

    A release number at or below the running one is never taken, even when it is signed: going back to an old model is
    a new release that names the old bytes. `name`, `classes`: what this camera is for, "" and () = whatever is signed
    for its hardware; the order of classes does not matter, since labels travel as words.
    """
    c = offer.custom
    if (c.name, c.release, offer.sha256) != (desired.name, desired.version, desired.sha256):
        raise Refused("what is desired is not what the site's keys vouch for", code="mismatch")
    if hardware not in c.hardware:
        wanted = ", ".join(c.hardware) or "nothing"
        raise Refused(f"release {c.release} is for {wanted}; this camera is {hardware}", code="hardware")
    if name and c.name != name:
        raise Refused(f"release {c.release} is of {c.name}; this camera runs {name}", code="other_model")
    if len(set(c.classes)) != len(c.classes) or (classes and set(classes) != set(c.classes)):
        told, own = ", ".join(c.classes)[:100], ", ".join(classes)[:100] or "each class once"
        raise Refused(f"release {c.release} tells apart {told}; this camera expects {own}", code="classes")
    if _version(agent) < _version(c.min_agent):
        raise Refused(f"release {c.release} needs agent {c.min_agent}; this is {agent}", code="agent_too_old")
    if running is not None and c.release <= running.release:
        raise Refused(f"release {c.release} is not newer than {running.release}, which runs", code="not_newer")
    if offer.bytes > max_bytes:
        raise Refused(f"release {c.release} has {offer.bytes} bytes; this camera takes {max_bytes}", code="too_large")
    if c.chunk > 16 * CHUNK_BYTES:
        raise Refused(f"chunks of {c.chunk} bytes are larger than the wire allows", code="bad_release")
    if any(len(row) != len(c.classes) for row in offer.known_answer.logits) or offer.known_answer.px != c.px:
        raise Refused("the known answer does not fit the classes or the size of the picture", code="bad_release")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", text)[:4])
