"""Running totals by name, e.g. "withheld:timeout", "duplicate", "refused:too_large"."""

from __future__ import annotations

from collections.abc import Mapping

from edged.storage.store import Store


def bump(store: Store, name: str, by: int = 1) -> None:
    """Add to a total: seen at once by every process; a power cut may take the last few unless it joins a transaction."""
    with store.transaction(durable=False):
        store.execute(
            "insert into counter (name, n) values (?1, ?2) on conflict (name) do update set n = n + ?2", (name, by)
        )


def bump_all(store: Store, by_name: Mapping[str, int]) -> None:
    """As `bump`, many at once."""
    if by_name:
        with store.transaction(durable=False):
            for name, n in by_name.items():
                bump(store, name, n)


def get(store: Store, name: str) -> int:
    return int(store.value("select n from counter where name = ?", (name,)) or 0)


def all(store: Store) -> dict[str, int]:
    """By name."""
    return {r["name"]: r["n"] for r in store.rows("select name, n from counter order by name")}
