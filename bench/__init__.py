"""Benchmarks: they measure, they judge nothing. `python -m bench` runs all; results are committed with machine and date."""
