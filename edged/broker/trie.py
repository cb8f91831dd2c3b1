"""Subscriptions as a tree of topic levels, so that routing costs the depth of a topic and not the number of sessions.

Guarantees: `match` yields exactly the keys whose filter `topics.matches` the topic (a property test compares them),
once per matching filter; branches that hold nothing are removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

MAX_LEVELS = 64  # deeper filters and topics are refused: a tree must not be made deep by one packet


class _Node(Generic[K, V]):
    __slots__ = ("children", "here")

    def __init__(self) -> None:
        self.children: dict[str, _Node[K, V]] = {}
        self.here: dict[K, V] = {}


class TopicTrie(Generic[K, V]):
    """Maps topic filters to {key: value}."""

    def __init__(self) -> None:
        self._root: _Node[K, V] = _Node()

    def add(self, topic_filter: str, key: K, value: V) -> None:
        """Add, or replace the value of the same filter and key."""
        node = self._root
        for level in topic_filter.split("/"):
            node = node.children.setdefault(level, _Node())
        node.here[key] = value

    def remove(self, topic_filter: str, key: K) -> None:
        """Forget; nothing happens if it was not there."""
        node, path = self._root, []
        for level in topic_filter.split("/"):
            if level not in node.children:
                return
            path.append((node, level))
            node = node.children[level]
        node.here.pop(key, None)
        for parent, level in reversed(path):
            child = parent.children[level]
            if child.here or child.children:
                return
            del parent.children[level]

    def match(self, topic: str) -> Iterator[tuple[K, V]]:
        """Every (key, value) whose filter matches; a key comes once for each of its filters that does."""
        levels = topic.split("/")
        last = len(levels)
        stack = [(self._root, 0)]
        while stack:
            node, depth = stack.pop()
            wild = depth > 0 or not topic.startswith("$")  # MQTT 5, 4.7.2
            if wild and (rest := node.children.get("#")) is not None:
                yield from rest.here.items()
            if depth == last:
                yield from node.here.items()
                continue
            if wild and (any_ := node.children.get("+")) is not None:
                stack.append((any_, depth + 1))
            level = levels[depth]
            # A level of a topic is never a wildcard (the codec refuses such topics), so this is a literal.
            if level not in ("+", "#") and (child := node.children.get(level)) is not None:
                stack.append((child, depth + 1))

    def __bool__(self) -> bool:
        return bool(self._root.children)


def valid_filter(topic_filter: str) -> bool:
    """MQTT 5, 4.7.1: # only as the last level, + only as a whole level; no NUL, not empty, not too deep."""
    levels = topic_filter.split("/")
    if not topic_filter or "\0" in topic_filter or len(levels) > MAX_LEVELS:
        return False
    if any(len(level) > 1 and ("#" in level or "+" in level) for level in levels):
        return False
    return "#" not in levels[:-1]
