"""The camera's settings: one frozen struct, from a TOML file and the command line (which wins), checked as a whole.

Guarantees: an unknown or ill-typed key is named, with the nearest known one; a broker off this machine is never
talked to without TLS. Does not guarantee: that the files named are readable; whoever opens them says so.
"""

from __future__ import annotations

import difflib
import ipaddress
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from edged.errors import Misconfigured
from edged.wire.link import Endpoint, Tls

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Keys of the file and, with "-" for "_", options of the command line."""

    site: Name
    camera: Name
    broker: str  # HOST:PORT
    root: str  # root.json of the site, given at enrolment
    state: str  # directory, private to this camera
    source: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""
    fps: Annotated[float, Meta(ge=0, le=240)] = 5.0  # at most; 0 = as fast as the source gives them
    limit: Annotated[int, Meta(ge=1)] | None = None  # pictures, then the source ends
    truth: str = ""
    preview: str = ""
    hardware: Annotated[str, Meta(min_length=1, max_length=120)] = "generic"
    runtime: Annotated[str, Meta(pattern="^(auto|openvino|onnxruntime|opencv)$")] = "auto"
    threads: Annotated[int, Meta(ge=1, le=64)] = 1
    window: Annotated[int, Meta(ge=1, le=1000)] = 8
    resend_after_s: Annotated[float, Meta(gt=0, le=86400)] = 30.0
    stats_every_s: Annotated[float, Meta(gt=0, le=86400)] = 10.0
    spool_bytes: Annotated[int, Meta(ge=2**20)] = 64 * 2**20
    spool_frames: Annotated[int, Meta(ge=1)] = 2000
    fsync: bool = True
    probation_frames: Annotated[int, Meta(ge=1)] = 20  # a new model stays after so many answered pictures ...
    probation_s: Annotated[float, Meta(gt=0, le=86400)] = 60.0  # ... or so many seconds, whichever comes first
    min_agreement: Annotated[float, Meta(ge=0, le=1)] = 0.0  # with the model before, on probation; 0 = only the absurd
    max_shift: Annotated[float, Meta(ge=0, le=1)] = 1.0  # of confidence, from the model before
    max_slowdown: Annotated[float, Meta(ge=1, le=1000)] = 3.0  # once it no longer keeps up with `fps`
    hang_s: Annotated[float, Meta(ge=0, le=3600)] = (
        15.0  # a picture on probation that takes longer is a crash, and a load of three times that
    )
    model: Annotated[str, Meta(pattern=r"^([a-z0-9][a-z0-9-]{0,62})?$")] = ""  # releases of this name only
    classes: tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...] = ()  # and with these classes only

    def endpoint(self) -> Endpoint:
        """Where the broker is. Raises Misconfigured for an address that is none, or for plain TCP off this machine."""
        host, colon, port = self.broker.rpartition(":")
        host = host.strip("[]")
        if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise Misconfigured(f"broker {self.broker!r} is not HOST:PORT", hint="for example 192.168.1.10:8883")
        files = (self.ca, self.cert, self.key)
        if any(files) and not all(files):
            raise Misconfigured("TLS needs all of ca, cert and key", hint="the box's `edged init` made them")
        if not any(files) and not _is_loopback(host):
            raise Misconfigured(
                f"plain TCP to {host} would send pictures in the clear", hint="give ca, cert and key of this camera"
            )
        # No session is kept: the spool and retained messages make up for what is missed, and chunks meant for others
        # would pile up in the broker for a camera that is away.
        return Endpoint(host, int(port), self.camera, tls=Tls(*files) if all(files) else None)


def read(file: Path | None, given: Mapping[str, Any]) -> Settings:
    """The file's keys overridden by `given` (None = not given). Raises Misconfigured with the key at fault."""
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = tomllib.loads(file.read_text())
        except OSError as e:
            raise Misconfigured(f"cannot read {file}: {e.strerror}") from e
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
            raise Misconfigured(f"{file} is not TOML: {e}") from e
    known = Settings.__struct_fields__
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            raise Misconfigured(f"{file}: unknown key {key!r}", hint=hint)
    values |= {k: v for k, v in given.items() if v is not None}
    try:
        return msgspec.convert(values, Settings)
    except msgspec.ValidationError as e:
        raise Misconfigured(f"settings: {e}", hint="see `edged-agent run --help`") from e


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
