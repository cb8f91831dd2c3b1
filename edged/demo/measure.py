"""How right the cameras were: their own answers, as they came over the wire, against the truth of what was replayed."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edged.interval import wilson
from edged.storage import candidates, counters, cycles, outbox, releases, reports, samples
from edged.storage.store import Store


@dataclass(frozen=True)
class Accuracy:
    """`right` of `n`; prints with its 95 % Wilson interval (Wilson 1927)."""

    right: int
    n: int

    @property
    def ratio(self) -> float:
        return self.right / self.n if self.n else 0.0

    @property
    def lower(self) -> float:
        return wilson(self.right, self.n)[0]

    @property
    def upper(self) -> float:
        return wilson(self.right, self.n)[1]

    def __str__(self) -> str:
        return f"{self.ratio:.1%} ({self.lower:.1%} to {self.upper:.1%}), {self.right} of {self.n}"


def read_truth(site: Path, cameras: Iterable[str]) -> dict[str, str]:
    """Sample id -> class, from what the cameras wrote beside their replay. A half-written last line is left out."""
    truth: dict[str, str] = {}
    for camera in cameras:
        file = site / f"truth-{camera}.csv"
        if not file.exists():
            continue
        text = file.read_text()
        for row in csv.reader(text[: text.rfind("\n") + 1].splitlines()):
            if len(row) == 3:
                truth[f"{camera}:{row[0]}:{row[1]}"] = row[2]
    return truth


def accuracy_of(
    store: Store, truth: Mapping[str, str], cameras: Iterable[str], since: float, model: str, exclude: Collection[str]
) -> Accuracy:
    """Of the regions received since `since` that `model` answered and nobody labelled: how many were right."""
    wanted = set(cameras)
    seen = [
        s for s in samples.since(store, since)
        if s.camera in wanted and s.model == model and s.id in truth and s.id not in exclude
    ]  # fmt: skip
    return Accuracy(sum(s.predicted == truth[s.id] for s in seen), len(seen))


def facts(store: Store) -> list[tuple[str, str]]:
    """Sizes, speed, bytes and seconds of the last cycle, from the rows."""
    release, cycle = releases.latest(store), cycles.latest(store)
    assert release is not None
    assert cycle is not None
    rows: list[tuple[str, str]] = []
    for candidate in candidates.all(store, cycle.id):
        text = f"{candidate.size / 1000:.0f} kB"
        for row in reports.of(store, candidate.id):
            report = json.loads(row.body)
            fps = report["fps_device"]
            text += f", hold-out {report['accuracy']['accuracy']:.1%} of {report['n']}"
            text += f", {fps['value']:.0f} frames/s of four regions on {report['device']} ({fps['how']})"
        rows.append((f"candidate {candidate.name}", text))
    totals = counters.all(store)
    seconds = {s.name: s.ended - s.started for s in cycles.stages(store, cycle.id) if s.ended is not None}
    rows.append(("bytes cameras -> box", f"{totals.get('bytes:frames_in', 0) / 1e6:.1f} MB"))
    rows.append(("bytes of models box -> cameras", f"{totals.get('bytes:chunks_out', 0) / 1e6:.2f} MB"))
    left = [p.size for p in outbox.all(store) if p.state == "sent"]
    rows.append(("bytes to the cloud", f"{sum(left)} in {len(left)} objects"))
    rows.append(("seconds of the last cycle", ", ".join(f"{n} {s:.0f}" for n, s in seconds.items())))
    return rows
