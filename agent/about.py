"""What a camera says about itself: its birth message, the word on its update, its figures. Values in, messages out."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from agent import vitals
from agent.job import Record
from agent.pipeline import STAGES
from agent.slots import Slot
from edged import __version__, durable
from edged.engine import runtimes
from edged.wire.messages import CameraInfo, CameraStats, Reported

FILE = "started.json"


class Started(Struct, frozen=True):
    """How the process came up; `state/started.json`, for `edged-agent status`."""

    start_s: float = 0.0  # from the start of the process to the end of the first look at a picture
    rss_bytes: int = 0  # resident then


def started(state: Path) -> Started:
    """Measure now, and leave it in the state directory."""
    found = Started(round(vitals.running_s(), 2), vitals.memory_bytes())
    with suppress(OSError):
        durable.write(state / FILE, msgspec.json.encode(found), fsync=False)
    return found


def last_start(state: Path) -> Started | None:
    """What the last process left, None if there is nothing."""
    try:
        return msgspec.json.decode((state / FILE).read_bytes(), type=Started)
    except (OSError, msgspec.MsgspecError):
        return None


def info(
    boot: str, hardware: str, slot: Slot | None, start_s: float, *, takes: str = "", classes: tuple[str, ...] = (),
    most_bytes: int = 0,
) -> CameraInfo:  # fmt: skip
    """`takes`, `classes`, `most_bytes`: what releases it takes, so that the box offers it no other."""
    return CameraInfo(
        boot=boot, agent=__version__, hw=hardware, runtimes=runtimes(), mem_bytes=vitals.memory_total(),
        model=slot.sha256 if slot else "", model_name=slot.name if slot else "",
        model_version=slot.release if slot else 0, start_s=start_s, rss_bytes=vitals.memory_bytes(),
        takes=takes, classes=classes, most_bytes=most_bytes,
    )  # fmt: skip


def report(record: Record, slot: Slot | None) -> Reported:
    return Reported(
        name=slot.name if slot else "", version=slot.release if slot else 0, sha256=slot.sha256 if slot else "",
        job=record.desired.job, status=record.status, progress=record.progress, detail=record.detail[:500],
        health=record.health,
    )  # fmt: skip


def stats(
    ts: float, fps: float, samples: Sequence[Mapping[str, float]], slot: Slot | None, *, spool_frames: int,
    dropped_total: int, power_w: float | None,
) -> CameraStats:  # fmt: skip
    """`samples`: milliseconds of each stage, picture by picture."""
    stages = {s: round(statistics.median(x[s] for x in samples), 3) if samples else 0.0 for s in STAGES}
    return CameraStats(
        ts=ts, fps=round(fps, 3), infer_ms=stages["infer"], stages_ms=stages, mem_bytes=vitals.memory_bytes(),
        spool_frames=spool_frames, dropped_total=dropped_total, temp_c=vitals.temperature_c(), power_w=power_w,
        model=slot.sha256 if slot else "",
    )  # fmt: skip
