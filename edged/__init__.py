"""edged: the box beside the cameras that keeps their models good without sending pictures away."""

__version__ = "0.1.0"
