"""Who may do what: one line per route and method. A test walks the application's routes against this table, both ways.

This first page has no login. What it shows and takes is therefore for whoever sits at this machine: `serve` refuses to
listen anywhere but on the loopback. The words are kept so that a login can be put before them without moving a route.

    look     sees rows and scrubbed pictures
    label    adds and takes back labels
    steer    asks for a cycle, ends one; starts, pauses and ends the rollout of a release
    mask     paints masks and removes painted ones
    anyone   nothing about the site is told
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Right = Literal["look", "label", "steer", "mask", "anyone"]

AUTHORITY: Mapping[tuple[str, str], Right] = {
    ("GET", "/"): "look",
    ("GET", "/now"): "look",
    ("GET", "/cameras"): "look",
    ("GET", "/privacy"): "look",
    ("GET", "/drift"): "look",
    ("GET", "/cycle"): "look",
    ("GET", "/models"): "look",
    ("GET", "/fleet"): "look",
    ("GET", "/label"): "label",
    ("POST", "/label"): "label",
    ("POST", "/label/undo"): "label",
    ("POST", "/label/skip"): "label",
    ("POST", "/request/cycle"): "steer",
    ("POST", "/request/cancel"): "steer",
    ("POST", "/rollout/start"): "steer",
    ("POST", "/rollout/pause"): "steer",
    ("POST", "/rollout/resume"): "steer",
    ("POST", "/rollout/abort"): "steer",
    ("GET", "/camera/<camera>/mask"): "mask",
    ("POST", "/camera/<camera>/mask"): "mask",
    ("POST", "/camera/<camera>/mask/<mask>/remove"): "mask",
    ("GET", "/picture/<camera>.jpg"): "look",
    ("GET", "/crop/<sample>.jpg"): "look",
    ("GET", "/metrics"): "look",
    ("GET", "/healthz"): "anyone",
    ("GET", "/static/<path:filename>"): "anyone",
}

# To the loopback, which is all there is.
GRANTED: frozenset[Right] = frozenset({"look", "label", "steer", "mask", "anyone"})
