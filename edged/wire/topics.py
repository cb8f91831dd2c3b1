"""The topic tree: building, parsing and matching. Pure.

    edged/1/<site>/server/<id>/{state,info,health,stats,event,summary,pulse,pulse/receipt}
    edged/1/<site>/cam/<id>/{state,info,frame,roi,receipt,stats,drift,probe,problem,capture/set}
    edged/1/<site>/cam/<id>/model/{desired,reported,want,update}
    edged/1/<site>/model/meta/<file>      signed TUF metadata, retained
    edged/1/<site>/model/chunk/<sha256>   content-addressed chunks of model files, never retained

Levels that name a thing are `[a-z0-9-]`, at most 63 long, so that a name can never be a wildcard or another level.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edged.errors import Refused

ROOT = "edged/1"
_LEVEL = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_FILE = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Address:
    """A parsed topic. `id` is the camera or server; empty under `model/`."""

    site: str
    branch: str  # "cam" | "server" | "model"
    id: str
    leaf: str  # the rest: "frame", "model/reported", "meta/timestamp.json", "chunk/<sha256>"


def is_level(name: str) -> bool:
    """True if `name` may be one level of a topic."""
    return _LEVEL.fullmatch(name) is not None


def check_level(name: str, what: str = "name") -> str:
    """Return `name` if it may be one level of a topic, else raise Refused."""
    if not is_level(name):
        raise Refused(
            f"{what} {name[:80]!r} is not allowed: use 1 to 63 of a-z, 0-9 and '-', not starting with '-'",
            code="bad_name",
        )
    return name


def cam(site: str, camera: str, leaf: str) -> str:
    """Topic of one camera, e.g. cam("plant-a", "gate", "frame")."""
    return f"{ROOT}/{site}/cam/{camera}/{leaf}"


def server(site: str, server_id: str, leaf: str) -> str:
    """Topic of one box."""
    return f"{ROOT}/{site}/server/{server_id}/{leaf}"


def model(site: str, leaf: str) -> str:
    """Topic of the shared model branch: meta/<file> or chunk/<sha256>."""
    return f"{ROOT}/{site}/model/{leaf}"


def parse(topic: str) -> Address:
    """Take a topic apart; raises Refused for one that is not of this tree."""
    parts = topic.split("/")
    if len(parts) < 5 or "/".join(parts[:2]) != ROOT or not _LEVEL.fullmatch(parts[2]):
        raise Refused(f"topic {topic[:120]!r} is not of the edged tree", code="bad_topic")
    site, branch = parts[2], parts[3]
    if branch == "model" and len(parts) == 6 and _FILE.fullmatch(parts[5]):
        return Address(site, branch, "", "/".join(parts[4:]))
    if branch in ("cam", "server") and len(parts) >= 6 and _LEVEL.fullmatch(parts[4]):
        return Address(site, branch, parts[4], "/".join(parts[5:]))
    raise Refused(f"topic {topic[:120]!r} is not of the edged tree", code="bad_topic")


def matches(topic_filter: str, topic: str) -> bool:
    """MQTT 5 section 4.7 matching of a filter with + and #; a leading $ is not matched by a wildcard."""
    if topic.startswith("$") and topic_filter[:1] in ("+", "#"):
        return False
    want, have = topic_filter.split("/"), topic.split("/")
    for i, level in enumerate(want):
        if level == "#":
            return True
        if i >= len(have) or (level != "+" and level != have[i]):
            return False
    return len(want) == len(have)
