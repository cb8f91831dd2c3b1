"""Between what boards told of their speed (storage) and the latency model (latency.py): which counts for which device.

Guarantees: `known` never fails for a row that cannot be used: it says so in the log and the profile's own estimate stands.
"""

from __future__ import annotations

import logging

import msgspec

from edged.engine import probe
from edged.engine.probe import Probed
from edged.errors import Refused
from edged.retrain import device, latency
from edged.retrain.device import Profile
from edged.storage import calibrations
from edged.storage.calibrations import Calibrated
from edged.storage.store import Store

log = logging.getLogger(__name__)

BOX = "@box"  # after a device's id: this box under that device's limits


def device_of(processor: str, hardware: str, camera: str) -> str:
    """The id of the profile with this processor; else what the camera calls its hardware; else the camera itself."""
    for profile in device.PROFILES:
        if profile.processor and profile.processor in processor:
            return str(profile.id)
    return hardware if hardware not in ("", "generic") else f"camera-{camera}"


def receive(store: Store, camera: str, payload: bytes, hardware: str) -> Calibrated:
    """Keep what a camera sent. Raises Refused: no such message, another suite, unfit for a fit, too often."""
    probed = probe.decode(payload)
    named = device_of(probed.processor, hardware, camera)
    return keep(store, named, probed, author=f"camera {camera}", camera=camera)


def keep(store: Store, named: str, probed: Probed, *, author: str, camera: str = "") -> Calibrated:
    """Keep one for a device, once it is known that it can be fitted and, for a profile, was made on its processor."""
    fitted = latency.fit(probed, named)
    profile = _profile(named)
    if profile is not None:
        latency.check(profile, fitted)
    body = msgspec.json.encode(probed).decode()
    return calibrations.add(
        store, named, body, processor=probed.processor, runtime=probed.runtime, author=author, camera=camera
    )


def fitted(row: Calibrated, box: latency.Calibration | None = None) -> latency.Calibration:
    """Raises Refused as `latency.fit`."""
    probed = probe.decode(row.body.encode())
    return latency.fit(probed, row.device, author=row.author, made=row.created, box=box)


def known(store: Store, id: str, runtime: str = "") -> str:
    """JSON of the Calibration that a re-test for this device uses; "" = there is none."""
    row = calibrations.newest(store, id, runtime)
    if row is None:
        return ""
    try:
        box = calibrations.newest(store, id + BOX, row.runtime)
        return latency.encode(fitted(row, fitted(box) if box is not None else None))
    except Refused as e:
        log.warning("calibration %d of %s is not used: %s", row.id, id, e)
        return ""


def _profile(id: str) -> Profile | None:
    return next((p for p in device.PROFILES if p.id == id), None)
