"""The site in Home Assistant: its MQTT device discovery documents, and the few words they point at. Off by default.

Device discovery and the `update` entity's state as Home Assistant has read them since 2024.12
(https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery, .../integrations/update.mqtt/).

Guarantees: the documents follow from the rows alone; a topic is published when what it says changes, at most every EVERY_S,
progress in steps of STEP per cent; what was retained is noted on disk first, so that it is taken back when discovery is
switched off, its prefix changes or a camera is gone, also after a kill. Off: nothing is published but these empty messages.
No picture and nothing about one is ever named. Does not guarantee that anybody listens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from edged import __version__, durable, health
from edged.clock import Clock, iso
from edged.publish import aim, fit
from edged.storage import cameras, cycles, deliveries, disk, figures, releases
from edged.storage.cameras import Camera
from edged.storage.deliveries import DeliveryRow
from edged.storage.releases import ReleaseRow
from edged.storage.store import Store
from edged.wire import topics
from edged.wire.link import Link

EVERY_S = 2.0
QUEUE_S = 60.0  # between two counts of the regions that want a label, each up to 0.1 s
STEP = 5  # per cent
SUMMARY = 255  # characters of a release summary and of a state, Home Assistant's limits
TOLD = "homeassistant.json"  # in the data directory: the topics that hold something of ours

Document = dict[str, Any]


@dataclass(frozen=True)
class Rules:
    """`names`: what people call a camera, by id."""

    discovery: bool = False
    prefix: str = "homeassistant"
    names: Mapping[str, str] = field(default_factory=dict)


def config_topic(prefix: str, site: str, thing: str) -> str:
    """Where a device's discovery document is retained; `thing` a camera's id, or "server_<id>"."""
    return f"{prefix}/device/edged_{site}_{thing}/config"


def camera_document(site: str, server: str, camera: str, name: str, hardware: str, agent: str) -> Document:
    """One camera as a device with six entities."""
    uid = f"edged_{site}_{camera}"
    box, own = {"topic": topics.server(site, server, "state")}, {"topic": topics.cam(site, camera, "state")}

    def at(leaf: str) -> str:
        return topics.cam(site, camera, leaf)

    both = {"availability": [box, own], "availability_mode": "all"}
    entities: dict[str, Document] = {
        "connection": {
            "platform": "binary_sensor", "name": "Connection", "device_class": "connectivity",
            "entity_category": "diagnostic", "state_topic": at("state"), "payload_on": "online", "payload_off": "offline",
        },
        "problem": {
            "platform": "binary_sensor", "name": "Problem", "device_class": "problem", "entity_category": "diagnostic",
            "state_topic": at("problem"), "value_template": "{{ value_json.problem }}",
            "json_attributes_topic": at("problem"), "json_attributes_template": "{{ {'text': value_json.text} | tojson }}",
        },
        "fps": {
            "platform": "sensor", "name": "Pictures per second", "state_topic": at("stats"),
            "value_template": "{{ value_json.fps }}", "unit_of_measurement": "fps", "state_class": "measurement",
            "suggested_display_precision": 1, "entity_category": "diagnostic", **both,
        },
        "drift": {
            "platform": "sensor", "name": "Drift", "state_topic": at("drift"), "value_template": "{{ value_json.score }}",
            "state_class": "measurement", "suggested_display_precision": 2, "entity_category": "diagnostic",
        },
        "capture": {
            "platform": "switch", "name": "Capture", "state_topic": at("capture/state"),
            "command_topic": at("capture/set"), **both,
        },
        "model": {
            "platform": "update", "name": "Model", "state_topic": at("model/update"), "entity_category": "diagnostic",
        },
    }  # fmt: skip
    device = {"name": name or camera, "via_device": f"edged_{site}_server_{server}"}
    device |= {key: value for key, value in (("model", hardware), ("sw_version", agent)) if value}
    return _document(uid, device, entities, [box])


def server_document(site: str, server: str) -> Document:
    """The box as a device with four entities."""

    def at(leaf: str) -> str:
        return topics.server(site, server, leaf)

    entities: dict[str, Document] = {
        "health": {
            "platform": "binary_sensor", "name": "Health", "device_class": "problem", "entity_category": "diagnostic",
            "state_topic": at("health"), "value_template": "{{ 'OFF' if value_json.verdict == 'ok' else 'ON' }}",
            "json_attributes_topic": at("health"),
        },
        "disk": {
            "platform": "sensor", "name": "Disk free", "device_class": "data_size", "unit_of_measurement": "GB",
            "state_class": "measurement", "state_topic": at("summary"), "value_template": "{{ value_json.disk_free_gb }}",
            "entity_category": "diagnostic",
        },
        "queue": {
            "platform": "sensor", "name": "Pictures without a label", "state_class": "measurement",
            "state_topic": at("summary"), "value_template": "{{ value_json.unlabelled }}",
        },
        "cycle": {
            "platform": "sensor", "name": "Last cycle", "device_class": "timestamp", "state_topic": at("summary"),
            "value_template": "{{ value_json.last_cycle }}", "entity_category": "diagnostic",
        },
    }  # fmt: skip
    device = {"name": f"edged {site}", "model": "edged", "sw_version": __version__}
    return _document(f"edged_{site}_server_{server}", device, entities, [{"topic": at("state")}])


def _document(uid: str, device: Document, entities: Mapping[str, Document], availability: list[Document]) -> Document:
    components = {key: {**entity, "unique_id": f"{uid}_{key}"} for key, entity in entities.items()}
    return {
        "device": {"identifiers": [uid], "manufacturer": "edged", **device},
        "origin": {"name": "edged", "sw_version": __version__},
        "components": components,
        "availability": availability,
        "qos": 1,
    }


def update_state(
    camera: Camera, newest: ReleaseRow | None, delivery: DeliveryRow | None, halted: ReleaseRow | None = None
) -> Document:
    """What the `update` entity shows. `newest`: the release that cameras are to have; `delivery`: of that on this camera;
    `halted`: one that is newer, and was halted.

    Versions are release numbers, "0" = no model yet. Home Assistant refuses keys that it does not know.
    """
    if camera.info is not None:
        installed, name = camera.info.model_version, camera.info.model_name
    else:
        reported = camera.reported
        installed, name = (reported.version, reported.name) if reported is not None else (0, "")
    latest = max(installed, newest.number) if newest is not None else installed
    running = delivery is not None and delivery.status == "IN_PROGRESS" and latest != installed
    percent = int(delivery.progress * 100) // STEP * STEP if running and delivery is not None else None
    return {
        "installed_version": str(installed),
        "latest_version": str(latest),
        "title": (newest.name if newest is not None else "") or name or "model",
        "release_summary": (_halted(halted) if halted is not None else _summary(camera, installed, newest, delivery))[
            :SUMMARY
        ],
        "in_progress": running,
        "update_percentage": percent,
    }


def _halted(release: ReleaseRow) -> str:
    return f"release {release.number} was halted" + (f": {release.detail}" if release.detail else "")


def _summary(camera: Camera, installed: int, newest: ReleaseRow | None, delivery: DeliveryRow | None) -> str:
    if newest is None:
        return "no release yet" if not installed else "nothing newer"
    if installed >= newest.number:
        return f"release {newest.number} runs here" if installed == newest.number else "nothing newer"
    what = f"release {newest.number}, {newest.size / 1000:.0f} kB"
    if delivery is None:
        if not aim.covers(newest, camera.id):
            return f"{what}: not for this camera ({aim.in_words(newest)})"
        if why := fit.why_not(newest, camera.info):
            return f"{what}: {why if why == fit.SILENT else f'left out: {why}'}"
        waits = {"waiting": "waits for a person", "paused": "is paused"}
        return f"{what}: {waits.get(newest.state, 'waits for its turn')}"
    if delivery.status in ("QUEUED", "IN_PROGRESS"):  # its detail changes with each piece
        return f"{what}: {delivery.status}"
    return f"{what}: {delivery.status}" + (f": {delivery.detail}" if delivery.detail else "")


def problem(reasons: Sequence[health.Reason], last: ReleaseRow | None, delivery: DeliveryRow | None) -> Document:
    """What is wrong with one camera, {"problem": ON or OFF, "text"}."""
    texts = [r.text for r in reasons]
    if last is not None and delivery is not None and delivery.status in ("FAILED", "TIMED_OUT", "REJECTED"):
        texts.append(f"release {last.number} {delivery.status}" + (f": {delivery.detail}" if delivery.detail else ""))
    return {"problem": "ON" if texts else "OFF", "text": "; ".join(texts)[:SUMMARY]}


class Announcer:
    """Keeps what is retained for Home Assistant as the rows say."""

    def __init__(self, link: Link, store: Store, site: str, server: str, rules: Rules, clock: Clock) -> None:
        self._link, self._store, self._clock, self._rules = link, store, clock, rules
        self._site, self._server = site, server
        self._file = store.data_dir / TOLD
        self._told = _read(self._file)
        self._said: dict[str, bytes] = {}  # by this connection
        self._connects = 0
        self._next = self._count_next = 0.0
        self._unlabelled = 0

    def step(self) -> None:
        """Publish what changed, take back what is not true any more. Raises Unavailable."""
        if not self._rules.discovery and not self._told:
            return
        if self._link.connects() != self._connects:
            self._connects, self._next = self._link.connects(), 0.0
            self._said.clear()  # a new broker may have forgotten
        if self._clock.monotonic() < self._next:
            return
        self._next = self._clock.monotonic() + EVERY_S
        wanted = self._wanted() if self._rules.discovery else {}
        self._note(self._told | wanted.keys())
        for topic in sorted(self._told - wanted.keys()):
            self._link.publish(topic, b"", retain=True)
        for topic, payload in wanted.items():
            if self._said.get(topic) != payload:
                self._link.publish(topic, payload, retain=True)
                self._said[topic] = payload
        self._said = {topic: said for topic, said in self._said.items() if topic in wanted}
        self._note(frozenset(wanted))

    def _note(self, told: frozenset[str]) -> None:
        if told != self._told:
            with disk.explained(self._file):
                durable.write(self._file, msgspec.json.encode(sorted(told)), mode=0o600)
            self._told = told

    def _wanted(self) -> dict[str, bytes]:
        """Everything that is to be retained now, by topic."""
        site, server, prefix = self._site, self._server, self._rules.prefix
        rows = releases.all(self._store)  # of models for cameras
        last = rows[-1] if rows else None
        newest = next((r for r in reversed(rows) if r.state != "halted"), None)
        halted = last if last is not newest else None
        told = {d.camera: d for d in deliveries.of(self._store, last.number)} if last is not None else {}
        facts = health.look(self._store, self._clock.now(), daemon=True)
        documents = {config_topic(prefix, site, f"server_{server}"): server_document(site, server)}
        for camera in cameras.all(self._store):
            info, id_ = camera.info, camera.id
            hardware, agent = (info.hw, info.agent) if info is not None else ("", "")
            name = self._rules.names.get(id_, "")
            documents[config_topic(prefix, site, id_)] = camera_document(site, server, id_, name, hardware, agent)
            documents[topics.cam(site, id_, "model/update")] = update_state(
                camera, newest, told.get(id_) if halted is None else None, halted
            )
            reasons = health.of_camera(facts, id_)
            documents[topics.cam(site, id_, "problem")] = problem(reasons, last, told.get(id_))
        documents[topics.server(site, server, "summary")] = self._summary()
        return {topic: msgspec.json.encode(document) for topic, document in documents.items()}

    def _summary(self) -> Document:
        if self._clock.monotonic() >= self._count_next:
            self._count_next = self._clock.monotonic() + QUEUE_S
            self._unlabelled = figures.unlabelled(self._store)
        ended = cycles.last_ended(self._store)
        return {
            "disk_free_gb": round(disk.free(self._store.data_dir) / 1e9, 1),
            "unlabelled": self._unlabelled,
            "last_cycle": None if ended is None else iso(ended),
        }


def _read(file: Path) -> frozenset[str]:
    """The topics that were noted; none if the note is gone or no note."""
    try:
        return frozenset(msgspec.json.decode(file.read_bytes(), type=list[str]))
    except (OSError, msgspec.MsgspecError):
        return frozenset()
