"""What a scrub child and its parent say to each other: MessagePack documents, each behind its length (4 bytes).

Guarantees: a document that decodes has the fields and limits written here; lengths are capped before anything is read.
Does not guarantee: that an answer is true; `scrub.vouch` checks what can be checked without decoding a picture. An
answer's `word` ties it to its question, so that no fault on the way can swap, replay or change it.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

MAX_DOCUMENT = 16 * 1024 * 1024
LENGTH_BYTES = 4

Count = Annotated[int, Meta(ge=0, le=100_000)]
Milliseconds = Annotated[float, Meta(ge=0, le=1e7)]
Word = Annotated[bytes, Meta(min_length=32, max_length=32)]
Kind = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,15}$")]
Coordinate = Annotated[float, Meta(ge=-1e5, le=1e5)]
Box = tuple[int, int, int, int]  # x, y, w, h in pixels
Polygon = tuple[tuple[float, float], ...]  # corners as shares of width and height, 0..1
MAX_SPOTS = 2000


class Plugin(Struct, frozen=True, forbid_unknown_fields=True):
    """An installer's own detector: an ONNX file and how to read its answers, or code (see plugin.py)."""

    kind: Kind
    file: str
    layout: Literal["boxes", "yolo", "code"] = "boxes"
    threshold: Annotated[float, Meta(ge=0.01, le=0.99)] = 0.3
    long_side: Annotated[int, Meta(ge=64, le=1920, multiple_of=32)] = 640
    labels: tuple[Annotated[int, Meta(ge=0)], ...] = ()  # of the network's classes, those that count; () = all
    sha256: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")] = ""  # of the file; "" = whatever lies there


class ScrubOptions(Struct, frozen=True):
    """What to remove and how. `masks` are burned in per camera id, whatever else is found.

    `margin` grows every found box by this share of its width and height on each side before it is filled.
    `strict` runs the face networks at their full size and together; `face_model` is an owner's YuNet file instead of
    the built-in CenterFace. `unjudged` says what becomes of a picture that is too dark or too blurred to judge;
    `memory_bytes` is the child's address space (RLIMIT_AS), 0 = unlimited.
    """

    faces: bool = True
    plates: bool = True
    persons: bool = False
    text: bool = False
    screens: bool = False
    strict: bool = False
    face_model: str = ""
    plugins: tuple[Plugin, ...] = ()
    margin: Annotated[float, Meta(ge=0, le=2)] = 0.25
    unjudged: Literal["withhold", "blank", "keep"] = "withhold"
    masks: dict[str, tuple[Polygon, ...]] = {}
    runtime: str = "auto"
    memory_bytes: Annotated[int, Meta(ge=0)] = 2 << 30


class Settings(Struct, frozen=True, tag="settings"):
    """First document to the child."""

    options: ScrubOptions
    deadline_s: Annotated[float, Meta(gt=0, le=3600)]


class Spot(Struct, frozen=True, array_like=True):
    """Something private: a box in pixels of the picture. Not `sure` = it counts only where a track expects it."""

    kind: Kind
    x: Coordinate
    y: Coordinate
    w: Coordinate
    h: Coordinate
    sure: bool = True


class Look(Struct, frozen=True, tag="look"):
    """Where is something private in this picture? Its masks are burned in before anyone looks."""

    seq: int
    camera: str
    kind: str
    width: int
    height: int
    jpeg: bytes
    masks: tuple[Polygon, ...] = ()


class Request(Struct, frozen=True, tag="request"):
    """Scrub this picture: of `spots`, or, when they are None, of what the detectors find. `blank` = cover all of it."""

    seq: int
    camera: str
    kind: str
    width: int
    height: int
    regions: tuple[Box, ...]
    jpeg: bytes
    masks: tuple[Polygon, ...] = ()
    spots: Annotated[tuple[Spot, ...], Meta(max_length=MAX_SPOTS)] | None = None
    blank: bool = False


class Plant(Struct, frozen=True, tag="plant"):
    """Make a picture with private things in it whose places are known (planted.py)."""

    seq: int
    seed: int
    width: int
    height: int


class Inspect(Struct, frozen=True, tag="inspect"):
    """How much of each of these boxes is covered in a picture that came back scrubbed?"""

    seq: int
    jpeg: bytes
    spots: tuple[Spot, ...]


Question = Look | Request | Plant | Inspect
Q = TypeVar("Q", Look, Request, Plant, Inspect)


class Hello(Struct, frozen=True, tag="hello"):
    """First document from the child, after its self-test: what it runs on and how well it is shut in."""

    runtime: str  # of the networks, "" = there are none
    weights: dict[str, str]  # detector's name -> sha256 of its file
    no_network: bool  # its own network namespace, with nothing in it
    no_sockets: bool  # a system call filter refuses new sockets and programs
    memory_limit: int  # bytes of address space, 0 = none
    rss_bytes: int
    start_ms: float


class Seen(Struct, frozen=True, tag="seen"):
    """What a look found. `unjudged` is "" or why no detector can be trusted here: too_dark, too_blurred."""

    seq: int
    spots: Annotated[tuple[Spot, ...], Meta(max_length=MAX_SPOTS)]
    unjudged: Annotated[str, Meta(max_length=32, pattern=r"^[a-z_]*$")]
    ms: dict[Annotated[str, Meta(max_length=16)], Milliseconds]
    word: Word


class Done(Struct, frozen=True, tag="done"):
    """A scrubbed picture. `hidden` counts the areas covered, by kind."""

    seq: int
    width: int
    height: int
    jpeg: bytes
    crops: tuple[bytes, ...]
    hidden: dict[Kind, Count]
    ms: dict[Annotated[str, Meta(max_length=16)], Milliseconds]
    word: Word


class Planted(Struct, frozen=True, tag="planted"):
    """A picture with private things in it. It shows nobody that did not agree to it. `easy` = which of the spots no
    scrubber that works can miss; empty = none of them."""

    seq: int
    width: int
    height: int
    jpeg: bytes
    spots: tuple[Spot, ...]
    easy: tuple[bool, ...] = ()


class Inspected(Struct, frozen=True, tag="inspected"):
    """Covered share of each box, 0..1, in the order of the question."""

    seq: int
    shares: tuple[Annotated[float, Meta(ge=0, le=1)], ...]


class Declined(Struct, frozen=True, tag="declined"):
    """No picture. `seq` -1 = the child cannot start."""

    seq: int
    family: Literal["refused", "withheld", "misconfigured"]
    code: Annotated[str, Meta(max_length=32, pattern=r"^[a-z0-9_]+$")]
    message: Annotated[str, Meta(max_length=400)]
    hint: Annotated[str, Meta(max_length=400)] = ""


Answer = Hello | Seen | Done | Planted | Inspected | Declined


def pack(document: Struct) -> bytes:
    """The document with its length before it."""
    body = msgspec.msgpack.encode(document)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def word(question: Struct, *parts: bytes) -> bytes:
    """SHA-256 over a question and what answers it. The question is one that `settled` gave."""
    digest = hashlib.sha256(msgspec.msgpack.encode(question))
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def word_of_look(question: Look, spots: tuple[Spot, ...], unjudged: str) -> bytes:
    """`word` of what a look found."""
    return word(question, msgspec.msgpack.encode(spots), unjudged.encode())


def settled(question: Q) -> Q:
    """The question as the other end will read it; raises msgspec.ValidationError for one that breaks its limits."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(question), type=type(question))


def answer_of(body: bytes) -> Answer:
    """Raises msgspec.MsgspecError for anything else."""
    answer: Answer = msgspec.msgpack.decode(body, type=Answer)
    return answer
