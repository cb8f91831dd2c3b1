"""What a camera's state directory says, for `edged-agent status`. Works beside a running agent; changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent import about
from agent.job import read_record
from agent.slots import Slot, Slots
from edged.errors import Misconfigured


def read(state: Path) -> dict[str, Any]:
    """The document of `status --json`. Raises Misconfigured where no agent ever was."""
    if not (state / "slots").is_dir():
        raise Misconfigured(f"{state} is not an agent's state directory", hint="--state DIR")
    slots = Slots(state / "slots")
    slot, record, start = slots.active(), read_record(state / "update"), about.last_start(state)
    frames = [p.stat().st_size for p in (state / "spool").glob("*.frame")]
    job = None
    if (r := record) is not None:
        job = {"job": r.desired.job, "status": r.status, "phase": r.phase, "progress": r.progress, "detail": r.detail}
    return {
        "model": {"name": slot.name, "release": slot.release, "sha256": slot.sha256} if slot else None,
        "probation": slots.pointer.probation,
        "job": job,
        "spool": {"frames": len(frames), "bytes": sum(frames)},
        "start": {"seconds": start.start_s, "rss_bytes": start.rss_bytes} if start else None,
    }


def words(state: Path) -> list[str]:
    """The same in lines."""
    told = read(state)
    slot = Slots(state / "slots").active()
    lines = [
        f"model  {model_words(slot)}{' (on probation)' if told['probation'] else ''}",
        f"spool  {told['spool']['frames']} frames, {told['spool']['bytes']} bytes",
    ]
    if start := told["start"]:
        size = start["rss_bytes"] / 2**20
        lines.append(f"start  {start['seconds']:g} s to the first picture, then {size:.0f} MiB resident")
    if job := told["job"]:
        lines.append(f"update {job['job']}: {job['status']} {job['detail']}".rstrip())
    return lines


def model_words(slot: Slot | None) -> str:
    return f"{slot.name} release {slot.release} ({slot.sha256[:12]})" if slot else "no model"
