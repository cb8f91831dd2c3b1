"""Every harness at full length, one after the other: `make torture`. Exit 1 if one found something."""

import importlib
import sys
from pathlib import Path

HARNESSES = ("kill", "power", "faults")

if __name__ == "__main__":
    there = [name for name in HARNESSES if Path(__file__).with_name(f"{name}.py").is_file()]
    sys.exit(max([importlib.import_module(f"tests.torture.{name}").main([]) for name in there]))
