"""Every harness at full length, one after the other: `make torture`. Exit 1 if one found something."""

import importlib
import sys

HARNESSES = ("kill", "power", "faults", "full", "cable", "clocks")


def main() -> int:
    """Run them all, also after one has found something."""
    return max([importlib.import_module(f"tests.torture.{name}").main([]) for name in HARNESSES])


if __name__ == "__main__":
    sys.exit(main())
