"""Who may publish and who may subscribe what. Pure; the one table, from which mosquitto's file is written too.

Guarantees: what is not listed here is refused; a subscription is granted only if every topic that it could ever match
may be read. Does not guarantee: that an identity is true (the certificate says that) or that a payload is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from edged.wire.topics import ROOT, is_level, matches

SERVER = "server"  # the box itself; reads and writes everything of its site
PROBE = "probe"  # may connect and nothing else, so that `edged doctor` can try the door without throwing anyone out
HOME = "homeassistant"  # Home Assistant: reads states and figures, switches captures on and off; never sees a picture
RESERVED = frozenset({SERVER, PROBE, HOME})  # names that no camera may have
DISCOVERY = "homeassistant"  # where Home Assistant looks for devices unless it is told otherwise

CAMERA_WRITES = (
    "state", "info", "frame", "roi", "stats", "result", "model/reported", "model/want", "phase", "drift",
    "capture/state", "enabled/state", "probe",
)  # fmt: skip
CAMERA_READS = ("receipt", "capture/set", "enabled/set", "model/desired")
HOME_READS = (
    "cam/+/state", "cam/+/stats", "cam/+/drift", "cam/+/problem", "cam/+/capture/state", "cam/+/model/update",
    "server/+/state", "server/+/health", "server/+/summary",
)  # fmt: skip
HOME_WRITES = "cam/+/capture/set"  # never retained: a switch of long ago would be thrown at each start of a camera
CAMERA_NEVER_RETAINS = frozenset({"frame", "roi"})  # pixels
CAMERA_RETAINS_BYTES = 4096
TOPIC_LENGTH = 256  # longer than any topic above; what is longer is not worth remembering


class Access(Protocol):
    """What the hub asks before it lets anything happen."""

    def may_publish(self, identity: str, topic: str, *, size: int, retain: bool) -> bool: ...

    def may_subscribe(self, identity: str, topic_filter: str) -> bool: ...

    def may_be_held(self, identity: str) -> bool:
        """Whether it may be read more slowly, or refused, because it has much waiting for one client."""
        ...


@dataclass(frozen=True)
class Acl:
    """The house rules for one site. Any identity that is not reserved is the camera of that name."""

    site: str
    discovery: str = DISCOVERY  # prefix of Home Assistant's discovery topics

    def may_publish(self, identity: str, topic: str, *, size: int, retain: bool) -> bool:
        """`size` is the payload's length in bytes."""
        if identity == SERVER:
            return matches(f"{ROOT}/{self.site}/#", topic) or self._announces(topic)
        if identity == HOME:
            switch = matches(f"{ROOT}/{self.site}/{HOME_WRITES}", topic) and not retain
            return switch or (topic == f"{self.discovery}/status" and size <= CAMERA_RETAINS_BYTES)
        leaf = _leaf(self.site, identity, topic) if len(topic) <= TOPIC_LENGTH else None
        if leaf is None:
            return False
        return not retain or (leaf not in CAMERA_NEVER_RETAINS and size <= CAMERA_RETAINS_BYTES)

    def may_subscribe(self, identity: str, topic_filter: str) -> bool:
        return any(covers(allowed, topic_filter) for allowed in self.readable(identity))

    def may_be_held(self, identity: str) -> bool:
        """Not the box: one camera that does not read must not keep the others from what the box says."""
        return identity != SERVER

    def readable(self, identity: str) -> tuple[str, ...]:
        """The filters that an identity may subscribe to, or to anything narrower."""
        if identity == SERVER:
            return (f"{ROOT}/{self.site}/#",)
        if identity == HOME:
            return (f"{self.discovery}/#", *(f"{ROOT}/{self.site}/{leaf}" for leaf in HOME_READS))
        if identity in RESERVED or not is_level(identity):
            return ()
        own = tuple(f"{ROOT}/{self.site}/cam/{identity}/{leaf}" for leaf in CAMERA_READS)
        return (*own, f"{ROOT}/{self.site}/model/#")

    def _announces(self, topic: str) -> bool:
        """Whether it is where a device of this site is announced to Home Assistant."""
        begins = topic.startswith(f"{self.discovery}/device/edged_{self.site}_")
        return begins and matches(f"{self.discovery}/device/+/config", topic)


@lru_cache(maxsize=1024)
def _leaf(site: str, identity: str, topic: str) -> str | None:
    """What a camera would write to by this topic, if it may; None if not."""
    leaf = topic.removeprefix(f"{ROOT}/{site}/cam/{identity}/")
    if leaf == topic or identity in RESERVED or not is_level(identity) or leaf not in CAMERA_WRITES:
        return None
    return leaf


class OpenDoor:
    """Everybody may do everything except write broker topics: for tests of the broker itself."""

    def may_publish(self, identity: str, topic: str, *, size: int, retain: bool) -> bool:
        return not topic.startswith("$")

    def may_subscribe(self, identity: str, topic_filter: str) -> bool:
        return True

    def may_be_held(self, identity: str) -> bool:
        return False


def covers(outer: str, inner: str) -> bool:
    """True if every topic that the filter `inner` matches is matched by the filter `outer`."""
    have = inner.split("/")
    want = outer.split("/")
    for i, level in enumerate(want):
        if level == "#":
            return True
        if i >= len(have) or have[i] == "#":
            return False
        if level not in ("+", have[i]):
            return False
    return len(want) == len(have)
