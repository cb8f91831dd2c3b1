"""What a file child and its parent say to each other: MessagePack documents and raw pictures over a socket.

Guarantees: each document is behind its length (4 bytes) and has the fields and limits written here; a raw part follows
only the document that announces its size, which is capped. The file to work on arrives as an open descriptor with its
question: the child sees no path.
"""

from __future__ import annotations

import socket
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from edged.privacy.talk import Box, Count, Kind, Milliseconds, Polygon, ScrubOptions

MAX_DOCUMENT = 4 * 1024 * 1024
MAX_RAW = 512 * 1024 * 1024
MAX_PIXELS = 120_000_000  # of a picture
MAX_FILM_PIXELS = 4096 * 2304
LENGTH_BYTES = 4

Side = Annotated[int, Meta(ge=1, le=1 << 20)]
Size = Annotated[int, Meta(ge=1, le=MAX_RAW)]
Stages = dict[Annotated[str, Meta(max_length=16)], Milliseconds]
Reason = Annotated[str, Meta(max_length=32, pattern=r"^[a-z0-9_]*$")]


class Begin(Struct, frozen=True, tag="begin"):
    """First document to the child. A frame that takes longer than `stall_s` ends it."""

    options: ScrubOptions
    threads: Annotated[int, Meta(ge=1, le=256)]
    stall_s: Annotated[float, Meta(gt=0, le=3600)]


class DoPicture(Struct, frozen=True, tag="picture"):
    """Scrub the picture in the file that comes with this."""

    seq: int
    to: Literal["jpeg", "png"]
    masks: tuple[Polygon, ...] = ()


class DoFilm(Struct, frozen=True, tag="film"):
    """Scrub the film in the file that comes with this."""

    seq: int
    masks: tuple[Polygon, ...] = ()


class DoAudit(Struct, frozen=True, tag="audit"):
    """Scrub the picture in the file that comes with this and say what of these boxes is covered.

    `boxes` and `others` are pixels of the stored picture; `others` may be covered or not. `fit` letterboxes the picture
    into that size before anything else; `light` multiplies it, with a night camera's noise, when below 1.
    """

    seq: int
    boxes: tuple[tuple[Kind, float, float, float, float], ...]
    others: tuple[tuple[float, float, float, float], ...] = ()
    fit: tuple[Side, Side] | None = None
    light: Annotated[float, Meta(gt=0, le=1)] = 1.0
    masks: tuple[Polygon, ...] = ()


Task = DoPicture | DoFilm | DoAudit
Question = Begin | DoPicture | DoFilm | DoAudit


class Ready(Struct, frozen=True, tag="ready"):
    """The child works, after its self-test."""

    no_network: bool
    no_sockets: bool


class GotPicture(Struct, frozen=True, tag="got_picture"):
    """A scrubbed picture; `size` bytes follow. `boxes` are what was found, in its pixels, before it was grown."""

    seq: int
    width: Side
    height: Side
    size: Size
    hidden: dict[Kind, Count]
    boxes: tuple[tuple[Kind, int, int, int, int], ...]
    unjudged: Reason
    ms: Stages


class Opened(Struct, frozen=True, tag="opened"):
    """A film; its frames follow. `frames` is what its container says, 0 = it does not say."""

    seq: int
    width: Side
    height: Side
    fps: Annotated[float, Meta(gt=0, le=1000)]
    frames: Annotated[int, Meta(ge=0)]


class GotFrame(Struct, frozen=True, tag="frame"):
    """The next frame; width * height * 3 bytes (BGR) follow."""

    seq: int


class GotFilm(Struct, frozen=True, tag="got_film"):
    """The film is over. `hidden` counts areas over all frames, `blank` frames that are grey all over, by reason."""

    seq: int
    frames: Annotated[int, Meta(ge=0)]
    looks: Annotated[int, Meta(ge=0)]
    hidden: dict[Kind, Annotated[int, Meta(ge=0)]]
    blank: dict[Reason, Annotated[int, Meta(ge=0)]]
    ms: Stages


class GotAudit(Struct, frozen=True, tag="got_audit"):
    """Covered share and place of each box as the detectors saw it, and how much was covered that no box explains."""

    seq: int
    width: Side
    height: Side
    shares: tuple[Annotated[float, Meta(ge=0, le=1)], ...]
    boxes: tuple[Box, ...]
    false_pixels: Annotated[int, Meta(ge=0)]
    unjudged: Reason
    ms: Stages


class Declined(Struct, frozen=True, tag="declined"):
    """Nothing. `seq` -1 = the child cannot start."""

    seq: int
    family: Literal["refused", "withheld", "misconfigured"]
    code: Reason
    message: Annotated[str, Meta(max_length=400)]
    hint: Annotated[str, Meta(max_length=400)] = ""


Answer = Ready | GotPicture | Opened | GotFrame | GotFilm | GotAudit | Declined


def send(end: socket.socket, document: Struct, raw: bytes | memoryview = b"", file: int | None = None) -> None:
    """A document, what follows it, and an open file with it."""
    body = msgspec.msgpack.encode(document)
    head = len(body).to_bytes(LENGTH_BYTES, "big") + body
    if file is None:
        end.sendall(head)
    else:
        sent = socket.send_fds(end, [head], [file])
        end.sendall(head[sent:])
    if len(raw):
        end.sendall(raw)


def receive_into(end: socket.socket, buffer: memoryview) -> bool:
    """Fill the buffer; False when the other end closed."""
    while len(buffer):
        n = end.recv_into(buffer)
        if n == 0:
            return False
        buffer = buffer[n:]
    return True


def receive(end: socket.socket) -> tuple[bytes, int | None]:
    """The next document's bytes and the file that came with it; b"" when the other end closed.

    Raises ValueError for an announced length over the cap."""
    head, files, _, _ = socket.recv_fds(end, LENGTH_BYTES, 1)
    file = files[0] if files else None
    rest = bytearray(LENGTH_BYTES - len(head))
    if not head or not receive_into(end, memoryview(rest)):
        return b"", file
    length = int.from_bytes(head + bytes(rest), "big")
    if not 0 < length <= MAX_DOCUMENT:
        raise ValueError(f"a document of {length} bytes")
    body = bytearray(length)
    return (bytes(body) if receive_into(end, memoryview(body)) else b""), file
