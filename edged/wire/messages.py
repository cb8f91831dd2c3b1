"""Everything that crosses the cable, as frozen msgspec structs: one schema for both ends.

Pixels travel as plain JPEG payloads with the header in MQTT v5 user properties (`FrameHeader.to_properties`), so that any
MQTT tool can look at them; everything else is one JSON document per message (`encode` / `decode`).

Guarantees: a value that decodes is within the limits written here. Does not guarantee: that the JPEG is one (privacy
decides that, in a child process), that a timestamp is true (camera time is data; the box's receive time rules retention).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from edged.errors import Refused

MAX_REGIONS = 4  # regions of interest per frame (the specification: four 224x224 per 720p frame)
REGION_PX = 224  # side of a region as it is stored and classified
MAX_FRAME_BYTES = 2 * 1024 * 1024  # largest JPEG accepted; the broker's packet limit is this + 64 KiB
CHUNK_BYTES = 16 * 1024  # model chunk; 16 KB paced keeps ingest p99 within 2x of idle (FACTS: measured)
MOST_CHUNK_BYTES = 16 * CHUNK_BYTES  # of very large files, whose hashes would else outgrow the signed metadata

# `$` alone would let a trailing line feed pass.
Id = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$(?!\n)")]
FrameId = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]{0,127}$(?!\n)")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
Text = Annotated[str, Meta(max_length=500)]
Pixel = Annotated[int, Meta(ge=0, le=16384)]

JobStatus = Literal["QUEUED", "IN_PROGRESS", "SUCCEEDED", "FAILED", "TIMED_OUT", "REJECTED", "REMOVED", "CANCELED"]


class Region(Struct, frozen=True):
    """One region of interest in pixels of its frame. `label` is "" when the camera has no model yet.

    `score` is the camera's top-1 probability, `margin` top-1 minus top-2 (small = unsure), both 0..1.
    """

    x: Pixel
    y: Pixel
    w: Annotated[int, Meta(ge=1, le=16384)]
    h: Annotated[int, Meta(ge=1, le=16384)]
    label: Annotated[str, Meta(max_length=64)] = ""
    score: Annotated[float, Meta(ge=0, le=1)] = 0.0
    margin: Annotated[float, Meta(ge=0, le=1)] = 0.0


class FrameHeader(Struct, frozen=True):
    """What a camera says about a picture. `id` is unique per camera for ever (boot + sequence)."""

    id: FrameId
    ts: Annotated[float, Meta(ge=0, le=1e11)]  # capture time by the camera, seconds since 1970
    seq: Annotated[int, Meta(ge=0, le=2**53)]
    boot: Id
    w: Annotated[int, Meta(ge=1, le=16384)]
    h: Annotated[int, Meta(ge=1, le=16384)]
    model: Annotated[str, Meta(max_length=64)] = ""  # sha256 of the model that labelled the regions, "" = none
    regions: Annotated[tuple[Region, ...], Meta(max_length=MAX_REGIONS)] = ()

    def to_properties(self) -> dict[str, str]:
        """As MQTT v5 user properties; every value is JSON except plain strings."""
        return {
            "id": self.id, "ts": repr(self.ts), "seq": str(self.seq), "boot": self.boot, "w": str(self.w),
            "h": str(self.h), "model": self.model, "regions": msgspec.json.encode(self.regions).decode(),
        }  # fmt: skip

    @classmethod
    def from_properties(cls, properties: Mapping[str, str]) -> FrameHeader:
        """Raises Refused with the field at fault; unknown properties are ignored."""
        try:
            for name in cls.__struct_fields__:
                properties.get(name, "").encode()  # a lone surrogate is a ValueError
            raw: dict[str, object] = {k: properties[k] for k in ("id", "boot", "model") if k in properties}
            # As JSON: int() and float() also read "1_0", other scripts' digits and "nan".
            raw |= {k: msgspec.json.decode(properties[k], type=float) for k in ("ts",) if k in properties}
            raw |= {k: msgspec.json.decode(properties[k], type=int) for k in ("seq", "w", "h") if k in properties}
            raw["regions"] = msgspec.json.decode(properties.get("regions", "[]"))
            return msgspec.convert(raw, cls)
        except (ValueError, msgspec.MsgspecError, RecursionError) as e:
            raise Refused(f"frame header: {e}", code="bad_header") from e


@dataclass(frozen=True)
class Frame:
    """Arrived bytes, unsafe: neither decoded nor scrubbed. `kind` is the topic leaf it came by: "frame" or "roi"."""

    camera: str
    header: FrameHeader
    jpeg: bytes
    kind: str = "frame"
    received: float = 0.0  # box receive time


class FrameReceipt(Struct, frozen=True):
    """The box's answer to one frame, sent after the durable commit; a PUBACK is not a receipt.

    stored    it is on disk, scrubbed and sealed: the camera may forget it
    withheld  privacy could not vouch for it and nothing was kept: the camera may forget it
    refused   it can never be accepted (not a JPEG, too large): the camera drops it
    retry     not now: the camera keeps it and sends it again after `retry_after_s`
    """

    id: FrameId
    sha256: Sha256
    status: Literal["stored", "withheld", "refused", "retry"]
    detail: Text = ""
    retry_after_s: Annotated[float, Meta(ge=0, le=86400)] = 0.0
    ts: Annotated[float, Meta(ge=0, le=1e11)] = 0.0  # the box's time when it answered, 0 = not said


class CameraInfo(Struct, frozen=True):
    """Birth message, retained."""

    boot: Id
    agent: Annotated[str, Meta(max_length=32)]
    hw: Annotated[str, Meta(max_length=120)]  # hardware id, as in the targets' `custom.hardware`
    runtimes: tuple[str, ...]
    mem_bytes: int
    model: str = ""  # sha256 of the running model, "" = none
    model_name: str = ""
    model_version: int = 0
    start_s: Annotated[float, Meta(ge=0)] = 0.0  # from the start of the process to the first look at a picture
    rss_bytes: Annotated[int, Meta(ge=0)] = 0  # resident, once the model is loaded
    takes: Annotated[str, Meta(max_length=64)] = ""  # the only name of models that it takes, "" = any
    classes: Annotated[
        tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=1000)
    ] = ()  # that it expects, () = any
    most_bytes: Annotated[int, Meta(ge=0)] = 0  # the largest model that it takes, 0 = not said


class CameraStats(Struct, frozen=True):
    """Every few seconds, not retained. Times in milliseconds, medians since the last message."""

    ts: float
    fps: float
    infer_ms: float
    stages_ms: dict[str, float]  # acquire, to_float, marshal, infer, decode, overlay
    mem_bytes: int
    spool_frames: int
    dropped_total: int
    temp_c: float | None = None
    power_w: float | None = None
    model: str = ""


class DriftState(Struct, frozen=True):
    """The box's word on a camera's drift, retained. `score` 1 = the line at which an alarm is due; `p` the smallest of the
    tests, null = none has one; `since` seconds since 1970, null = it does not drift.
    """

    score: float
    p: float | None
    since: float | None


class Desired(Struct, frozen=True):
    """Which release this camera should run; retained. A hint only: what is trusted is the signed metadata it points to."""

    job: Id
    name: Id
    version: Annotated[int, Meta(ge=1)]  # release number
    target: Annotated[str, Meta(max_length=200)]  # TUF target path
    sha256: Sha256


class Health(Struct, frozen=True):
    """What a new model did on probation, beside the one before it; null where there was nothing to compare.

    `agreement` share of shadow regions that both put into the same class; `shift` distance of the two histograms of
    confidence, 0..1 (half the sum of absolute differences).
    """

    pictures: Annotated[int, Meta(ge=0)]
    fps: Annotated[float, Meta(ge=0)]
    fps_before: Annotated[float, Meta(ge=0)] | None = None
    agreement: Annotated[float, Meta(ge=0, le=1)] | None = None
    shift: Annotated[float, Meta(ge=0, le=1)] | None = None
    regions: Annotated[int, Meta(ge=0)] = 0  # that both answered


class Reported(Struct, frozen=True):
    """A camera's word on its model; retained. Job words and meaning are those of AWS IoT Jobs."""

    name: str
    version: int
    sha256: str  # of the model that is running now
    job: str
    status: JobStatus
    progress: Annotated[float, Meta(ge=0, le=1)] = 0.0
    detail: Text = ""
    health: Health | None = None  # once the probation has ended


class Way(Struct, frozen=True):
    """A shorter way to the bytes of a release than its whole file: part of what is signed about it (`custom.ways`).

    packed  `edged.packed` of the file            delta  against the file `source`, which the camera may have
    """

    form: Literal["packed", "delta"]
    sha256: Sha256  # of what is sent
    bytes: Annotated[int, Meta(ge=1, le=2**30)]
    chunks: tuple[Sha256, ...]  # of `custom.chunk` bytes each, the last may be shorter
    source: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")] = ""


class Want(Struct, frozen=True):
    """A camera asks for the chunks it lacks of one file, by index."""

    sha256: Sha256  # of the whole file, or of a way's
    chunks: Annotated[tuple[Annotated[int, Meta(ge=0, le=2**20)], ...], Meta(max_length=256)]
    chunk: Annotated[int, Meta(ge=1024, le=MOST_CHUNK_BYTES)] = CHUNK_BYTES  # bytes of one, as they are signed


# What a camera says of itself is shown on pages and terminals: no control characters.
Plain = Annotated[str, Meta(pattern=r"^[ -~]{0,120}$(?!\n)")]


class Timed(Struct, frozen=True):
    """One probe: CPU milliseconds of one run (median) and half the distance between its quartiles, as a share of that."""

    name: Plain
    ms: Annotated[float, Meta(ge=1e-4, le=1e7)]
    spread: Annotated[float, Meta(ge=0, le=1e4)]


class Probed(Struct, frozen=True):
    """How fast a machine ran the probe's layers (engine/probe.py). Not retained.

    `processor` as /proc/cpuinfo calls it, `machine` x86_64, aarch64, ...; `caps`: what limited its instruction sets;
    `scaling`: how many times as fast all cores are as one.
    """

    suite: Annotated[int, Meta(ge=1, le=10_000)]
    processor: Plain
    machine: Plain
    cores: Annotated[int, Meta(ge=1, le=1024)]
    runtime: Literal["openvino", "onnxruntime"]
    version: Plain
    flags: Annotated[tuple[Plain, ...], Meta(max_length=64)]
    caps: Annotated[dict[Plain, Plain], Meta(max_length=8)]
    scaling: Annotated[float, Meta(ge=1, le=1024)]
    probes: Annotated[tuple[Timed, ...], Meta(min_length=1, max_length=200)]


T = TypeVar("T")


def encode(message: Struct) -> bytes:
    """One JSON document."""
    return msgspec.json.encode(message)


def decode(payload: bytes, kind: type[T]) -> T:
    """Decode and check one JSON document; raises Refused with the field at fault."""
    if len(payload) > 64 * 1024:
        raise Refused(f"a {kind.__name__} of {len(payload)} bytes is too large (64 KiB at most)", code="too_large")
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as e:
        raise Refused(f"{kind.__name__}: {e}", code="bad_message") from e


def frame_of(camera: str, leaf: str, properties: Sequence[tuple[str, str]], payload: bytes, received: float) -> Frame:
    """Check what came by .../frame or .../roi without looking at the pixels; raises Refused."""
    if len(payload) > MAX_FRAME_BYTES:
        raise Refused(f"frame of {len(payload)} bytes is too large ({MAX_FRAME_BYTES} at most)", code="too_large")
    named = [k for k, _ in properties if k in FrameHeader.__struct_fields__]
    if len(named) != len(set(named)):
        raise Refused("frame header: a property comes twice", code="bad_header")
    return Frame(camera, FrameHeader.from_properties(dict(properties)), payload, leaf, received)
