"""The configuration: one TOML file, read once, frozen, checked whole. Below the daemon only flat values travel.

Guarantees: what `load` returns is within range and consistent; an unknown key is an error that names the nearest one.
Does not guarantee: that hosts answer or files exist (`edged doctor` looks).
Sizes are bytes, or text like "40GB" (powers of 1000).
"""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from edged import chain, sections
from edged.errors import Misconfigured, Refused

LEAST_LOOP_S = 5.0
PLANTED = "planted"  # the camera that planted pictures come from (edged/watch.py); no real one may have this name


class Config(sections.Section, frozen=True):
    server: sections.Server
    task: sections.Task
    mqtt: sections.Mqtt = sections.Mqtt()
    homeassistant: sections.Homeassistant = sections.Homeassistant()
    web: sections.Web = sections.Web()
    ingest: sections.Ingest = sections.Ingest()
    storage: sections.Storage = sections.Storage()
    schedule: sections.Schedule = sections.Schedule()
    privacy: sections.Privacy = sections.Privacy()
    metrics: sections.Metrics = sections.Metrics()
    watchdog: sections.Watchdog = sections.Watchdog()
    camera: tuple[sections.Camera, ...] = ()
    label: sections.Label = sections.Label()
    drift: sections.Drift = sections.Drift()
    train: sections.Train = sections.Train()
    compress: sections.Compress = sections.Compress()
    retest: sections.Retest = sections.Retest()
    rollout: sections.Rollout = sections.Rollout()
    signing: sections.Signing = sections.Signing()
    sync: sections.Sync = sections.Sync()

    @property
    def data_dir(self) -> Path:
        return Path(self.server.data_dir)

    @property
    def keys_dir(self) -> Path:
        return self.data_dir / "keys"


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def size(value: int | str) -> int:
    """Bytes of 1500, "1500", "40GB" or "6 MB"; raises Misconfigured."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B?)", str(value).strip().upper())
    if not match or match[2] not in _UNITS:
        raise Misconfigured(f"{value!r} is not a size", hint='write bytes, or a number with KB, MB, GB or TB: "40GB"')
    return int(float(match[1]) * _UNITS[match[2]])


def load(path: Path) -> Config:
    """Read and check a configuration file; raises Misconfigured with the place and what to do."""
    try:
        text = path.read_bytes()
    except OSError as e:
        raise Misconfigured(
            f"cannot read the configuration {path}: {e.strerror}",
            hint="`edged init` makes one; or name it with -c FILE",
        ) from e
    try:
        raw = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise Misconfigured(f"{path} is not valid TOML: {e}") from e
    return check(raw, str(path))


def check(raw: dict[str, Any], origin: str = "configuration") -> Config:
    """Turn parsed TOML into a Config; raises Misconfigured."""
    try:
        config = msgspec.convert(raw, Config)
    except msgspec.ValidationError as e:
        few = "a task tells 2 to 9 classes apart: each has a key of the page" if "$.task.classes" in str(e) else ""
        raise Misconfigured(f"{origin}: {_sentence(str(e))}", hint=few or _nearest(raw, str(e))) from e
    _check_sizes(config, origin)
    _check_places(config, origin)
    if 0 < config.watchdog.loop_s < LEAST_LOOP_S:
        raise Misconfigured(
            f"{origin}: watchdog.loop_s must be 0 or {LEAST_LOOP_S:g} at least",
            hint="a turn of the main loop may wait for the disk; less would end a daemon that is well",
        )
    ids = [c.id for c in config.camera]
    if len(ids) != len(set(ids)):
        raise Misconfigured(f"{origin}: two [[camera]] tables have the same id")
    if PLANTED in ids:
        raise Misconfigured(f'{origin}: no camera may be called "{PLANTED}": that is where planted pictures come from')
    for name in (config.privacy.face_model, *(d.file for d in config.privacy.detector if d.layout != "code")):
        if name and not Path(name).is_absolute():  # the scrub child's folder is not ours
            raise Misconfigured(f"{origin}: {name!r} must be an absolute path")
    for method in config.compress.methods:
        try:
            chain.parse(method)
        except Refused as e:
            raise Misconfigured(f"{origin}: compress.methods: {e}") from e
    if len(config.task.classes) != len(set(config.task.classes)):
        raise Misconfigured(f"{origin}: task.classes names a class twice")
    return config


def _check_sizes(config: Config, origin: str) -> None:
    """Raises Misconfigured naming the key of a size that is none, or is out of its range."""
    s, i, gate, mb, gb = config.storage, config.ingest, config.retest.gate, 10**6, 10**9
    # (key, value, least, most, whether 0 is allowed)
    ranges: list[tuple[str, int | str, int, int, bool]] = [
        # Segments are 1 MiB at least, and with less than some thirty of them old pictures cannot be told from new.
        ("storage.max_bytes", s.max_bytes, 32 * mb, 10**18, True),
        ("storage.per_camera_max_bytes", s.per_camera_max_bytes, mb, 10**18, True),
        ("storage.min_free", s.min_free, 0, 10**18, True),
        (
            "storage.reserve",
            s.reserve,
            mb,
            gb,
            True,
        ),  # a log of SQLite has to fit in; it is taken from the disk at once
        # A small picture every few seconds; and more than this is no camera.
        ("ingest.bytes_per_s", i.bytes_per_s, 16_000, gb, False),
        # One frame may have 2 MiB; it is held in memory.
        ("ingest.queue_bytes", i.queue_bytes, 2 * 2**20, 2 * gb, False),
        ("train.max_memory", config.train.max_memory, 300 * mb, 10**15, False),
        ("retest.gate.max_memory", gate.max_memory, 1, 10**18, False),
        ("retest.gate.max_size", gate.max_size, 1, 10**18, False),
        ("retest.gate.max_packed", gate.max_packed, 1, 10**18, True),
        ("rollout.rate_bytes_per_s", config.rollout.rate_bytes_per_s, 1000, 10**18, False),
        *((f"camera.{c.id}.max_bytes", c.max_bytes, mb, 10**18, True) for c in config.camera),
    ]
    for key, value, least, most, may_be_0 in ranges:
        try:
            found = size(value)
        except Misconfigured as e:
            raise Misconfigured(f"{origin}: {key}: {e}", hint=e.hint) from e
        if not least <= found <= most and not (may_be_0 and found == 0):
            bound = f"{least} bytes at least" if found < least else f"{most} bytes at most"
            raise Misconfigured(f"{origin}: {key} = {value!r} must be {bound}{', or 0' if may_be_0 else ''}")
    if size(s.reserve) > size(s.min_free) > 0:
        raise Misconfigured(
            f"{origin}: storage.reserve is more than storage.min_free",
            hint="the reserve is a part of what is kept free for all but pictures",
        )


def _check_places(config: Config, origin: str) -> None:
    """Raises Misconfigured where a second copy would lie on the first one."""
    s = config.storage
    if s.keyring_copy and Path(s.keyring_copy).resolve() == (config.data_dir / "keyring").resolve():
        raise Misconfigured(
            f"{origin}: storage.keyring_copy names {s.keyring_copy}, which is the first copy", hint="name another disk"
        )
    first = Path(s.key_file) if s.key_file else config.keys_dir / "storage.key"
    if s.key_copy and Path(s.key_copy).resolve() == first.resolve():
        raise Misconfigured(f"{origin}: storage.key_copy names {s.key_copy}, which is the key file itself")


_SHAPES = {  # what a pattern asks for, in words
    "homeassistant.discovery_prefix": "must be one to five levels of A-Z, a-z, 0-9, '_' and '-'",
    "retest.scheduler": 'must be a Dask scheduler, "tls://host:8786" or "tcp://host:8786", or "" for none',
    "train.quiet_hours": 'must be two times of day, "22:00-05:00", or "" for always',
    "schedule.backup": 'must be "daily" and a time of day, "daily 03:30", or "" for never',
}


def _sentence(message: str) -> str:
    """msgspec's message; where it would show a regular expression, what is wanted."""
    match = re.search(r" matching regex .* - at `\$\.([a-z_.]+)`", message)
    return f"{match[1]} {_SHAPES[match[1]]}" if match and match[1] in _SHAPES else message


def _nearest(raw: dict[str, Any], message: str) -> str:
    """For msgspec's `unknown field` message: the declared key that looks most like the one written."""
    match = re.search(r"unknown field `([^`]*)`(?: - at `\$\.?([^`]*)`)?", message)
    if not match:
        return ""
    kind: Any = Config
    for part in re.findall(r"[a-z_]+", match[2] or ""):
        for field in msgspec.structs.fields(kind):
            if field.name == part:
                kind = _struct_in(field.type) or kind
    known = [field.name for field in msgspec.structs.fields(kind)]
    close = difflib.get_close_matches(match[1], known, n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else f"known here: {', '.join(known)}"


def _struct_in(annotation: Any) -> Any:
    """The Struct inside `X`, `tuple[X, ...]`, or None."""
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, Struct):
            return candidate
    return None
