"""Coming with the next commits."""
