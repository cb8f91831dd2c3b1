"""What a scrub child and its parent say to each other: MessagePack documents, each behind its length (4 bytes).

Guarantees: a document that decodes has the fields and limits written here; lengths are capped before anything is read.
Does not guarantee: that an answer is true; `scrub.vouch` checks what can be checked without decoding a picture.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

MAX_DOCUMENT = 16 * 1024 * 1024
LENGTH_BYTES = 4

Count = Annotated[int, Meta(ge=0, le=100_000)]
Milliseconds = Annotated[float, Meta(ge=0, le=1e7)]
Box = tuple[int, int, int, int]  # x, y, w, h in pixels


class Settings(Struct, frozen=True, tag="settings"):
    """First document to the child."""

    faces: bool
    plates: bool
    margin: Annotated[float, Meta(ge=0, le=2)]
    masks: dict[str, tuple[tuple[tuple[float, float], ...], ...]]
    runtime: str
    deadline_s: Annotated[float, Meta(gt=0, le=3600)]
    memory_bytes: Annotated[int, Meta(ge=0)]  # 0 = no limit


class Request(Struct, frozen=True, tag="request"):
    """One picture."""

    seq: int
    camera: str
    kind: str
    width: int
    height: int
    regions: tuple[Box, ...]
    jpeg: bytes


class Hello(Struct, frozen=True, tag="hello"):
    """First document from the child, after its self-test: what it runs on and how well it is shut in."""

    runtime: str  # of the face network, "" = faces are off
    faces_sha256: str
    no_network: bool  # its own network namespace, with nothing in it
    no_sockets: bool  # a system call filter refuses new sockets and programs
    memory_limit: int  # bytes of address space, 0 = none
    rss_bytes: int
    start_ms: float


class Done(Struct, frozen=True, tag="done"):
    """A scrubbed picture."""

    seq: int
    width: int
    height: int
    jpeg: bytes
    crops: tuple[bytes, ...]
    faces: Count
    plates: Count
    ms: dict[Annotated[str, Meta(max_length=16)], Milliseconds]


class Declined(Struct, frozen=True, tag="declined"):
    """No picture. `seq` -1 = the child cannot start."""

    seq: int
    family: Literal["refused", "withheld", "misconfigured"]
    code: Annotated[str, Meta(max_length=32, pattern=r"^[a-z0-9_]+$")]
    message: Annotated[str, Meta(max_length=400)]


Answer = Hello | Done | Declined


def pack(document: Struct) -> bytes:
    """The document with its length before it."""
    body = msgspec.msgpack.encode(document)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def answer_of(body: bytes) -> Answer:
    """Raises msgspec.MsgspecError for anything else."""
    answer: Answer = msgspec.msgpack.decode(body, type=Answer)
    return answer
