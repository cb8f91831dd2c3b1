"""Figures of compression: each module is one row of the table, `rows(...)` is what `bench/compress.py` calls."""
