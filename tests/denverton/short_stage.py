"""`python short_stage.py -m edged.retrain STAGE JOBDIR ...`: the stage with every rung climbed, each with as few steps as it can
have. Emulation makes a step a hundred times slower; how good the model is proves nothing here.
"""

from __future__ import annotations

import sys
from typing import Any

from edged.retrain.__main__ import main


def shorten() -> None:
    from edged.retrain import ladder, probe, refit, whole

    def consider(self: Any, tried: Any, now: Any, **_: Any) -> bool:
        self.tried.append(tried)
        self.best, self.best_state, self.best_tried = now, refit.copy(self.net), tried
        return True

    ladder.LEAST = ladder.MOST = 96
    probe.LEAST = probe.MOST = 32
    whole.EPOCHS, whole.LEAST, whole.MOST = 1, 32, 32
    last = ladder._Climb._full
    ladder._Climb._did_it = lambda self, reached: False  # type: ignore[method-assign]  # the next rung is always needed
    ladder._Climb._full = lambda self, profiles: len(self.tried) > 3 and last(self, profiles)  # type: ignore[method-assign]
    probe.choose = lambda profiles, _: profiles[0]  # type: ignore[assignment]
    ladder._Climb._done = lambda self: False  # type: ignore[method-assign]
    ladder._Climb._consider = consider  # type: ignore[method-assign]  # so few steps teach nothing


if __name__ == "__main__":
    arguments = sys.argv[sys.argv.index("edged.retrain") + 1 :]
    if arguments[0] == "learn":
        shorten()
    sys.exit(main(arguments))
