"""What bench/drift.py stands on: real pictures, a small network's answers to them, streams with and without drift."""
