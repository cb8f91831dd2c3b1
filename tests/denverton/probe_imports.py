"""Imports one runtime dependency after the other and says how long each took; run it under an emulated Atom or ARM.

probe_imports.py MODULE...
"""

from __future__ import annotations

import importlib
import sys

from edged.clock import stopwatch


def main(names: list[str]) -> None:
    import numpy as np
    from numpy._core._multiarray_umath import __cpu_features__ as features

    newer = [name for name in ("AVX", "ASIMDDP", "SVE") if features.get(name)]
    assert not newer, f"this machine shows {newer}: nothing would be proved here"
    assert float(np.ones((64, 64)).dot(np.ones((64, 64))).sum()) == 64.0**3
    for name in names:
        begin = stopwatch()
        module = importlib.import_module(name)
        print(f"  import {name} {getattr(module, '__version__', '')} {stopwatch() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
