"""What a rollout is judged by: how many cameras when, what counts as failed, what of it is too much.

Guarantees: a release is judged by the rules that stood when it started (`to_row`, `of_row`), whatever the configuration
says since. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from edged.wire.messages import Health

SLACK = 0.1  # that cameras may agree less than the re-test's pictures let expect


@dataclass(frozen=True)
class Rules:
    """`steps` are shares of the fleet that are told, one step after the other, once the canary is well.

    A camera that has SUCCEEDED and says that the new model agrees with the one before on less than `min_agreement` of the
    regions, makes fewer than 1 - `max_slowdown` of its frames per second, or has a histogram of confidence that is
    further than `max_shift` from its, counts as failed. All three are shares, 0..1; agreement and shift count from
    `min_regions` regions that both have answered. Who makes `enough_fps` is not too slow, however fast the one before was:
    of two equally small models the one that looks first takes twice as long, since nothing is in the processor's caches.
    """

    canary: int = 1  # 0 = none
    wait_s: float = 3600.0
    timeout_s: float = 900.0
    steps: tuple[float, ...] = (0.5, 1.0)
    abort_failed: float = 0.05  # halt when more than this share of the finished deliveries is bad ...
    abort_min_executed: int = 3  # ... and at least so many have finished
    min_agreement: float = 0.3
    max_slowdown: float = 0.5
    max_shift: float = 0.7
    min_regions: int = 20
    enough_fps: float = 30.0  # as the gate's min_fps

    def unwell(self, health: Health | None) -> str:
        """Why a delivery with this health counts as failed, a sentence without its full stop; "" = it does not."""
        if health is None:
            return ""
        why = []
        least = min(self.enough_fps, (1 - self.max_slowdown) * (health.fps_before or 0.0))
        if health.fps < least:
            assert health.fps_before is not None
            why.append(
                f"it makes {health.fps:.1f} frames/s, the model before made {health.fps_before:.1f} (at most"
                f" {self.max_slowdown:.0%} slower)"
            )
        if health.regions >= self.min_regions:
            if health.agreement is not None and health.agreement < self.min_agreement:
                why.append(
                    f"it agrees with the model before on {health.agreement:.0%} of {health.regions} regions (at least"
                    f" {self.min_agreement:.0%})"
                )
            if health.shift is not None and health.shift > self.max_shift:
                why.append(
                    f"its confidence is {health.shift:.2f} away from the model's before (at most {self.max_shift:.2f})"
                )
        return "; ".join(why)

    def expecting(self, shared: float) -> Rules:
        """For a model that the re-test compared with the one before: `shared` is the share of the hold-out that both have
        right. Where the old one was mostly wrong, a better one disagrees with it, and that is no fault.
        """
        return replace(self, min_agreement=min(self.min_agreement, max(0.0, shared - SLACK)))

    def returning(self) -> Rules:
        """For bytes that cameras ran before, named again: without a wait, and not compared with what they replace."""
        return replace(self, wait_s=0.0, steps=(1.0,), min_agreement=0.0, max_slowdown=1.0, max_shift=1.0)

    def trying(self) -> Rules:
        """For bytes of an earlier release that labels say are better at some cameras: watched as a new model, but one that
        rightly disagrees with what it replaces there.
        """
        return replace(self, min_agreement=0.0, max_shift=1.0)

    def rescuing(self) -> Rules:
        """As `returning`, away from a release that was halted: all at once, and nothing halts it."""
        return replace(self.returning(), canary=0, abort_failed=1.0)

    def to_row(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return asdict(self) | {"steps": list(self.steps)}


DEFAULTS = Rules()


def of_row(row: Mapping[str, Any] | None, otherwise: Rules) -> Rules:
    """The rules of a release's row; `otherwise` what a row does not say (an older edged wrote it, or it has not started)."""
    known = {f.name for f in fields(Rules)}
    found: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in (row or {}).items() if k in known}
    return replace(otherwise, **found)
