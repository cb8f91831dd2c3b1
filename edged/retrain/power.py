"""Watts of a device while it runs a model: measured where we run on that very device, else estimated from its design power.

Guarantees: "measured" is said only of a sane sensor on the profile's own processor; this box's watts are never given for
another device's. An estimate carries that word, so the gate leaves power unjudged.
"""

from __future__ import annotations

from pathlib import Path

from edged.clock import Clock
from edged.engine import power
from edged.engine.power import Energy, Meter
from edged.retrain import device
from edged.retrain.device import Profile
from edged.retrain.report import Number


def meter(
    profile: Profile, *, sys: Path = power.SYS, clock: Clock | None = None, processor: str | None = None
) -> Meter | None:
    """A sensor for `profile`, None where this is not that device or it has none; `why_not` says which.

    with meter.span() as idle: clock.sleep(2)
    with meter.span() as load: run frames
    report.power_w = power.number(profile, load.energy, idle.energy)
    """
    if not _is_here(profile, processor):
        return None
    return power.find(tdp_w=profile.power_w, sys=sys, clock=clock)[0]


def why_not(profile: Profile, *, sys: Path = power.SYS, processor: str | None = None) -> str:
    """Why `meter` gives None; "" when it does not."""
    if not _is_here(profile, processor):
        return f"{profile.id} is another device than this"
    return power.find(tdp_w=profile.power_w, sys=sys)[1]


def number(profile: Profile, load: Energy | None, idle: Energy | None = None) -> Number | None:
    """Watts under load; None when nothing is known. Without a sane measurement: the design power, "estimated"."""
    if load is not None and load.watts is not None:
        basis = f"{load.sensor} over {load.seconds:.1f} s under load"
        if idle is not None and idle.watts is not None:
            basis += f"; {idle.watts:.2f} W idle before"
        return Number(round(load.watts, 3), "measured", basis)
    if not profile.power_w:
        return None
    why = load.why if load is not None else ""
    return Number(profile.power_w, "estimated", "thermal design power" + (f"; {why}" if why else ""))


def _is_here(profile: Profile, processor: str | None) -> bool:
    this = device.processor() if processor is None else processor
    return (profile.factor is None and not profile.processor) or (bool(profile.processor) and profile.processor in this)
