"""What a cycle goes by: of the configuration what its stages, and whoever foretells them, need, as flat values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edged import plan
from edged.due import Rules as When
from edged.retrain import gate, untaught


@dataclass(frozen=True)
class Rules:
    """What of the configuration a cycle needs, as flat values."""

    name: str  # of the released model = the task
    classes: tuple[str, ...]
    holdout: float
    block_s: float
    architecture: str
    input_px: int
    epochs: int
    max_minutes: float
    threads: int
    seed: int
    methods: tuple[str, ...]
    device: str
    limits: gate.GateLimits
    hardware: tuple[str, ...]
    key_file: Path
    seconds: float = 5.0  # per re-test, for measuring speed
    workers: int = 0  # of a re-test; 0 = as many as there are cores
    scheduler: str = ""  # of Dask, "" = none
    when: When = field(default_factory=When)
    reuse: bool = True
    reuse_per_camera: bool = False
    replay: float = 0.3
    camera_cap: float = 0.6
    teacher: str = ""  # name or hash of the one to distil from
    memory_bytes: int = 0  # of a stage that trains; 0 = no limit
    stuck_minutes: float = 20.0
    audit: float = 0.1
    agreement: float = 0.9
    accept_above: float = 0.0
    unlabelled: int = 3000
    compress_loss: float = 0.01  # that accuracy control allows
    search_minutes: float = 0.0  # for a search over chains; 0 = none
    least: int = untaught.LEAST  # labelled crops that a training from scratch needs

    @property
    def split(self) -> plan.Split:
        return plan.Split(
            self.classes, self.holdout, self.block_s, self.seed, self.audit, self.agreement, self.accept_above,
            self.unlabelled,
        )  # fmt: skip

    @property
    def arch(self) -> dict[str, Any]:
        return {"name": self.architecture, "input_px": self.input_px}
