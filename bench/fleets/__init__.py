"""Parts of bench/fleet.py: many cameras, real ones and light ones, and what reaches them."""
