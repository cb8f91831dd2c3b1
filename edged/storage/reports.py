"""Reports: numbers measured under one device's limits. What stands in one is retrain.trial's business."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from edged.errors import EXIT_NOT_FOUND, Refused
from edged.storage.store import Store


@dataclass(frozen=True)
class ReportRow:
    """One row; `body` is the JSON text of a retrain.trial.Report."""

    id: int
    candidate: int
    device: str
    body: str
    created: float


def add(store: Store, candidate: int, device: str, body: Mapping[str, Any] | msgspec.Struct | str | bytes) -> int:
    """Keep a report; returns its id. `body`: the struct, a mapping, or JSON."""
    if isinstance(body, bytes):
        body = body.decode()
    text = body if isinstance(body, str) else msgspec.json.encode(body).decode()
    return store.insert(
        "insert into report (candidate, device, body, created) values (?, ?, ?, ?)",
        (candidate, device, text, store.clock.now()),
    )


def get(store: Store, report_id: int) -> ReportRow:
    """Raises Refused("not_found")."""
    row = store.row(f"{_SELECT} where id = ?", (report_id,))
    if row is None:
        raise Refused(f"no report {report_id}", code="not_found", exit_code=EXIT_NOT_FOUND)
    return ReportRow(*row)


def of(store: Store, candidate: int) -> list[ReportRow]:
    """Newest first."""
    return [ReportRow(*r) for r in store.rows(f"{_SELECT} where candidate = ? order by id desc", (candidate,))]


_SELECT = "select id, candidate, device, body, created from report"
